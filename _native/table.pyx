"""The claim table: its log, its index, its slots. Owns the ids; knows no clock and no Python object; deletes nothing.

The layout is drawn in table.pxd. A claim belongs to a slot, one uninterrupted reading of a partition. When a reading
ends early its slot is frozen: what it had claimed from `valid_below` on is void, because those records will be read
again. A slot is used again once no generation is left that could name it.
"""

cimport cython
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint16_t, uint32_t, uint64_t
from libc.stdlib cimport calloc, free, realloc
from libc.string cimport memcpy, memset

from _native.siphash cimport Id

cdef extern from *:
    """
    #include <stdlib.h>
    #include <sys/mman.h>
    /* Large blocks come zeroed and page by page from the kernel, and go back to it: mmap, not the heap. */
    #define PENSTOCK_MAPPED_BYTES ((size_t)1 << 18)
    #ifndef MAP_NORESERVE
    #define MAP_NORESERVE 0
    #endif
    static void *zeroed_new(size_t length) {
        void *data = NULL;
        if (length >= PENSTOCK_MAPPED_BYTES) {
            int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE;
            data = mmap(NULL, length, PROT_READ | PROT_WRITE, flags, -1, 0);
            if (data == MAP_FAILED) return NULL;
    #ifdef MADV_HUGEPAGE
            madvise(data, length, MADV_HUGEPAGE);  /* lookups are random: with small pages each misses the TLB too */
    #endif
            return data;
        }
        if (posix_memalign(&data, 64, length) != 0) return NULL;
        memset(data, 0, length);
        return data;
    }
    static void zeroed_free(void *data, size_t length) {
        if (data == NULL) return;
        if (length >= PENSTOCK_MAPPED_BYTES) munmap(data, length); else free(data);
    }
    static inline uint64_t fold_multiply(uint64_t a, uint64_t b) {
        unsigned __int128 product = (unsigned __int128)a * b;
        return (uint64_t)product ^ (uint64_t)(product >> 64);
    }
    static inline uint64_t multiply_high(uint64_t a, uint64_t b) {
        return (uint64_t)(((unsigned __int128)a * b) >> 64);
    }
    /* Bit 15 of each 16-bit lane of `word` that equals `tag`; lanes after the first match may be false positives. */
    static inline uint64_t equal_lanes(uint64_t word, uint16_t tag) {
        uint64_t x = word ^ ((uint64_t)tag * UINT64_C(0x0001000100010001));
        return (x - UINT64_C(0x0001000100010001)) & ~x & UINT64_C(0x8000800080008000);
    }
    static inline int first_lane(uint64_t lanes) { return __builtin_ctzll(lanes) >> 4; }
    static inline void prefetch_line(const void *address) { __builtin_prefetch(address); }
    """
    void *zeroed_new(size_t length) noexcept nogil
    void zeroed_free(void *data, size_t length) noexcept nogil
    uint64_t fold_multiply(uint64_t a, uint64_t b) noexcept nogil
    uint64_t multiply_high(uint64_t a, uint64_t b) noexcept nogil
    uint64_t equal_lanes(uint64_t word, uint16_t tag) noexcept nogil
    int first_lane(uint64_t lanes) noexcept nogil
    void prefetch_line(const void *address) noexcept nogil

cdef enum:
    SMALLEST_BUCKETS = 64


# ---- the log

cdef inline Entry *entry_at(const Table *table, uint64_t number) noexcept nogil:
    cdef size_t place = (number >> table.chunk_bits) & table.chunk_mask
    return &table.chunks[place][number & ((<uint64_t>1 << table.chunk_bits) - 1)]


cdef inline uint64_t tail_of(const Table *table) noexcept nogil:
    return table.starts[table.live_count - 1]


cdef inline size_t chunk_nbytes(const Table *table) noexcept nogil:
    return sizeof(Entry) << table.chunk_bits


cdef int log_reserve(Table *table) except -1 nogil:
    """Makes sure that the chunk of the next entry is there, taking one the tail has left when there is one."""
    cdef Entry *chunk
    if table.head >> table.chunk_bits < table.chunk_next:
        return 0
    chunk = table.spare
    if chunk != NULL:
        memcpy(&table.spare, chunk, sizeof(Entry *))
    else:
        chunk = <Entry *>zeroed_new(chunk_nbytes(table))
        if chunk == NULL:
            with gil:
                raise MemoryError("no memory for another chunk of claims")
        table.chunk_count += 1
    table.chunks[table.chunk_next & table.chunk_mask] = chunk
    table.chunk_next += 1
    return 0


cdef void log_release(Table *table) noexcept nogil:
    """Puts the chunks that lie wholly before the tail aside to be used again."""
    cdef uint64_t first = tail_of(table) >> table.chunk_bits
    cdef Entry **place
    while table.chunk_first < first and table.chunk_first < table.chunk_next:
        place = &table.chunks[table.chunk_first & table.chunk_mask]
        memcpy(place[0], &table.spare, sizeof(Entry *))
        table.spare = place[0]
        place[0] = NULL
        table.chunk_first += 1


# ---- the index

cdef uint64_t table_hash(const Table *table, Id id) noexcept nogil:
    """Spreads ids over the index. Keyed, because UUIDs are taken as they are and a producer may choose them.

    Every bit of an id goes through both multiplications: after one alone, ids that count up in their last bytes lie
    close together under one seed in some hundreds.
    """
    return fold_multiply(
        fold_multiply(id.low ^ table.seed_low, id.high ^ table.seed_high) ^ table.seed_high, table.seed_low | 1
    )


cdef inline uint16_t tag_of(uint64_t hash) noexcept nogil:
    return <uint16_t>hash


cdef inline size_t buckets_for(size_t ids) noexcept nogil:
    """Buckets for `ids` entries at two thirds full."""
    return ids * 3 // (LANES * 2) + 1


@cython.overflowcheck(False)
cdef inline bint lane_alive(const Table *table, uint32_t number) noexcept nogil:
    """Whether a lane's number lies in [tail, head), by differences modulo 2^32."""
    cdef uint64_t tail = tail_of(table)
    return <uint32_t>(number - <uint32_t>tail) < <uint32_t>(table.head - tail)


@cython.overflowcheck(False)
cdef inline uint64_t lane_number(const Table *table, uint32_t number) noexcept nogil:
    """The whole number of a living lane."""
    cdef uint64_t tail = tail_of(table)
    return tail + <uint32_t>(number - <uint32_t>tail)


@cython.overflowcheck(False)
cdef inline bint spill_alive(const Table *table, const Bucket *bucket) noexcept nogil:
    """Whether an entry that passed this full bucket may still be alive."""
    cdef uint16_t age = <uint16_t>(<uint16_t>table.generation - bucket.spilled)
    return age < table.live_count


@cython.overflowcheck(False)
cdef inline Entry *bucket_find(const Table *table, const Bucket *bucket, uint16_t tag, Id id) noexcept nogil:
    cdef uint64_t words[3]
    cdef uint64_t lanes
    cdef size_t word, lane
    cdef Entry *entry
    memcpy(words, bucket.tags, 24)
    for word in range(3):
        lanes = equal_lanes(words[word], tag)
        while lanes:
            lane = word * 4 + first_lane(lanes)
            if lane < bucket.used and lane_alive(table, bucket.numbers[lane]):
                entry = entry_at(table, lane_number(table, bucket.numbers[lane]))
                if entry.low == id.low and entry.high == id.high:
                    return entry
            lanes &= lanes - 1
    return NULL


cdef Entry *table_find(const Table *table, Id id, uint64_t hash) noexcept nogil:
    """The entry of `id`, or NULL. Looks at PROBES_MAX buckets at the most."""
    cdef uint16_t tag = tag_of(hash)
    cdef size_t position = multiply_high(hash, table.bucket_count)
    cdef const Bucket *bucket
    cdef Entry *entry
    for _probe in range(PROBES_MAX):
        bucket = &table.buckets[position]
        entry = bucket_find(table, bucket, tag, id)
        if entry != NULL or not spill_alive(table, bucket):
            return entry
        position += 1
        if position == table.bucket_count:
            position = 0
    return NULL


cdef inline size_t free_lane(const Table *table, const Bucket *bucket) noexcept nogil:
    """The first lane never taken, else the first dead one, else LANES."""
    cdef size_t lane
    if bucket.used < LANES:
        return bucket.used
    for lane in range(<size_t>LANES):
        if not lane_alive(table, bucket.numbers[lane]):
            return lane
    return LANES


cdef bint place(Table *table, uint64_t hash, uint64_t number, uint64_t generation) noexcept nogil:
    """Refers to entry `number` from the first bucket with a free lane; false when the chain is full.

    A bucket it passes is marked with the generation, so that searches pass it too until the generation is dropped. A
    mark that is younger than needed costs a longer search, never a wrong answer.
    """
    cdef size_t position = multiply_high(hash, table.bucket_count)
    cdef size_t lane
    cdef Bucket *bucket
    for _probe in range(PROBES_MAX):
        bucket = &table.buckets[position]
        lane = free_lane(table, bucket)
        if lane < LANES:
            bucket.tags[lane] = tag_of(hash)
            bucket.numbers[lane] = <uint32_t>number
            if lane == bucket.used:
                bucket.used += 1
            return True
        bucket.spilled = <uint16_t>generation
        position += 1
        if position == table.bucket_count:
            position = 0
    return False


cdef void index_grow(Table *table) noexcept nogil:
    """Rebuilds the index twice as large, from the log and where it is: its memory is there and has not been touched.

    Entries come in the order of their numbers, so the last generation to pass a bucket is the one that stays marked.
    The oldest generation is dropped when a chain is full.
    """
    cdef size_t largest = buckets_for(table.ids_max)
    cdef size_t before = table.bucket_count
    table.bucket_count = min(before * 2, largest)
    memset(table.buckets, 0, before * sizeof(Bucket))
    while not index_fill(table):
        make_room(table)
        memset(table.buckets, 0, table.bucket_count * sizeof(Bucket))
    set_growth(table)


cdef bint index_fill(Table *table) noexcept nogil:
    """Refers to every living entry from an empty index; false when a chain is full."""
    cdef size_t index
    for index in range(table.live_count, 0, -1):
        if not generation_place(table, index - 1):
            return False
    return True


cdef void set_growth(Table *table) noexcept nogil:
    if table.bucket_count >= buckets_for(table.ids_max):
        table.ids_before_growth = table.ids_max
    else:
        table.ids_before_growth = table.bucket_count * (LANES * 2) // 3


cdef bint generation_place(Table *table, size_t index) noexcept nogil:
    """Refers to every entry of the live generation `index` (0 is the newest)."""
    cdef uint64_t hashes[AHEAD]
    cdef uint64_t number = table.starts[index]
    cdef uint64_t stop = table.starts[index - 1] if index else table.head
    cdef uint64_t generation = table.generation - index
    cdef size_t count, step
    while number < stop:
        count = AHEAD if stop - number > AHEAD else stop - number
        for step in range(count):
            hashes[step] = entry_hash(table, entry_at(table, number + step))
            table_prefetch_bucket(table, hashes[step])
        for step in range(count):
            if not place(table, hashes[step], number + step, generation):
                return False
        number += count
    return True


cdef inline uint64_t entry_hash(const Table *table, const Entry *entry) noexcept nogil:
    cdef Id id
    id.low = entry.low
    id.high = entry.high
    return table_hash(table, id)


cdef void table_prefetch_bucket(const Table *table, uint64_t hash) noexcept nogil:
    """Asks for the home bucket, so that a later lookup does not wait for memory."""
    prefetch_line(&table.buckets[multiply_high(hash, table.bucket_count)])


@cython.overflowcheck(False)
cdef void table_prefetch_entry(const Table *table, uint64_t hash) noexcept nogil:
    """Asks for what a lookup reads after the home bucket, which should be near by now: an entry, the next bucket."""
    cdef size_t position = multiply_high(hash, table.bucket_count)
    cdef const Bucket *bucket = &table.buckets[position]
    cdef uint64_t words[3]
    cdef uint64_t lanes
    cdef size_t word, lane
    if spill_alive(table, bucket) and position + 1 < table.bucket_count:
        prefetch_line(bucket + 1)
    memcpy(words, bucket.tags, 24)
    for word in range(3):
        lanes = equal_lanes(words[word], tag_of(hash))
        if lanes:
            lane = word * 4 + first_lane(lanes)
            if lane < bucket.used and lane_alive(table, bucket.numbers[lane]):
                prefetch_line(entry_at(table, lane_number(table, bucket.numbers[lane])))


# ---- claims and generations

cdef int table_claim(Table *table, Id id, uint64_t hash, uint32_t slot, int64_t offset) except -1 nogil:
    """Decides who owns `id`: NEW when it is the record at `offset` of `slot`, DUPLICATE when another record does."""
    cdef Entry *entry = table_find(table, id, hash)
    cdef Slot *owner
    if entry == NULL:
        insert(table, id, hash, slot, offset)
        return NEW
    owner = &table.slots[entry.slot]
    if owner.identity == table.slots[slot].identity and entry.offset == offset:
        entry.slot = slot
        return NEW
    if entry.offset >= owner.valid_below:
        entry.slot = slot
        entry.offset = offset
        return NEW
    return DUPLICATE


cdef int insert(Table *table, Id id, uint64_t hash, uint32_t slot, int64_t offset) except -1 nogil:
    """Appends a claim. A full generation ends. The oldest is dropped when the table is full, or no chain of buckets has
    room."""
    cdef Entry *entry
    if table.head - table.starts[0] >= table.generation_ids_max:
        table_rotate(table)
    while table.head - tail_of(table) >= table.ids_max:
        drop_oldest(table)
    while table.head - tail_of(table) >= table.ids_before_growth:
        index_grow(table)
    log_reserve(table)
    while not place(table, hash, table.head, table.generation):
        make_room(table)
    entry = entry_at(table, table.head)
    entry.low = id.low
    entry.high = id.high
    entry.offset = offset
    entry.slot = slot
    entry.spare = 0
    table.head += 1
    return 0


cdef void make_room(Table *table) noexcept nogil:
    """Drops the oldest generation before its time; also when it is the only one."""
    table.early_drops += 1
    if table.live_count == 1:
        table_rotate(table)
    drop_oldest(table)


cdef void table_drop(Table *table) noexcept nogil:
    """Drops the oldest generation that has ended, if there is one."""
    if table.live_count > 1:
        drop_oldest(table)


cdef void table_rotate(Table *table) noexcept nogil:
    """Begins a new generation; drops the oldest when all are in use."""
    cdef size_t index
    if table.live_count == table.generations_max:
        drop_oldest(table)
    for index in range(table.live_count, 0, -1):
        table.starts[index] = table.starts[index - 1]
    table.starts[0] = table.head
    table.live_count += 1
    table.generation += 1
    table.rotations += 1


cdef void drop_oldest(Table *table) noexcept nogil:
    """Moves the tail, and frees the slots that only dropped claims could name."""
    cdef size_t oldest = table.live_count - 1
    cdef uint64_t number = table.generation - oldest
    cdef size_t index
    for index in range(table.slot_count):
        if table.slots[index].state == SLOT_FROZEN and table.slots[index].frozen_at <= number:
            table.slots[index].state = SLOT_FREE
    table.ids_dropped += table.starts[oldest - 1] - table.starts[oldest]
    table.live_count -= 1
    log_release(table)


cdef size_t table_nbytes(const Table *table) noexcept nogil:
    return (
        table.slot_capacity * sizeof(Slot)
        + (table.chunk_mask + 1) * sizeof(Entry *)
        + table.chunk_count * chunk_nbytes(table)
        + table.bucket_count * sizeof(Bucket)
    )


cdef size_t table_nbytes_max(const Table *table) noexcept nogil:
    """What table_nbytes cannot pass. Slots are left out: 32 bytes each."""
    cdef size_t index = buckets_for(table.ids_max) * sizeof(Bucket)
    cdef size_t chunks = (table.ids_max >> table.chunk_bits) + 2
    cdef size_t directory = (table.chunk_mask + 1) * sizeof(Entry *)
    return index + sizeof(Bucket) + chunks * chunk_nbytes(table) + directory


cdef int table_init(Table *table, size_t ids_max, size_t generations, Id seeds) except -1:
    """Everything but slots and chunks, which come as they are needed. `table` is all zeros."""
    cdef size_t largest = buckets_for(ids_max)
    table.seed_low = seeds.low
    table.seed_high = seeds.high | 1
    table.ids_max = ids_max
    table.generation_ids_max = ids_max // (generations // 2)
    table.generations_max = generations
    table.generation = table.live_count = 1
    table.chunk_bits = CHUNK_BITS_MAX
    while table.chunk_bits > 6 and ids_max >> table.chunk_bits < 8:
        table.chunk_bits -= 1
    while table.chunk_mask + 1 < (ids_max >> table.chunk_bits) + 2:
        table.chunk_mask = table.chunk_mask * 2 + 1
    table.bucket_count = largest
    while table.bucket_count > SMALLEST_BUCKETS:
        table.bucket_count = (table.bucket_count + 1) // 2
    # Address space for the whole index; memory comes where it is touched.
    table.buckets = <Bucket *>zeroed_new(largest * sizeof(Bucket))
    table.chunks = <Entry **>calloc(table.chunk_mask + 1, sizeof(Entry *))
    if table.buckets == NULL or table.chunks == NULL:
        raise MemoryError("no memory for a claim table")
    set_growth(table)
    return 0


cdef void table_free(Table *table) noexcept nogil:
    cdef Entry *chunk
    cdef uint64_t number
    for number in range(table.chunk_first, table.chunk_next):
        zeroed_free(table.chunks[number & table.chunk_mask], chunk_nbytes(table))
    while table.spare != NULL:
        chunk = table.spare
        memcpy(&table.spare, chunk, sizeof(Entry *))
        zeroed_free(chunk, chunk_nbytes(table))
    zeroed_free(table.buckets, buckets_for(table.ids_max) * sizeof(Bucket))
    free(table.chunks)
    free(table.slots)


cdef int table_claim_all(
    Table *table, const uint8_t *ids, uint32_t slot, const int64_t *offsets, uint8_t *verdicts, size_t count
) except -1 nogil:
    """Claims in order, prefetching AHEAD ids at a time: lookups wait for memory together instead of one by one."""
    cdef Id batch[AHEAD]
    cdef uint64_t hashes[AHEAD]
    cdef size_t start = 0
    cdef size_t index, size
    while start < count:
        size = AHEAD if count - start > AHEAD else count - start
        memcpy(batch, ids + start * 16, size * 16)
        for index in range(size):
            hashes[index] = table_hash(table, batch[index])
            table_prefetch_bucket(table, hashes[index])
        for index in range(size):
            table_prefetch_entry(table, hashes[index])
        for index in range(size):
            verdicts[start + index] = <uint8_t>table_claim(
                table, batch[index], hashes[index], slot, offsets[start + index]
            )
        start += size
    return 0


cdef size_t table_bucket(const Table *table, uint64_t hash) noexcept nogil:
    return multiply_high(hash, table.bucket_count)


# ---- slots

cdef uint32_t table_open_slot(Table *table, int64_t identity) except? 0xffffffff nogil:
    cdef size_t index = 0
    cdef Slot *slot
    while index < table.slot_count and table.slots[index].state != SLOT_FREE:
        index += 1
    if index == table.slot_count:
        add_slot(table)
    slot = &table.slots[index]
    slot.identity = identity
    slot.valid_below = INT64_MAX
    slot.state = SLOT_OPEN
    slot.epoch += 1
    return <uint32_t>index


cdef int add_slot(Table *table) except -1 nogil:
    cdef size_t capacity = table.slot_capacity * 2 if table.slot_capacity else 16
    cdef void *slots
    if table.slot_count == table.slot_capacity:
        slots = realloc(table.slots, capacity * sizeof(Slot))
        if slots == NULL:
            with gil:
                raise MemoryError(f"no memory for {capacity} slots")
        table.slots = <Slot *>slots
        table.slot_capacity = capacity
    memset(&table.slots[table.slot_count], 0, sizeof(Slot))
    table.slot_count += 1
    return 0
