"""Scratch memory for one record at a time. Owns three buffers that grow to the largest record."""

cimport cython
from libc.stdint cimport uint8_t, uint64_t
from libc.string cimport memcpy, memset

from _native.buffer cimport buffer_free, buffer_reserve
from _native.json_scan cimport PADDING, Text, load8, same_bytes


cdef int work_begin(Work *work, const uint8_t *data, size_t nbytes) except -1 nogil:
    """Copies the record and puts zeros behind it. A text without escapes is never longer than the record."""
    work.record.used = 0
    buffer_reserve(&work.record, nbytes + PADDING)
    buffer_reserve(&work.unescaped, nbytes + PADDING)
    memcpy(work.record.data, data, nbytes)
    memset(work.record.data + nbytes, 0, PADDING)
    work.plain.data = work.unescaped.data
    work.plain.used = 0
    work.key_count = 0
    work.key_at = NULL
    work.refused = work.unfit = False
    return 0


cdef void work_free(Work *work) noexcept nogil:
    buffer_free(&work.record)
    buffer_free(&work.unescaped)
    buffer_free(&work.json)


# ---- keys of maps: the same key twice is left to msgspec, for which the last one wins

cdef void keys_begin(Work *work, KeySet *keys) noexcept nogil:
    keys.first = work.key_count
    memset(keys.marks, 0, sizeof(keys.marks))


@cython.overflowcheck(False)
cdef inline uint64_t key_hash(const Text *key) noexcept nogil:
    cdef uint64_t word = load8(key.data)
    if key.length < 8:
        word &= (<uint64_t>1 << (key.length * 8)) - 1
    else:
        word ^= load8(key.data + key.length - 8) * 31
    return ((word ^ key.length) * <uint64_t>0x9e3779b97f4a7c15) >> 56


cdef bint key_is_new(Work *work, KeySet *keys, const Text *key) noexcept nogil:
    """Adds a key; false when the map has it already, or too many of them."""
    cdef uint64_t hash = key_hash(key)
    cdef uint64_t bit = <uint64_t>1 << (hash & 63)
    cdef uint64_t *marks = &keys.marks[hash >> 6]
    cdef size_t index
    if work.key_count == KEYS_MAX:
        return False
    if marks[0] & bit:
        for index in range(keys.first, work.key_count):
            if work.keys[index].length == key.length and same_bytes(work.keys[index].data, key.data, key.length):
                return False
    marks[0] |= bit
    work.keys[work.key_count] = key[0]
    work.key_count = work.key_count + 1
    return True


cdef void keys_end(Work *work, const KeySet *keys) noexcept nogil:
    work.key_count = keys.first
