"""LZ4 blocks of numbers that rise: offsets and times, of which each row of each table has two or three.

    number     c5 07 00 00 00 00 00 00    d1 07 00 00 00 00 00 00    04 08 00 00 00 00 00 00
    sequence               1 literal  d1, 7 bytes as 8 before     2 literals 04 08, 6 bytes as 8 before

What LZ4 itself finds in such a column, after a search, is just that: bytes as in the number before. Written down
without the search it is as small and costs a quarter. A sequence is token | literals | distance 8 (the LZ4 Block
Format Description); any reader of LZ4 reads it.
"""

from libc.stdint cimport uint8_t


cdef bint rises(const uint8_t *data, size_t nbytes) noexcept nogil
cdef size_t rising_nbytes_max(size_t nbytes) noexcept nogil
cdef size_t put_rising(const uint8_t *data, size_t nbytes, uint8_t *to) noexcept nogil
