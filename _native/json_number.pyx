"""JSON numbers. Owns nothing. Additions wrap nowhere; a number that could is called long and left alone."""

cimport cython
from libc.stdint cimport INT64_MAX, UINT64_MAX, int64_t, uint8_t, uint64_t

from _native.json_scan cimport MINUS, NINE, ZERO, digits8, load8, number8

cdef enum:
    EXPONENT_MAX = 100_000
    POINT = 0x2e
    PLUS = 0x2b

cdef uint64_t HUNDRED_BILLIONS = 10 ** 11
cdef double[23] TENS
cdef int _power
for _power in range(23):
    TENS[_power] = 10.0 ** _power


@cython.overflowcheck(False)
cdef inline const uint8_t *read_digits(const uint8_t *at, Numeral *numeral) noexcept nogil:
    """Digits, appended to those there are."""
    cdef uint64_t digits = numeral.digits
    cdef uint64_t word = load8(at)
    cdef uint64_t digit
    while digits8(word):
        if digits >= HUNDRED_BILLIONS:
            break
        digits = digits * 100_000_000 + number8(word)
        at += 8
        word = load8(at)
    while ZERO <= at[0] <= NINE:
        digit = at[0] - <uint64_t>ZERO
        if digits > (UINT64_MAX - digit) // 10:
            numeral.long = True
        digits = digits * 10 + digit
        at += 1
    numeral.digits = digits
    return at


cdef const uint8_t *read_number(const uint8_t *at, Numeral *numeral) noexcept nogil:
    """After the number that begins at `at`; NULL when there is none. A leading zero stands alone."""
    cdef const uint8_t *first
    numeral.start = at
    numeral.digits = 0
    numeral.exponent = 0
    numeral.long = False
    numeral.integer = True
    numeral.negative = at[0] == MINUS
    if numeral.negative:
        at += 1
    if not ZERO <= at[0] <= NINE:
        return NULL
    if at[0] == ZERO:
        at += 1
        if ZERO <= at[0] <= NINE:
            return NULL
    else:
        at = read_digits(at, numeral)
    if at[0] == POINT:
        numeral.integer = False
        first = at + 1
        at = read_digits(first, numeral)
        if at == first:
            return NULL
        numeral.exponent = <int>(first - at)
    if at[0] == b"e" or at[0] == b"E":
        numeral.integer = False
        return read_exponent(at + 1, numeral)
    return at


cdef const uint8_t *read_exponent(const uint8_t *at, Numeral *numeral) noexcept nogil:
    cdef bint negative = at[0] == MINUS
    cdef int exponent = 0
    if at[0] == MINUS or at[0] == PLUS:
        at += 1
    if not ZERO <= at[0] <= NINE:
        return NULL
    while ZERO <= at[0] <= NINE:
        if exponent < EXPONENT_MAX:
            exponent = exponent * 10 + (at[0] - <int>ZERO)
        at += 1
    numeral.exponent = numeral.exponent + (-exponent if negative else exponent)
    return at


cdef bint to_double(const Numeral *numeral, double *number) noexcept nogil:
    """The nearest double, where one exact product or quotient of two exact doubles gives it (Clinger 1990); else false.

    A zero without point and exponent keeps no sign, as in msgspec.
    """
    cdef double value
    if numeral.long or numeral.digits > <uint64_t>1 << 53 or numeral.exponent < -22 or numeral.exponent > 22:
        return False
    value = <double>numeral.digits
    if numeral.exponent < 0:
        value /= TENS[-numeral.exponent]
    else:
        value *= TENS[numeral.exponent]
    number[0] = -value if numeral.negative and (numeral.digits or not numeral.integer) else value
    return True


cdef bint to_int64(const Numeral *numeral, int64_t *number) noexcept nogil:
    """The number where it is an integer that fits; else false."""
    if not numeral.integer or numeral.long or numeral.digits > <uint64_t>INT64_MAX:
        return False
    number[0] = -<int64_t>numeral.digits if numeral.negative else <int64_t>numeral.digits
    return True
