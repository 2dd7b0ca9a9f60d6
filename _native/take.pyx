"""One JSON record into the columns of its row type. Owns nothing; takes nothing back, which is the caller's part.

Each function takes a place in the record and returns where its value ended, or NULL: not sure, and the record is left
to msgspec. What a column refuses is not sure either: who refuses it also says why.
"""

from libc.stdint cimport int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from _native.buffer cimport buffer_bytes, buffer_string, buffer_word
from _native.fields cimport search_field
from _native.json_number cimport Numeral, read_number, to_double, to_int64
from _native.json_scan cimport (
    CLOSE_ARRAY, CLOSE_OBJECT, COLON, COMMA, LETTER_F, LETTER_N, LETTER_T, MINUS, NINE, OPEN_ARRAY, OPEN_OBJECT, QUOTE,
    ZERO, BLANK, NEWLINE, RETURN, TAB, Text, is_broken, put_padded_string, read_literal, read_string, read_uuid,
    same_bytes, skip_space, skip_value,
)
from _native.json_text cimport store_json
from _native.node cimport Node, node_zero
from _native.recipe cimport *
from _native.store cimport store_number, store_text
from _native.work cimport KeySet, Work, key_is_new, keys_begin, keys_end


# ---- records

cdef bint take_record(Work *work, const Object *object, Node *nodes, size_t nbytes) except? False nogil:
    """Puts the record in `work` into `nodes`; false when it is not sure, and then the columns are to be taken back."""
    cdef uint8_t seen[FIELDS_MAX]
    cdef const uint8_t *end = work.record.data + nbytes
    cdef const uint8_t *at = skip_space(work.record.data)
    cdef size_t found
    memset(seen, 0, object.count)
    if at[0] != OPEN_OBJECT:
        work.refused = object.strict
        return False
    at = take_fields(work, object, nodes, at + 1, seen, &found)
    if at == NULL:
        work.refused = work.refused or (object.strict and is_cut_off(work.record.data, end))
        return False
    if skip_space(at) != end or not (found == object.count or take_missing(work, object, nodes, seen)):
        return False
    # No key came twice, or it would not be sure.
    work.refused = work.unfit
    return not work.unfit


cdef bint is_cut_off(const uint8_t *begin, const uint8_t *end) noexcept nogil:
    """Whether a text that begins as an object does not end as one."""
    cdef const uint8_t *last = end - 1
    while last != begin and (last[0] == BLANK or last[0] == NEWLINE or last[0] == RETURN or last[0] == TAB):
        last -= 1
    return last[0] != CLOSE_OBJECT


cdef const uint8_t *take_fields(
    Work *work, const Object *object, Node *nodes, const uint8_t *at, uint8_t *seen, size_t *found
) except? NULL nogil:
    cdef const Field *end = &object.fields[object.count]
    cdef const Field *expected = object.fields
    cdef const Field *field
    cdef size_t next = 0    # the number of the one expected
    cdef size_t index
    cdef size_t count = 0
    found[0] = 0
    at = skip_space(at)
    if at[0] == CLOSE_OBJECT:
        return at + 1
    while True:
        if at[0] != QUOTE:
            return NULL
        field = expected
        if field != end and same_bytes(at + 1, field.name, field.name_nbytes + 2):
            at = skip_space(at + 3 + field.name_nbytes)
        else:
            at = search_field(object, next, at + 1, &index)
            if at == NULL:
                return NULL
            field = &object.fields[index]
        if field == end:
            at = NULL if object.forbid_unknown else skip_value(at, 1)
        else:
            if seen[field.number]:
                return NULL
            seen[field.number] = 1
            count += 1
            expected = field + 1
            next = field.number + 1
            if field.is_key:
                work.key_at = at
            at = take_value(work, &field.value, &nodes[field.column] if field.column >= 0 else NULL, at)
        if at == NULL:
            return NULL
        if at[0] == COMMA and at[1] == QUOTE:
            at += 1
            continue
        at = skip_space(at)
        if at[0] == CLOSE_OBJECT:
            found[0] = count
            return at + 1
        if at[0] != COMMA:
            return NULL
        at = skip_space(at + 1)


cdef bint take_missing(Work *work, const Object *object, Node *nodes, const uint8_t *seen) except? False nogil:
    """Defaults into the columns of the fields that the record does not have; false when one has none."""
    cdef size_t index
    cdef const Field *field
    cdef Node *node
    for index in range(object.count):
        if seen[index]:
            continue
        field = &object.fields[index]
        if field.on_missing == MISSING_NOT_SURE or field.on_missing == MISSING_REFUSED:
            work.refused = field.on_missing == MISSING_REFUSED
            return False
        if field.on_missing == MISSING_NOTHING:
            continue
        node = &nodes[field.column]
        if field.on_missing == MISSING_ZERO:
            node_zero(node)
            continue
        if field.value.nullable:
            buffer_word(&node.data, 0, 1)
            node = &node.children[0]
        buffer_bytes(&node.data, field.stored, field.stored_nbytes)
    return True


# ---- values

cdef const uint8_t *take_value(Work *work, const Value *value, Node *node, const uint8_t *at) except? NULL nogil:
    """One value into its column; `node` is NULL for what is in no column."""
    cdef uint8_t first = at[0]
    if first == LETTER_N and value.on_null != STORE_RAW:
        return take_null(work, value, node, at)
    if value.nullable:
        buffer_word(&node.data, 0, 1)
        node = &node.children[0]
    if first == QUOTE:
        return take_text(work, value, node, at)
    if ZERO <= first <= NINE or first == MINUS:
        return take_number(work, value, node, at)
    if first == LETTER_T or first == LETTER_F:
        return take_bool(value, node, at)
    if first == OPEN_OBJECT:
        return take_nested(work, value, value.on_object, node, at)
    if first == OPEN_ARRAY:
        return take_nested(work, value, value.on_array, node, at)
    return store_raw(node, at) if first == LETTER_N else NULL


cdef const uint8_t *take_null(Work *work, const Value *value, Node *node, const uint8_t *at) except? NULL nogil:
    cdef const uint8_t *end = read_literal(at)
    if end == NULL or value.on_null == NOT_SURE:
        work.refused = value.refuses & REFUSES_NULL
        return NULL
    if value.on_null == ZEROED:
        node_zero(node)
    return end


cdef const uint8_t *take_bool(const Value *value, Node *node, const uint8_t *at) except? NULL nogil:
    cdef const uint8_t *end = read_literal(at)
    if end == NULL or value.on_bool == NOT_SURE:
        return NULL
    if value.on_bool == STORE_RAW:
        return store_raw(node, at)
    if value.on_bool == STORE_BOOL:
        buffer_word(&node.data, at[0] == LETTER_T, 1)
    return end


cdef const uint8_t *take_nested(
    Work *work, const Value *value, uint8_t action, Node *node, const uint8_t *at
) except? NULL nogil:
    if action == STORE_ITEMS:
        return take_items(work, value.items, node, at + 1)
    if action == STORE_PAIRS:
        return take_pairs(work, value.items, node, at + 1)
    if action == STORE_RAW:
        return store_raw(node, at)
    return store_json(work, value.items, node, at) if action == STORE_JSON else NULL


cdef const uint8_t *store_raw(Node *node, const uint8_t *at) except? NULL nogil:
    cdef const uint8_t *end = skip_value(at, 1)
    if end != NULL and node != NULL:
        buffer_string(&node.data, at, end - at)
    return end


cdef const uint8_t *take_items(Work *work, const Value *value, Node *node, const uint8_t *at) except? NULL nogil:
    cdef uint64_t count = 0
    at = skip_space(at)
    if at[0] != CLOSE_ARRAY:
        while True:
            at = take_value(work, value, &node.children[0], at)
            if at == NULL:
                return NULL
            count += 1
            at = skip_space(at)
            if at[0] == CLOSE_ARRAY:
                break
            if at[0] != COMMA:
                return NULL
            at = skip_space(at + 1)
    node.total = node.total + count
    buffer_word(&node.data, node.total, 8)
    return at + 1


cdef const uint8_t *take_pairs(Work *work, const Value *value, Node *node, const uint8_t *at) except? NULL nogil:
    cdef KeySet keys
    cdef Text key
    cdef uint64_t count = 0
    at = skip_space(at)
    if at[0] != CLOSE_OBJECT:
        keys_begin(work, &keys)
        while True:
            if at[0] != QUOTE:
                return NULL
            at = read_string(at + 1, &key, &work.plain)
            if at == NULL or not key_is_new(work, &keys, &key):
                return NULL
            put_padded_string(&node.children[0].data, key.data, key.length)
            at = skip_space(at)
            if at[0] != COLON:
                return NULL
            at = take_value(work, value, &node.children[1], skip_space(at + 1))
            if at == NULL:
                return NULL
            count += 1
            at = skip_space(at)
            if at[0] == CLOSE_OBJECT:
                break
            if at[0] != COMMA:
                return NULL
            at = skip_space(at + 1)
        keys_end(work, &keys)
    node.total = node.total + count
    buffer_word(&node.data, node.total, 8)
    return at + 1


# ---- numbers

cdef const uint8_t *take_number(Work *work, const Value *value, Node *node, const uint8_t *at) except? NULL nogil:
    cdef Numeral numeral
    cdef int64_t number
    cdef double real
    cdef uint64_t word
    cdef const uint8_t *end = read_number(at, &numeral)
    cdef uint8_t action
    if end == NULL:
        return NULL
    action = value.on_int if numeral.integer else value.on_float
    if action == STORE_INT:
        if not to_int64(&numeral, &number):
            return NULL
        if number < value.low or number > value.high:
            if not value.refuses & REFUSES_RANGE:
                return NULL
            work.unfit = True
        buffer_word(&node.data, <uint64_t>number, node.width)
        return end
    if action == STORE_FLOAT64 and not numeral.integer:
        if not to_double(&numeral, &real):
            return NULL
        memcpy(&word, &real, 8)
        buffer_word(&node.data, word, 8)
        return end
    if action == NOT_SURE:
        return NULL
    if action == STORE_RAW:
        return store_raw(node, at)
    if numeral.long or (numeral.integer and numeral.negative and numeral.digits == 0):
        return NULL
    return end if store_number(value, node, action, &numeral, end) else NULL


# ---- texts

cdef const uint8_t *take_text(Work *work, const Value *value, Node *node, const uint8_t *at) except? NULL nogil:
    """`at` is the opening quote."""
    cdef Text text
    cdef uint64_t halves[2]
    cdef const uint8_t *end
    if value.on_text == STORE_STRING:
        end = read_string(at + 1, &text, &work.plain)
        if end != NULL:
            put_padded_string(&node.data, text.data, text.length)
        elif value.refuses & REFUSES_BROKEN_TEXT:
            work.refused = is_broken(at + 1)
        return end
    if value.on_text == STORE_UUID and <size_t>(at + 1 - work.record.data) == work.foreseen_at:
        buffer_bytes(&node.data, work.foreseen, 16)
        return at + 38
    if value.on_text == STORE_UUID and at[37] == QUOTE and read_uuid(at + 1, halves):
        buffer_bytes(&node.data, halves, 16)
        return at + 38
    if value.on_text == NOT_SURE:
        work.refused = value.refuses & REFUSES_TEXT
        return NULL
    if value.on_text == STORE_RAW:
        return store_raw(node, at)
    end = read_string(at + 1, &text, &work.plain)
    if end == NULL:
        return NULL
    return end if store_text(value, node, &text) else NULL
