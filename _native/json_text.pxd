"""Nested values written anew as the JSON text that the encoder of the other lane would make of them."""

from libc.stdint cimport uint8_t

from _native.buffer cimport buffer_bytes
from _native.recipe cimport Object, Value
from _native.work cimport Work


cdef inline int write(Work *work, const void *text, size_t nbytes) except -1 nogil:
    return buffer_bytes(&work.json, text, nbytes)


cdef int write_name(Work *work, const Object *object, size_t index) except -1 nogil
cdef int write_missing(Work *work, const Object *object, size_t first, size_t end) except -1 nogil
cdef const uint8_t *write_value(Work *work, const Value *value, const uint8_t *at, int depth) except? NULL nogil
