"""MessagePack tokens in padded bytes. Every scan returns where it ended, or NULL: not sure.

Zeros behind the record (simd.h) make a head readable anywhere up to its end; a scan that may go further is given that
end, and whoever walks over values compares before each of them.
"""

from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from _native.json_scan cimport Text, valid_utf8

cdef extern from "pack.h" nogil:
    const uint8_t *read_head "penstock_head"(const uint8_t *at, uint8_t *family, uint64_t *number) noexcept
    uint64_t big_endian "penstock_big_endian"(const uint8_t *at, int nbytes) noexcept
    bint is_ascii "penstock_ascii"(const uint8_t *at, size_t length) noexcept
    const uint8_t *plain_end "penstock_plain_end"(const uint8_t *at, const uint8_t *end) noexcept
    cdef enum Family "penstock_family":
        NEVER "PENSTOCK_NEVER"          # no value begins with this byte
        NIL "PENSTOCK_NIL"
        BOOL "PENSTOCK_BOOL"
        UNSIGNED "PENSTOCK_UNSIGNED"
        SIGNED "PENSTOCK_SIGNED"
        FLOAT32 "PENSTOCK_FLOAT32"
        FLOAT64 "PENSTOCK_FLOAT64"
        TEXT "PENSTOCK_TEXT"
        BYTES "PENSTOCK_BYTES"
        ARRAY "PENSTOCK_ARRAY"
        MAP "PENSTOCK_MAP"
        EXTENSION "PENSTOCK_EXTENSION"

cdef const uint8_t *skip_packed(const uint8_t *at, const uint8_t *end, int depth) noexcept nogil
cdef bint valid_apart(const uint8_t *at, const uint8_t *end) noexcept nogil


cdef inline bint fits(const uint8_t *at, uint64_t length, const uint8_t *end) noexcept nogil:
    """Whether `length` bytes from `at` on are in the record; `at` may be behind its end already."""
    return <int64_t>length <= end - at


cdef inline bint is_text(const Text *text) noexcept nogil:
    """Whether the bytes are UTF-8; nothing is known of what follows them."""
    return is_ascii(text.data, text.length) or valid_apart(text.data, text.data + text.length)


cdef inline double to_real(uint8_t family, uint64_t bits) noexcept nogil:
    """The float of these bits."""
    cdef double real
    cdef float single
    cdef uint32_t half = <uint32_t>bits
    if family == FLOAT32:
        memcpy(&single, &half, 4)
        return single
    memcpy(&real, &bits, 8)
    return real


cdef inline const uint8_t *read_text(const uint8_t *at, const uint8_t *end, Text *text) noexcept nogil:
    """The text at `at`, which need not be UTF-8."""
    cdef uint8_t family
    cdef uint64_t length
    at = read_head(at, &family, &length)
    if family != TEXT or not fits(at, length, end):
        return NULL
    text.data = at
    text.length = length
    return at + length
