"""One MessagePack record into the columns of its row type, without the GIL."""

from libc.stdint cimport uint8_t

from _native.json_scan cimport Text
from _native.node cimport Node
from _native.recipe cimport Object
from _native.work cimport Work

cdef bint take_packed(Work *work, const Object *object, Node *nodes, size_t nbytes) except? False nogil
cdef bint find_packed_tag(
    Work *work, size_t nbytes, const uint8_t *name, size_t name_nbytes, Text *tag
) noexcept nogil
