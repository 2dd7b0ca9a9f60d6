"""Finished columns of Strings into dictionaries, where that makes the block smaller. Owns nothing between calls.

    LowCardinality(String) in Native

        version: UInt64 = 1 | flags: UInt64 = index width (0, 1: 1, 2 bytes) + 2^9, a dictionary follows
        values: UInt64 | each value as a String | rows: UInt64 | the index of each row's value

ClickHouse would make the same dictionary of plain Strings, value by value; and LZ4 has less to compress.
"""

cimport cython
from libc.stdint cimport uint8_t, uint16_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcmp, memcpy

from _native.buffer cimport Buffer, after_string, buffer_bytes, buffer_free, buffer_reserve, buffer_word
from _native.node cimport KIND_DICTIONARY, Node

cdef enum:
    VALUES_MAX = 4096       # beyond it a dictionary is large, and so is the table that finds its values
    SLOTS = 16384           # a quarter of them are taken at the most
    TRIAL_ROWS = 1024       # after these rows there must be ...
    TRIAL_VALUES_MAX = 512  # ... no more values than these
    NARROW_VALUES_MAX = 256     # with indexes of one byte
    HEAD_NBYTES = 32        # the four numbers
    SAVED_NBYTES_MIN = 4    # of each row: to find its value costs as much as to compress these


cdef struct Value:          # one that the column holds
    const uint8_t *start    # borrowed: its length and its bytes
    size_t nbytes           # of both
    uint64_t hash


cdef struct Dictionary:
    Value *values           # owned
    size_t count
    size_t nbytes           # of all values
    uint16_t *slots         # owned; 1 + a value's number, by its hash; 0 for none
    uint16_t *indexes       # owned; the value of each row


cdef bint node_to_dictionary(Node *node, size_t rows) except -1:
    """Puts a dictionary in the place of the Strings; false, and nothing changes, where it saves too little."""
    cdef Dictionary dictionary
    cdef Buffer made
    cdef bint paid = False
    cdef size_t width
    if node.data.used < HEAD_NBYTES + rows * (1 + SAVED_NBYTES_MIN):
        return False
    dictionary.count = dictionary.nbytes = 0
    dictionary.values = <Value *>malloc(VALUES_MAX * sizeof(Value))
    dictionary.slots = <uint16_t *>calloc(SLOTS, sizeof(uint16_t))
    dictionary.indexes = <uint16_t *>malloc((rows or 1) * sizeof(uint16_t))
    made.data = NULL
    made.used = made.capacity = made.mark = 0
    try:
        if dictionary.values == NULL or dictionary.slots == NULL or dictionary.indexes == NULL:
            raise MemoryError(f"no memory for a dictionary of {rows} rows")
        with nogil:
            paid = find_values(&dictionary, node.data.data, rows)
            width = 1 if dictionary.count <= NARROW_VALUES_MAX else 2
            paid = paid and HEAD_NBYTES + dictionary.nbytes + rows * (width + SAVED_NBYTES_MIN) <= node.data.used
            if paid:
                write_dictionary(&dictionary, rows, width, &made)
        if paid:
            buffer_free(&node.data)
            node.data = made
            node.kind = KIND_DICTIONARY
            node.width = <uint16_t>width
    finally:
        free(dictionary.values)
        free(dictionary.slots)
        free(dictionary.indexes)
    return paid


cdef bint find_values(Dictionary *dictionary, const uint8_t *at, size_t rows) noexcept nogil:
    """The value of each row; false as soon as there are too many."""
    cdef size_t row
    cdef const uint8_t *start
    for row in range(rows):
        if dictionary.count == VALUES_MAX or (row == TRIAL_ROWS and dictionary.count > TRIAL_VALUES_MAX):
            return False
        start = at
        at = after_string(at)
        dictionary.indexes[row] = find_value(dictionary, start, at - start)
    return True


cdef inline uint16_t find_value(Dictionary *dictionary, const uint8_t *start, size_t nbytes) noexcept nogil:
    """Which value it is; a new one is added."""
    cdef uint64_t hash = hash_of(start, nbytes)
    cdef size_t slot = hash >> 50
    cdef Value *value
    while dictionary.slots[slot]:
        value = &dictionary.values[dictionary.slots[slot] - 1]
        if value.hash == hash and value.nbytes == nbytes and memcmp(value.start, start, nbytes) == 0:
            return dictionary.slots[slot] - 1
        slot = (slot + 1) & (SLOTS - 1)
    value = &dictionary.values[dictionary.count]
    value.start = start
    value.nbytes = nbytes
    value.hash = hash
    dictionary.nbytes = dictionary.nbytes + nbytes
    dictionary.count = dictionary.count + 1
    dictionary.slots[slot] = <uint16_t>dictionary.count
    return <uint16_t>(dictionary.count - 1)


@cython.overflowcheck(False)
cdef inline uint64_t hash_of(const uint8_t *at, size_t nbytes) noexcept nogil:
    """Which slot is looked at first; what is equal is decided by the bytes. Its top 14 bits are used."""
    cdef uint64_t hash = nbytes
    cdef uint64_t word
    while nbytes >= 8:
        memcpy(&word, at, 8)
        hash = (hash ^ word) * <uint64_t>0x9e3779b97f4a7c15
        hash ^= hash >> 29
        at += 8
        nbytes -= 8
    word = 0
    while nbytes:
        nbytes -= 1
        word = word << 8 | at[nbytes]
    hash = (hash ^ word) * <uint64_t>0x9e3779b97f4a7c15
    return (hash ^ hash >> 29) * <uint64_t>0xbf58476d1ce4e5b9


cdef int write_dictionary(const Dictionary *dictionary, size_t rows, size_t width, Buffer *out) except -1 nogil:
    cdef size_t index
    buffer_reserve(out, HEAD_NBYTES + dictionary.nbytes + rows * width + 8)
    buffer_word(out, 1, 8)
    buffer_word(out, (width - 1) | 1 << 9, 8)
    buffer_word(out, dictionary.count, 8)
    for index in range(dictionary.count):
        buffer_bytes(out, dictionary.values[index].start, dictionary.values[index].nbytes)
    buffer_word(out, rows, 8)
    if width == 2:
        return buffer_bytes(out, dictionary.indexes, rows * 2)
    for index in range(rows):
        out.data[out.used + index] = <uint8_t>dictionary.indexes[index]
    out.used = out.used + rows
    return 0
