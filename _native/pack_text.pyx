"""JSON text of nested MessagePack values: compact, in the order of the record (maps) or of the fields (Structs). Owns
nothing.

The twin of json_text.pyx. What an encoder writes in one way only is taken: texts, integers, and floats that at most 15
digits tell apart, in plain notation. Keys that are no texts, bytes and times are left to the other lane.
"""

cimport cython
from libc.math cimport floor, signbit
from libc.stdint cimport uint8_t, uint64_t

from _native.fields cimport find_packed
from _native.json_number cimport TENS
from _native.json_scan cimport DEPTH_MAX, Text
from _native.json_text cimport write, write_missing, write_name
from _native.pack_scan cimport *
from _native.recipe cimport NOT_SURE, WRITE_FLOAT, WRITE_STRUCT, Object, Value
from _native.work cimport KeySet, Work, key_is_new, keys_begin, keys_end

cdef enum:
    DECIMALS_MAX = 18       # after the point; with 15 digits none has more from SMALLEST on
    ESCAPE_NBYTES = 6

cdef double SMALLEST = 1e-4             # below it there may be an exponent
cdef double DIGITS_END = 1e15


cdef const uint8_t *write_packed(
    Work *work, const Value *value, const uint8_t *at, const uint8_t *end, int depth
) except? NULL nogil:
    """Appends the value at `at` to the JSON text; returns where it ended, or NULL: not sure."""
    cdef uint8_t family
    cdef uint64_t number
    if at >= end:
        return NULL
    at = read_head(at, &family, &number)
    if family == TEXT:
        return write_text(work, at, number, end) if value.on_text else NULL
    if family == MAP:
        if depth > DEPTH_MAX or value.on_object == NOT_SURE:
            return NULL
        if value.on_object == WRITE_STRUCT:
            return write_struct(work, value.object, at, number, end, depth + 1)
        return write_pairs(work, value.items if value.items != NULL else value, at, number, end, depth + 1)
    if family == ARRAY:
        if depth > DEPTH_MAX or value.on_array == NOT_SURE:
            return NULL
        return write_items(work, value.items if value.items != NULL else value, at, number, end, depth + 1)
    return at if write_plain(work, value, family, number) else NULL


cdef bint write_plain(Work *work, const Value *value, uint8_t family, uint64_t number) except? False nogil:
    """A value whose head is all of it."""
    if family == UNSIGNED or family == SIGNED:
        return write_whole(work, value.on_int, number, family == SIGNED and number >> 63)
    if family == FLOAT64 or family == FLOAT32:
        return value.on_float == WRITE_FLOAT and write_real(work, to_real(family, number))
    if family == NIL and value.on_null:
        write(work, b"null", 4)
        return True
    if family == BOOL and value.on_bool:
        write(work, b"true" if number else b"false", 4 if number else 5)
        return True
    return False


# ---- numbers

@cython.overflowcheck(False)
cdef bint write_whole(Work *work, uint8_t action, uint64_t number, bint negative) except? False nogil:
    cdef uint8_t text[NUMBER_NBYTES]
    cdef uint64_t digits = 0 - number if negative else number
    if action == NOT_SURE or (action == WRITE_FLOAT and digits >= <uint64_t>DIGITS_END):
        return False
    write(work, text, write_digits(text, digits, negative) - text)
    if action == WRITE_FLOAT:
        write(work, b".0", 2)
    return True


cdef uint8_t *write_digits(uint8_t *text, uint64_t digits, bint negative) noexcept nogil:
    """The number in decimal; returns where it ended."""
    cdef uint8_t reversed[NUMBER_NBYTES]
    cdef size_t count = 0
    while digits >= 10:
        reversed[count] = <uint8_t>(48 + digits % 10)
        digits //= 10
        count += 1
    reversed[count] = <uint8_t>(48 + digits)
    if negative:
        text[0] = b"-"
        text += 1
    while True:
        text[0] = reversed[count]
        text += 1
        if count == 0:
            return text
        count -= 1


cdef bint write_real(Work *work, double real) except? False nogil:
    """A float as `digits.digits`, where at most 15 digits tell it apart: the fewest are what every encoder writes.

    With n < 10^15 and 10^k both exact, n / 10^k is the double nearest to that decimal; so if it is `real` again, `real`
    reads back from n and k. The smallest such k has no zeros at its end. n is found exactly: real * 10^k is off by less
    than a quarter.
    """
    cdef double size = -real if signbit(real) else real
    cdef double scaled = 0
    cdef int decimals = 0
    if not (size == 0 or SMALLEST <= size < DIGITS_END):
        return False
    while size:
        scaled = size * TENS[decimals]
        if scaled >= DIGITS_END:
            return False
        scaled = floor(scaled + 0.5)
        if scaled / TENS[decimals] == size:
            break
        decimals += 1
        if decimals > DECIMALS_MAX:
            return False
    return write_fraction(work, <uint64_t>scaled, decimals, signbit(real) != 0)


cdef bint write_fraction(Work *work, uint64_t digits, int decimals, bint negative) except? False nogil:
    """digits * 10^-decimals with at least one digit on either side of the point."""
    cdef uint8_t text[NUMBER_NBYTES]
    cdef int count = <int>(write_digits(text, digits, False) - text)
    cdef int whole = count - decimals
    if negative:
        write(work, b"-", 1)
    if whole > 0:
        write(work, text, whole)
        write(work, b".", 1)
    else:
        write(work, b"0.", 2)
        write(work, b"000000000000000000", -whole)
    if decimals:
        write(work, text + (whole if whole > 0 else 0), count - (whole if whole > 0 else 0))
    else:
        write(work, b"0", 1)
    return True


# ---- texts

cdef const uint8_t *write_text(Work *work, const uint8_t *at, uint64_t length, const uint8_t *end) except? NULL nogil:
    cdef Text text
    cdef const uint8_t *plain
    if not fits(at, length, end):
        return NULL
    text.data = at
    text.length = length
    if not is_text(&text):
        return NULL
    end = at + length
    write(work, b'"', 1)
    while True:
        plain = plain_end(at, end)
        write(work, at, plain - at)
        if plain == end:
            break
        write_escape(work, plain[0])
        at = plain + 1
    write(work, b'"', 1)
    return end


cdef int write_escape(Work *work, uint8_t byte) except -1 nogil:
    """A quote, a backslash or a control character as encoders write it."""
    cdef char *digits = b"0123456789abcdef"
    cdef char *short = b"btn\0fr"           # from 0x08 to 0x0d
    cdef uint8_t escape[ESCAPE_NBYTES]
    escape[0] = b"\\"
    escape[1] = byte
    if byte == b'"' or byte == b"\\":
        return write(work, escape, 2)
    if 0x08 <= byte <= 0x0d and short[byte - 0x08]:
        escape[1] = <uint8_t>short[byte - 0x08]
        return write(work, escape, 2)
    escape[1] = b"u"
    escape[2] = escape[3] = b"0"
    escape[4], escape[5] = <uint8_t>digits[byte >> 4], <uint8_t>digits[byte & 0x0f]
    return write(work, escape, ESCAPE_NBYTES)


# ---- what holds other values

cdef const uint8_t *write_items(
    Work *work, const Value *value, const uint8_t *at, uint64_t count, const uint8_t *end, int depth
) except? NULL nogil:
    cdef uint64_t number
    write(work, b"[", 1)
    for number in range(count):
        write(work, b",", number != 0)
        at = write_packed(work, value, at, end, depth)
        if at == NULL:
            return NULL
    write(work, b"]", 1)
    return at


cdef const uint8_t *write_pairs(
    Work *work, const Value *value, const uint8_t *at, uint64_t count, const uint8_t *end, int depth
) except? NULL nogil:
    cdef KeySet keys
    cdef Text key
    cdef uint64_t number
    write(work, b"{", 1)
    keys_begin(work, &keys)
    for number in range(count):
        write(work, b",", number != 0)
        if at >= end or read_text(at, end, &key) == NULL or not key_is_new(work, &keys, &key):
            return NULL
        at = write_text(work, key.data, key.length, end)
        if at == NULL:
            return NULL
        write(work, b":", 1)
        at = write_packed(work, value, at, end, depth)
        if at == NULL:
            return NULL
    keys_end(work, &keys)
    write(work, b"}", 1)
    return at


cdef const uint8_t *write_struct(
    Work *work, const Object *object, const uint8_t *at, uint64_t count, const uint8_t *end, int depth
) except? NULL nogil:
    """The fields in their order, those that are missing with their defaults; other fields are passed over."""
    cdef size_t next = 0
    cdef size_t index
    cdef uint64_t _number
    write(work, b"{", 1)
    for _number in range(count):
        at = find_packed(object, next, at, end, &index)
        if at == NULL:
            return NULL
        if index == object.count:
            at = NULL if object.forbid_unknown else skip_packed(at, end, depth)
        elif index < next or not write_missing(work, object, next, index):
            return NULL
        else:
            write_name(work, object, index)
            at = write_packed(work, &object.fields[index].value, at, end, depth)
            next = index + 1
        if at == NULL:
            return NULL
    if not write_missing(work, object, next, object.count):
        return NULL
    write(work, b"}", 1)
    return at
