"""Where each row of a block came from: the columns every block has, whether its table stores them or not."""

from libc.stdint cimport int32_t, int64_t, uint64_t

from _native.buffer cimport Buffer, buffer_reserve

cdef enum LineageKind:
    LINEAGE_TOPIC           # String: the name in every row
    LINEAGE_TOPIC_DICTIONARY  # LowCardinality(String): the names once, then an index of 4 bytes a row
    LINEAGE_PARTITION       # an integer of 4 or 8 bytes
    LINEAGE_OFFSET          # an integer of 8 bytes
    LINEAGE_TIMESTAMP       # an integer of 8 bytes: milliseconds
    LINEAGE_DATETIME        # seconds, 4 bytes, kept within the type's range
    LINEAGE_DATETIME64      # 8 bytes in units of 10^-scale seconds, kept within the type's range


cdef struct LineageColumn:
    LineageKind kind
    int width               # bytes a value
    int scale               # digits of a second: DateTime64
    int64_t high            # largest value: DateTime, DateTime64


cdef class Lineage:
    cdef Buffer topic_index     # int32 a row: position in `topics`
    cdef Buffer partition       # int32 a row
    cdef Buffer offset          # int64 a row
    cdef Buffer timestamp       # int64 a row, milliseconds, -1 for none
    cdef readonly list topics   # names in the order they were first seen
    cdef dict positions         # name -> position in `topics`

    cdef int32_t topic_position(self, str topic) except -1
    cdef int put(self, int32_t topic, int32_t partition, int64_t offset, int64_t timestamp) except -1
    cdef void restore(self, size_t rows) noexcept
    cdef int write_topics(
        self, const LineageColumn *column, const uint64_t *rows, size_t count, Buffer *out
    ) except -1
    cdef int write(self, const LineageColumn *column, const uint64_t *rows, size_t count, Buffer *out) except -1


cdef LineageColumn lineage_column(object column) except *
