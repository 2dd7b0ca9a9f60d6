"""JSON text of nested values: compact, in the order of the record (objects) or of the fields (Structs). Owns nothing.

Only what an encoder would write back the same way is taken: texts whose escapes are the canonical ones, integers of 64
bits, and floats of at most 15 digits in plain notation, which a double tells apart and its shortest form repeats.
"""

from libc.stdint cimport uint8_t, uint64_t

from _native.buffer cimport buffer_string
from _native.fields cimport find_field
from _native.json_number cimport POINT, Numeral, read_number
from _native.json_scan cimport (
    BACKSLASH, CLOSE_ARRAY, CLOSE_OBJECT, COLON, COMMA, DEPTH_MAX, LETTER_F, LETTER_N, LETTER_T, NINE, OPEN_ARRAY,
    OPEN_OBJECT, QUOTE, ZERO, Text, read_literal, skip_space, skip_value, string_end, valid_utf8,
)
from _native.node cimport Node
from _native.recipe cimport NOT_SURE, WRITE_FLOAT, WRITE_STRUCT, Object, Value
from _native.work cimport KeySet, Work, key_is_new, keys_begin, keys_end

cdef enum:
    FLOAT_DIGITS = 15
    FEW_ZEROS = 4

cdef uint64_t FLOAT_DIGITS_END = 1_000_000_000_000_000
cdef const uint8_t *POINT_ZERO = b".0"


cdef const uint8_t *store_json(Work *work, const Value *value, Node *node, const uint8_t *at) except? NULL nogil:
    """The value at `at` into a column of text; NULL for `node`: into none."""
    cdef const uint8_t *end
    work.json.used = 0
    work.run = work.run_end = at
    end = write_value(work, value, at, 1)
    if end == NULL or node == NULL:
        return end
    if work.json.used:
        write_run(work)
        buffer_string(&node.data, work.json.data, work.json.used)
    else:
        buffer_string(&node.data, work.run, work.run_end - work.run)
    return end


cdef const uint8_t *write_value(Work *work, const Value *value, const uint8_t *at, int depth) except? NULL nogil:
    """Appends the value at `at` to the JSON text; returns where it ended, or NULL: not sure."""
    cdef const uint8_t *end
    cdef uint8_t action
    if at[0] == QUOTE:
        return write_text(work, at) if value.on_text else NULL
    if at[0] == OPEN_OBJECT:
        if depth > DEPTH_MAX or value.on_object == NOT_SURE:
            return NULL
        if value.on_object == WRITE_STRUCT:
            return write_struct(work, value.object, at + 1, depth + 1)
        return write_pairs(work, value.items if value.items != NULL else value, at + 1, depth + 1)
    if at[0] == OPEN_ARRAY:
        if depth > DEPTH_MAX or value.on_array == NOT_SURE:
            return NULL
        return write_items(work, value.items if value.items != NULL else value, at + 1, depth + 1)
    if at[0] == LETTER_N or at[0] == LETTER_T or at[0] == LETTER_F:
        action = value.on_null if at[0] == LETTER_N else value.on_bool
        end = read_literal(at) if action else NULL
        if end != NULL:
            repeat(work, at, end)
        return end
    return write_number(work, value, at)


cdef const uint8_t *write_text(Work *work, const uint8_t *start) except? NULL nogil:
    """A string as it is, from quote to quote."""
    cdef const uint8_t *at = start + 1
    cdef const uint8_t *end
    cdef bint high
    while True:
        end = string_end(at, &high)
        if high and not valid_utf8(at, end):
            return NULL
        if end[0] == QUOTE:
            repeat(work, start, end + 1)
            return end + 1
        if end[0] != BACKSLASH or not is_canonical(end[1]):
            return NULL
        at = end + 2


cdef inline bint is_canonical(uint8_t letter) noexcept nogil:
    """Whether an encoder writes what `\\letter` stands for in the same way."""
    return (
        letter == b'"' or letter == b"\\" or letter == b"n" or letter == b"t" or letter == b"r" or letter == b"b"
        or letter == b"f"
    )


cdef const uint8_t *write_number(Work *work, const Value *value, const uint8_t *at) except? NULL nogil:
    cdef Numeral numeral
    cdef const uint8_t *end = read_number(at, &numeral)
    cdef uint8_t action
    if end == NULL or numeral.long or (numeral.negative and numeral.integer and numeral.digits == 0):
        return NULL
    action = value.on_int if numeral.integer else value.on_float
    if action == NOT_SURE:
        return NULL
    if action == WRITE_FLOAT:
        if numeral.digits >= FLOAT_DIGITS_END or not (numeral.integer or is_plain_float(&numeral, end)):
            return NULL
    elif numeral.negative and numeral.digits > <uint64_t>1 << 63:
        return NULL
    repeat(work, at, end)
    if action == WRITE_FLOAT and numeral.integer:
        repeat(work, POINT_ZERO, POINT_ZERO + 2)
    return end


cdef bint is_plain_float(const Numeral *numeral, const uint8_t *end) noexcept nogil:
    """`digits.digits` without an exponent, without needless zeros at the end, and not very small."""
    cdef int count = -numeral.exponent
    cdef const uint8_t *first = end - count
    cdef const uint8_t *at = first
    if count < 1 or count > FLOAT_DIGITS or end - numeral.start < count + 2 or (first - 1)[0] != POINT:
        return False
    while at < end:
        if not ZERO <= at[0] <= NINE:
            return False
        at += 1
    if count > 1 and (end - 1)[0] == ZERO:
        return False
    if count <= FEW_ZEROS or first - 2 > numeral.start + numeral.negative or (first - 2)[0] != ZERO:
        return True
    # Below 0.0001 there may be an exponent.
    return first[0] != ZERO or first[1] != ZERO or first[2] != ZERO or first[3] != ZERO


cdef const uint8_t *write_items(Work *work, const Value *value, const uint8_t *at, int depth) except? NULL nogil:
    repeat(work, at - 1, at)
    at = skip_space(at)
    if at[0] == CLOSE_ARRAY:
        repeat(work, at, at + 1)
        return at + 1
    while True:
        at = write_value(work, value, at, depth)
        if at == NULL:
            return NULL
        at = skip_space(at)
        if at[0] == CLOSE_ARRAY:
            repeat(work, at, at + 1)
            return at + 1
        if at[0] != COMMA:
            return NULL
        repeat(work, at, at + 1)
        at = skip_space(at + 1)


cdef const uint8_t *write_pairs(Work *work, const Value *value, const uint8_t *at, int depth) except? NULL nogil:
    cdef KeySet keys
    repeat(work, at - 1, at)
    at = skip_space(at)
    if at[0] == CLOSE_OBJECT:
        repeat(work, at, at + 1)
        return at + 1
    keys_begin(work, &keys)
    while True:
        at = write_key(work, &keys, at)
        if at != NULL:
            at = write_value(work, value, at, depth)
        if at == NULL:
            return NULL
        at = skip_space(at)
        if at[0] == CLOSE_OBJECT:
            break
        if at[0] != COMMA:
            return NULL
        repeat(work, at, at + 1)
        at = skip_space(at + 1)
    keys_end(work, &keys)
    repeat(work, at, at + 1)
    return at + 1


cdef const uint8_t *write_key(Work *work, KeySet *keys, const uint8_t *at) except? NULL nogil:
    """A key that the map does not have yet, and the colon; returns where the value is. Escapes are not sure."""
    cdef Text key
    cdef bint high
    cdef const uint8_t *end
    if at[0] != QUOTE:
        return NULL
    end = string_end(at + 1, &high)
    if end[0] != QUOTE or (high and not valid_utf8(at + 1, end)):
        return NULL
    key.data = at + 1
    key.length = end - key.data
    if not key_is_new(work, keys, &key):
        return NULL
    repeat(work, at, end + 1)
    at = skip_space(end + 1)
    if at[0] != COLON:
        return NULL
    repeat(work, at, at + 1)
    return skip_space(at + 1)


cdef const uint8_t *write_struct(Work *work, const Object *object, const uint8_t *at, int depth) except? NULL nogil:
    """The fields in their order, those that are missing with their defaults; other fields are passed over."""
    cdef size_t next = 0
    cdef size_t index
    cdef const uint8_t *key
    repeat(work, at - 1, at)
    at = skip_space(at)
    if at[0] != CLOSE_OBJECT:
        while True:
            key = at
            at = find_field(object, next, key, &index)
            if at == NULL:
                return NULL
            if index == object.count:
                at = NULL if object.forbid_unknown else skip_value(at, depth)
            elif index < next or not repeat_missing(work, object, next, index):
                return NULL
            else:
                repeat_name(work, object, index, key, at)
                at = write_value(work, &object.fields[index].value, at, depth)
                next = index + 1
            if at == NULL:
                return NULL
            at = skip_space(at)
            if at[0] == CLOSE_OBJECT:
                break
            if at[0] != COMMA:
                return NULL
            at = skip_space(at + 1)
    if not repeat_missing(work, object, next, object.count):
        return NULL
    repeat(work, at, at + 1)
    return at + 1


cdef inline int repeat_missing(Work *work, const Object *object, size_t first, size_t end) except -1 nogil:
    if first == end:
        return 1
    write_run(work)
    return write_missing(work, object, first, end)


cdef inline int repeat_name(
    Work *work, const Object *object, size_t index, const uint8_t *key, const uint8_t *value
) except -1 nogil:
    """The name of a field, the comma before it and the colon behind; as the record has them where there is no space."""
    if <size_t>(value - key) == object.fields[index].name_nbytes + 3 and (index == 0 or (key - 1)[0] == COMMA):
        return repeat(work, key - (index > 0), value)
    write_run(work)
    return write_name(work, object, index)
