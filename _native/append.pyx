"""Rows into builders: one pass, row by row, each row whole or not at all. Owns nothing between calls.

With claims, AHEAD rows at a time are gone over twice. First their event ids are made, from the key columns put into
scratch nodes, and the claim table's memory is asked for; then each row is encoded, and claimed if it was encoded. So
only a row that is stored takes a claim, and no lookup waits for memory.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from msgspec import UNSET

from _native.block cimport BlockBuilder, Layout
from _native.buffer cimport Buffer, buffer_bytes, buffer_free, buffer_string
from _native.claims cimport ClaimTable
from _native.lineage cimport origins_put, origins_restore
from _native.node cimport (
    FITS, INVALID_UTF8, IS_NULL, NO_KEY, OUT_OF_RANGE, WRONG_TYPE, Columns, Node, node_mark, node_refused, node_restore,
)
from _native.put cimport put
from _native.siphash cimport Id, domain_mask, masked, sip128
from _native.table cimport (
    AHEAD, DUPLICATE, Table, table_claim, table_hash, table_prefetch_bucket, table_prefetch_entry,
)

from _native.vocabulary import Refusal

cdef enum Outcome:
    ROW_SKIPPED = 0
    ROW_APPENDED = 1
    ROW_DUPLICATE = 2
    ROW_REFUSED = 3

CODES = {
    OUT_OF_RANGE: "out_of_range",
    WRONG_TYPE: "wrong_type",
    IS_NULL: "null",
    NO_KEY: "no_key",
    INVALID_UTF8: "invalid_utf8",
}


def append(dict builders not None, list rows not None, run, ClaimTable claims, keys, bytearray status not None):
    """Appends `rows` of one run to the builders of their types; returns the refusals. See the module's stub."""
    cdef Pass job = Pass(builders, rows, run, claims, keys, status)
    return job.run_all()


cdef class Binding:
    """One row type of this call."""

    cdef BlockBuilder builder
    cdef Layout layout                  # where rows of the type keep their attributes
    cdef Id mask                        # of the builder's domain: what its event ids are combined with
    cdef int32_t topic                  # the run's topic in the builder's lineage; -1 until a row is appended


cdef class Pass:
    """One call of `append`."""

    cdef dict builders
    cdef dict bindings                  # row type -> Binding
    cdef list rows
    cdef list keys                      # explicit event keys, or None
    cdef list refusals
    cdef str topic
    cdef int32_t partition
    cdef const int64_t[::1] offsets
    cdef const int64_t[::1] timestamps
    cdef uint8_t[::1] status
    cdef ClaimTable claims              # None: every row that fits is stored
    cdef uint32_t slot                  # index in the claim table
    cdef Buffer key                     # owned; the key of one row, in RowBinary
    # the rows being gone over
    cdef PyObject *last_type            # borrowed: the row type of last_binding
    cdef Binding last_binding
    cdef Id ids[AHEAD]
    cdef uint64_t hashes[AHEAD]
    cdef int codes[AHEAD]               # FITS, or why there is no id

    def __cinit__(self, dict builders, list rows, run, ClaimTable claims, keys, bytearray status):
        cdef size_t count = len(rows)
        topic, partition, slot, offsets, timestamps = run
        self.builders = builders
        self.bindings = {}
        self.rows = rows
        self.refusals = []
        self.topic = topic
        self.partition = partition
        self.offsets = offsets
        self.timestamps = timestamps
        self.status = status
        self.claims = claims
        if claims is not None:
            self.slot = claims.slot_index(slot)
            self.keys = keys
        lengths = (self.offsets.shape[0], self.timestamps.shape[0], self.status.shape[0])
        if lengths != (count, count, count) or (self.keys is not None and <size_t>len(self.keys) != count):
            raise ValueError(f"{count} rows, but offsets, timestamps and status have {lengths}")

    def __dealloc__(self):
        buffer_free(&self.key)

    cdef list run_all(self):
        cdef size_t count = len(self.rows)
        cdef size_t start = 0
        cdef size_t index, size
        while start < count:
            size = AHEAD if count - start > AHEAD else count - start
            if self.claims is not None:
                self.make_ids(start, size)
            for index in range(size):
                self.append_row(start + index, index)
            start += size
        self.refusals.sort()
        return self.refusals

    cdef Binding binding_of(self, object row):
        """The binding of the row's exact type, remembered from row to row."""
        cdef Binding binding
        cdef object row_type = type(row)
        if <PyObject *>row_type == self.last_type:
            return self.last_binding
        binding = self.bindings.get(row_type)
        if binding is None:
            builder = self.builders.get(row_type)
            if builder is None:
                raise TypeError(f"there is no builder for rows of type {row_type.__name__}")
            binding = Binding()
            binding.builder = builder
            binding.layout = binding.builder.layout_of(row_type)
            binding.topic = -1
            if self.claims is not None:
                binding.mask = domain_mask(binding.builder.plan.domain, self.claims.secret)
            self.bindings[row_type] = binding
        self.last_type = <PyObject *>row_type
        self.last_binding = binding
        return binding

    # ---- ids

    cdef int make_ids(self, size_t start, size_t size) except -1:
        cdef Table *table = &self.claims.table
        cdef size_t index
        for index in range(size):
            row = self.rows[start + index]
            self.codes[index] = NO_KEY
            if row is None:
                continue
            self.codes[index] = self.make_id(start + index, row, &self.ids[index])
            if self.codes[index] == FITS:
                self.hashes[index] = table_hash(table, self.ids[index])
                table_prefetch_bucket(table, self.hashes[index])
        for index in range(size):
            if self.codes[index] == FITS:
                table_prefetch_entry(table, self.hashes[index])
        return 0

    cdef int make_id(self, size_t number, object row, Id *id) except -1:
        """FITS and the event id, or the code for which the row is refused; the refusal is then already noted."""
        cdef Binding binding = self.binding_of(row)
        cdef int code
        cdef bytes key
        self.key.used = 0
        if self.keys is None:
            code = self.encode_key(number, row, binding.builder)
            if code:
                return code
            if binding.builder.plan.key_is_uuid:
                memcpy(id, self.key.data, 16)
                id[0] = masked(id[0], binding.mask)
                return FITS
        else:
            key = self.keys[number]
            if key is None:
                self.refusals.append(Refusal(number, "", CODES[NO_KEY], "the record has no deduplication key"))
                return NO_KEY
            buffer_string(&self.key, <const char *>key, len(key))
        id[0] = masked(sip128(self.key.data, self.key.used, self.claims.secret), binding.mask)
        return FITS

    cdef int encode_key(self, size_t number, object row, BlockBuilder builder) except -1:
        """The key columns of the row, in order, in RowBinary: exactly what their nodes hold."""
        cdef Layout layout = self.last_binding.layout
        cdef Columns columns = builder.key_columns
        cdef size_t index, place
        cdef int code
        cdef Node *node
        if not columns.count:
            raise ValueError("rows are to be claimed, but their builder has no key columns and there are no keys")
        for index in range(columns.count):
            node = &columns.nodes[index]
            place = builder.plan.key_indexes[index]
            value = field_of(row, layout, place, builder.plan.sources)
            node.data.used = 0
            node.refused = FITS
            code = NO_KEY
            if value is not None and value is not UNSET:
                code = put(node, <PyObject *>value)
            if code:
                self.refuse(number, builder.plan.key[index], code, node)
                return code
            buffer_bytes(&self.key, node.data.data, node.data.used)
        return FITS

    # ---- rows

    cdef int append_row(self, size_t number, size_t index) except -1:
        cdef BlockBuilder builder
        cdef Binding binding
        cdef bint stored = False
        row = self.rows[number]
        if row is None:
            self.status[number] = ROW_SKIPPED
            return 0
        if self.claims is not None and self.codes[index]:
            self.status[number] = ROW_REFUSED
            return 0
        binding = self.binding_of(row)
        builder = binding.builder
        builder.reached = 0
        try:
            stored = self.encode_row(number, row, binding) and self.claim_row(number, index)
            if stored and binding.topic < 0:
                binding.topic = builder.lineage.topic_position(self.topic)
            if stored:
                origins_put(
                    &builder.lineage.origins, binding.topic, self.partition, self.offsets[number],
                    self.timestamps[number],
                )
                builder.rows += 1
        finally:
            if not stored:
                restore_row(builder)
        return 0

    cdef bint encode_row(self, size_t number, object row, Binding binding) except -1:
        """Puts the row's values into every column; false when one refuses."""
        cdef Columns columns = binding.builder.columns
        cdef const Py_ssize_t *offsets = binding.layout.offsets
        cdef size_t index
        cdef PyObject *value
        cdef Node *node
        cdef int code
        for index in range(columns.count):
            node = &columns.nodes[index]
            node_mark(node)
            binding.builder.reached = index + 1
            value = NULL
            if offsets[index]:
                value = (<PyObject **>(<char *><PyObject *>row + offsets[index]))[0]
            if value == NULL:
                held = getattr(row, binding.builder.plan.sources[index])
                value = <PyObject *>held
            code = put(node, value)
            if code:
                self.status[number] = ROW_REFUSED
                self.refuse(number, binding.builder.plan.filled[index].name, code, node)
                return False
        return True

    cdef bint claim_row(self, size_t number, size_t index) except -1:
        self.status[number] = ROW_APPENDED
        if self.claims is None:
            return True
        if table_claim(
            &self.claims.table, self.ids[index], self.hashes[index], self.slot, self.offsets[number]
        ) != DUPLICATE:
            return True
        self.status[number] = ROW_DUPLICATE
        return False

    cdef int refuse(self, size_t number, str column, int code, Node *node) except -1:
        cdef Node *found = node_refused(node)
        cdef Node *blamed = found if found != NULL else node
        self.refusals.append(Refusal(number, column, CODES[code], explain(code, blamed)))
        return 0


cdef object field_of(object row, Layout layout, size_t index, tuple sources):
    cdef PyObject *value
    if layout.offsets[index]:
        value = (<PyObject **>(<char *><PyObject *>row + layout.offsets[index]))[0]
        if value != NULL:
            return <object>value
    return getattr(row, sources[index])


cdef void restore_row(BlockBuilder builder) noexcept:
    """Takes the row back from the columns it has reached; the marks of the others are of an earlier row."""
    cdef size_t index
    for index in range(builder.reached):
        node_restore(&builder.columns.nodes[index])
    origins_restore(&builder.lineage.origins, builder.rows)


cdef str explain(int code, Node *node):
    """The rule that was broken. Names types and bounds, never the value."""
    spec = <object>node.spec
    if code == NO_KEY:
        return "the deduplication key is null"
    if code == IS_NULL:
        return f"null is not in {spec.rule}, which is not Nullable"
    if code == INVALID_UTF8:
        return "the text holds surrogates and has no UTF-8 form"
    got = node.got.decode("utf-8", "replace").rpartition(".")[2] if node.got != NULL else "value"
    if code == WRONG_TYPE:
        return f"the {got} is no value of {spec.rule}"
    return f"the {got} is outside {spec.rule}"
