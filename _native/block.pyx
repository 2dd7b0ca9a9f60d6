"""Blocks in the making and blocks made. Owns the columns' memory; converts no value (put.pyx) and knows no key's owner.

A builder is used by one thread at a time. A finished block never changes and may be written by any thread.
"""

from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free
from libc.string cimport memcpy

from _native.buffer cimport Buffer, buffer_bytes, buffer_free, buffer_varint
from _native.dictionary cimport node_to_dictionary
from _native.frame cimport frame_of
from _native.lineage cimport Lineage, LineageColumn, lineage_column
from _native.node cimport Columns, node_nbytes, node_pieces, node_reserve_like, node_select
from _native.pieces cimport Piece, add_piece, pieces_nbytes

from _native.chtypes import leaf, parse
from _native.vocabulary import Column

cdef extern from *:
    """
    #include <structmember.h>
    #if PY_VERSION_HEX >= 0x030C0000
    #define PENSTOCK_T_OBJECT_EX Py_T_OBJECT_EX
    #else
    #define PENSTOCK_T_OBJECT_EX T_OBJECT_EX
    #endif
    /* Where instances of `type` keep the attribute of this slot descriptor; 0 when that is not sure. */
    static Py_ssize_t penstock_slot_offset(PyObject *row_type, PyObject *descriptor) {
        PyTypeObject *type = (PyTypeObject *)row_type;
        PyMemberDef *member;
        if (!PyType_Check(row_type) || type->tp_getattro != PyObject_GenericGetAttr) return 0;
        if (!Py_IS_TYPE(descriptor, &PyMemberDescr_Type)) return 0;
        if (!PyType_IsSubtype(type, PyDescr_TYPE(descriptor))) return 0;
        member = ((PyMemberDescrObject *)descriptor)->d_member;
        if (member->type != PENSTOCK_T_OBJECT_EX || (member->flags & ~READONLY)) return 0;
        if (member->offset < (Py_ssize_t)sizeof(PyObject)) return 0;
        if (member->offset + (Py_ssize_t)sizeof(PyObject *) > type->tp_basicsize) return 0;
        return member->offset;
    }
    """
    Py_ssize_t penstock_slot_offset(object row_type, object descriptor) noexcept

KEY_REFUSED = frozenset(("nullable", "array", "map", "tuple", "json"))
DICTIONARY_TYPE = "LowCardinality(String)"
LINEAGE_SOURCES = frozenset(("@topic", "@partition", "@offset", "@timestamp"))


cdef class Plan:
    """What stays the same from block to block: parsed once, shared by the builder and its blocks."""

    def __cinit__(self, columns, key, domain, encode_json):
        cdef size_t count
        self.domain = domain
        self.columns = tuple([Column(*column) for column in columns])
        if not self.columns:
            raise ValueError("a block needs at least one column")
        names = [column.name for column in self.columns]
        for name in names:
            if names.count(name) > 1:
                raise ValueError(f"column {name!r} is named twice")
        self.encode_json = encode_json
        self.filled = [column for column in self.columns if not column.source.startswith("@")]
        self.specs = [parse_column(column) for column in self.filled]
        self.sources = tuple([column.source for column in self.filled])
        count = len(self.columns) - len(self.filled)
        self.lineage = <LineageColumn *>calloc(count or 1, sizeof(LineageColumn))
        if self.lineage == NULL:
            raise MemoryError(f"no memory for {count} columns")
        self.place_columns()
        self.resolve_key(tuple(key))

    def __dealloc__(self):
        free(self.lineage)

    cdef int place_columns(self) except -1:
        """Headers in the order of the columns, and where each column's values come from."""
        headers = []
        self.places = []
        self.dictionaries = {}
        filled = 0
        for column in self.columns:
            if column.source.startswith("@"):
                if column.source not in LINEAGE_SOURCES:
                    raise ValueError(f"column {column.name!r}: there is no source {column.source!r}")
                self.lineage[self.lineage_count] = lineage_column(column)
                self.lineage_count += 1
                self.places.append(-<long>self.lineage_count)
                wire = column.type
            else:
                self.places.append(filled)
                wire = self.specs[filled].wire
                if column.type.replace(" ", "") == DICTIONARY_TYPE:
                    self.dictionaries[filled] = len(headers), header_of(column.name, DICTIONARY_TYPE)
                filled += 1
            headers.append(header_of(column.name, wire))
        self.headers = tuple(headers)
        return 0

    cdef int resolve_key(self, tuple key) except -1:
        names = [column.name for column in self.filled]
        self.key = key
        self.key_indexes = ()
        self.key_specs = []
        self.key_filled = []
        for name in key:
            if name not in names:
                raise ValueError(f"key column {name!r} is not filled from the row")
            index = names.index(name)
            spec = leaf(self.specs[index])
            if spec.kind in KEY_REFUSED:
                raise ValueError(f"key column {name!r}: {spec.text} cannot be part of a deduplication key")
            self.key_indexes += (index,)
            self.key_specs.append(spec)
            self.key_filled.append(self.filled[index]._replace(null_as_default=False))
        self.key_is_uuid = len(key) == 1 and self.key_specs[0].kind == "uuid"
        return 0


cdef object parse_column(object column):
    try:
        return parse(column.type)
    except ValueError as error:
        raise ValueError(f"column {column.name!r}: {error}") from error


cdef bytes varint_bytes(uint64_t number):
    encoded = bytearray()
    while number >= 0x80:
        encoded.append((number & 0x7f) | 0x80)
        number >>= 7
    encoded.append(number)
    return bytes(encoded)


cdef bytes string_bytes(bytes text):
    return varint_bytes(len(text)) + text


cdef bytes header_of(str name, str wire):
    return string_bytes(name.encode()) + string_bytes(wire.encode())


cdef class Layout:
    """Where a row type keeps the attributes that fill the columns."""

    def __cinit__(self, row_type, tuple sources not None):
        cdef size_t index
        self.offsets = <Py_ssize_t *>calloc(len(sources) or 1, sizeof(Py_ssize_t))
        if self.offsets == NULL:
            raise MemoryError(f"no memory for {len(sources)} columns")
        for index, source in enumerate(sources):
            for base in row_type.__mro__:
                if source in base.__dict__:
                    self.offsets[index] = penstock_slot_offset(row_type, base.__dict__[source])
                    break

    def __dealloc__(self):
        free(self.offsets)


cdef class BlockBuilder:
    """Rows of one table in the making. `append` (in _native.append) fills it."""

    def __cinit__(self, columns, *, key=(), bytes domain not None=b"", encode_json):
        self.plan = Plan(columns, key, domain, encode_json)
        self.layouts = {}
        self.key_columns = Columns(self.plan.key_specs, self.plan.key_filled, encode_json)
        self.discard()

    @property
    def nbytes(self):
        """Bytes buffered, lineage included (24 a row)."""
        return columns_nbytes(self.columns) + self.rows * 24

    @property
    def slots_read(self):
        """For each row type seen: how many of its columns are read at their slot, and how many through getattr."""
        counts = {}
        for row_type, layout in self.layouts.items():
            direct = direct_count(layout, len(self.plan.sources))
            counts[row_type] = (direct, len(self.plan.sources) - direct)
        return counts

    def finish(self):
        """Hands the rows over as a Block and leaves the builder empty."""
        cdef Block block = Block.__new__(Block)
        block.plan = self.plan
        block.columns = self.columns
        block.origins = self.lineage
        block.headers = list(self.plan.headers)
        block.rows = self.rows
        self.discard()
        cdef size_t index
        for index in range(self.columns.count):
            node_reserve_like(&self.columns.nodes[index], &block.columns.nodes[index])
        block.make_dictionaries()
        return block

    def discard(self):
        """Forgets every row."""
        self.columns = Columns(self.plan.specs, self.plan.filled, self.plan.encode_json)
        self.lineage = Lineage()
        self.rows = 0

    cdef Layout layout_of(self, object row_type):
        layout = self.layouts.get(row_type)
        if layout is None:
            layout = self.layouts[row_type] = Layout(row_type, self.plan.sources)
        return layout


cdef size_t direct_count(Layout layout, size_t count):
    cdef size_t index
    cdef size_t direct = 0
    for index in range(count):
        direct += layout.offsets[index] > 0
    return direct


cdef size_t columns_nbytes(Columns columns):
    cdef size_t index
    cdef size_t total = 0
    for index in range(columns.count):
        total += node_nbytes(&columns.nodes[index])
    return total


cdef class Block:
    """Rows of one table, finished. Made by BlockBuilder.finish only."""

    @property
    def nbytes(self):
        """Bytes held, lineage included (24 a row)."""
        return columns_nbytes(self.columns) + self.rows * 24

    cdef int make_dictionaries(self) except -1:
        cdef size_t index
        for index, (place, header) in self.plan.dictionaries.items():
            if node_to_dictionary(&self.columns.nodes[index], self.rows):
                self.headers[place] = header
        return 0

    @property
    def partitions(self):
        """array('i'): the partition of each row."""
        return self.origins.columns()[2]

    def lineage(self):
        """(topic names, array('i') of positions in them, array('i') of partitions, array('q') of offsets)."""
        return self.origins.columns()

    def native(self, rows=None):
        """One Native block: of all rows, or of the rows with these indexes, which must ascend."""
        cdef Pieces pieces
        if rows is not None:
            return self.write_rows(rows)
        pieces = self.pieces(b"")
        return joined(&pieces.buffer)

    def framed(self, bytes prefix not None, rows=None):
        """The prefix and what `native` gives, as one LZ4 frame that is read through the buffer protocol."""
        cdef Pieces pieces
        cdef bytes chosen
        if rows is None:
            pieces = self.pieces(prefix)
            return frame_of(&pieces.buffer)
        pieces = Pieces(0)
        chosen = self.write_rows(rows)
        add_piece(&pieces.buffer, PyBytes_AS_STRING(prefix), len(prefix))
        add_piece(&pieces.buffer, PyBytes_AS_STRING(chosen), len(chosen))
        return frame_of(&pieces.buffer)

    cdef Pieces pieces(self, bytes prefix):
        """Where the bytes of the whole block lie, after those of `prefix`."""
        cdef Pieces found = Pieces(self.plan.lineage_count)
        cdef bytes head = prefix + varint_bytes(len(self.plan.columns)) + varint_bytes(self.rows)
        cdef size_t column
        cdef long place
        cdef bytes header
        found.head = head
        add_piece(&found.buffer, PyBytes_AS_STRING(head), len(head))
        for place, header in zip(self.plan.places, self.headers):
            add_piece(&found.buffer, PyBytes_AS_STRING(header), len(header))
            if place >= 0:
                node_pieces(&self.columns.nodes[place], &found.buffer)
            else:
                column = -1 - place
                self.origins.add_pieces(
                    &self.plan.lineage[column], self.rows, &found.scratch.buffers[column], &found.buffer
                )
        return found

    cdef bytes write_rows(self, object rows):
        cdef Scratch scratch = Scratch(2)
        cdef Buffer *chosen = &scratch.buffers[0]
        cdef Buffer *out = &scratch.buffers[1]
        cdef size_t count = len(rows)
        cdef const uint64_t *indexes
        cdef long place
        cdef bytes header
        choose(rows, self.rows, chosen)
        indexes = <const uint64_t *>chosen.data
        buffer_varint(out, len(self.plan.columns))
        buffer_varint(out, count)
        for place, header in zip(self.plan.places, self.headers):
            buffer_bytes(out, PyBytes_AS_STRING(header), len(header))
            if place >= 0:
                node_select(&self.columns.nodes[place], indexes, count, self.rows, out)
            else:
                self.origins.write(&self.plan.lineage[-1 - place], indexes, count, out)
        return out.data[:out.used]


cdef int choose(object rows, size_t total, Buffer *chosen) except -1:
    """Copies row indexes as UInt64; ValueError unless they ascend and name rows."""
    cdef uint64_t row
    cdef uint64_t lowest = 0
    for row in rows:
        if row < lowest or row >= total:
            raise ValueError(f"row indexes must ascend and be less than {total}; {row} does not fit")
        lowest = row + 1
        buffer_bytes(chosen, &row, 8)
    return 0


cdef bytes joined(const Buffer *pieces):
    """One allocation and one copy, without the GIL: the block may be large and never changes."""
    cdef const Piece *piece = <const Piece *>pieces.data
    cdef bytes block = PyBytes_FromStringAndSize(NULL, <Py_ssize_t>pieces_nbytes(pieces))
    cdef uint8_t *out = <uint8_t *>PyBytes_AS_STRING(block)
    cdef size_t index
    with nogil:
        for index in range(pieces.used // sizeof(Piece)):
            memcpy(out, piece[index].data, piece[index].nbytes)
            out += piece[index].nbytes
    return block


cdef class Scratch:
    """Owns buffers for the length of one call."""

    def __cinit__(self, size_t count):
        self.buffers = <Buffer *>calloc(count or 1, sizeof(Buffer))
        if self.buffers == NULL:
            raise MemoryError("no memory for buffers")
        self.count = count

    def __dealloc__(self):
        cdef size_t index
        if self.buffers != NULL:
            for index in range(self.count):
                buffer_free(&self.buffers[index])
            free(self.buffers)


cdef class Pieces:
    """Where the bytes of a block lie, for the length of one call. Owns what is not in the block itself."""

    def __cinit__(self, size_t lineage_count):
        self.scratch = Scratch(lineage_count)

    def __dealloc__(self):
        buffer_free(&self.buffer)
