"""Which field of a Struct a key of a record is."""

from libc.stdint cimport uint8_t

from _native.json_scan cimport QUOTE, same_bytes, skip_space
from _native.recipe cimport Field, Object

cdef const uint8_t *search_field(const Object *object, size_t next, const uint8_t *at, size_t *index) noexcept nogil
cdef const uint8_t *search_packed(
    const Object *object, size_t next, const uint8_t *at, const uint8_t *end, size_t *index
) noexcept nogil


cdef inline const uint8_t *find_field(
    const Object *object, size_t next, const uint8_t *at, size_t *index
) noexcept nogil:
    """Where the value of the key at `at` is, and which field it is; `count` for none. `next` is looked at first.

    A key with an escape is not sure. A key ends with a byte that no name has, so a name never matches a part of one.
    """
    cdef inline const Field *field
    if at[0] != QUOTE:
        return NULL
    if next < object.count:
        field = &object.fields[next]
        if same_bytes(at + 1, field.name, field.name_nbytes + 2):
            index[0] = next
            return skip_space(at + 3 + field.name_nbytes)
    return search_field(object, next, at + 1, index)


cdef inline const uint8_t *find_packed(
    const Object *object, size_t next, const uint8_t *at, const uint8_t *end, size_t *index
) noexcept nogil:
    """The same of a MessagePack record that ends at `end`. A key that msgspec looks up need not be UTF-8."""
    cdef const Field *field
    if next < object.count:
        field = &object.fields[next]
        if same_bytes(at, field.packed, field.packed_nbytes):
            index[0] = next
            return at + field.packed_nbytes
    return search_packed(object, next, at, end, index)
