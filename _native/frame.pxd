"""The LZ4 frame of an insert, compressed straight from the columns (the LZ4 Frame Format Description, version 1.6).

    magic | FLG BD HC | block: size, bytes, checksum | block | ... | 0

Blocks are independent of each other, each with a checksum of its bytes as sent, which catches what TCP's does not and
costs less than one of the content. A block that would not shrink is sent as it is: the highest bit of its size says so.
"""

from libc.stdint cimport uint8_t, uint32_t

from _native.buffer cimport Buffer

cdef enum:
    FRAME_BLOCK_BYTES = 262144  # of the content in one block, at most
    BLOCK_SIZE_CODE = 5             # which is this in BD
    JOINED_BYTES = 16384        # smaller pieces share a block


cdef struct Frame:
    Buffer out              # owned: the frame in the making
    Buffer joined           # owned: small pieces that have not become a block yet
    uint8_t *state          # owned: LZ4's table


cdef class Body:
    """Bytes of a request in memory of the pool; read through the buffer protocol."""
    cdef Frame frame


cdef Body frame_of(const Buffer *pieces)
cdef uint32_t xxh32(const uint8_t *data, size_t nbytes) noexcept nogil
