"""The block builder: rows of one table into the columns of one Native block. The wire layout is drawn in node.pxd."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t

from _native.buffer cimport Buffer
from _native.lineage cimport Lineage, LineageColumn
from _native.node cimport Columns, Node

cdef class Plan:
    """What stays the same from block to block: parsed once, shared by the builder and its blocks."""
    cdef readonly tuple columns         # Column of every column, in order
    cdef list specs                     # TypeSpec of the columns that rows fill, in order
    cdef tuple sources                  # the attributes they are filled from
    cdef list filled                    # their Column
    cdef tuple headers                  # for every column: its name and wire type as two Strings
    cdef dict dictionaries              # index among the filled: (place, header) of a column that may be a dictionary
    cdef list places                    # for every column: index among the filled, or -1 - index among the lineage
    cdef LineageColumn *lineage         # owned; the columns written from the lineage
    cdef size_t lineage_count
    cdef readonly tuple key             # names of the key columns
    cdef list key_specs                 # TypeSpec of the key columns, Nullable taken off
    cdef list key_filled                # their Column
    cdef tuple key_indexes              # their places among the filled columns
    cdef bint key_is_uuid               # the key is one UUID, which is the event id itself
    cdef bytes domain                   # keys of different domains are never equal
    cdef object encode_json             # value -> JSON bytes

    cdef int place_columns(self) except -1
    cdef int resolve_key(self, tuple key) except -1


cdef class Layout:
    """Where a row type keeps the attributes that fill the columns."""
    cdef Py_ssize_t *offsets            # owned; bytes from the object's start, 0 where getattr has to be asked


cdef class BlockBuilder:
    cdef readonly Plan plan
    cdef Columns columns                # the filled columns of the block in the making
    cdef Columns key_columns            # scratch: the key columns of one row
    cdef Lineage lineage
    cdef readonly size_t rows           # rows appended since the last finish
    cdef size_t reached                 # columns that the row in the making has marked
    cdef dict layouts                   # row type -> Layout

    cdef Layout layout_of(self, object row_type)


cdef class Scratch:
    """Buffers for the length of one call."""
    cdef Buffer *buffers                # owned
    cdef size_t count


cdef class Pieces:
    """A block as pieces of memory that lie in it, in the plan, or here."""
    cdef Buffer buffer                  # owned; Piece after Piece
    cdef Scratch scratch                # lineage columns that are made when they are asked for
    cdef bytes head


cdef class Block:
    cdef Plan plan
    cdef Columns columns                # the filled columns
    cdef list headers                   # of the plan, but for columns that have become dictionaries
    cdef Lineage origins                # where each row came from
    cdef readonly size_t rows

    cdef Pieces pieces(self, bytes prefix)
    cdef int make_dictionaries(self) except -1
    cdef bytes write_rows(self, object rows)
