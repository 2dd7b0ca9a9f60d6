"""Nested values written anew as the JSON text that the encoder of the other lane would make of them."""

from libc.stdint cimport uint8_t

from _native.buffer cimport buffer_bytes
from _native.node cimport Node
from _native.recipe cimport MISSING_STORED, Field, Object, Value
from _native.work cimport Work


cdef inline int write(Work *work, const void *text, size_t nbytes) except -1 nogil:
    return buffer_bytes(&work.json, text, nbytes)


cdef inline int write_name(Work *work, const Object *object, size_t index) except -1 nogil:
    write(work, b',"', 2 if index else 0)
    if index == 0:
        write(work, b'"', 1)
    return write(work, object.fields[index].name, object.fields[index].name_nbytes + 2)


cdef inline int write_missing(Work *work, const Object *object, size_t first, size_t end) except -1 nogil:
    """The defaults of the fields `[first, end)`; 0 when one of them has none."""
    cdef size_t index
    cdef const Field *field
    for index in range(first, end):
        field = &object.fields[index]
        if field.on_missing != MISSING_STORED:
            return 0
        write_name(work, object, index)
        write(work, field.stored, field.stored_nbytes)
    return 1


cdef inline int repeat(Work *work, const uint8_t *text, const uint8_t *end) except -1 nogil:
    """Appends text that stays where it is, as in the record. Neighbours are copied at once, most values as they are."""
    if text != work.run_end:
        write_run(work)
        work.run = text
    work.run_end = end
    return 0


cdef inline int write_run(Work *work) except -1 nogil:
    write(work, work.run, work.run_end - work.run)
    work.run = work.run_end
    return 0


cdef const uint8_t *store_json(Work *work, const Value *value, Node *node, const uint8_t *at) except? NULL nogil
cdef const uint8_t *write_value(Work *work, const Value *value, const uint8_t *at, int depth) except? NULL nogil
