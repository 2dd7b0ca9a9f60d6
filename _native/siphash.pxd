"""SipHash-2-4 with 128 bits of output: the keyed hash of event ids that are not UUIDs."""

from libc.stdint cimport uint8_t, uint64_t


cdef struct SipKey:
    uint64_t low    # the key's bytes 0 to 7, little-endian
    uint64_t high   # its bytes 8 to 15


cdef struct Id:
    uint64_t low    # the event id's bytes 0 to 7, little-endian
    uint64_t high   # its bytes 8 to 15


cdef SipKey sip_key(const uint8_t *secret) noexcept nogil
cdef Id sip128(const uint8_t *data, size_t length, SipKey key) noexcept nogil
cdef Id domain_mask(bytes domain, SipKey key) except *


cdef inline Id masked(Id id, Id mask) noexcept nogil:
    id.low ^= mask.low
    id.high ^= mask.high
    return id
