"""Large integers, UUIDs and addresses into column nodes."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t

from _native.node cimport Node

cdef bint long_bytes(PyObject *value, uint8_t *out, size_t width, bint signed) except -1
cdef bint parse_uuid(const char *text, Py_ssize_t length, uint8_t *number) noexcept nogil
cdef int store_uuid(Node *node, const uint8_t *number) except -1 nogil
cdef int put_uuid(Node *node, object value) except -1
cdef int put_ipv4(Node *node, object value) except -1
cdef int put_ipv6(Node *node, object value) except -1
