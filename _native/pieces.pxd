"""What a block is made of when it is sent: pieces of memory one after another, borrowed from the columns."""

from libc.stdint cimport uint8_t

from _native.buffer cimport Buffer, buffer_bytes


cdef struct Piece:
    const uint8_t *data
    size_t nbytes


cdef inline int add_piece(Buffer *pieces, const void *data, size_t nbytes) except -1 nogil:
    cdef Piece piece = Piece(<const uint8_t *>data, nbytes)
    return buffer_bytes(pieces, &piece, sizeof(Piece)) if nbytes else 0


cdef inline size_t pieces_nbytes(const Buffer *pieces) noexcept nogil:
    cdef const Piece *piece = <const Piece *>pieces.data
    cdef size_t total = 0
    cdef size_t index
    for index in range(pieces.used // sizeof(Piece)):
        total += piece[index].nbytes
    return total
