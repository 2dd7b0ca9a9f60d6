"""JSON tokens in padded text. Every scan returns where it ended, or NULL: not sure, which says nothing about the text.

What is accepted is JSON as RFC 8259 has it, in valid UTF-8; nothing that msgspec would refuse. The text is followed by
zeros (simd.h), so that no scan has a bound.
"""

from libc.stdint cimport uint8_t, uint64_t

from _native.buffer cimport Buffer, buffer_reserve, buffer_varint

cdef extern from "simd.h" nogil:
    int PADDING "PENSTOCK_PADDING"
    const uint8_t *string_end "penstock_string_end"(const uint8_t *at, bint *high) noexcept
    const uint8_t *read_literal "penstock_literal"(const uint8_t *at) noexcept
    bint same_bytes "penstock_same"(const uint8_t *left, const uint8_t *right, size_t length) noexcept
    bint read_uuid "penstock_uuid"(const uint8_t *text, uint64_t *halves) noexcept
    void copy_padded "penstock_copy"(uint8_t *to, const uint8_t *source, size_t length) noexcept
    uint64_t load8 "penstock_load8"(const uint8_t *at) noexcept
    int digits8 "penstock_digits8"(uint64_t text) noexcept
    uint64_t number8 "penstock_number8"(uint64_t text, int count) noexcept

cdef inline int put_padded_string(Buffer *buffer, const uint8_t *data, size_t length) except -1 nogil:
    """As buffer_string, from a place with readable bytes up to a whole 16."""
    buffer_reserve(buffer, length + 26)
    if length < 0x80:
        buffer.data[buffer.used] = <uint8_t>length
        buffer.used += 1
    else:
        buffer_varint(buffer, length)
    copy_padded(buffer.data + buffer.used, data, length)
    buffer.used += length
    return 0


cdef enum:
    DEPTH_MAX = 64          # deeper values are left to msgspec

cdef enum Char:
    TAB = 0x09
    NEWLINE = 0x0a
    RETURN = 0x0d
    BLANK = 0x20
    QUOTE = 0x22
    COMMA = 0x2c
    MINUS = 0x2d
    ZERO = 0x30
    NINE = 0x39
    COLON = 0x3a
    OPEN_ARRAY = 0x5b
    BACKSLASH = 0x5c
    CLOSE_ARRAY = 0x5d
    LETTER_F = 0x66
    LETTER_N = 0x6e
    LETTER_T = 0x74
    LETTER_U = 0x75
    OPEN_OBJECT = 0x7b
    CLOSE_OBJECT = 0x7d


cdef struct Text:
    const uint8_t *data     # in the record, or in `plain` when the record has it with escapes
    size_t length


cdef struct Plain:
    uint8_t *data           # owned by the reader of the record; room for the whole record
    size_t used


cdef bint valid_utf8(const uint8_t *at, const uint8_t *end) noexcept nogil
cdef bint is_broken(const uint8_t *at) noexcept nogil
cdef const uint8_t *read_escaped(const uint8_t *at, Text *text, Plain *plain) noexcept nogil
cdef const uint8_t *skip_value(const uint8_t *at, int depth) noexcept nogil


cdef inline const uint8_t *skip_space(const uint8_t *at) noexcept nogil:
    while at[0] <= BLANK and (at[0] == BLANK or at[0] == NEWLINE or at[0] == RETURN or at[0] == TAB):
        at += 1
    return at


cdef inline const uint8_t *read_string(const uint8_t *at, Text *text, Plain *plain) noexcept nogil:
    """The text of the string whose opening quote is before `at`."""
    cdef bint high
    cdef const uint8_t *end = string_end(at, &high)
    if end[0] == QUOTE:
        text.data = at
        text.length = end - at
        if high and not valid_utf8(at, end):
            return NULL
        return end + 1
    if end[0] == BACKSLASH:
        return read_escaped(at, text, plain)
    return NULL
