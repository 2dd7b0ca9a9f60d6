"""MessagePack tokens: UTF-8 between other bytes, values passed over. Owns nothing."""

from libc.stdint cimport uint8_t, uint64_t

from _native.json_scan cimport DEPTH_MAX, valid_utf8


cdef bint valid_apart(const uint8_t *at, const uint8_t *end) noexcept nogil:
    """As valid_utf8, whatever byte is at `end`: no sequence of the text goes on there."""
    cdef int back
    cdef uint8_t byte
    for back in range(1, 4):
        if end - at < back:
            break
        byte = (end - back)[0]
        if byte < 0x80:
            break
        if byte >= 0xc0:
            if back < (2 if byte < 0xe0 else 3 if byte < 0xf0 else 4):
                return False
            break
    return valid_utf8(at, end)


cdef const uint8_t *skip_packed(const uint8_t *at, const uint8_t *end, int depth) noexcept nogil:
    """Past any one value, which is not in need of UTF-8: the other lane does not look into what it passes over."""
    cdef uint8_t family
    cdef uint64_t number, _index
    if at >= end:
        return NULL
    at = read_head(at, &family, &number)
    if family == TEXT or family == BYTES or family == EXTENSION:
        number += family == EXTENSION
        return at + number if fits(at, number, end) else NULL
    if family == ARRAY or family == MAP:
        if depth >= DEPTH_MAX:
            return NULL
        for _index in range(number << (family == MAP)):
            at = skip_packed(at, end, depth + 1)
            if at == NULL:
                return NULL
        return at
    return at if family != NEVER and at <= end else NULL
