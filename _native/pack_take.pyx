"""One MessagePack record into the columns of its row type. Owns nothing; takes nothing back, which the caller does.

The twin of take.pyx, with the same recipes and the same columns. Each function takes a place in the record and returns
where its value ended, or NULL: not sure, and the record is left to msgspec. Where a value ends behind the record the
next one, or the record's own end, is found to be out of place.
"""

cimport cython
from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t
from libc.string cimport memcpy, memset

from _native.buffer cimport buffer_bytes, buffer_string, buffer_word
from _native.fields cimport find_packed
from _native.json_number cimport Numeral
from _native.json_scan cimport Text, put_padded_string, read_uuid, same_bytes
from _native.node cimport Node, node_zero
from _native.pack_scan cimport *
from _native.pack_text cimport NUMBER_NBYTES, write_digits, write_packed
from _native.recipe cimport *
from _native.store cimport store_double, store_number, store_packed_bytes, store_stamp, store_text
from _native.take cimport take_missing
from _native.work cimport KeySet, Work, key_is_new, keys_begin, keys_end

cdef enum:
    UUID_NBYTES = 36
    STAMP_NBYTES_MAX = 12


cdef struct Packed:         # one value: its head, and what comes after it
    const uint8_t *start
    const uint8_t *at       # after the head
    const uint8_t *end      # of the record
    uint64_t number
    uint8_t family


# ---- records

cdef bint take_packed(Work *work, const Object *object, Node *nodes, size_t nbytes) except? False nogil:
    """Puts the record in `work` into `nodes`; false when it is not sure, and then the columns are to be taken back."""
    cdef uint8_t seen[FIELDS_MAX]
    cdef const uint8_t *end = work.record.data + nbytes
    cdef const uint8_t *at
    cdef uint8_t family
    cdef uint64_t count
    cdef size_t found
    at = read_head(work.record.data, &family, &count)
    if family != MAP:
        return False
    memset(seen, 0, object.count)
    at = take_fields(work, object, nodes, at, end, count, seen, &found)
    if at != end:
        return False
    return found == object.count or take_missing(work, object, nodes, seen)


cdef const uint8_t *take_fields(
    Work *work, const Object *object, Node *nodes, const uint8_t *at, const uint8_t *end, uint64_t count,
    uint8_t *seen, size_t *found
) except? NULL nogil:
    cdef const Field *field
    cdef size_t next = 0
    cdef size_t index
    cdef uint64_t _number
    found[0] = 0
    for _number in range(count):
        at = find_packed(object, next, at, end, &index)
        if at == NULL or at >= end:
            return NULL
        if index == object.count:
            at = NULL if object.forbid_unknown else skip_packed(at, end, 1)
        else:
            if seen[index]:
                return NULL
            seen[index] = 1
            found[0] += 1
            next = index + 1
            field = &object.fields[index]
            if field.is_key:
                work.key_at = at + 1    # so that both formats have the text of a UUID one byte on
            at = take_value(work, &field.value, &nodes[field.column] if field.column >= 0 else NULL, at, end)
        if at == NULL:
            return NULL
    return at


cdef bint find_packed_tag(
    Work *work, size_t nbytes, const uint8_t *name, size_t name_nbytes, Text *tag
) noexcept nogil:
    """The text of the field `name` of the record in `work`; false when there is none or it is not sure.

    Whether there is a second one is for the reading of the record to see.
    """
    cdef const uint8_t *end = work.record.data + nbytes
    cdef const uint8_t *at
    cdef uint8_t family
    cdef uint64_t count, _number
    cdef Text key
    at = read_head(work.record.data, &family, &count)
    if family != MAP:
        return False
    for _number in range(count):
        at = read_text(at, end, &key)
        if at == NULL:
            return False
        if key.length == name_nbytes and same_bytes(key.data, name, name_nbytes):
            return read_text(at, end, tag) != NULL
        at = skip_packed(at, end, 1)
        if at == NULL:
            return False
    return False


# ---- values

cdef const uint8_t *take_value(
    Work *work, const Value *value, Node *node, const uint8_t *at, const uint8_t *end
) except? NULL nogil:
    """One value into its column; `node` is NULL for what is in no column. `at` is before `end`."""
    cdef Packed packed
    packed.start = at
    packed.end = end
    packed.at = read_head(at, &packed.family, &packed.number)
    if packed.family == NIL and value.on_null != STORE_RAW:
        if value.on_null == NOT_SURE:
            return NULL
        if value.on_null == ZEROED:
            node_zero(node)
        return packed.at
    if value.nullable:
        buffer_word(&node.data, 0, 1)
        node = &node.children[0]
    if packed.family == TEXT:
        return take_text(work, value, node, &packed)
    if packed.family == UNSIGNED or packed.family == SIGNED:
        return take_whole(value, node, &packed)
    if packed.family == FLOAT64 or packed.family == FLOAT32:
        return take_real(value, node, &packed)
    return take_other(work, value, node, &packed)


cdef const uint8_t *take_other(Work *work, const Value *value, Node *node, const Packed *packed) except? NULL nogil:
    if packed.family == BOOL:
        if value.on_bool == STORE_BOOL:
            buffer_word(&node.data, packed.number, 1)
        return ended(value.on_bool, node, packed)
    if packed.family == MAP:
        return take_nested(work, value, value.on_object, node, packed)
    if packed.family == ARRAY:
        return take_nested(work, value, value.on_array, node, packed)
    if packed.family == BYTES:
        return take_bytes(value, node, packed)
    if packed.family == EXTENSION:
        return take_extension(value, node, packed)
    return store_raw(node, packed) if packed.family == NIL else NULL


cdef inline const uint8_t *ended(uint8_t action, Node *node, const Packed *packed) except? NULL nogil:
    """Where a value without contents ends, once it was stored, or is kept as it is."""
    if action == NOT_SURE:
        return NULL
    return store_raw(node, packed) if action == STORE_RAW else packed.at


cdef const uint8_t *store_raw(Node *node, const Packed *packed) except? NULL nogil:
    cdef const uint8_t *end = skip_packed(packed.start, packed.end, 1)
    if end != NULL and node != NULL:
        buffer_string(&node.data, packed.start, end - packed.start)
    return end


cdef const uint8_t *take_nested(
    Work *work, const Value *value, uint8_t action, Node *node, const Packed *packed
) except? NULL nogil:
    cdef const uint8_t *at
    if action == STORE_ITEMS:
        return take_items(work, value.items, node, packed)
    if action == STORE_PAIRS:
        return take_pairs(work, value.items, node, packed)
    if action == STORE_RAW:
        return store_raw(node, packed)
    if action != STORE_JSON:
        return NULL
    work.json.used = 0
    at = write_packed(work, value.items, packed.start, packed.end, 1)
    if at != NULL and node != NULL:
        buffer_string(&node.data, work.json.data, work.json.used)
    return at


cdef const uint8_t *take_items(Work *work, const Value *value, Node *node, const Packed *packed) except? NULL nogil:
    cdef const uint8_t *at = packed.at
    cdef uint64_t _number
    for _number in range(packed.number):
        if at >= packed.end:
            return NULL
        at = take_value(work, value, &node.children[0], at, packed.end)
        if at == NULL:
            return NULL
    node.total = node.total + packed.number
    buffer_word(&node.data, node.total, 8)
    return at


cdef const uint8_t *take_pairs(Work *work, const Value *value, Node *node, const Packed *packed) except? NULL nogil:
    cdef const uint8_t *at = packed.at
    cdef KeySet keys
    cdef Text key
    cdef uint64_t _number
    keys_begin(work, &keys)
    for _number in range(packed.number):
        at = read_text(at, packed.end, &key)
        if at == NULL or at >= packed.end or not is_text(&key) or not key_is_new(work, &keys, &key):
            return NULL
        put_padded_string(&node.children[0].data, key.data, key.length)
        at = take_value(work, value, &node.children[1], at, packed.end)
        if at == NULL:
            return NULL
    keys_end(work, &keys)
    node.total = node.total + packed.number
    buffer_word(&node.data, node.total, 8)
    return at


# ---- numbers

cdef const uint8_t *take_whole(const Value *value, Node *node, const Packed *packed) except? NULL nogil:
    cdef int64_t number = <int64_t>packed.number
    if value.on_int == STORE_INT:
        if packed.family == UNSIGNED and packed.number > <uint64_t>INT64_MAX:
            return NULL
        if number < value.low or number > value.high:
            return NULL
        buffer_word(&node.data, <uint64_t>number, node.width)
        return packed.at
    if value.on_int == NOT_SURE or value.on_int == STORE_RAW:
        return ended(value.on_int, node, packed)
    return packed.at if store_whole(value, node, packed) else NULL


@cython.overflowcheck(False)
cdef bint store_whole(const Value *value, Node *node, const Packed *packed) except? False nogil:
    """As the number that JSON would have had."""
    cdef uint8_t text[NUMBER_NBYTES]
    cdef Numeral numeral
    numeral.negative = packed.family == SIGNED and <int64_t>packed.number < 0
    numeral.digits = 0 - packed.number if numeral.negative else packed.number
    numeral.exponent = 0
    numeral.integer = True
    numeral.long = False
    numeral.start = text
    return store_number(value, node, value.on_int, &numeral, write_digits(text, numeral.digits, numeral.negative))


cdef const uint8_t *take_real(const Value *value, Node *node, const Packed *packed) except? NULL nogil:
    cdef double real = to_real(packed.family, packed.number)
    cdef uint64_t word
    cdef uint8_t action = value.on_float
    if action == STORE_FLOAT64:
        memcpy(&word, &real, 8)
        buffer_word(&node.data, word, 8)
        return packed.at
    if action == STORE_FLOAT32 or action == STORE_BFLOAT16:
        return packed.at if store_double(node, action, real) else NULL
    return ended(action, node, packed) if action == CHECK or action == STORE_RAW else NULL


# ---- texts and bytes

cdef const uint8_t *take_text(Work *work, const Value *value, Node *node, const Packed *packed) except? NULL nogil:
    cdef uint8_t action = value.on_text
    cdef Text text
    cdef uint64_t halves[2]
    if action == STORE_RAW:
        return store_raw(node, packed)
    if action == NOT_SURE or not fits(packed.at, packed.number, packed.end):
        return NULL
    text.data = packed.at
    text.length = packed.number
    if action == STORE_UUID and text.length == UUID_NBYTES:
        if <size_t>(text.data - work.record.data) == work.foreseen_at:
            buffer_bytes(&node.data, work.foreseen, 16)
            return text.data + UUID_NBYTES
        if read_uuid(text.data, halves):
            buffer_bytes(&node.data, halves, 16)
            return text.data + UUID_NBYTES
    if not is_text(&text):
        return NULL
    if action == STORE_STRING:
        put_padded_string(&node.data, text.data, text.length)
        return text.data + text.length
    return text.data + text.length if store_text(value, node, &text) else NULL


cdef const uint8_t *take_bytes(const Value *value, Node *node, const Packed *packed) except? NULL nogil:
    cdef Text text
    if value.on_bytes == STORE_RAW:
        return store_raw(node, packed)
    if value.on_bytes == NOT_SURE or not fits(packed.at, packed.number, packed.end):
        return NULL
    text.data = packed.at
    text.length = packed.number
    return text.data + text.length if store_packed_bytes(node, value.on_bytes, &text) else NULL


cdef const uint8_t *take_extension(const Value *value, Node *node, const Packed *packed) except? NULL nogil:
    """The type byte and what follows it. Only timestamps are of a type that is known."""
    if value.on_extension == STORE_RAW:
        return store_raw(node, packed)
    if value.on_extension != STORE_MOMENT or packed.number > STAMP_NBYTES_MAX or packed.at[0] != 0xff:
        return NULL
    if not fits(packed.at, packed.number + 1, packed.end):
        return NULL
    return packed.at + 1 + packed.number if store_stamp(node, packed.at + 1, packed.number) else NULL
