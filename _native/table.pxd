"""The claim table: event id -> the record that owns it, forgotten a generation at a time.

    log     entries in the order the claims were made; each has a number, counted up from 0 for ever

            tail                 starts[1]        starts[0]      head
              |   generation 2   |  generation 1  | generation 0 |
            --+------------------+----------------+--------------+--> numbers
              oldest, dropped by moving the tail    newest, grows

    chunks  the log's memory: ring of chunks, number >> chunk_bits; a chunk the tail has passed is used again

    index   Bucket, 64 bytes = 1 cache line                 Entry, 32 bytes, never across two lines
            +--------------------+------+---------+         +--------+---------+--------+------+-------+
            | tags: 10 x 2 bytes | used | spilled |         | id low | id high | offset | slot | spare |
            +--------------------+------+---------+         +--------+---------+--------+------+-------+
            | numbers: 10 x 4 bytes               |
            +-------------------------------------+

A generation ends when its owner says so, for the sake of time, or when it is full. Half of them hold a full table, so
that full ones leave room for those that end for the sake of time, and none is dropped for want of a place: only by its
owner, or when the table is full.

One index serves all generations, so an absent id costs one cache line however many there are. Nothing is ever deleted
from it: a lane whose number lies outside [tail, head) is dead, and the next insertion that finds its bucket full takes
it over. A bucket whose lanes are all alive spills into the next bucket and remembers the generation in `spilled`; a
search goes on past a bucket only while that generation lives. So chains shorten by themselves as generations go, and
there are no tombstones to count.

Lanes keep the low 32 bits of a number. A dead lane may look alive again four thousand million claims later; it then
points at an entry with another id, which the comparison of ids tells, and at worst wastes the lane for a generation.

The home bucket is the high part of (hash x bucket count), so any bucket count will do and the index is two thirds
full when the table is: 32 + 64 / 6.67 = 41.6 bytes an id.
"""

from libc.stdint cimport int64_t, uint8_t, uint16_t, uint32_t, uint64_t

from _native.siphash cimport Id

cdef enum:
    LANES = 10              # entries a bucket refers to
    CHUNK_BITS_MAX = 16     # log2 of the entries in a chunk of a large table (2 MiB)
    PROBES_MAX = 64         # buckets looked at before an id is held to be absent, or the chain to be full
    GENERATIONS_MAX = 64
    AHEAD = 32              # ids hashed and prefetched before the first of them is looked up


cdef enum Verdict:
    NEW = 1                 # the record owns the id; the same number as vocabulary.APPENDED
    DUPLICATE = 2           # another record does; the same number as vocabulary.DUPLICATE


cdef struct Entry:
    uint64_t low            # the event id's first 8 bytes
    uint64_t high           # its last 8 bytes
    int64_t offset          # the owning record
    uint32_t slot           # index of the reading that made the claim
    uint32_t spare          # 0; keeps entries at 32 bytes


cdef struct Bucket:
    uint16_t tags[LANES]    # low 16 bits of the hash
    uint16_t used           # lanes ever taken, from the first on
    uint16_t spilled        # low 16 bits of the last generation that went on to the next bucket from here
    uint32_t numbers[LANES]  # low 32 bits of the entry's number in the log


cdef enum SlotState:
    SLOT_FREE = 0           # to be opened again
    SLOT_OPEN = 1           # claims may be made
    SLOT_FROZEN = 2         # claims may still name it


cdef struct Slot:
    int64_t identity        # names the (topic, partition)
    int64_t valid_below     # claims at this offset or above are void; 2^63-1 while the slot is open
    uint64_t frozen_at      # the generation that was current when the slot was frozen
    uint32_t epoch          # how often this slot has been used; part of the handle
    uint8_t state           # SLOT_FREE, SLOT_OPEN or SLOT_FROZEN


cdef struct Table:
    uint64_t seed_low       # keys of the index hash, from the secret
    uint64_t seed_high
    size_t ids_max          # ids held at most
    size_t generation_ids_max  # ids one generation holds at most: half of the generations hold a full table
    size_t generations_max
    # the log
    uint64_t head           # number of the next entry
    uint64_t starts[GENERATIONS_MAX]  # first number of each live generation, the newest first
    size_t live_count       # live generations; starts[live_count - 1] is the tail
    uint64_t generation     # counts up; the current generation, 1 at first
    Entry **chunks          # owned, chunk_mask + 1 places; NULL where no chunk is
    size_t chunk_mask
    int chunk_bits          # log2 of the entries in a chunk
    uint64_t chunk_first    # number >> chunk_bits of the oldest chunk still in the ring
    uint64_t chunk_next     # one after the newest
    Entry *spare            # owned singly linked list of chunks to use again; the link is in the first 8 bytes
    size_t chunk_count      # chunks allocated, spare ones included
    # the index
    Bucket *buckets         # owned
    size_t bucket_count
    size_t ids_before_growth  # ids at which the index is rebuilt larger
    # slots
    Slot *slots             # owned
    size_t slot_count       # slots ever in use at once
    size_t slot_capacity
    # counters
    uint64_t rotations
    uint64_t early_drops    # generations dropped because a chain of buckets was full
    uint64_t ids_dropped    # ids that left with their generation


cdef int table_init(Table *table, size_t ids_max, size_t generations, Id seeds) except -1
cdef void table_free(Table *table) noexcept nogil
cdef uint64_t table_hash(const Table *table, Id id) noexcept nogil
cdef void table_prefetch_bucket(const Table *table, uint64_t hash) noexcept nogil
cdef void table_prefetch_entry(const Table *table, uint64_t hash) noexcept nogil
cdef int table_claim(Table *table, Id id, uint64_t hash, uint32_t slot, int64_t offset) except -1 nogil
cdef int table_claim_all(
    Table *table, const uint8_t *ids, uint32_t slot, const int64_t *offsets, uint8_t *verdicts, size_t count
) except -1 nogil
cdef Entry *table_find(const Table *table, Id id, uint64_t hash) noexcept nogil
cdef void table_rotate(Table *table) noexcept nogil
cdef void table_drop(Table *table) noexcept nogil
cdef uint32_t table_open_slot(Table *table, int64_t identity) except? 0xffffffff nogil
cdef size_t table_nbytes(const Table *table) noexcept nogil
cdef size_t table_nbytes_max(const Table *table) noexcept nogil
cdef size_t table_bucket(const Table *table, uint64_t hash) noexcept nogil
