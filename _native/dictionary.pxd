"""A column of Strings as LowCardinality has it: each value once, and where in that dictionary each row's value is."""

from _native.node cimport Node

cdef bint node_to_dictionary(Node *node, size_t rows) except -1
