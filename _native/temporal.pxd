"""Dates and times into column nodes."""

from libc.stdint cimport int64_t

from _native.node cimport Node

cdef int64_t SECONDS_LOW        # 1900-01-01 00:00:00
cdef int64_t SECONDS_HIGH       # 2299-12-31 23:59:59


cdef struct Instant:
    int64_t seconds     # since the epoch, rounded down
    int64_t nanos       # 0 to 999,999,999


cdef int put_temporal(Node *node, object value) except -1
cdef bint read_iso(const char *text, size_t length, Instant *instant) noexcept nogil
cdef void epoch_instant(int64_t number, int epoch_digits, Instant *instant) noexcept nogil
cdef int store_instant(Node *node, const Instant *instant) except -1 nogil
