"""Dates and times into column nodes."""

from _native.node cimport Node

cdef int put_temporal(Node *node, object value) except -1
