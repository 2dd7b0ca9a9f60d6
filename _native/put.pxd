"""Python values into column nodes. `put` is the one door; it returns FITS, or why the value does not fit."""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from _native.buffer cimport buffer_string, buffer_word
from _native.node cimport KIND_BOOL, KIND_FLOAT64, KIND_INT, KIND_STRING, OUT_OF_RANGE, Node, refuse
from _native.python_api cimport (
    Py_False, Py_True, PyErr_Clear, PyFloat_AS_DOUBLE, PyFloat_CheckExact, PyLong_AsLongLongAndOverflow,
    PyLong_CheckExact, PyUnicode_CheckExact, utf8_or_null,
)

cdef int put_value(Node *node, PyObject *value) except -1


cdef inline int put_int(Node *node, PyObject *value) except -1:
    """An int into a column whose numbers fit an int64."""
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow or number < node.low or number > node.high:
        return refuse(node, OUT_OF_RANGE, value)
    return buffer_word(&node.data, <uint64_t>number, node.width)


cdef inline int put_str(Node *node, PyObject *value) except -1:
    """A str into a String. One without UTF-8 form is left to put_value to refuse."""
    cdef Py_ssize_t length
    cdef const char *text = utf8_or_null(value, &length)
    if text == NULL:
        PyErr_Clear()
        return put_value(node, value)
    return buffer_string(&node.data, text, length)


cdef inline int put(Node *node, PyObject *value) except -1:
    """Appends `value`. Anything but FITS leaves the column half written, to be returned to its mark by the caller.

    The commonest kinds and their exact types are decided here, in the caller's loop; all others by put_value.
    """
    cdef double real
    cdef uint64_t bits
    if node.kind == KIND_INT:
        if PyLong_CheckExact(value):
            return put_int(node, value)
    elif node.kind == KIND_STRING:
        if PyUnicode_CheckExact(value):
            return put_str(node, value)
    elif node.kind == KIND_FLOAT64:
        if PyFloat_CheckExact(value):
            real = PyFloat_AS_DOUBLE(value)
            memcpy(&bits, &real, 8)
            return buffer_word(&node.data, bits, 8)
    elif node.kind == KIND_BOOL:
        if value == Py_True or value == Py_False:
            return buffer_word(&node.data, value == Py_True, 1)
    return put_value(node, value)
