"""Column nodes: the tree of buffers one column of a Native block is built in.

    Native block (client revision 0, as HTTP's FORMAT Native has it: no block info, no custom serialization)

        columns: varint | rows: varint | column ...
        column = name: String | type: String | values          (no values when there are no rows)

        String          length as varint, bytes
        fixed width     little-endian, UUID as two UInt64 with the high half first, IPv6 in network order
        Nullable(T)     one byte a row, 1 for NULL | values of T, zero where NULL
        Array(T)        UInt64 a row: elements up to and including this row | elements of T
        Map(K, V)       as Array(Tuple(K, V)): offsets | keys | values
        Tuple(T ...)    values of each T, one after the other

A node's `data` is what its own part of that is; its children hold the rest. A row that fails half way is taken back by
returning every buffer to its mark.
"""

from cpython.object cimport PyObject
from libc.stdint cimport int64_t, uint8_t, uint16_t, uint64_t

from _native.buffer cimport Buffer

cdef enum Kind:
    KIND_INT            # every integer that fits an int64
    KIND_UINT64
    KIND_BIGINT         # 128 and 256 bits
    KIND_FLOAT32
    KIND_FLOAT64
    KIND_BFLOAT16
    KIND_BOOL
    KIND_STRING
    KIND_FIXED_STRING
    KIND_UUID
    KIND_DATE
    KIND_DATE32
    KIND_DATETIME
    KIND_DATETIME64
    KIND_ENUM
    KIND_DECIMAL
    KIND_IPV4
    KIND_IPV6
    KIND_JSON
    KIND_NULLABLE
    KIND_ARRAY
    KIND_MAP
    KIND_TUPLE
    KIND_DICTIONARY     # of a finished block: Strings as dictionary.pyx has written them


cdef enum Code:
    FITS = 0
    OUT_OF_RANGE = 1
    WRONG_TYPE = 2
    IS_NULL = 3
    NO_KEY = 4
    INVALID_UTF8 = 5


cdef struct Node:
    Kind kind
    bint null_as_default    # None becomes zero instead of a refusal
    Buffer data             # values, offsets or null marks; empty for a Tuple
    uint16_t width          # bytes a value; 0 for String and JSON, 8 for Array and Map, 1 for Nullable; of an index
    int64_t low             # smallest and largest number allowed, of kinds whose numbers fit an int64
    int64_t high
    bint is_signed          # numbers may be negative
    int scale               # digits after the point: DateTime64, Decimal
    int precision           # digits in all: Decimal
    int epoch_digits        # digits of a second that epoch numbers count: 0 s, 3 ms, 6 us, 9 ns
    uint64_t total          # elements so far: Array, Map
    uint64_t total_mark     # `total` when the row began
    int refused             # the Code for which this node refused the row, until the row is taken back
    const char *got         # the name of the refused value's type; belongs to the type
    PyObject *spec          # borrowed from the owner: TypeSpec
    PyObject *labels        # borrowed: Enum member -> number
    PyObject *numbers       # borrowed: the set of an Enum's numbers
    PyObject *names         # borrowed: tuple of element names, or NULL: Tuple
    PyObject *encode_json   # borrowed: callable, value -> JSON bytes
    const uint8_t *zero     # borrowed: the wire form of the zero value of a leaf
    size_t zero_nbytes
    Node *children          # owned
    size_t child_count


cdef void node_free(Node *node) noexcept nogil
cdef void node_mark_tree(Node *node) noexcept nogil
cdef void node_restore(Node *node) noexcept nogil
cdef Node *node_refused(Node *node) noexcept nogil
cdef size_t node_nbytes(const Node *node) noexcept nogil
cdef int node_pieces(const Node *node, Buffer *pieces) except -1
cdef int node_select(const Node *node, const uint64_t *rows, size_t count, size_t total, Buffer *out) except -1 nogil
cdef int node_zero(Node *node) except -1 nogil
cdef int node_reserve_like(Node *node, const Node *last) except -1
cdef int refuse(Node *node, Code code, PyObject *value) noexcept


cdef inline void node_mark(Node *node) noexcept nogil:
    """Remembers where the row begins."""
    node.data.mark = node.data.used
    if node.child_count:
        node_mark_tree(node)


cdef class Columns:
    """Owns the nodes of a block's columns and every Python object they borrow."""
    cdef Node *nodes        # owned, one a column
    cdef size_t count
    cdef list owned         # the specifications, label tables and the encoder the nodes borrow

    cdef int build(self, Node *node, object spec, bint null_as_default, int epoch_digits, object encode_json) except -1
    cdef int own(self, Node *node, object spec) except -1
