"""The native lane. Owns scratch memory; keeps nothing between calls that could change a result; decides no reject.

What it is not sure of it hands over, one record at a time and in order, so that claims are made in the order of the
records and rows stand in that order whichever way each record went. A record that is surely refused makes no claim
and no row; it is only marked, and whoever called asks msgspec for the reason when it suits.
"""

from cpython cimport array
from cpython.bytearray cimport PyByteArray_AS_STRING
from cpython.bytes cimport PyBytes_AS_STRING
from libc.stdint cimport int64_t, uint8_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy, memset

from _native.block cimport BlockBuilder
from _native.buffer cimport Buffer, buffer_bytes, buffer_free, buffer_reserve, buffer_string
from _native.claims cimport ClaimTable
from _native.json_scan cimport (
    COLON, COMMA, OPEN_OBJECT, QUOTE, Text, read_string, read_uuid, same_bytes, skip_space,
    skip_value,
)
from _native.lineage cimport origins_put, origins_restore
from _native.node cimport KIND_NULLABLE, Node, node_mark, node_restore
from _native.pack_take cimport find_packed_tag, take_packed
from _native.reader cimport Payload, Run
from _native.recipe cimport Recipe
from _native.siphash cimport Id, domain_mask, masked, sip128
from _native.table cimport (
    DUPLICATE, table_claim, table_hash, table_prefetch_bucket, table_prefetch_entry,
)
from _native.take cimport take_record
from _native.work cimport Work, work_begin, work_free

cdef extern from *:
    """
    #define PENSTOCK_PREFETCH(address) __builtin_prefetch(address)
    """
    void prefetch "PENSTOCK_PREFETCH"(const void *address) noexcept nogil

cdef enum Outcome:          # the numbers of vocabulary
    ROW_SKIPPED = 0
    ROW_APPENDED = 1
    ROW_DUPLICATE = 2
    ROW_UNEXPLAINED = 4

cdef enum:
    UUID_NBYTES = 36
    LINE_NBYTES = 64
    LINES_MAX = 8           # of a payload: the machine itself goes on from there


cdef class Part:
    """See the module's stub."""

    def __init__(self, run, records, size_t first, keys, bytes flags):
        self.run = run
        self.records = records
        self.first = first
        self.keys = keys
        self.flags = flags
        self.statuses = bytearray(len(run.offsets))
        self.unexplained = 0


cdef class RecordLane:
    """The records of one topic. Used by one thread at a time. See the module's stub."""

    def __cinit__(self, list recipes not None, str tag_field not None):
        cdef size_t index
        cdef Recipe recipe
        self.recipes = recipes
        self.route_count = len(recipes)
        self.routes = <Route *>calloc(self.route_count or 1, sizeof(Route))
        if self.routes == NULL:
            raise MemoryError(f"no memory for {self.route_count} row types")
        self.packed = self.route_count > 0 and (<Recipe>recipes[0]).packed
        self.take_record = take_packed if self.packed else take_record
        self.find_tag = find_packed_tag if self.packed else find_tag
        if tag_field:
            self.tag_text = tag_field.encode() + b'":' + bytes(16)
            self.tag_name = <const uint8_t *><const char *>self.tag_text
            self.tag_nbytes = len(tag_field.encode())
        for index in range(self.route_count):
            recipe = recipes[index]
            if len(recipe.builder.plan.key_indexes) > KEY_COLUMNS_MAX:
                raise ValueError(f"a deduplication key has at most {KEY_COLUMNS_MAX} columns")
            self.routes[index].number = index
            self.routes[index].object = &recipe.object if recipe.usable else NULL
            self.routes[index].tag = <const uint8_t *><const char *>recipe.tag
            self.routes[index].tag_nbytes = recipe.tag_nbytes

    def __dealloc__(self):
        free(self.routes)
        work_free(&self.work)
        buffer_free(&self.collected)
        buffer_free(&self.explicit)
        buffer_free(&self.key)

    def take_all(self, list parts not None, ClaimTable claims, size_t nbytes_max, hand_over, keep):
        cdef Part part
        self.nbytes_max = nbytes_max
        self.topic = None
        for part in parts:
            if part.run.topic != self.topic:
                self.open(part.run.topic, claims)
            self.begin(part, claims)
            if self.take_part(part, hand_over) or part.unexplained:
                keep(part)
            part.records = None

    cdef bint take_part(self, Part part, hand_over) except -1:
        """Whether a record was handed over."""
        cdef size_t at = 0
        cdef bint handed_over = False
        while True:
            with nogil:
                at = self.go(at)
            if at == self.count:
                part.unexplained = self.unexplained
                return handed_over
            handed_over = True
            hand_over(part, at)
            at += 1

    cdef int begin(self, Part part, ClaimTable claims) except -1:
        """What the taking of one part works on."""
        cdef array.array offsets = part.run.offsets
        cdef array.array timestamps = part.run.timestamps
        self.count = len(part.statuses)
        self.unexplained = 0
        if <size_t>len(offsets) != self.count or <size_t>len(timestamps) != self.count:
            raise ValueError(f"{self.count} records, but {len(offsets)} offsets, {len(timestamps)} timestamps")
        if offsets.ob_descr.typecode != b"q" or timestamps.ob_descr.typecode != b"q":
            raise TypeError("offsets and timestamps are arrays of type q")
        self.offsets = <const int64_t *>offsets.data.as_longlongs
        self.timestamps = <const int64_t *>timestamps.data.as_longlongs
        self.status = <uint8_t *>PyByteArray_AS_STRING(part.statuses)
        self.left_out = NULL
        if part.flags is not None:
            if <size_t>len(part.flags) != self.count:
                raise ValueError(f"{self.count} records, but {len(part.flags)} flags")
            self.left_out = <const uint8_t *>PyBytes_AS_STRING(part.flags)
        self.partition = part.run.partition
        self.keyed = part.keys is not None and claims is not None
        if claims is not None:
            self.slot = claims.slot_index(part.run.slot)
            if self.keyless and not self.keyed:
                raise ValueError("rows are to be claimed, but their builder has no key columns and there are no keys")
        memset(self.ahead, 0, sizeof(self.ahead))
        self.collect(part)
        return 0

    cdef int open(self, str topic, ClaimTable claims) except -1:
        """What all parts work on; a builder's columns are others after each block."""
        cdef size_t index
        self.topic = topic
        self.keyless = False
        self.table = NULL
        if claims is not None:
            self.table = &claims.table
            self.secret = claims.secret
        for index in range(self.route_count):
            self.open_route(&self.routes[index], self.recipes[index], claims)
        return 0

    cdef int open_route(self, Route *route, object recipe, ClaimTable claims) except -1:
        cdef BlockBuilder builder = (<Recipe>recipe).builder
        cdef size_t index
        route.nodes = builder.columns.nodes
        route.columns = builder.columns.count
        route.origins = &builder.lineage.origins
        route.rows = &builder.rows
        route.topic = builder.lineage.positions.get(self.topic, -1)
        route.key_count = len(builder.plan.key_indexes)
        for index in range(route.key_count):
            route.key_indexes[index] = builder.plan.key_indexes[index]
        route.key_is_uuid = builder.plan.key_is_uuid
        self.keyless = self.keyless or not route.key_count
        if claims is not None:
            route.mask = domain_mask(builder.plan.domain, claims.secret)
        return 0

    cdef int open_topic(self, Route *route) except -1 with gil:
        """Only a row that is kept brings its topic into the lineage."""
        cdef BlockBuilder builder = (<Recipe>self.recipes[route.number]).builder
        route.topic = builder.lineage.topic_position(self.topic)
        return 0

    cdef int collect(self, Part part) except -1:
        """Where the payloads and the explicit keys lie. The part keeps their owners."""
        cdef Run messages
        if isinstance(part.records, Run):
            messages = part.records
            if part.first + self.count > <size_t>messages.count:
                raise IndexError(f"{self.count} records from {part.first} on, of {messages.count}")
            self.payloads = &messages.payloads[part.first]
        else:
            self.payloads = collect_bytes(part.records.values, part.first, self.count, &self.collected)
        if self.keyed:
            collect_bytes(part.keys, 0, self.count, &self.explicit)
        return 0

    # ---- without the GIL

    cdef size_t go(self, size_t index) except? 0 nogil:
        """Takes records from `index` on; the index of the first that is not sure, or how many there are."""
        while index < self.count:
            self.look_ahead(index)
            if not self.take_one(index):
                return index
            index += 1
        return index

    cdef bint take_one(self, size_t index) except? False nogil:
        """One record; false when it is not sure, and then it has left nothing behind."""
        cdef const Payload *payload = &self.payloads[index]
        cdef Route *route
        cdef bint sure = False
        cdef size_t column
        if self.left_out != NULL and self.left_out[index]:
            self.status[index] = ROW_SKIPPED
            return True
        if payload.data == NULL or payload.nbytes > self.nbytes_max:
            return False
        work_begin(&self.work, payload.data, payload.nbytes)
        route = self.route_of(payload.nbytes)
        if route == NULL:
            return False
        for column in range(route.columns):
            node_mark(&route.nodes[column])
        try:
            sure = self.take_record(&self.work, route.object, route.nodes, payload.nbytes) and self.keep(route, index)
        finally:
            if not sure or self.status[index] == ROW_DUPLICATE:
                for column in range(route.columns):
                    node_restore(&route.nodes[column])
                origins_restore(route.origins, route.rows[0])
        if not sure and self.work.refused:
            self.status[index] = ROW_UNEXPLAINED
            self.unexplained = self.unexplained + 1
            return True
        return sure

    cdef Route *route_of(self, size_t nbytes) noexcept nogil:
        """The row type that the record's tag names; NULL when that is not sure."""
        cdef Text text
        cdef size_t index
        if self.tag_name == NULL:
            return &self.routes[0]
        if not self.find_tag(&self.work, nbytes, self.tag_name, self.tag_nbytes, &text):
            return NULL
        for index in range(self.route_count):
            if self.routes[index].tag_nbytes == text.length and same_bytes(
                text.data, self.routes[index].tag, text.length
            ):
                return &self.routes[index] if self.routes[index].object != NULL else NULL
        return NULL

    cdef int keep(self, Route *route, size_t index) except -1 nogil:
        """Claims the row and notes where it came from; 0 when it has no event id."""
        cdef Id id
        if route.key_is_uuid and self.work.key_at != NULL:
            route.key_hint = self.work.key_at + 1 - self.work.record.data
        if self.table != NULL:
            if not self.event_id(route, index, &id):
                return 0
            if table_claim(self.table, id, table_hash(self.table, id), self.slot, self.offsets[index]) == DUPLICATE:
                self.status[index] = ROW_DUPLICATE
                return 1
        if route.topic < 0:
            self.open_topic(route)
        origins_put(route.origins, route.topic, self.partition, self.offsets[index], self.timestamps[index])
        route.rows[0] += 1
        self.status[index] = ROW_APPENDED
        return 1

    cdef bint event_id(self, Route *route, size_t index, Id *id) except? False nogil:
        """Of the explicit key, or of what the key columns now hold of the row; false when there is no key."""
        cdef const Payload *given
        cdef const Node *node
        cdef size_t column
        self.key.used = 0
        if self.keyed:
            given = &(<const Payload *>self.explicit.data)[index]
            if given.data == NULL:
                return False
            buffer_string(&self.key, given.data, given.nbytes)
        else:
            for column in range(route.key_count):
                node = &route.nodes[route.key_indexes[column]]
                if node.kind == KIND_NULLABLE:
                    node = node.children
                if route.key_is_uuid:
                    memcpy(id, node.data.data + node.data.mark, sizeof(Id))
                    id[0] = masked(id[0], route.mask)
                    return True
                buffer_bytes(&self.key, node.data.data + node.data.mark, node.data.used - node.data.mark)
        id[0] = masked(sip128(self.key.data, self.key.used, self.secret), route.mask)
        return True

    # ---- looking ahead: what is guessed here only saves waiting for memory

    cdef void look_ahead(self, size_t index) noexcept nogil:
        """Asks for the claim table's memory of the records to come, and passes on what was found in this one."""
        cdef const Payload *payload
        cdef const Ahead *ahead = &self.ahead[index % (2 * GROUP)]
        cdef size_t line
        self.work.foreseen_at = ahead.key_at
        memcpy(self.work.foreseen, ahead.halves, sizeof(ahead.halves))
        if index + PAYLOADS_AHEAD < self.count:
            payload = &self.payloads[index + PAYLOADS_AHEAD]
            for line in range(min(payload.nbytes // LINE_NBYTES + 1, <size_t>LINES_MAX)):
                prefetch(payload.data + line * LINE_NBYTES)
        if self.table == NULL or self.keyed:
            return
        if index % GROUP == 0:
            self.foresee_group(index + GROUP)
        elif index % GROUP == GROUP // 2:
            self.ask_for_entries(index + GROUP // 2)

    cdef void foresee_group(self, size_t first) noexcept nogil:
        """One bucket after the other, so that they are waited for together: each waits for its page's address too."""
        cdef Ahead *group = &self.ahead[first % (2 * GROUP)]
        cdef size_t index
        for index in range(<size_t>GROUP):
            group[index].key_at = 0
            if first + index < self.count:
                self.foresee(&self.payloads[first + index], &group[index])
        for index in range(<size_t>GROUP):
            if group[index].key_at:
                table_prefetch_bucket(self.table, group[index].hash)

    cdef void ask_for_entries(self, size_t first) noexcept nogil:
        cdef const Ahead *group = &self.ahead[first % (2 * GROUP)]
        cdef size_t index
        for index in range(<size_t>GROUP):
            if group[index].key_at:
                table_prefetch_entry(self.table, group[index].hash)

    cdef bint foresee(self, const Payload *payload, Ahead *ahead) noexcept nogil:
        """The UUID where an earlier record had its key, and the hash of the event id that it would be."""
        cdef const uint8_t *text
        cdef Id id
        cdef size_t index
        cdef const Route *route
        ahead.key_at = 0
        for index in range(self.route_count):
            route = &self.routes[index]
            if not route.key_hint or payload.nbytes < route.key_hint + UUID_NBYTES + 1:
                continue
            text = payload.data + route.key_hint
            if not self.packed and ((text - 1)[0] != QUOTE or text[UUID_NBYTES] != QUOTE):
                continue
            if read_uuid(text, ahead.halves):
                id.low, id.high = ahead.halves[0], ahead.halves[1]
                ahead.hash = table_hash(self.table, masked(id, route.mask))
                ahead.key_at = route.key_hint
                return True
        return False


cdef const Payload *collect_bytes(object values, size_t first, size_t count, Buffer *room) except NULL:
    cdef Payload *payload
    cdef size_t index
    cdef bytes content
    room.used = 0
    buffer_reserve(room, (count + 1) * sizeof(Payload))
    payload = <Payload *>room.data
    for index in range(count):
        content = values[first + index]
        payload[index] = Payload(NULL, 0)
        if content is not None:
            payload[index] = Payload(<const uint8_t *><const char *>content, len(content))
    return payload


cdef bint find_tag(Work *work, size_t nbytes, const uint8_t *name, size_t name_nbytes, Text *tag) noexcept nogil:
    """The text of the field `name` of the record in `work`; false when there is none or it is not sure.

    Whether there is a second one is for the reading of the record to see.
    """
    cdef Text key
    cdef const uint8_t *at = skip_space(work.record.data)
    if at[0] != OPEN_OBJECT:
        return False
    at = skip_space(at + 1)
    while at[0] == QUOTE:
        at = read_string(at + 1, &key, &work.plain)
        if at == NULL:
            return False
        at = skip_space(at)
        if at[0] != COLON:
            return False
        at = skip_space(at + 1)
        if key.length == name_nbytes and same_bytes(key.data, name, name_nbytes):
            return at[0] == QUOTE and read_string(at + 1, tag, &work.plain) != NULL
        at = skip_value(at, 1)
        if at == NULL:
            return False
        at = skip_space(at)
        if at[0] != COMMA:
            return False
        at = skip_space(at + 1)
    return False
