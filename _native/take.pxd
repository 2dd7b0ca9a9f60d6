"""One JSON record into the columns of its row type, without the GIL."""

from libc.stdint cimport uint8_t

from _native.node cimport Node
from _native.recipe cimport Object
from _native.work cimport Work

cdef bint take_record(Work *work, const Object *object, Node *nodes, size_t nbytes) except? False nogil
cdef bint take_missing(Work *work, const Object *object, Node *nodes, const uint8_t *seen) except? False nogil
