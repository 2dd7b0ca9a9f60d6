"""Column nodes: making them from a type, taking a row back, writing them out. Owns the buffers; never sees a value."""

from cpython.object cimport PyObject
from libc.stdint cimport uint8_t, uint64_t
from libc.stdlib cimport calloc, free, malloc
from libc.string cimport memcpy

from _native.buffer cimport Buffer, after_string, buffer_bytes, buffer_free, buffer_reserve, buffer_word
from _native.pieces cimport add_piece

cdef extern from *:
    """
    #define PENSTOCK_TYPE_NAME(value) (Py_TYPE(value)->tp_name)
    """
    const char *type_name "PENSTOCK_TYPE_NAME"(PyObject *value) noexcept

cdef enum:
    RESERVE_FROM_BYTES = 4096

KINDS = {
    "int": KIND_INT, "uint64": KIND_UINT64, "bigint": KIND_BIGINT,
    "float32": KIND_FLOAT32, "float64": KIND_FLOAT64, "bfloat16": KIND_BFLOAT16, "bool": KIND_BOOL,
    "string": KIND_STRING, "fixed_string": KIND_FIXED_STRING, "json": KIND_JSON,
    "uuid": KIND_UUID, "ipv4": KIND_IPV4, "ipv6": KIND_IPV6, "enum": KIND_ENUM, "decimal": KIND_DECIMAL,
    "date": KIND_DATE, "date32": KIND_DATE32, "datetime": KIND_DATETIME, "datetime64": KIND_DATETIME64,
    "nullable": KIND_NULLABLE, "array": KIND_ARRAY, "map": KIND_MAP, "tuple": KIND_TUPLE,
}
EPOCH_DIGITS = {"s": 0, "ms": 3, "us": 6, "ns": 9}
WIDTHS = {"nullable": 1, "array": 8, "map": 8}


cdef class Columns:
    """Owns the nodes of a block's columns and every Python object they borrow."""

    def __cinit__(self, list specs not None, list columns not None, encode_json):
        """One node a column; `specs` are their parsed types. `columns` give the null and epoch rules."""
        cdef size_t index
        self.owned = [specs, encode_json]
        self.nodes = <Node *>calloc(len(specs) or 1, sizeof(Node))
        if self.nodes == NULL:
            raise MemoryError(f"no memory for {len(specs)} columns")
        self.count = len(specs)
        for index in range(self.count):
            digits = EPOCH_DIGITS.get(columns[index].epoch_unit)
            if digits is None:
                raise ValueError(f"column {columns[index].name!r}: epoch_unit must be s, ms, us or ns")
            self.build(&self.nodes[index], specs[index], columns[index].null_as_default, digits, encode_json)

    def __dealloc__(self):
        cdef size_t index
        if self.nodes != NULL:
            for index in range(self.count):
                node_free(&self.nodes[index])
            free(self.nodes)

    cdef int build(self, Node *node, object spec, bint null_as_default, int epoch_digits, object encode_json) except -1:
        """Fills a zeroed node. What it leaves half done on an error is still freed by the owner."""
        cdef size_t index
        node.kind = KINDS[spec.kind]
        node.null_as_default = null_as_default
        node.width = WIDTHS.get(spec.kind, spec.width)
        node.scale = spec.scale
        node.precision = spec.precision
        node.epoch_digits = epoch_digits
        node.is_signed = spec.low < 0
        if node.kind not in (KIND_UINT64, KIND_BIGINT, KIND_DECIMAL):
            node.low = spec.low
            node.high = spec.high
        node.spec = <PyObject *>spec
        node.encode_json = <PyObject *>encode_json
        zero = spec.zero
        node.zero = <const uint8_t *><const char *>zero
        node.zero_nbytes = len(zero)
        self.own(node, spec)
        if spec.children:
            node.children = <Node *>calloc(len(spec.children), sizeof(Node))
            if node.children == NULL:
                raise MemoryError("no memory for a column")
            node.child_count = len(spec.children)
            for index in range(node.child_count):
                self.build(&node.children[index], spec.children[index], null_as_default, epoch_digits, encode_json)
        return 0

    cdef int own(self, Node *node, object spec) except -1:
        """Keeps alive what the node borrows beside its specification."""
        if spec.labels:
            labels, numbers = dict(spec.labels), frozenset(spec.labels.values())
            self.owned += [labels, numbers]
            node.labels = <PyObject *>labels
            node.numbers = <PyObject *>numbers
        if spec.names:
            names = spec.names
            node.names = <PyObject *>names
        return 0


cdef void node_free(Node *node) noexcept nogil:
    cdef size_t index
    for index in range(node.child_count):
        node_free(&node.children[index])
    free(node.children)
    buffer_free(&node.data)


cdef int refuse(Node *node, Code code, PyObject *value) noexcept:
    """Notes why this node refused the row; never keeps the value."""
    node.refused = code
    node.got = type_name(value)
    return code


# ---- rows taken back

cdef void node_mark_tree(Node *node) noexcept nogil:
    cdef size_t index
    node.data.mark = node.data.used
    node.total_mark = node.total
    for index in range(node.child_count):
        node_mark_tree(&node.children[index])


cdef void node_restore(Node *node) noexcept nogil:
    """Takes back everything since the mark."""
    cdef size_t index
    node.data.used = node.data.mark
    node.total = node.total_mark
    node.refused = FITS
    for index in range(node.child_count):
        node_restore(&node.children[index])


cdef Node *node_refused(Node *node) noexcept nogil:
    """The node of this tree that refused the row, or NULL."""
    cdef size_t index
    cdef Node *found
    if node.refused:
        return node
    for index in range(node.child_count):
        found = node_refused(&node.children[index])
        if found != NULL:
            return found
    return NULL


cdef int node_zero(Node *node) except -1 nogil:
    """Appends the zero value: NULL, empty, or the type's own."""
    cdef size_t index
    if node.kind == KIND_NULLABLE:
        buffer_word(&node.data, 1, 1)
        return node_zero(&node.children[0])
    if node.kind == KIND_ARRAY or node.kind == KIND_MAP:
        return buffer_word(&node.data, node.total, 8)
    if node.kind == KIND_TUPLE:
        for index in range(node.child_count):
            node_zero(&node.children[index])
        return 0
    return buffer_bytes(&node.data, node.zero, node.zero_nbytes)


cdef int node_reserve_like(Node *node, const Node *last) except -1:
    """Room for an eighth more than the last block took, so that a block like it is never moved while it grows."""
    cdef size_t index
    if last.data.used >= RESERVE_FROM_BYTES:
        buffer_reserve(&node.data, last.data.used + (last.data.used >> 3))
    for index in range(node.child_count):
        node_reserve_like(&node.children[index], &last.children[index])
    return 0


# ---- writing out

cdef size_t node_nbytes(const Node *node) noexcept nogil:
    cdef size_t total = node.data.used
    cdef size_t index
    for index in range(node.child_count):
        total += node_nbytes(&node.children[index])
    return total


cdef int node_pieces(const Node *node, Buffer *pieces) except -1:
    """Adds the column's values as they lie in memory; they must not change as long as the pieces are used."""
    cdef size_t index
    add_piece(pieces, node.data.data, node.data.used)
    for index in range(node.child_count):
        node_pieces(&node.children[index], pieces)
    return 0


cdef int node_select(const Node *node, const uint64_t *rows, size_t count, size_t total, Buffer *out) except -1 nogil:
    """Appends the values of `count` rows, ascending, of the `total` the node holds."""
    cdef size_t index
    if node.kind == KIND_ARRAY or node.kind == KIND_MAP:
        return select_elements(node, rows, count, out)
    if node.kind == KIND_STRING or node.kind == KIND_JSON:
        return select_strings(node, rows, count, total, out)
    if node.kind == KIND_DICTIONARY:
        return select_indexes(node, rows, count, total, out)
    if node.kind != KIND_TUPLE:
        buffer_reserve(out, count * node.width)
        for index in range(count):
            memcpy(out.data + out.used, node.data.data + rows[index] * node.width, node.width)
            out.used += node.width
    for index in range(node.child_count):
        node_select(&node.children[index], rows, count, total, out)
    return 0


cdef int select_strings(
    const Node *node, const uint64_t *rows, size_t count, size_t total, Buffer *out
) except -1 nogil:
    """Walks over all strings, since a length only tells where the next one begins."""
    cdef const uint8_t *cursor = node.data.data
    cdef const uint8_t *start
    cdef size_t row
    cdef size_t index = 0
    for row in range(total):
        if index == count:
            break
        start = cursor
        cursor = after_string(cursor)
        if rows[index] == row:
            buffer_bytes(out, start, <size_t>cursor - <size_t>start)
            index += 1
    return 0


cdef int select_indexes(
    const Node *node, const uint64_t *rows, size_t count, size_t total, Buffer *out
) except -1 nogil:
    """The same dictionary with fewer indexes, which are the last of the column."""
    cdef const uint8_t *indexes = node.data.data + node.data.used - total * node.width
    cdef size_t index
    if count == 0:
        return 0
    buffer_bytes(out, node.data.data, node.data.used - total * node.width - 8)
    buffer_word(out, count, 8)
    for index in range(count):
        buffer_bytes(out, indexes + rows[index] * node.width, node.width)
    return 0


cdef int select_elements(const Node *node, const uint64_t *rows, size_t count, Buffer *out) except -1 nogil:
    """Offsets counted anew, then the elements of the chosen rows."""
    cdef const uint64_t *offsets = <const uint64_t *>node.data.data
    cdef uint64_t first, element
    cdef uint64_t chosen = 0
    cdef size_t index
    cdef uint64_t *elements
    for index in range(count):
        first = offsets[rows[index] - 1] if rows[index] else 0
        chosen += offsets[rows[index]] - first
        buffer_word(out, chosen, 8)
    elements = <uint64_t *>malloc((chosen + 1) * sizeof(uint64_t))
    if elements == NULL:
        with gil:
            raise MemoryError(f"no memory to choose {chosen} elements")
    chosen = 0
    for index in range(count):
        first = offsets[rows[index] - 1] if rows[index] else 0
        for element in range(first, offsets[rows[index]]):
            elements[chosen] = element
            chosen += 1
    try:
        for index in range(node.child_count):
            node_select(&node.children[index], elements, chosen, node.total, out)
    finally:
        free(elements)
    return 0
