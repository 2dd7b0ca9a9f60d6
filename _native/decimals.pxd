"""Decimal text as a 128-bit integer and a power of ten."""

from _native.node cimport Node

cdef extern from *:
    """
    typedef unsigned __int128 penstock_uint128;
    typedef __int128 penstock_int128;
    """
    ctypedef unsigned long long uint128 "penstock_uint128"
    ctypedef long long int128 "penstock_int128"


cdef enum:
    DIGITS_MAX = 38     # decimal digits that always fit 128 bits


cdef struct Number:
    uint128 digits      # the digits read as one integer; meaningless when `count` is over DIGITS_MAX
    int count           # digits without leading zeros; 0 for zero
    int exponent        # the value is digits * 10^exponent
    bint negative


cdef bint parse_number(const char *text, Py_ssize_t length, Number *number) noexcept nogil
cdef uint128 power_of_ten(int exponent) noexcept nogil
cdef bint scale_number(const Node *node, const Number *number, bint rounding, uint128 *stored) noexcept nogil
cdef int put_decimal(Node *node, object value) except -1
