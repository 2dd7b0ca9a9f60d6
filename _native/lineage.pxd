"""Where each row of a block came from: the columns every block has, whether its table stores them or not."""

from libc.stdint cimport int32_t, int64_t, uint64_t

from _native.buffer cimport Buffer, buffer_word

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


cdef struct Origins:
    Buffer topic_index          # int32 a row: position among the topics
    Buffer partition            # int32 a row
    Buffer offset               # int64 a row
    Buffer timestamp            # int64 a row, milliseconds, -1 for none


cdef inline int origins_put(
    Origins *origins, int32_t topic, int32_t partition, int64_t offset, int64_t timestamp
) except -1 nogil:
    buffer_word(&origins.topic_index, <uint64_t>topic, 4)
    buffer_word(&origins.partition, <uint64_t>partition, 4)
    buffer_word(&origins.offset, <uint64_t>offset, 8)
    return buffer_word(&origins.timestamp, <uint64_t>timestamp, 8)


cdef inline void origins_restore(Origins *origins, size_t rows) noexcept nogil:
    """Keeps the first `rows` rows."""
    origins.topic_index.used = origins.partition.used = rows * 4
    origins.offset.used = origins.timestamp.used = rows * 8


cdef class Lineage:
    cdef Origins origins        # owned
    cdef readonly list topics   # names in the order they were first seen
    cdef dict positions         # name -> position in `topics`

    cdef int32_t topic_position(self, str topic) except -1
    cdef int write_dictionary(self, size_t count, Buffer *out) except -1
    cdef int write_topics(
        self, const LineageColumn *column, const uint64_t *rows, size_t count, Buffer *out
    ) except -1
    cdef int write(self, const LineageColumn *column, const uint64_t *rows, size_t count, Buffer *out) except -1
    cdef int add_pieces(self, const LineageColumn *column, size_t count, Buffer *made, Buffer *pieces) except -1
    cdef bint is_stored(self, const LineageColumn *column, size_t count) noexcept


cdef LineageColumn lineage_column(object column) except *
