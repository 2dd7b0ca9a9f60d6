"""One growable byte buffer: the only place where the block builder's memory is allocated, grown and freed.

Everything stored is little-endian, as ClickHouse's Native format is; a big-endian machine is refused at compile time.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

cdef extern from *:
    """
    #if defined(__BYTE_ORDER__) && __BYTE_ORDER__ != __ORDER_LITTLE_ENDIAN__
    #error "the native core stores numbers as the machine does and needs a little-endian one"
    #endif
    """


cdef struct Buffer:
    uint8_t *data     # owned; NULL while the capacity is 0
    size_t used       # bytes written
    size_t capacity   # bytes allocated
    size_t mark       # `used` when the current row began; a rollback returns to it


cdef int buffer_grow(Buffer *buffer, size_t extra) except -1 nogil
cdef void buffer_free(Buffer *buffer) noexcept nogil


cdef inline int buffer_reserve(Buffer *buffer, size_t extra) except -1 nogil:
    """Makes room for `extra` more bytes."""
    if buffer.capacity - buffer.used < extra:
        return buffer_grow(buffer, extra)
    return 0


cdef inline int buffer_bytes(Buffer *buffer, const void *data, size_t length) except -1 nogil:
    buffer_reserve(buffer, length)
    if length:
        memcpy(buffer.data + buffer.used, data, length)
        buffer.used += length
    return 0


cdef inline int buffer_zeros(Buffer *buffer, size_t length) except -1 nogil:
    buffer_reserve(buffer, length)
    if length:
        memset(buffer.data + buffer.used, 0, length)
        buffer.used += length
    return 0


cdef inline int buffer_word(Buffer *buffer, uint64_t word, size_t width) except -1 nogil:
    """The low `width` bytes of `word`, width at most 8: one store of fixed size, the rest of it overwritten later."""
    buffer_reserve(buffer, 8)
    memcpy(buffer.data + buffer.used, &word, 8)
    buffer.used += width
    return 0


cdef inline int buffer_varint(Buffer *buffer, uint64_t number) except -1 nogil:
    """LEB128, at most 10 bytes."""
    buffer_reserve(buffer, 10)
    while number >= 0x80:
        buffer.data[buffer.used] = <uint8_t>((number & 0x7f) | 0x80)
        buffer.used += 1
        number >>= 7
    buffer.data[buffer.used] = <uint8_t>number
    buffer.used += 1
    return 0


cdef inline const uint8_t *after_string(const uint8_t *at) noexcept nogil:
    """Where the string at `at` ends, as `buffer_string` wrote it."""
    cdef size_t length = 0
    cdef size_t shift = 0
    while at[0] & 0x80:
        length |= <size_t>(at[0] & 0x7f) << shift
        shift += 7
        at += 1
    length |= <size_t>at[0] << shift
    return at + 1 + length


cdef inline int buffer_string(Buffer *buffer, const void *data, size_t length) except -1 nogil:
    """Length as LEB128, then the bytes: a String in Native and in RowBinary alike."""
    buffer_reserve(buffer, length + 10)
    if length < 0x80:
        buffer.data[buffer.used] = <uint8_t>length
        buffer.used += 1
    else:
        buffer_varint(buffer, length)
    if length:
        memcpy(buffer.data + buffer.used, data, length)
        buffer.used += length
    return 0
