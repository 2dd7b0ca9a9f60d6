"""Numbers and texts into columns that need more than a copy: false where the value does not fit. Owns nothing.

It is a module of its own so that the compiler does not mix it into the loop over the commonest kinds (take.pyx).
"""

cimport cython
from libc.math cimport isinf, isnan
from libc.stdint cimport int64_t, uint8_t, uint32_t, uint64_t
from libc.string cimport memcpy

from _native.buffer cimport buffer_bytes, buffer_string, buffer_word, buffer_zeros
from _native.decimals cimport DIGITS_MAX, Number, parse_number, scale_number, uint128
from _native.json_number cimport Numeral, to_double, to_int64
from _native.json_scan cimport Text, same_bytes
from _native.node cimport Node
from _native.pack_scan cimport big_endian
from _native.recipe cimport *
from _native.scalar cimport parse_uuid, store_uuid
from _native.temporal cimport Instant, epoch_instant, read_iso, store_instant
from _native.text cimport is_moment, read_ipv4, read_ipv6

cdef enum:
    EXPONENT_MAX = 1000     # of decimals; further ones are left to Python's
    DAY_NBYTES = 10
    BFLOAT16_NAN = 0x7fc0
    NANOS_END = 1_000_000_000
    NANOS_ROUNDED = 1_000   # a finer time is rounded by msgspec

cdef uint64_t SECONDS_34 = (<uint64_t>1 << 34) - 1


# ---- numbers

cdef bint store_number(
    const Value *value, Node *node, uint8_t action, const Numeral *numeral, const uint8_t *end
) except? False nogil:
    cdef int64_t number
    cdef Instant instant
    cdef double real
    if action == STORE_DECIMAL:
        return store_decimal(node, numeral.start, end - numeral.start)
    if action == STORE_UINT64:
        buffer_word(&node.data, numeral.digits, 8)
        return not numeral.negative
    if action == STORE_BIGINT:
        return store_bigint(node, numeral)
    if action == STORE_EPOCH:
        if not to_int64(numeral, &number):
            return False
        epoch_instant(number, node.epoch_digits, &instant)
        return store_instant(node, &instant) == 0
    if action == STORE_CHOICE:
        return to_int64(numeral, &number) and store_numbered(value, node, number)
    if action == CHECK:
        return numeral.integer or to_double(numeral, &real)
    return to_double(numeral, &real) and store_double(node, action, real)


cdef bint store_double(Node *node, uint8_t action, double real) except? False nogil:
    cdef uint64_t word
    cdef uint32_t bits
    cdef float single
    if action == STORE_FLOAT64:
        memcpy(&word, &real, 8)
        buffer_word(&node.data, word, 8)
        return True
    single = <float>real
    if isinf(single) and not isinf(real):
        return False
    memcpy(&bits, &single, 4)
    if action == STORE_FLOAT32:
        buffer_word(&node.data, bits, 4)
    else:
        buffer_word(&node.data, BFLOAT16_NAN if isnan(single) else bits >> 16, 2)
    return True


@cython.overflowcheck(False)
cdef bint store_bigint(Node *node, const Numeral *numeral) except? False nogil:
    """An integer of 64 bits and its sign into 128 or 256 bits."""
    cdef uint64_t low = numeral.digits
    cdef uint64_t rest = 0
    cdef size_t width = 8
    if numeral.negative:
        if not node.is_signed:
            return False
        low, rest = -low, <uint64_t>-1
    buffer_word(&node.data, low, 8)
    while width < node.width:
        buffer_word(&node.data, rest, 8)
        width += 8
    return True


cdef bint store_decimal(Node *node, const uint8_t *text, size_t nbytes) except? False nogil:
    cdef Number number
    cdef uint128 scaled
    if not parse_number(<const char *>text, nbytes, &number) or number.count > DIGITS_MAX:
        return False
    if number.exponent > EXPONENT_MAX or number.exponent < -EXPONENT_MAX:
        return False
    if not scale_number(node, &number, False, &scaled):
        return False
    buffer_bytes(&node.data, &scaled, node.width)
    return True


cdef bint store_numbered(const Value *value, Node *node, int64_t number) except? False nogil:
    cdef size_t index
    cdef const Choice *choice
    for index in range(value.choice_count):
        choice = &value.choices[index]
        if choice.name == NULL and choice.number == number:
            if node != NULL:
                buffer_bytes(&node.data, choice.stored, choice.stored_nbytes)
            return True
    return False


# ---- texts

cdef bint store_text(const Value *value, Node *node, const Text *text) except? False nogil:
    cdef uint8_t stored[16]
    cdef uint8_t action = value.on_text
    if action == STORE_CHOICE:
        return store_named(value, node, text)
    if action == STORE_FIXED:
        return store_fixed(node, text)
    if action == STORE_UUID:
        if not parse_uuid(<const char *>text.data, text.length, stored):
            return False
        store_uuid(node, stored)
        return True
    if action == STORE_DECIMAL:
        return store_decimal(node, text.data, text.length)
    if action == STORE_IPV4:
        if not read_ipv4(text.data, text.length, stored):
            return False
        buffer_bytes(&node.data, stored, 4)
        return True
    if action == STORE_IPV6:
        if not read_ipv6(text.data, text.length, stored):
            return False
        buffer_bytes(&node.data, stored, 16)
        return True
    return True if action == CHECK else store_time(node, action, text)


cdef bint store_fixed(Node *node, const Text *text) except? False nogil:
    if text.length > node.width:
        return False
    buffer_bytes(&node.data, text.data, text.length)
    buffer_zeros(&node.data, node.width - text.length)
    return True


cdef bint store_time(Node *node, uint8_t action, const Text *text) except? False nogil:
    cdef Instant instant
    if action == STORE_MOMENT and not is_moment(text.data, text.length):
        return False
    if action == STORE_DAY and text.length != DAY_NBYTES:
        return False
    return read_iso(<const char *>text.data, text.length, &instant) and store_instant(node, &instant) == 0


cdef bint store_named(const Value *value, Node *node, const Text *text) except? False nogil:
    cdef size_t index
    cdef const Choice *choice
    for index in range(value.choice_count):
        choice = &value.choices[index]
        if choice.name == NULL or choice.name_nbytes != text.length:
            continue
        if same_bytes(text.data, choice.name, text.length):
            if node != NULL:
                buffer_bytes(&node.data, choice.stored, choice.stored_nbytes)
            return True
    return False


# ---- what MessagePack has and JSON has not

cdef bint store_packed_bytes(Node *node, uint8_t action, const Text *text) except? False nogil:
    cdef uint8_t number[16]
    cdef int index
    if action == STORE_STRING:
        buffer_string(&node.data, text.data, text.length)
        return True
    if action == STORE_FIXED:
        return store_fixed(node, text)
    if action == STORE_UUID:
        if text.length != 16:
            return False
        for index in range(16):
            number[index] = text.data[15 - index]
        store_uuid(node, number)
        return True
    return action == CHECK


cdef bint store_stamp(Node *node, const uint8_t *data, size_t nbytes) except? False nogil:
    """MessagePack's timestamp: seconds of 32 bits; nanoseconds of 30 bits and seconds of 34; or of 32 and 64 bits."""
    cdef Instant instant
    if nbytes == 4:
        instant.seconds = <int64_t>big_endian(data, 4)
        instant.nanos = 0
    elif nbytes == 8:
        instant.seconds = <int64_t>(big_endian(data, 8) & SECONDS_34)
        instant.nanos = <int64_t>(big_endian(data, 8) >> 34)
    elif nbytes == 12:
        instant.nanos = <int64_t>big_endian(data, 4)
        instant.seconds = <int64_t>big_endian(data + 4, 8)
    else:
        return False
    if instant.nanos >= NANOS_END or instant.nanos % NANOS_ROUNDED:
        return False
    return store_instant(node, &instant) == 0
