"""What the reading of one record needs beside the record: scratch memory, and the keys of the maps it is in."""

from libc.stdint cimport uint8_t, uint64_t

from _native.buffer cimport Buffer
from _native.json_scan cimport Plain, Text

cdef enum:
    KEYS_MAX = 1024         # keys of all maps that one value lies in; more are left to msgspec
    MARK_WORDS = 4


cdef struct Work:
    Plain plain             # texts whose escapes were taken out
    Buffer record           # owned; the record, followed by zeros
    Buffer json             # owned; JSON text in the making
    const uint8_t *run      # what comes next in it and is not copied yet: text that stays where it is, up to `run_end`
    const uint8_t *run_end
    Buffer unescaped        # owned; the memory of `plain`
    bint refused            # what was not taken is surely refused by msgspec or by the column
    bint unfit              # a column refuses what was read for it; a later value under the same key may take its place
    const uint8_t *key_at   # where the value of the last key column was
    size_t foreseen_at      # where in the record the look ahead found a UUID that may be the key; 0 for nowhere
    uint64_t foreseen[2]    # that UUID, as read_uuid has it
    size_t key_count
    Text keys[KEYS_MAX]     # a stack: each map has those above its `first`


cdef struct KeySet:
    size_t first            # index of the map's first key on the stack
    uint64_t marks[MARK_WORDS]  # one bit by the key's hash: not set, the key is new


cdef int work_begin(Work *work, const uint8_t *data, size_t nbytes) except -1 nogil
cdef void work_free(Work *work) noexcept nogil
cdef void keys_begin(Work *work, KeySet *keys) noexcept nogil
cdef bint key_is_new(Work *work, KeySet *keys, const Text *key) noexcept nogil
cdef void keys_end(Work *work, const KeySet *keys) noexcept nogil
