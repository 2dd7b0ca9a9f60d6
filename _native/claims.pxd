"""The claim table as Python sees it. The table itself is drawn in table.pxd."""

from libc.stdint cimport uint32_t

from _native.siphash cimport SipKey
from _native.table cimport Table


cdef class ClaimTable:
    cdef Table table
    cdef SipKey secret      # key of event ids
    cdef readonly object ids_max

    cdef uint32_t slot_index(self, object handle) except? 0xffffffff
