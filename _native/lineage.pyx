"""The lineage of a block's rows and the columns made from it. Owns four numbers a row; never refuses a row.

A record without a timestamp has -1 and is stored as 0. A timestamp beyond the column's range is stored as the range's
end: producers set timestamps freely, and a bad one must not cost the record.
"""

from array import array

from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint64_t

from _native.buffer cimport Buffer, buffer_free, buffer_reserve, buffer_string, buffer_word
from _native.pieces cimport add_piece

from _native.chtypes import parse

PARTITION_TYPES = {"Int32": 4, "UInt32": 4, "Int64": 8, "UInt64": 8}
WIDE_TYPES = {"Int64": 8, "UInt64": 8}


cdef LineageColumn lineage_column(object column) except *:
    """How a column with a source of `@...` is written; ValueError when its type cannot hold it."""
    cdef LineageColumn found
    spec = parse(column.type)
    found.width = spec.width
    found.scale = spec.scale
    found.high = INT64_MAX
    if column.source == "@topic" and spec.kind == "string":
        found.kind = LINEAGE_TOPIC_DICTIONARY if column.type.startswith("LowCardinality(") else LINEAGE_TOPIC
    elif column.source == "@partition" and spec.wire in PARTITION_TYPES:
        found.kind = LINEAGE_PARTITION
    elif column.source == "@offset" and spec.wire in WIDE_TYPES:
        found.kind = LINEAGE_OFFSET
    elif column.source == "@timestamp" and spec.wire in WIDE_TYPES:
        found.kind = LINEAGE_TIMESTAMP
    elif column.source == "@timestamp" and spec.kind == "datetime":
        found.kind = LINEAGE_DATETIME
        found.high = spec.high
    elif column.source == "@timestamp" and spec.kind == "datetime64":
        found.kind = LINEAGE_DATETIME64
        found.high = spec.high
    else:
        raise ValueError(
            f"column {column.name!r}: {column.type} cannot hold {column.source}; use LowCardinality(String) for "
            "@topic, Int32 for @partition, Int64 for @offset, DateTime64(3) for @timestamp"
        )
    return found


cdef class Lineage:
    """Topic, partition, offset and timestamp of each row."""

    def __cinit__(self):
        self.topics = []
        self.positions = {}

    def __dealloc__(self):
        buffer_free(&self.origins.topic_index)
        buffer_free(&self.origins.partition)
        buffer_free(&self.origins.offset)
        buffer_free(&self.origins.timestamp)

    cdef int32_t topic_position(self, str topic) except -1:
        position = self.positions.get(topic)
        if position is None:
            position = self.positions[topic] = len(self.topics)
            self.topics.append(topic)
        return position

    def columns(self):
        """(topic names, array('i') of positions in them, array('i') of partitions, array('q') of offsets)."""
        return (
            list(self.topics),
            as_array("i", &self.origins.topic_index),
            as_array("i", &self.origins.partition),
            as_array("q", &self.origins.offset),
        )

    cdef int write(self, const LineageColumn *column, const uint64_t *rows, size_t count, Buffer *out) except -1:
        """Appends the column for the `count` chosen rows, or for the first `count` when `rows` is NULL."""
        cdef const int32_t *partitions = <const int32_t *>self.origins.partition.data
        cdef const int64_t *offsets = <const int64_t *>self.origins.offset.data
        cdef const int64_t *timestamps = <const int64_t *>self.origins.timestamp.data
        cdef size_t index, row
        if count == 0:
            return 0
        if column.kind == LINEAGE_TOPIC or column.kind == LINEAGE_TOPIC_DICTIONARY:
            return self.write_topics(column, rows, count, out)
        buffer_reserve(out, count * column.width + 8)
        for index in range(count):
            row = rows[index] if rows != NULL else index
            if column.kind == LINEAGE_PARTITION:
                buffer_word(out, <uint64_t><int64_t>partitions[row], column.width)
            elif column.kind == LINEAGE_OFFSET:
                buffer_word(out, <uint64_t>offsets[row], 8)
            else:
                buffer_word(out, <uint64_t>clamp_timestamp(column, timestamps[row]), column.width)
        return 0

    cdef int add_pieces(self, const LineageColumn *column, size_t count, Buffer *made, Buffer *pieces) except -1:
        """The column of the first `count` rows: as it is kept where the wire has the same bytes, or else in `made`."""
        if not self.is_stored(column, count):
            self.write(column, NULL, count, made)
            return add_piece(pieces, made.data, made.used)
        if column.kind == LINEAGE_TOPIC_DICTIONARY:
            self.write_dictionary(count, made)
            add_piece(pieces, made.data, made.used)
            return add_piece(pieces, self.origins.topic_index.data, count * 4)
        if column.kind == LINEAGE_PARTITION:
            return add_piece(pieces, self.origins.partition.data, count * 4)
        if column.kind == LINEAGE_OFFSET:
            return add_piece(pieces, self.origins.offset.data, count * 8)
        return add_piece(pieces, self.origins.timestamp.data, count * 8)

    cdef bint is_stored(self, const LineageColumn *column, size_t count) noexcept:
        """Whether the column's bytes on the wire are those that are kept anyway."""
        cdef const int64_t *timestamps = <const int64_t *>self.origins.timestamp.data
        cdef int64_t low = 0
        cdef int64_t high = 0
        cdef size_t index
        if column.kind == LINEAGE_PARTITION:
            return column.width == 4
        if column.kind == LINEAGE_TIMESTAMP or (column.kind == LINEAGE_DATETIME64 and column.scale == 3):
            for index in range(count):
                low = min(low, timestamps[index])
                high = max(high, timestamps[index])
            return low >= 0 and (column.kind == LINEAGE_TIMESTAMP or high <= column.high)
        return count > 0 and (column.kind == LINEAGE_TOPIC_DICTIONARY or column.kind == LINEAGE_OFFSET)

    cdef int write_dictionary(self, size_t count, Buffer *out) except -1:
        """What precedes the indexes of a LowCardinality column: version, index type, dictionary, their number."""
        cdef bytes name
        buffer_word(out, 1, 8)                  # the format's only version
        buffer_word(out, 2 | (1 << 9), 8)       # indexes of 4 bytes; the dictionary follows
        buffer_word(out, len(self.topics), 8)
        for topic in self.topics:
            name = topic.encode()
            buffer_string(out, <const char *>name, len(name))
        return buffer_word(out, count, 8)

    cdef int write_topics(
        self, const LineageColumn *column, const uint64_t *rows, size_t count, Buffer *out
    ) except -1:
        """Names in every row, or as a LowCardinality column."""
        cdef const int32_t *positions = <const int32_t *>self.origins.topic_index.data
        cdef list names = [topic.encode() for topic in self.topics]
        cdef size_t index, row
        cdef bytes name
        if column.kind == LINEAGE_TOPIC_DICTIONARY:
            self.write_dictionary(count, out)
        for index in range(count):
            row = rows[index] if rows != NULL else index
            if column.kind == LINEAGE_TOPIC_DICTIONARY:
                buffer_word(out, <uint64_t>positions[row], 4)
            else:
                name = names[positions[row]]
                buffer_string(out, <const char *>name, len(name))
        return 0


cdef int64_t clamp_timestamp(const LineageColumn *column, int64_t milliseconds) noexcept nogil:
    """The timestamp in the column's unit, within its range."""
    cdef int64_t converted = milliseconds
    if milliseconds < 0:
        return 0
    if column.kind == LINEAGE_TIMESTAMP:
        return milliseconds
    if column.scale < 3:
        converted = milliseconds // power_of_ten(3 - column.scale)
    elif milliseconds > column.high // power_of_ten(column.scale - 3):
        return column.high
    else:
        converted = milliseconds * power_of_ten(column.scale - 3)
    return converted if converted < column.high else column.high


cdef int64_t power_of_ten(int exponent) noexcept nogil:
    cdef int64_t power = 1
    while exponent > 0:
        power *= 10
        exponent -= 1
    return power


cdef object as_array(str typecode, const Buffer *buffer):
    values = array(typecode)
    if buffer.used:
        values.frombytes(buffer.data[:buffer.used])
    return values
