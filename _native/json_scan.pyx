"""JSON tokens: strings with escapes, UTF-8, values passed over. Owns nothing."""

from libc.stdint cimport uint8_t, uint32_t
from libc.string cimport memcpy

from _native.json_number cimport Numeral, read_number


# ---- UTF-8

cdef inline bint continues(uint8_t byte) noexcept nogil:
    return byte & 0xc0 == 0x80


cdef bint valid_utf8(const uint8_t *at, const uint8_t *end) noexcept nogil:
    """Whether the bytes are UTF-8 as RFC 3629 has it: shortest forms only, no surrogates, at most U+10FFFF.

    The byte at `end` is no continuation byte, so that a sequence cut off there is seen as such.
    """
    cdef uint8_t first
    while at < end:
        first = at[0]
        if first < 0x80:
            at += 1
        elif first < 0xc2:
            return False
        elif first < 0xe0:
            if not continues(at[1]):
                return False
            at += 2
        elif first < 0xf0:
            if not continues(at[1]) or not continues(at[2]):
                return False
            if (first == 0xe0 and at[1] < 0xa0) or (first == 0xed and at[1] > 0x9f):
                return False
            at += 3
        else:
            if first > 0xf4 or not continues(at[1]) or not continues(at[2]) or not continues(at[3]):
                return False
            if (first == 0xf0 and at[1] < 0x90) or (first == 0xf4 and at[1] > 0x8f):
                return False
            at += 4
    return True


cdef inline size_t write_utf8(uint8_t *out, uint32_t point) noexcept nogil:
    """A code point as UTF-8; how many bytes."""
    if point < 0x80:
        out[0] = <uint8_t>point
        return 1
    if point < 0x800:
        out[0] = <uint8_t>(0xc0 | point >> 6)
        out[1] = <uint8_t>(0x80 | (point & 0x3f))
        return 2
    if point < 0x10000:
        out[0] = <uint8_t>(0xe0 | point >> 12)
        out[1] = <uint8_t>(0x80 | (point >> 6 & 0x3f))
        out[2] = <uint8_t>(0x80 | (point & 0x3f))
        return 3
    out[0] = <uint8_t>(0xf0 | point >> 18)
    out[1] = <uint8_t>(0x80 | (point >> 12 & 0x3f))
    out[2] = <uint8_t>(0x80 | (point >> 6 & 0x3f))
    out[3] = <uint8_t>(0x80 | (point & 0x3f))
    return 4


# ---- escapes

cdef inline int hex_digit(uint8_t byte) noexcept nogil:
    if 0x30 <= byte <= 0x39:
        return byte - 0x30
    if 0x41 <= byte <= 0x46:
        return byte - 0x37
    if 0x61 <= byte <= 0x66:
        return byte - 0x57
    return -1


cdef int read_hex4(const uint8_t *at) noexcept nogil:
    """Four hexadecimal digits, or -1. Stops at the first byte that is none, as the end of the text is."""
    cdef int number = 0
    cdef int index, digit
    for index in range(4):
        digit = hex_digit(at[index])
        if digit < 0:
            return -1
        number = number << 4 | digit
    return number


cdef uint8_t short_escape(uint8_t letter) noexcept nogil:
    """What `\\letter` stands for; 0 for no such escape."""
    if letter == b'"' or letter == b"\\" or letter == b"/":
        return letter
    if letter == b"n":
        return 0x0a
    if letter == b"t":
        return 0x09
    if letter == b"r":
        return 0x0d
    if letter == b"b":
        return 0x08
    return 0x0c if letter == b"f" else 0


cdef const uint8_t *read_unicode(const uint8_t *at, Plain *plain) noexcept nogil:
    """One `\\uXXXX`, or two that are a surrogate pair; `at` is after the u. A surrogate alone is not sure."""
    cdef int point = read_hex4(at)
    cdef int second
    if point < 0 or 0xdc00 <= point <= 0xdfff:
        return NULL
    at += 4
    if point >= 0xd800 and point < 0xdc00:
        if at[0] != BACKSLASH or at[1] != LETTER_U:
            return NULL
        second = read_hex4(at + 2)
        if not 0xdc00 <= second <= 0xdfff:
            return NULL
        point = 0x10000 + ((point - 0xd800) << 10) + (second - 0xdc00)
        at += 6
    plain.used = plain.used + write_utf8(plain.data + plain.used, <uint32_t>point)
    return at


cdef bint is_broken(const uint8_t *at) noexcept nogil:
    """Whether the text whose opening quote is before `at`, without escapes up to its end, is not UTF-8."""
    cdef bint high
    cdef const uint8_t *end = string_end(at, &high)
    return end[0] == QUOTE and high and not valid_utf8(at, end)


cdef const uint8_t *read_escaped(const uint8_t *at, Text *text, Plain *plain) noexcept nogil:
    """A string with escapes, into `plain`. What an escape stands for is never longer than the escape."""
    cdef bint high
    cdef const uint8_t *end
    cdef uint8_t byte
    cdef size_t start = plain.used
    while True:
        end = string_end(at, &high)
        if high and not valid_utf8(at, end):
            return NULL
        memcpy(plain.data + plain.used, at, end - at)
        plain.used = plain.used + (end - at)
        if end[0] == QUOTE:
            text.data = plain.data + start
            text.length = plain.used - start
            return end + 1
        if end[0] != BACKSLASH:
            return NULL
        if end[1] == LETTER_U:
            at = read_unicode(end + 2, plain)
            if at == NULL:
                return NULL
            continue
        byte = short_escape(end[1])
        if byte == 0:
            return NULL
        plain.data[plain.used] = byte
        plain.used = plain.used + 1
        at = end + 2


# ---- values passed over

cdef const uint8_t *skip_string(const uint8_t *at) noexcept nogil:
    """Past the closing quote; `at` is after the opening one."""
    cdef bint high
    cdef const uint8_t *end
    while True:
        end = string_end(at, &high)
        if high and not valid_utf8(at, end):
            return NULL
        if end[0] == QUOTE:
            return end + 1
        if end[0] != BACKSLASH:
            return NULL
        at = skip_escape(end + 1)
        if at == NULL:
            return NULL


cdef const uint8_t *skip_escape(const uint8_t *at) noexcept nogil:
    cdef int point
    if at[0] != LETTER_U:
        return at + 1 if short_escape(at[0]) else NULL
    point = read_hex4(at + 1)
    if point < 0 or 0xdc00 <= point <= 0xdfff:
        return NULL
    if point < 0xd800 or point > 0xdbff:
        return at + 5
    if at[5] != BACKSLASH or at[6] != LETTER_U or not 0xdc00 <= read_hex4(at + 7) <= 0xdfff:
        return NULL
    return at + 11


cdef const uint8_t *skip_value(const uint8_t *at, int depth) noexcept nogil:
    """Past any one value; `at` is its first byte."""
    cdef Numeral numeral
    if at[0] == QUOTE:
        return skip_string(at + 1)
    if at[0] == OPEN_OBJECT:
        return skip_object(at + 1, depth + 1)
    if at[0] == OPEN_ARRAY:
        return skip_array(at + 1, depth + 1)
    if at[0] == LETTER_T or at[0] == LETTER_F or at[0] == LETTER_N:
        return read_literal(at)
    return read_number(at, &numeral)


cdef const uint8_t *skip_array(const uint8_t *at, int depth) noexcept nogil:
    if depth > DEPTH_MAX:
        return NULL
    at = skip_space(at)
    if at[0] == CLOSE_ARRAY:
        return at + 1
    while True:
        at = skip_value(at, depth)
        if at == NULL:
            return NULL
        at = skip_space(at)
        if at[0] == CLOSE_ARRAY:
            return at + 1
        if at[0] != COMMA:
            return NULL
        at = skip_space(at + 1)


cdef const uint8_t *skip_object(const uint8_t *at, int depth) noexcept nogil:
    """Keys may come twice here: what is passed over has no value for them."""
    if depth > DEPTH_MAX:
        return NULL
    at = skip_space(at)
    if at[0] == CLOSE_OBJECT:
        return at + 1
    while True:
        if at[0] != QUOTE:
            return NULL
        at = skip_string(at + 1)
        if at == NULL:
            return NULL
        at = skip_space(at)
        if at[0] != COLON:
            return NULL
        at = skip_value(skip_space(at + 1), depth)
        if at == NULL:
            return NULL
        at = skip_space(at)
        if at[0] == CLOSE_OBJECT:
            return at + 1
        if at[0] != COMMA:
            return NULL
        at = skip_space(at + 1)
