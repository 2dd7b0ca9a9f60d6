"""Growth and release of byte buffers. Owns no memory itself: each buffer belongs to the struct that holds it."""

from libc.stdlib cimport realloc
from libc.string cimport memcpy

from _native.pool cimport pool_find, pool_give, pool_grew

cdef size_t SMALLEST_BYTES = 64


cdef int buffer_grow(Buffer *buffer, size_t extra) except -1 nogil:
    """Doubles until `extra` more bytes fit. On failure the buffer is as it was."""
    cdef size_t needed = buffer.used + extra
    cdef size_t capacity = buffer.capacity * 2
    cdef void *data
    if needed < extra:
        with gil:
            raise MemoryError("a column buffer cannot grow past the address space")
    if capacity < SMALLEST_BYTES:
        capacity = SMALLEST_BYTES
    if capacity < needed:
        capacity = needed
    data = pool_find(capacity, &capacity)
    if data == NULL:
        # Of large memory this moves pages and copies nothing.
        data = realloc(buffer.data, capacity)
        if data != NULL:
            pool_grew(buffer.capacity, capacity)
    elif buffer.data != NULL:
        memcpy(data, buffer.data, buffer.used)
        pool_give(buffer.data, buffer.capacity)
    if data == NULL:
        with gil:
            raise MemoryError(f"a column buffer cannot grow to {capacity} bytes")
    buffer.data = <uint8_t *>data
    buffer.capacity = capacity
    return 0


cdef void buffer_free(Buffer *buffer) noexcept nogil:
    pool_give(buffer.data, buffer.capacity)
    buffer.data = NULL
    buffer.used = buffer.capacity = buffer.mark = 0
