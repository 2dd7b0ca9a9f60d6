"""The claim table for Python: ids in, verdicts out, and the window read back from ClickHouse.

Owns one table and the secret that event ids are made with. A slot's handle is its index and the epoch of its use, so
that a stale handle is an error and not somebody else's slot.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy, memset

from _native.siphash cimport Id, domain_mask, masked, sip128, sip_key
from _native.table cimport (
    GENERATIONS_MAX, SLOT_FREE, SLOT_FROZEN, SLOT_OPEN, Entry, Slot, Table, table_bucket, table_claim, table_claim_all,
    table_drop, table_find, table_free, table_hash, table_init, table_nbytes, table_nbytes_max, table_open_slot,
    table_rotate,
)

from _native.chtypes import leaf, parse


cdef class ClaimTable:
    """Event id -> the record that owns it. Bounded by `ids_max`; used by one thread at a time."""

    def __cinit__(self, ids_max, *, bytes secret not None, size_t generations=16):
        memset(&self.table, 0, sizeof(Table))
        if not 4 <= generations <= GENERATIONS_MAX:
            raise ValueError(f"generations is {generations}; it must be in [4, {GENERATIONS_MAX}]")
        if not generations <= ids_max <= 2**31:
            raise ValueError(f"ids_max is {ids_max}; it must be in [{generations}, {2**31}]")
        if len(secret) != 16:
            raise ValueError(f"the secret has {len(secret)} bytes; it must have 16")
        self.ids_max = ids_max
        self.secret = sip_key(secret)
        table_init(&self.table, ids_max, generations, sip128(b"index", 5, self.secret))

    def __dealloc__(self):
        table_free(&self.table)

    cdef uint32_t slot_index(self, object handle) except? 0xffffffff:
        """The index of an open slot; ValueError for a handle that is none."""
        cdef uint64_t number = handle
        cdef uint64_t index = number & 0xffffffff
        if index >= self.table.slot_count or self.table.slots[index].epoch != number >> 32:
            raise ValueError(f"{handle} is not a slot of this claim table, or has been dropped")
        if self.table.slots[index].state != SLOT_OPEN:
            raise ValueError(f"slot {handle} is frozen; open another one to go on claiming")
        return <uint32_t>index

    def open_slot(self, int64_t identity):
        """Begins one uninterrupted reading of the partition `identity` names; the handle goes into `Run.slot`."""
        cdef uint32_t index = table_open_slot(&self.table, identity)
        return <uint64_t>index | (<uint64_t>self.table.slots[index].epoch << 32)

    def freeze_slot(self, slot, int64_t valid_below):
        """Ends a reading: its claims at offsets from `valid_below` on are void. A slot claims nothing afterwards."""
        cdef Slot *frozen = &self.table.slots[self.slot_index(slot)]
        frozen.valid_below = valid_below
        frozen.frozen_at = self.table.generation
        frozen.state = SLOT_FROZEN

    def rotate(self):
        """Begins a new generation; when all are in use the oldest is dropped with every id it holds."""
        table_rotate(&self.table)

    def drop(self):
        """Drops the oldest generation that has ended, with every id it holds; nothing when none has."""
        table_drop(&self.table)

    def claim_many(self, bytes ids not None, slot, const int64_t[::1] offsets):
        """Claims `ids` (16 bytes each) for the records at `offsets`: 1 for each that owns its id, 2 for a duplicate."""
        cdef size_t count = offsets.shape[0]
        cdef uint32_t index = self.slot_index(slot)
        cdef const uint8_t *data = ids
        cdef bytearray verdicts = bytearray(count)
        cdef uint8_t *verdict = verdicts
        if <size_t>len(ids) != count * 16:
            raise ValueError(f"{len(ids)} bytes of ids for {count} offsets; there must be 16 for each")
        if count:
            table_claim_all(&self.table, data, index, &offsets[0], verdict, count)
        return verdicts

    def restore(self, bytes rows not None, key_layout, slots, bytes domain not None=b""):
        """Claims from RowBinary rows (key columns, Int32 partition, Int64 offset), oldest first; the rows claimed."""
        cdef Restore state = Restore(self, key_layout)
        state.mask = domain_mask(domain, self.secret)
        for partition, slot in slots.items():
            state.slots[<int32_t>partition] = self.slot_index(slot)
        return state.run(rows)

    def event_id(self, bytes key not None):
        """The 16-byte id of an explicit key (record key or header): hashed as a RowBinary String."""
        encoded = encode_length(len(key)) + key
        cdef Id id = sip128(encoded, len(encoded), self.secret)
        return (<uint8_t *>&id)[:16]

    def find(self, bytes id not None):
        """The owner of a 16-byte id: (identity, offset, whether the claim is void)."""
        cdef Id number = id_from(id)
        cdef Entry *entry = table_find(&self.table, number, table_hash(&self.table, number))
        if entry == NULL:
            return None
        return (
            self.table.slots[entry.slot].identity,
            entry.offset,
            bool(entry.offset >= self.table.slots[entry.slot].valid_below),
        )

    def bucket(self, bytes id not None):
        """The home bucket of an id in the index as it is now, to build collisions in tests."""
        return table_bucket(&self.table, table_hash(&self.table, id_from(id)))

    @property
    def ids(self):
        """Ids held."""
        return self.table.head - self.table.starts[self.table.live_count - 1]

    @property
    def nbytes(self):
        """Bytes allocated."""
        return table_nbytes(&self.table)

    @property
    def nbytes_max(self):
        """An upper bound of `nbytes`, also while the index is being rebuilt (slots left out: 32 bytes each)."""
        return table_nbytes_max(&self.table)

    @property
    def generations(self):
        """Ids in each live generation, the newest first."""
        starts = [self.table.starts[index] for index in range(self.table.live_count)]
        return [stop - start for start, stop in zip(starts, [self.table.head, *starts])]

    @property
    def generations_max(self):
        """Generations there are at most; a rotation with all of them live drops the oldest."""
        return self.table.generations_max

    @property
    def rotations(self):
        """Generations ended so far."""
        return self.table.rotations

    @property
    def ended(self):
        """Generations that have ended and are held."""
        return self.table.live_count - 1

    @property
    def early_drops(self):
        """Generations dropped because a chain of buckets was full; not 0 only for ids chosen to collide."""
        return self.table.early_drops

    @property
    def ids_dropped(self):
        """Ids that left with their generation."""
        return self.table.ids_dropped

    @property
    def slots(self):
        """Slots in use: open, or frozen and possibly still named by a claim."""
        return sum([self.table.slots[index].state != SLOT_FREE for index in range(self.table.slot_count)])


cdef Id id_from(bytes id) except *:
    cdef Id number
    if len(id) != 16:
        raise ValueError(f"an id has 16 bytes, not {len(id)}")
    memcpy(&number, <const uint8_t *>id, 16)
    return number


cdef bytes encode_length(size_t length):
    """LEB128."""
    encoded = bytearray()
    while length >= 0x80:
        encoded.append((length & 0x7f) | 0x80)
        length >>= 7
    encoded.append(length)
    return bytes(encoded)


# ---- the time of a run

cdef enum:
    SAMPLE_RECORDS = 64     # timestamps of a run that are looked at, and less than twice as many


def middle_and_high(const int64_t[::1] timestamps not None):
    """The median and the ninth decile of a run's timestamps, of which some in even distances are looked at."""
    cdef int64_t sample[2 * SAMPLE_RECORDS]
    cdef size_t total = timestamps.shape[0]
    cdef size_t step = total // SAMPLE_RECORDS or 1
    cdef size_t count = 0
    cdef size_t at, place
    cdef int64_t time_ms
    if not total:
        raise ValueError("a run without records has no time")
    for at in range(0, total, step):
        time_ms = timestamps[at]
        # Mostly they ascend as they are.
        place = count
        while place and sample[place - 1] > time_ms:
            sample[place] = sample[place - 1]
            place -= 1
        sample[place] = time_ms
        count += 1
    return sample[(count - 1) // 2], sample[(count - 1) * 9 // 10]


# ---- restoring from ClickHouse

cdef enum:
    KEY_COLUMNS_MAX = 16

KEY_REFUSED = frozenset(("array", "map", "tuple", "json", "nullable"))


cdef class Restore:
    """One walk over RowBinary rows. Without its null marks a key is exactly what the id is hashed from."""

    cdef ClaimTable claims
    cdef dict slots                     # partition -> slot index
    cdef size_t columns
    cdef size_t widths[KEY_COLUMNS_MAX]   # bytes of a column's value; 0 for a String
    cdef bint nullable[KEY_COLUMNS_MAX]   # a mark precedes the value; marked, there is none
    cdef bint plain                     # no column is nullable: the key lies in one piece
    cdef bint uuid                      # the key is the id
    cdef Id mask                        # what the ids are combined with
    cdef const uint8_t *data            # borrowed from the rows while running
    cdef size_t length
    cdef size_t position

    def __cinit__(self, ClaimTable claims not None, key_layout):
        specs = [parse(text) for text in key_layout]
        if not 1 <= len(specs) <= KEY_COLUMNS_MAX:
            raise ValueError(f"a deduplication key has 1 to {KEY_COLUMNS_MAX} columns, not {len(specs)}")
        self.claims = claims
        self.slots = {}
        self.columns = len(specs)
        self.plain = True
        for index, spec in enumerate(specs):
            if leaf(spec).kind in KEY_REFUSED:
                raise ValueError(f"{spec.text} cannot be part of a deduplication key")
            self.widths[index] = leaf(spec).width
            self.nullable[index] = spec.kind == "nullable"
            self.plain = self.plain and not self.nullable[index]
        self.uuid = len(specs) == 1 and leaf(specs[0]).kind == "uuid"

    cdef object run(self, bytes rows):
        cdef bytearray key = bytearray()
        cdef size_t claimed = 0
        cdef size_t start
        cdef bint null
        self.data = rows
        self.length = len(rows)
        self.position = 0
        while self.position < self.length:
            start = self.position
            if self.plain:
                null = False
                self.skip_plain()
                claimed += self.claim(self.data + start, self.position - start, null)
            else:
                del key[:]
                null = self.copy_key(key)
                claimed += self.claim(<const uint8_t *>key, len(key), null)
        return claimed

    cdef int skip_plain(self) except -1:
        cdef size_t column
        for column in range(self.columns):
            self.take(self.widths[column] if self.widths[column] else self.string_nbytes())
        return 0

    cdef bint copy_key(self, bytearray key) except -1:
        """Copies the key without its null marks; true when a part of it is NULL."""
        cdef size_t column, start, width
        cdef bint null = False
        for column in range(self.columns):
            if self.nullable[column]:
                start = self.take(1)
                if self.data[start]:
                    null = True
                    continue
            width = self.widths[column] if self.widths[column] else self.string_nbytes()
            start = self.take(width)
            key += self.data[start:start + width]
        return null

    cdef int claim(self, const uint8_t *key, size_t key_nbytes, bint null) except -1:
        """Reads the partition and the offset after the key and makes the claim; 0 when the row is passed over."""
        cdef Table *table = &self.claims.table
        cdef size_t start = self.take(12)
        cdef int32_t partition
        cdef int64_t offset
        cdef Entry *entry
        cdef Id id
        memcpy(&partition, self.data + start, 4)
        memcpy(&offset, self.data + start + 4, 8)
        slot = self.slots.get(partition)
        if null or slot is None:
            return 0
        if self.uuid:
            memcpy(&id, key, 16)
        else:
            id = sip128(key, key_nbytes, self.claims.secret)
        id = masked(id, self.mask)
        entry = table_find(table, id, table_hash(table, id))
        if entry != NULL:
            # The row is stored. Whoever else has the claim may yet be dropped, and the claim with it.
            entry.slot = slot
            entry.offset = offset
        else:
            table_claim(table, id, table_hash(table, id), slot, offset)
        return 1

    cdef size_t take(self, size_t nbytes) except? 0:
        """Moves on by `nbytes`; where they begin."""
        cdef size_t start = self.position
        if nbytes > self.length - self.position:
            raise ValueError(f"the RowBinary rows end inside a row, after {self.length} bytes")
        self.position += nbytes
        return start

    cdef size_t string_nbytes(self) except? 0:
        """The bytes of the String that begins here, its LEB128 length included."""
        cdef size_t cursor = self.position
        cdef uint64_t size = 0
        cdef int shift = 0
        while cursor < self.length and shift < 56:
            size |= <uint64_t>(self.data[cursor] & 0x7f) << shift
            cursor += 1
            if not self.data[cursor - 1] & 0x80:
                return cursor - self.position + size
            shift += 7
        raise ValueError(f"the RowBinary rows end inside a row, after {self.length} bytes")
