"""Texts of times and addresses as both lanes read them; false for what only the other lane decides. Owns nothing."""

from libc.stdint cimport uint8_t
from libc.string cimport memcpy, memset

from _native.json_scan cimport NINE, ZERO

cdef extern from "arpa/inet.h" nogil:
    int inet_pton(int family, const char *text, void *out) noexcept
    int AF_INET6

cdef enum:
    MOMENT_NBYTES = 19      # YYYY-MM-DDTHH:MM:SS
    FRACTION_DIGITS = 6     # more are rounded by msgspec
    ADDRESS_NBYTES = 45


cdef bint is_moment(const uint8_t *text, size_t nbytes) noexcept nogil:
    """Whether the parts of an RFC 3339 time are where msgspec wants them; their numbers are not looked at."""
    cdef size_t at = MOMENT_NBYTES
    cdef size_t digits = 0
    if nbytes < MOMENT_NBYTES or text[13] != b":" or text[16] != b":":
        return False
    if text[10] != b"T" and text[10] != b"t" and text[10] != b" ":
        return False
    if at < nbytes and text[at] == b".":
        at += 1
        while at < nbytes and ZERO <= text[at] <= NINE:
            at += 1
            digits += 1
        if digits < 1 or digits > FRACTION_DIGITS:
            return False
    if at == nbytes:
        return True
    if text[at] == b"Z" or text[at] == b"z":
        return at + 1 == nbytes
    return (text[at] == b"+" or text[at] == b"-") and at + 6 == nbytes and text[at + 3] == b":"


cdef bint read_ipv4(const uint8_t *text, size_t nbytes, uint8_t *stored) noexcept nogil:
    """Four decimal numbers without leading zeros, as a little-endian UInt32."""
    cdef const uint8_t *end = text + nbytes
    cdef int part, number
    cdef const uint8_t *first
    for part in range(4):
        first = text
        number = 0
        while text < end and ZERO <= text[0] <= NINE and text - first < 3:
            number = number * 10 + (text[0] - <int>ZERO)
            text += 1
        if text == first or number > 255 or (first[0] == ZERO and text - first > 1):
            return False
        stored[3 - part] = <uint8_t>number
        if part < 3:
            if text == end or text[0] != b".":
                return False
            text += 1
    return text == end


cdef bint read_ipv6(const uint8_t *text, size_t nbytes, uint8_t *stored) noexcept nogil:
    """An IPv6 address as inet_pton reads it, or an IPv4 one, which is stored as ::ffff:a.b.c.d."""
    cdef char copy[ADDRESS_NBYTES + 1]
    cdef uint8_t address[4]
    if read_ipv4(text, nbytes, address):
        memset(stored, 0, 10)
        memset(stored + 10, 0xff, 2)
        stored[12], stored[13], stored[14], stored[15] = address[3], address[2], address[1], address[0]
        return True
    if nbytes > ADDRESS_NBYTES:
        return False
    memcpy(copy, text, nbytes)
    copy[nbytes] = 0
    for index in range(nbytes):
        if text[index] == 0:
            return False
    return inet_pton(AF_INET6, copy, stored) == 1
