"""Nested values written anew as the JSON text that the encoder of the other lane would make of them."""

from libc.stdint cimport uint8_t

from _native.recipe cimport Value
from _native.work cimport Work

cdef const uint8_t *write_value(Work *work, const Value *value, const uint8_t *at, int depth) except? NULL nogil
