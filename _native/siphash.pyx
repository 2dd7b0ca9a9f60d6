"""SipHash-2-4 with 128 bits of output, after Aumasson and Bernstein, "SipHash: a fast short-input PRF" (2012).

Owns nothing and keeps no state. Additions wrap on purpose.
"""

cimport cython
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy


cdef struct State:
    uint64_t v0
    uint64_t v1
    uint64_t v2
    uint64_t v3


cdef SipKey sip_key(const uint8_t *secret) noexcept nogil:
    cdef SipKey key
    memcpy(&key.low, secret, 8)
    memcpy(&key.high, secret + 8, 8)
    return key


@cython.overflowcheck(False)
cdef inline uint64_t rotate_left(uint64_t value, int bits) noexcept nogil:
    return (value << bits) | (value >> (64 - bits))


@cython.overflowcheck(False)
cdef inline void sip_round(State *s) noexcept nogil:
    s.v0 += s.v1
    s.v1 = rotate_left(s.v1, 13) ^ s.v0
    s.v0 = rotate_left(s.v0, 32)
    s.v2 += s.v3
    s.v3 = rotate_left(s.v3, 16) ^ s.v2
    s.v0 += s.v3
    s.v3 = rotate_left(s.v3, 21) ^ s.v0
    s.v2 += s.v1
    s.v1 = rotate_left(s.v1, 17) ^ s.v2
    s.v2 = rotate_left(s.v2, 32)


cdef inline void compress(State *s, uint64_t word) noexcept nogil:
    s.v3 ^= word
    sip_round(s)
    sip_round(s)
    s.v0 ^= word


cdef inline uint64_t finalize(State *s) noexcept nogil:
    sip_round(s)
    sip_round(s)
    sip_round(s)
    sip_round(s)
    return s.v0 ^ s.v1 ^ s.v2 ^ s.v3


cdef Id sip128(const uint8_t *data, size_t length, SipKey key) noexcept nogil:
    cdef State s
    cdef uint64_t word
    cdef size_t whole = length - (length & 7)
    cdef size_t position = 0
    cdef Id result
    s.v0 = <uint64_t>0x736f6d6570736575 ^ key.low
    s.v1 = <uint64_t>0x646f72616e646f6d ^ key.high ^ 0xee
    s.v2 = <uint64_t>0x6c7967656e657261 ^ key.low
    s.v3 = <uint64_t>0x7465646279746573 ^ key.high
    while position < whole:
        memcpy(&word, data + position, 8)
        compress(&s, word)
        position += 8
    word = 0
    if length > whole:
        memcpy(&word, data + whole, length - whole)
    compress(&s, word | (<uint64_t>(length & 0xff) << 56))
    s.v2 ^= 0xee
    result.low = finalize(&s)
    s.v1 ^= 0xdd
    result.high = finalize(&s)
    return result


def siphash128(bytes data not None, bytes secret not None):
    """SipHash-2-4-128 of `data` under the 16 bytes of `secret`."""
    if len(secret) != 16:
        raise ValueError(f"the secret has {len(secret)} bytes; it must have 16")
    cdef Id result = sip128(data, len(data), sip_key(secret))
    return (<uint8_t *>&result)[:16]


cdef Id domain_mask(bytes domain, SipKey key) except *:
    """What ids of a domain are combined with, so that equal keys of two domains are two ids; zeros for no domain."""
    cdef Id mask
    if not domain:
        mask.low = mask.high = 0
        return mask
    return sip128(domain, len(domain), key)
