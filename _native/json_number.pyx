"""What few JSON numbers have: an exponent, more than 11 digits and others behind them. Owns nothing."""

cimport cython
from libc.stdint cimport uint8_t, uint64_t


cdef const uint8_t *read_exponent(const uint8_t *at, Numeral *numeral) noexcept nogil:
    cdef bint negative = at[0] == MINUS
    cdef int exponent = 0
    if at[0] == MINUS or at[0] == PLUS:
        at += 1
    if not ZERO <= at[0] <= NINE:
        return NULL
    while ZERO <= at[0] <= NINE:
        if exponent < NUMBER_EXPONENT_MAX:
            exponent = exponent * 10 + (at[0] - <int>ZERO)
        at += 1
    numeral.exponent = numeral.exponent + (-exponent if negative else exponent)
    return at


@cython.overflowcheck(False)
cdef const uint8_t *read_last_digits(const uint8_t *at, Numeral *numeral) noexcept nogil:
    """Digit by digit, up to the largest number that fits."""
    cdef uint64_t digits = numeral.digits
    cdef uint64_t digit
    while ZERO <= at[0] <= NINE:
        digit = at[0] - <uint64_t>ZERO
        if digits >= TENTH_MAX and (digits > TENTH_MAX or digit > 5):
            numeral.long = True
        digits = digits * 10 + digit
        at += 1
    numeral.digits = digits
    return at
