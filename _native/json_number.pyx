"""The exponents of JSON numbers, which few numbers have. Owns nothing."""

from libc.stdint cimport uint8_t


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
