"""Texts of times and addresses, without the GIL."""

from libc.stdint cimport uint8_t

cdef bint is_moment(const uint8_t *text, size_t nbytes) noexcept nogil
cdef bint read_ipv4(const uint8_t *text, size_t nbytes, uint8_t *stored) noexcept nogil
cdef bint read_ipv6(const uint8_t *text, size_t nbytes, uint8_t *stored) noexcept nogil
