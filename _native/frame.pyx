"""Writes LZ4 frames; frame.pxd draws them. Owns no compressor: LZ4 is the library that the package `lz4` has loaded."""

cimport cython
from cpython.buffer cimport PyBuffer_FillInfo
from libc.stdint cimport uint8_t, uint32_t
from libc.stdlib cimport free, malloc
from libc.string cimport memcpy

from _native.buffer cimport Buffer, buffer_bytes, buffer_free, buffer_reserve, buffer_word
from _native.dynamic cimport find_symbol, loaded
from _native.pieces cimport Piece, pieces_nbytes
from _native.rising cimport put_rising, rises, rising_nbytes_max

cdef enum:
    MAGIC = 0x184D2204
    FLG = 0x70              # version 1, independent blocks, each with a checksum
    STORED = 0x80000000     # in the size of a block: its bytes are the content itself
    GAIN = 16               # a block is sent as it is unless it shrinks by this part

cdef struct Lz4:
    int (*size_of_state)() noexcept nogil
    int (*compress)(
        void *state, const char *source, char *to, int source_nbytes, int to_nbytes, int acceleration
    ) noexcept nogil

cdef Lz4 lz4
cdef bint bound = False


cdef int bind() except -1:
    """Finds LZ4 in the library that the package's extension is, or is linked with."""
    global bound
    cdef void *handle
    if not bound:
        import lz4.block._block as extension

        handle = loaded(extension.__file__)
        advice = 'Set clickhouse.compression = "none", or install the lz4 wheel'
        find_symbol(handle, "LZ4_sizeofState", <void **>&lz4.size_of_state, advice)
        find_symbol(handle, "LZ4_compress_fast_extState", <void **>&lz4.compress, advice)
        bound = True
    return 0


cdef class Body:
    """Made by `frame_of` only."""

    def __dealloc__(self):
        buffer_free(&self.frame.out)
        buffer_free(&self.frame.joined)
        free(self.frame.state)

    def __len__(self):
        return self.frame.out.used

    def __getbuffer__(self, Py_buffer *view, int flags):
        PyBuffer_FillInfo(view, self, self.frame.out.data, <Py_ssize_t>self.frame.out.used, 1, flags)


cdef Body frame_of(const Buffer *pieces):
    """The frame of the pieces' bytes. Without the GIL: they may be many and never change."""
    cdef Body body = Body.__new__(Body)
    cdef const Piece *piece = <const Piece *>pieces.data
    cdef size_t total = pieces_nbytes(pieces)
    cdef size_t index
    bind()
    body.frame.state = <uint8_t *>malloc(lz4.size_of_state())
    if body.frame.state == NULL:
        raise MemoryError("no memory for LZ4")
    with nogil:
        # Room for blocks that are all sent as they are: what is not used of it is never touched.
        buffer_reserve(&body.frame.out, rising_nbytes_max(total) + total // 1024 + 1024)
        frame_begin(&body.frame)
        for index in range(pieces.used // sizeof(Piece)):
            frame_put(&body.frame, piece[index].data, piece[index].nbytes)
        frame_end(&body.frame)
    buffer_free(&body.frame.joined)
    return body


cdef int frame_begin(Frame *frame) except -1 nogil:
    cdef uint8_t descriptor[2]
    descriptor[0] = FLG
    descriptor[1] = BLOCK_SIZE_CODE << 4
    buffer_word(&frame.out, MAGIC, 4)
    buffer_bytes(&frame.out, descriptor, 2)
    return buffer_word(&frame.out, xxh32(descriptor, 2) >> 8, 1)


cdef int frame_put(Frame *frame, const uint8_t *data, size_t nbytes) except -1 nogil:
    """Adds a piece: small ones are joined, large ones become blocks of their own without a copy."""
    cdef size_t part
    if nbytes < JOINED_BYTES:
        buffer_bytes(&frame.joined, data, nbytes)
        if frame.joined.used >= FRAME_BLOCK_BYTES - JOINED_BYTES:
            put_joined(frame)
        return 0
    put_joined(frame)
    while nbytes:
        part = min(nbytes, <size_t>FRAME_BLOCK_BYTES)
        put_block(frame, data, part)
        data += part
        nbytes -= part
    return 0


cdef int frame_end(Frame *frame) except -1 nogil:
    put_joined(frame)
    return buffer_word(&frame.out, 0, 4)


cdef int put_joined(Frame *frame) except -1 nogil:
    if frame.joined.used:
        put_block(frame, frame.joined.data, frame.joined.used)
        frame.joined.used = 0
    return 0


cdef int put_block(Frame *frame, const uint8_t *data, size_t nbytes) except -1 nogil:
    cdef Buffer *out = &frame.out
    cdef uint32_t size, word
    cdef uint8_t *block
    buffer_reserve(out, rising_nbytes_max(nbytes) + 16)
    block = out.data + out.used + 4
    size = word = compressed(frame, data, nbytes, block)
    if size == 0:
        size = <uint32_t>nbytes
        word = size | <uint32_t>STORED
        memcpy(block, data, nbytes)
    # Exactly four bytes: the block is there already.
    buffer_bytes(out, &word, 4)
    out.used = out.used + size
    return buffer_word(out, xxh32(block, size), 4)


cdef uint32_t compressed(Frame *frame, const uint8_t *data, size_t nbytes, uint8_t *block) noexcept nogil:
    """The size of the block as LZ4; 0 when it does not gain enough."""
    cdef size_t nbytes_max = nbytes - nbytes // GAIN
    cdef size_t size
    if rises(data, nbytes):
        size = put_rising(data, nbytes, block)
        if size <= nbytes_max:
            return <uint32_t>size
    return <uint32_t>lz4.compress(frame.state, <const char *>data, <char *>block, <int>nbytes, <int>nbytes_max, 1)


# ---- the checksum (XXH32 with seed 0, of the xxHash specification)

cdef enum:
    PRIME_1 = 0x9E3779B1
    PRIME_2 = 0x85EBCA77
    PRIME_3 = 0xC2B2AE3D
    PRIME_4 = 0x27D4EB2F
    PRIME_5 = 0x165667B1


@cython.overflowcheck(False)
cdef inline uint32_t rotated(uint32_t word, int bits) noexcept nogil:
    return (word << bits) | (word >> (32 - bits))


cdef inline uint32_t load4(const uint8_t *at) noexcept nogil:
    cdef uint32_t word
    memcpy(&word, at, 4)
    return word


@cython.overflowcheck(False)
cdef inline uint32_t round_of(uint32_t sum, uint32_t word) noexcept nogil:
    return rotated(sum + word * <uint32_t>PRIME_2, 13) * <uint32_t>PRIME_1


@cython.overflowcheck(False)
cdef uint32_t xxh32(const uint8_t *data, size_t nbytes) noexcept nogil:
    cdef const uint8_t *end = data + nbytes
    cdef uint32_t hash = <uint32_t>PRIME_5
    cdef uint32_t a = <uint32_t>PRIME_1 + <uint32_t>PRIME_2
    cdef uint32_t b = <uint32_t>PRIME_2
    cdef uint32_t c = 0
    cdef uint32_t d = <uint32_t>0 - <uint32_t>PRIME_1
    if nbytes >= 16:
        while end - data >= 16:
            a = round_of(a, load4(data))
            b = round_of(b, load4(data + 4))
            c = round_of(c, load4(data + 8))
            d = round_of(d, load4(data + 12))
            data += 16
        hash = rotated(a, 1) + rotated(b, 7) + rotated(c, 12) + rotated(d, 18)
    hash += <uint32_t>nbytes
    while end - data >= 4:
        hash = rotated(hash + load4(data) * <uint32_t>PRIME_3, 17) * <uint32_t>PRIME_4
        data += 4
    while data < end:
        hash = rotated(hash + data[0] * <uint32_t>PRIME_5, 11) * <uint32_t>PRIME_1
        data += 1
    hash = (hash ^ (hash >> 15)) * <uint32_t>PRIME_2
    hash = (hash ^ (hash >> 13)) * <uint32_t>PRIME_3
    return hash ^ (hash >> 16)
