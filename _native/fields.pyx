"""The search for a field that is not the one expected next. Owns nothing.

It is a module of its own so that the compiler does not mix it into the loop that seldom needs it.
"""

from libc.stdint cimport uint8_t

from _native.json_scan cimport COLON, QUOTE, same_bytes, skip_space, string_end, valid_utf8
from _native.recipe cimport Object


cdef const uint8_t *search_field(const Object *object, size_t next, const uint8_t *at, size_t *index) noexcept nogil:
    cdef bint high
    cdef const uint8_t *end = string_end(at, &high)
    cdef const uint8_t *value
    cdef size_t nbytes = end - at
    cdef size_t number, place
    if end[0] != QUOTE or (high and not valid_utf8(at, end)):
        return NULL
    value = skip_space(end + 1)
    if value[0] != COLON:
        return NULL
    index[0] = object.count
    for number in range(object.count):
        place = next + number if next + number < object.count else next + number - object.count
        if object.fields[place].name_nbytes == nbytes and same_bytes(at, object.fields[place].name, nbytes):
            index[0] = place
            break
    return skip_space(value + 1)
