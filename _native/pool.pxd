"""Large pieces of memory that are used again: what one block has let go of, the next one fills, without page faults.

    find: the smallest free chunk that fits, up to twice the size --or--> malloc, by the caller
    give: kept, if all that is kept stays below POOL_BYTES_MAX --or--> free

Chunks come in four sizes for each power of two, so that a fifth of one is unused at the most. Any thread may take or
give.
"""


cdef enum:
    POOLED_BYTES_MIN = 32768        # what is not larger comes from malloc, which keeps it by itself
    POOL_BYTES_MAX = 67108864   # kept and unused (64 MiB); the memory plan counts it


cdef void *pool_find(size_t nbytes, size_t *capacity) noexcept nogil
cdef void pool_give(void *chunk, size_t capacity) noexcept nogil
