"""JSON numbers: their digits, and the double nearest to them."""

from libc.stdint cimport int64_t, uint8_t, uint64_t

cdef struct Numeral:
    const uint8_t *start    # its first byte
    uint64_t digits         # all digits as one integer; meaningless when `long`
    int exponent            # the value is digits * 10^exponent
    bint negative
    bint integer            # neither a point nor an exponent
    bint long               # the digits do not fit


cdef const uint8_t *read_number(const uint8_t *at, Numeral *numeral) noexcept nogil
cdef bint to_double(const Numeral *numeral, double *number) noexcept nogil
cdef bint to_int64(const Numeral *numeral, int64_t *number) noexcept nogil
