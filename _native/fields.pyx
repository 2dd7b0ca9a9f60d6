"""The search for a field that is not the one expected next. Owns nothing.

It is a module of its own so that the compiler does not mix it into the loop that seldom needs it.
"""

from libc.stdint cimport uint8_t

from _native.json_scan cimport COLON, QUOTE, Text, same_bytes, skip_space, string_end, valid_utf8
from _native.pack_scan cimport read_text
from _native.recipe cimport Object


cdef const uint8_t *search_field(const Object *object, size_t next, const uint8_t *at, size_t *index) noexcept nogil:
    cdef bint high
    cdef const uint8_t *end = string_end(at, &high)
    cdef const uint8_t *value
    cdef size_t nbytes = end - at
    if end[0] != QUOTE or (high and not valid_utf8(at, end)):
        return NULL
    value = skip_space(end + 1)
    if value[0] != COLON:
        return NULL
    index[0] = number_of(object, next, at, nbytes)
    return skip_space(value + 1)


cdef const uint8_t *search_packed(
    const Object *object, size_t next, const uint8_t *at, const uint8_t *end, size_t *index
) noexcept nogil:
    cdef Text key
    at = read_text(at, end, &key)
    if at != NULL:
        index[0] = number_of(object, next, key.data, key.length)
    return at


cdef inline size_t number_of(const Object *object, size_t next, const uint8_t *name, size_t nbytes) noexcept nogil:
    """The field of this name, looked for from `next` on; `count` for none."""
    cdef size_t number, place
    for number in range(object.count):
        place = next + number if next + number < object.count else next + number - object.count
        if object.fields[place].name_nbytes == nbytes and same_bytes(name, object.fields[place].name, nbytes):
            return place
    return object.count
