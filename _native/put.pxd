"""Python values into column nodes. `put` is the one door; it returns FITS, or why the value does not fit."""

from cpython.object cimport PyObject
from libc.stdint cimport uint64_t
from libc.string cimport memcpy

from _native.buffer cimport buffer_word
from _native.node cimport KIND_FLOAT64, KIND_INT, OUT_OF_RANGE, Node, refuse
from _native.python_api cimport (
    PyFloat_AS_DOUBLE, PyFloat_CheckExact, PyLong_AsLongLongAndOverflow, PyLong_CheckExact,
)

cdef int put_value(Node *node, PyObject *value) except -1


cdef inline int put_int(Node *node, PyObject *value) except -1:
    """An int into a column whose numbers fit an int64."""
    cdef int overflow = 0
    cdef long long number = PyLong_AsLongLongAndOverflow(value, &overflow)
    if overflow or number < node.low or number > node.high:
        return refuse(node, OUT_OF_RANGE, value)
    return buffer_word(&node.data, <uint64_t>number, node.width)


cdef inline int put(Node *node, PyObject *value) except -1:
    """Appends `value`. Anything but FITS leaves the column half written, to be returned to its mark by the caller.

    The commonest kinds are decided here, in the caller's loop; all others by put_value.
    """
    cdef double real
    cdef uint64_t bits
    if node.kind == KIND_INT:
        if PyLong_CheckExact(value):
            return put_int(node, value)
    elif node.kind == KIND_FLOAT64:
        if PyFloat_CheckExact(value):
            real = PyFloat_AS_DOUBLE(value)
            memcpy(&bits, &real, 8)
            return buffer_word(&node.data, bits, 8)
    return put_value(node, value)
