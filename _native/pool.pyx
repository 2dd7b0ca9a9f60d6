"""Keeps large pieces of memory for their next use. One pool a process, guarded by a lock; pool.pxd says how it works.

A chunk that is handed out belongs to whoever took it. Giving it back is to its owner no different from freeing it, so
that it can be done wherever memory is freed, by any thread, also in a destructor.
"""

from libc.stdint cimport uint64_t
from libc.stdlib cimport free
from libc.string cimport memcpy

cdef extern from *:
    """
    #include <pthread.h>
    static pthread_mutex_t penstock_pool_mutex = PTHREAD_MUTEX_INITIALIZER;
    #define PENSTOCK_POOL_LOCK() ((void)pthread_mutex_lock(&penstock_pool_mutex))
    #define PENSTOCK_POOL_UNLOCK() ((void)pthread_mutex_unlock(&penstock_pool_mutex))
    #define PENSTOCK_HIGHEST_BIT(word) (63 - __builtin_clzll(word))
    /* The sanitizer sees who uses memory after its end only where memory ends. */
    #if defined(__SANITIZE_ADDRESS__)
    #define PENSTOCK_POOLS 0
    #else
    #define PENSTOCK_POOLS 1
    #endif
    """
    void lock "PENSTOCK_POOL_LOCK"() noexcept nogil
    void unlock "PENSTOCK_POOL_UNLOCK"() noexcept nogil
    int highest_bit "PENSTOCK_HIGHEST_BIT"(uint64_t word) noexcept nogil
    const bint POOLS "PENSTOCK_POOLS"

cdef enum:
    LOWEST_BIT = 15         # of POOLED_BYTES_MIN
    SIZES_EACH = 4          # in each power of two
    SIZES = 100             # up to 2^40 bytes
    LARGER_MAX = 4          # sizes that a chunk may be larger than asked for

cdef void *kept[SIZES]      # by size; the first bytes of a chunk are the address of the next one
cdef size_t kept_bytes = 0
cdef size_t used_bytes = 0      # by owners, of chunks that can be kept
cdef size_t used_bytes_most = 0


cdef inline size_t size_at(size_t index) noexcept nogil:
    return <size_t>(SIZES_EACH + 1 + index % SIZES_EACH) << (LOWEST_BIT - 2 + index // SIZES_EACH)


cdef inline size_t index_of(size_t nbytes) noexcept nogil:
    """Of the smallest size that holds `nbytes`, which are more than POOLED_BYTES_MIN."""
    cdef int bit = highest_bit(nbytes - 1)
    return <size_t>(bit - LOWEST_BIT) * SIZES_EACH + ((nbytes - 1) >> (bit - 2)) - SIZES_EACH


cdef void *pool_find(size_t nbytes, size_t *capacity) noexcept nogil:
    """A chunk for `nbytes` at least, or NULL. `capacity` becomes its size, or the size to ask malloc for."""
    global kept_bytes
    cdef size_t first, index
    cdef void *chunk = NULL
    capacity[0] = nbytes
    if nbytes <= <size_t>POOLED_BYTES_MIN:
        return NULL
    first = index = index_of(nbytes)
    if first >= SIZES:
        return NULL
    capacity[0] = size_at(first)
    lock()
    while index < SIZES and index <= first + LARGER_MAX and kept[index] == NULL:
        index += 1
    if index < SIZES and index <= first + LARGER_MAX:
        chunk = kept[index]
        memcpy(&kept[index], chunk, sizeof(void *))
        capacity[0] = size_at(index)
        kept_bytes = kept_bytes - capacity[0]
        count_used(0, capacity[0])
    unlock()
    return chunk


cdef void pool_grew(size_t before, size_t capacity) noexcept nogil:
    """Tells of memory that came from malloc, or was made larger by realloc: from `before` bytes, 0 for none."""
    lock()
    count_used(before, capacity)
    unlock()


cdef void count_used(size_t before, size_t after) noexcept nogil:
    """Under the lock."""
    global used_bytes, used_bytes_most
    used_bytes = used_bytes - pooled(before) + pooled(after)
    used_bytes_most = max(used_bytes_most, used_bytes)


cdef inline size_t pooled(size_t capacity) noexcept nogil:
    """The bytes of a chunk that can be kept; 0 of a smaller one."""
    return capacity if capacity > <size_t>POOLED_BYTES_MIN else 0


cdef void pool_give(void *chunk, size_t capacity) noexcept nogil:
    """Lets go of memory from `pool_find` or malloc, which has that capacity."""
    global kept_bytes
    cdef size_t index, room
    if capacity > <size_t>POOLED_BYTES_MIN:
        index = index_of(capacity)
        lock()
        count_used(capacity, 0)
        room = max(<size_t>KEPT_BYTES_MAX, used_bytes_most - used_bytes)
        if POOLS and index < SIZES and kept_bytes + capacity <= room:
            memcpy(chunk, &kept[index], sizeof(void *))
            kept[index] = chunk
            kept_bytes = kept_bytes + capacity
            chunk = NULL
        unlock()
    free(chunk)


def pool_nbytes():
    """Bytes that are kept and unused."""
    return kept_bytes


def pool_trim():
    """Frees what is kept, and forgets how much was ever used; returns how many bytes were kept."""
    global kept_bytes, used_bytes_most
    cdef size_t index
    cdef size_t before = kept_bytes
    cdef void *chunk
    lock()
    for index in range(SIZES):
        while kept[index] != NULL:
            chunk = kept[index]
            memcpy(&kept[index], chunk, sizeof(void *))
            kept_bytes = kept_bytes - size_at(index)
            free(chunk)
    used_bytes_most = used_bytes
    unlock()
    return before
