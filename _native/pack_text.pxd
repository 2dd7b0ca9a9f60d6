"""Nested MessagePack values written as the JSON text that the encoder of the other lane would make of them."""

from libc.stdint cimport uint8_t, uint64_t

from _native.recipe cimport Value
from _native.work cimport Work

cdef enum:
    NUMBER_NBYTES = 24      # room for 20 digits and a sign

cdef const uint8_t *write_packed(
    Work *work, const Value *value, const uint8_t *at, const uint8_t *end, int depth
) except? NULL nogil
cdef uint8_t *write_digits(uint8_t *text, uint64_t digits, bint negative) noexcept nogil
