"""Large pieces of memory that are used again: what one block has let go of, the next one fills, without page faults.

    find: the smallest free chunk that fits, up to twice the size --or--> malloc, by the caller, who tells `pool_grew`
    give: kept, if what is kept then stays below KEPT_BYTES_MAX, or takes no more than what was in use at once
          --or--> free

So the process never holds more than it has needed at some time, or KEPT_BYTES_MAX beyond what it needs. Chunks come in
four sizes for each power of two, so that a fifth of one is unused at the most. Any thread may take or give.
"""


cdef enum:
    POOLED_BYTES_MIN = 32768        # what is not larger comes from malloc, which keeps it by itself
    KEPT_BYTES_MAX = 67108864       # 64 MiB; kept whatever was in use; the memory plan counts it


cdef void *pool_find(size_t nbytes, size_t *capacity) noexcept nogil
cdef void pool_grew(size_t before, size_t capacity) noexcept nogil
cdef void pool_give(void *chunk, size_t capacity) noexcept nogil
