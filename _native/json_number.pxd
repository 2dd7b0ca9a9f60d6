"""JSON numbers: their digits, and the double nearest to them. Inline: a record is mostly numbers and strings."""

from libc.stdint cimport INT64_MAX, int64_t, uint8_t, uint64_t

from _native.json_scan cimport MINUS, NINE, ZERO, digits8, load8, number8

cdef extern from *:
    """
    static const double penstock_tens[23] = {
        1e0, 1e1, 1e2, 1e3, 1e4, 1e5, 1e6, 1e7, 1e8, 1e9, 1e10, 1e11, 1e12, 1e13, 1e14, 1e15, 1e16, 1e17, 1e18, 1e19,
        1e20, 1e21, 1e22,
    };
    static const uint64_t penstock_powers[9] = {1, 10, 100, 1000, 10000, 100000, 1000000, 10000000, 100000000};
    #define PENSTOCK_HUNDRED_BILLIONS UINT64_C(100000000000)
    #define PENSTOCK_TENTH_MAX UINT64_C(1844674407370955161)
    """
    const double *TENS "penstock_tens"
    const uint64_t *POWERS "penstock_powers"
    const uint64_t HUNDRED_BILLIONS "PENSTOCK_HUNDRED_BILLIONS"
    const uint64_t TENTH_MAX "PENSTOCK_TENTH_MAX"    # the largest number that takes any further digit but 6 to 9

cdef enum:
    NUMBER_EXPONENT_MAX = 100_000
    POINT = 0x2e
    PLUS = 0x2b


cdef struct Numeral:
    const uint8_t *start    # its first byte
    uint64_t digits         # all digits as one integer; meaningless when `long`
    int exponent            # the value is digits * 10^exponent
    bint negative
    bint integer            # neither a point nor an exponent
    bint long               # the digits do not fit


cdef const uint8_t *read_exponent(const uint8_t *at, Numeral *numeral) noexcept nogil
cdef const uint8_t *read_last_digits(const uint8_t *at, Numeral *numeral) noexcept nogil


cdef inline const uint8_t *read_digits(const uint8_t *at, Numeral *numeral) noexcept nogil:
    """Digits, appended to those there are."""
    cdef uint64_t word
    cdef int count
    while numeral.digits < HUNDRED_BILLIONS:
        word = load8(at)
        count = digits8(word)
        if count:
            numeral.digits = numeral.digits * POWERS[count] + number8(word, count)
        at += count
        if count < 8:
            return at
    return read_last_digits(at, numeral)


cdef inline const uint8_t *read_number(const uint8_t *at, Numeral *numeral) noexcept nogil:
    """After the number that begins at `at`; NULL when there is none. A leading zero stands alone."""
    cdef const uint8_t *first
    cdef uint64_t word
    cdef int count
    numeral.start = at
    numeral.exponent = 0
    numeral.long = False
    numeral.integer = True
    numeral.negative = at[0] == MINUS
    at += numeral.negative
    word = load8(at)
    count = digits8(word)
    if count == 0 or (at[0] == ZERO and count > 1):
        return NULL
    numeral.digits = number8(word, count)
    at += count
    if count == 8:
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


cdef inline bint to_double(const Numeral *numeral, double *number) noexcept nogil:
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


cdef inline bint to_int64(const Numeral *numeral, int64_t *number) noexcept nogil:
    """The number where it is an integer that fits; else false."""
    if not numeral.integer or numeral.long or numeral.digits > <uint64_t>INT64_MAX:
        return False
    number[0] = -<int64_t>numeral.digits if numeral.negative else <int64_t>numeral.digits
    return True
