"""Large integers, UUIDs and addresses into column nodes."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t

from _native.node cimport Node

cdef bint long_bytes(PyObject *value, uint8_t *out, size_t width, bint signed) except -1
cdef int put_uuid(Node *node, object value) except -1
cdef int put_ipv4(Node *node, object value) except -1
cdef int put_ipv6(Node *node, object value) except -1
