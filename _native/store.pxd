"""Numbers and texts into columns that need more than a copy."""

from libc.stdint cimport uint8_t

from _native.json_number cimport Numeral
from _native.json_scan cimport Text
from _native.node cimport Node
from _native.recipe cimport Value

cdef bint store_number(
    const Value *value, Node *node, uint8_t action, const Numeral *numeral, const uint8_t *end
) except? False nogil
cdef bint store_double(Node *node, uint8_t action, double real) except? False nogil
cdef bint store_packed_bytes(Node *node, uint8_t action, const Text *text) except? False nogil
cdef bint store_stamp(Node *node, const uint8_t *data, size_t nbytes) except? False nogil
cdef bint store_text(const Value *value, Node *node, const Text *text) except? False nogil
