"""Python values into column nodes: checked, never wrapped, never cut. Owns nothing.

Which values a column takes is listed with each function. An Enum member stands for its value. None is refused outside
Nullable unless the column says that it means the default; `msgspec.UNSET`, a field that was absent, always means that.
"""

from enum import Enum

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_Check, PyBytes_GET_SIZE
from cpython.buffer cimport PyBUF_SIMPLE, PyBuffer_Release, PyObject_GetBuffer
from cpython.dict cimport PyDict_Check, PyDict_GetItemWithError, PyDict_Next
from cpython.float cimport PyFloat_Check
from cpython.list cimport PyList_Check, PyList_GET_ITEM, PyList_GET_SIZE
from cpython.long cimport PyLong_AsDouble, PyLong_Check
from cpython.object cimport PyObject
from cpython.tuple cimport PyTuple_Check, PyTuple_GET_ITEM, PyTuple_GET_SIZE
from cpython.unicode cimport PyUnicode_Check
from libc.math cimport isinf, isnan
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from msgspec import UNSET, Raw, Struct

from _native.buffer cimport buffer_bytes, buffer_string, buffer_word, buffer_zeros
from _native.node cimport *
from _native.python_api cimport PyLong_AsLongLongAndOverflow, PyUnicode_AsUTF8AndSize, is_a
from _native.decimals cimport put_decimal
from _native.scalar cimport long_bytes, put_ipv4, put_ipv6, put_uuid
from _native.temporal cimport put_temporal

cdef PyObject *unset = <PyObject *>UNSET     # borrowed from this module's globals
cdef int put_value(Node *node, PyObject *value) except -1:
    """Every kind and every value that `put` did not decide at once. Holds the value: what it calls may drop it."""
    cdef object held = <object>value
    if node.kind == KIND_NULLABLE:
        return put_nullable(node, value)
    if held is None:
        return node_zero(node) if node.null_as_default else refuse(node, IS_NULL, value)
    if value == unset:
        return node_zero(node)
    if node.kind == KIND_STRING and PyUnicode_Check(held):
        return put_text(node, held)
    if is_a(held, Enum):
        inner = held.value
        return put(node, <PyObject *>inner)
    if node.kind >= KIND_NULLABLE:
        return put_compound(node, held)
    return put_leaf(node, held)


cdef int put_text(Node *node, object value) except -1:
    """String, FixedString, JSON: str, bytes, bytearray, memoryview, msgspec.Raw; nested values as JSON."""
    cdef Py_buffer view
    cdef Py_ssize_t length
    cdef const char *text
    if PyUnicode_Check(value):
        try:
            text = PyUnicode_AsUTF8AndSize(<PyObject *>value, &length)
        except UnicodeEncodeError:
            return refuse(node, INVALID_UTF8, <PyObject *>value)
        return store_text(node, text, length, value)
    if PyBytes_Check(value):
        return store_text(node, PyBytes_AS_STRING(value), PyBytes_GET_SIZE(value), value)
    if is_a(value, Raw) or is_a(value, bytearray) or is_a(value, memoryview):
        PyObject_GetBuffer(value, &view, PyBUF_SIMPLE)
        try:
            return store_text(node, <const char *>view.buf, view.len, value)
        finally:
            PyBuffer_Release(&view)
    if node.kind != KIND_FIXED_STRING and is_encoded(value):
        return put_json(node, value)
    return refuse(node, WRONG_TYPE, <PyObject *>value)


cdef inline bint is_encoded(object value) noexcept:
    return PyDict_Check(value) or PyList_Check(value) or PyTuple_Check(value) or is_a(value, Struct)


cdef int store_text(Node *node, const char *text, Py_ssize_t length, object value) except -1:
    if node.kind != KIND_FIXED_STRING:
        return buffer_string(&node.data, text, length)
    if length > node.width:
        return refuse(node, OUT_OF_RANGE, <PyObject *>value)
    buffer_bytes(&node.data, text, length)
    return buffer_zeros(&node.data, node.width - length)


cdef int put_json(Node *node, object value) except -1:
    """A nested value as JSON text. What the encoder cannot write is the record's fault, not the worker's."""
    try:
        encoded = (<object>node.encode_json)(value)
    except UnicodeError:
        return refuse(node, INVALID_UTF8, <PyObject *>value)
    except (TypeError, ValueError, OverflowError, RecursionError):
        return refuse(node, WRONG_TYPE, <PyObject *>value)
    if not PyBytes_Check(encoded):
        raise TypeError(f"encode_json returned {type(encoded).__name__} instead of bytes")
    return buffer_string(&node.data, PyBytes_AS_STRING(encoded), PyBytes_GET_SIZE(encoded))


cdef int put_leaf(Node *node, object value) except -1:
    """One scalar that is neither None nor UNSET nor an Enum member."""
    if node.kind == KIND_INT:
        if PyLong_Check(value) and not isinstance(value, bool):
            return put_int(node, <PyObject *>value)
        return refuse(node, WRONG_TYPE, <PyObject *>value)
    if node.kind == KIND_BOOL:
        if isinstance(value, bool):
            return buffer_word(&node.data, value is True, 1)
        return refuse(node, WRONG_TYPE, <PyObject *>value)
    if node.kind >= KIND_DATE and node.kind <= KIND_DATETIME64:
        return put_temporal(node, value)
    if node.kind == KIND_UUID:
        return put_uuid(node, value)
    if node.kind == KIND_ENUM:
        return put_enum(node, value)
    if node.kind == KIND_FLOAT64 or node.kind == KIND_FLOAT32 or node.kind == KIND_BFLOAT16:
        return put_float(node, value)
    if node.kind == KIND_STRING or node.kind == KIND_FIXED_STRING or node.kind == KIND_JSON:
        return put_text(node, value)
    if node.kind == KIND_UINT64 or node.kind == KIND_BIGINT:
        return put_large_int(node, value)
    if node.kind == KIND_DECIMAL:
        return put_decimal(node, value)
    if node.kind == KIND_IPV4:
        return put_ipv4(node, value)
    return put_ipv6(node, value)


cdef int put_large_int(Node *node, object value) except -1:
    """An int into UInt64, or into 128 or 256 bits."""
    cdef uint8_t number[32]
    cdef int overflow = 0
    cdef long long small
    if not PyLong_Check(value) or isinstance(value, bool):
        return refuse(node, WRONG_TYPE, <PyObject *>value)
    if node.kind == KIND_UINT64:
        small = PyLong_AsLongLongAndOverflow(<PyObject *>value, &overflow)
        if not overflow and small >= 0:
            return buffer_word(&node.data, <uint64_t>small, 8)
    if not long_bytes(<PyObject *>value, number, node.width, node.is_signed):
        return refuse(node, OUT_OF_RANGE, <PyObject *>value)
    return buffer_bytes(&node.data, number, node.width)


cdef int put_float(Node *node, object value) except -1:
    """float, int. Too large for the column is refused; NaN and the infinities are not."""
    cdef double real
    cdef float single
    cdef uint32_t bits
    cdef uint64_t word
    if PyFloat_Check(value):
        real = value
    elif PyLong_Check(value) and not isinstance(value, bool):
        try:
            real = PyLong_AsDouble(value)
        except OverflowError:
            return refuse(node, OUT_OF_RANGE, <PyObject *>value)
    else:
        return refuse(node, WRONG_TYPE, <PyObject *>value)
    if node.kind == KIND_FLOAT64:
        memcpy(&word, &real, 8)
        return buffer_word(&node.data, word, 8)
    single = <float>real
    if isinf(single) and not isinf(real):
        return refuse(node, OUT_OF_RANGE, <PyObject *>value)
    memcpy(&bits, &single, 4)
    if node.kind == KIND_FLOAT32:
        return buffer_word(&node.data, bits, 4)
    return buffer_word(&node.data, 0x7fc0 if isnan(single) else bits >> 16, 2)


cdef int put_enum(Node *node, object value) except -1:
    """str, one of the labels; int, one of their numbers."""
    cdef PyObject *found
    cdef int64_t number
    if PyUnicode_Check(value):
        found = PyDict_GetItemWithError(<object>node.labels, value)
        if found == NULL:
            return refuse(node, OUT_OF_RANGE, <PyObject *>value)
        number = <object>found
        return buffer_word(&node.data, <uint64_t>number, node.width)
    if not PyLong_Check(value) or isinstance(value, bool):
        return refuse(node, WRONG_TYPE, <PyObject *>value)
    if value not in <object>node.numbers:
        return refuse(node, OUT_OF_RANGE, <PyObject *>value)
    return put_int(node, <PyObject *>value)


# ---- compound kinds

cdef int put_nullable(Node *node, PyObject *value) except -1:
    cdef int code
    if <object>value is None or value == unset:
        return node_zero(node)
    code = put(&node.children[0], value)
    if code:
        return code
    return buffer_word(&node.data, 0, 1)


cdef int put_compound(Node *node, object value) except -1:
    if node.kind == KIND_ARRAY:
        if PyList_Check(value):
            return put_list(node, value)
        if PyTuple_Check(value):
            return put_items(node, value)
        if is_a(value, set) or is_a(value, frozenset):
            return put_list(node, list(value))
    elif node.kind == KIND_MAP:
        if PyDict_Check(value):
            return put_dict(node, value)
    elif PyList_Check(value) or PyTuple_Check(value):
        return put_elements(node, tuple(value), value)
    elif node.names != NULL and PyDict_Check(value):
        return put_elements(node, tuple([value.get(name, UNSET) for name in <object>node.names]), value)
    elif node.names != NULL and is_a(value, Struct):
        return put_elements(node, tuple([getattr(value, name, UNSET) for name in <object>node.names]), value)
    return refuse(node, WRONG_TYPE, <PyObject *>value)


cdef int put_list(Node *node, list items) except -1:
    """Array: each item, then the offset. A callback may change the list, so its length is asked for each time."""
    cdef Py_ssize_t index = 0
    cdef int code
    while index < PyList_GET_SIZE(items):
        code = put(&node.children[0], PyList_GET_ITEM(items, index))
        if code:
            return code
        index += 1
    node.total += index
    return buffer_word(&node.data, node.total, 8)


cdef int put_items(Node *node, tuple items) except -1:
    cdef Py_ssize_t index
    cdef int code
    for index in range(PyTuple_GET_SIZE(items)):
        code = put(&node.children[0], PyTuple_GET_ITEM(items, index))
        if code:
            return code
    node.total += PyTuple_GET_SIZE(items)
    return buffer_word(&node.data, node.total, 8)


cdef int put_dict(Node *node, dict items) except -1:
    """Map: each key and value, then the offset. No type of key calls back, so the value outlives its key's turn."""
    cdef Py_ssize_t position = 0
    cdef uint64_t count = 0
    cdef PyObject *key
    cdef PyObject *value
    cdef int code
    while PyDict_Next(items, &position, &key, &value):
        code = put(&node.children[0], key)
        if code == FITS:
            code = put(&node.children[1], value)
        if code:
            return code
        count += 1
    node.total += count
    return buffer_word(&node.data, node.total, 8)


cdef int put_elements(Node *node, tuple items, object value) except -1:
    """Tuple: as many items as the type has elements."""
    cdef size_t index
    cdef int code
    if <size_t>PyTuple_GET_SIZE(items) != node.child_count:
        return refuse(node, WRONG_TYPE, <PyObject *>value)
    for index in range(node.child_count):
        code = put(&node.children[index], PyTuple_GET_ITEM(items, index))
        if code:
            return code
    return FITS
