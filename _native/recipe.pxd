"""The recipe of a row: what is done with each value of a record. Made once from plain values, then only read, without
the GIL.

    Recipe (one row type) --> Object --> Field --> Value --> Value (elements, map values) or Object (nested Struct)
                                                     `----> Choice

A Value knows one action for each kind of JSON or MessagePack value; NOT_SURE leaves the record to msgspec. Actions are
chosen by what the contract accepts and by the column together, so that the hot path asks for neither.
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from _native.block cimport BlockBuilder
from _native.node cimport Columns

cdef enum Action:
    NOT_SURE = 0
    CHECK                   # the value is in no column: its syntax and type are all that matters
    ZEROED                  # null: the column's own zero, which in Nullable is NULL
    STORE_BOOL
    STORE_INT               # into a column whose numbers fit an int64
    STORE_UINT64
    STORE_BIGINT
    STORE_FLOAT64
    STORE_FLOAT32
    STORE_BFLOAT16
    STORE_DECIMAL           # a number or a text, by its digits
    STORE_EPOCH             # a number counted in the column's epoch unit
    STORE_STRING
    STORE_FIXED
    STORE_UUID
    STORE_TIME              # ISO 8601 text as the column reads it
    STORE_MOMENT            # RFC 3339 text as msgspec reads a datetime, or MessagePack's timestamp
    STORE_DAY               # RFC 3339 text as msgspec reads a date
    STORE_IPV4
    STORE_IPV6
    STORE_CHOICE            # one of the choices, which know what is stored
    STORE_ITEMS             # an array into an Array
    STORE_PAIRS             # an object into a Map
    STORE_RAW               # any value as the bytes it is
    STORE_JSON              # an array or object as the text the encoder would make of it
    # into JSON text
    WRITE_PLAIN             # null, true, false, an integer: as they are
    WRITE_FLOAT             # a number as a float, where the encoder would write its digits as they are
    WRITE_TEXT
    WRITE_ITEMS
    WRITE_PAIRS
    WRITE_STRUCT


cdef enum Missing:
    MISSING_NOT_SURE = 0    # its default cannot be foreseen, or it is not known what msgspec makes of it
    MISSING_NOTHING         # in no column
    MISSING_ZERO            # the column's own zero
    MISSING_STORED          # `stored` is the default
    MISSING_REFUSED         # required

cdef enum Refusal:          # what is surely refused, by msgspec or by the column; bits of Value.refuses
    REFUSES_NULL = 1
    REFUSES_TEXT = 2
    REFUSES_BROKEN_TEXT = 4  # text that is not UTF-8
    REFUSES_RANGE = 8       # integers outside of the bounds

cdef enum:
    FIELDS_MAX = 1024


cdef struct Choice:
    const uint8_t *name     # borrowed; NULL for an integer
    size_t name_nbytes
    int64_t number
    const uint8_t *stored   # borrowed: the value in the column
    size_t stored_nbytes


cdef struct Value:
    uint8_t on_null         # an Action for each kind of value
    uint8_t on_bool
    uint8_t on_int
    uint8_t on_float        # numbers with a point or an exponent
    uint8_t on_text
    uint8_t on_array
    uint8_t on_object
    uint8_t on_bytes        # MessagePack alone has these two
    uint8_t on_extension
    uint8_t refuses         # bits of Refusal; of the values that no action takes
    bint nullable           # the column is Nullable; what is stored goes into its child
    int64_t low             # bounds of STORE_INT
    int64_t high
    Choice *choices         # owned
    size_t choice_count
    Value *items            # owned; of elements and map values
    Object *object          # owned; of a nested Struct


cdef struct Field:
    const uint8_t *name     # borrowed: the name, `":`, zeros up to a whole 16 bytes
    uint32_t name_nbytes    # of the name alone
    uint32_t number         # its index in the object
    const uint8_t *packed   # borrowed: the key as MessagePack's shortest text, zeros up to a whole 16 bytes
    uint32_t packed_nbytes
    int32_t column          # index among the filled columns; -1 for none
    uint8_t on_missing      # a Missing
    bint is_key             # the column is a part of the event id
    const uint8_t *stored   # borrowed: the default as the column's leaf has it, or as JSON text
    size_t stored_nbytes
    Value value


cdef struct Object:
    Field *fields           # owned
    size_t count
    bint forbid_unknown
    bint strict             # what is no object is refused


cdef class Recipe:
    cdef BlockBuilder builder
    cdef Object object
    cdef bytes tag              # in UTF-8, followed by zeros up to a whole 16 bytes
    cdef size_t tag_nbytes
    cdef readonly object row_type
    cdef bint packed                # records are MessagePack
    cdef readonly list problems     # what is left to msgspec, and why
    cdef readonly bint usable       # some record can be taken
    cdef bint strict                # msgspec refuses what the plan does not take
    cdef list owned                 # the texts that names, choices and defaults borrow
    cdef set key_columns            # indexes of the columns the event id is made of

    cdef int build_object(self, Object *object, tuple fields, bint forbid, bint nested, str path) except -1
    cdef int build_field(self, Field *field, object plan, bint nested, str path) except -1
    cdef int build_missing(self, Field *field, object plan) except -1
    cdef int build_nested_missing(self, Field *field, object plan) except -1
    cdef int build_value(self, Value *value, object takes, object spec, object column, bint is_key, str path) except -1
    cdef int build_unstored(self, Value *value, object takes, str path) except -1
    cdef int build_packed(self, Value *value, object takes, object spec) except -1
    cdef int build_choices(self, Value *value, object takes, object spec, object column) except -1
    cdef int build_compound(self, Value *value, object takes, object spec, object column, str path) except -1
    cdef int build_json_of(self, Value *value, object takes, str path) except -1
    cdef int build_json(self, Value *value, object takes, str path) except -1
    cdef int build_json_compound(self, Value *value, object takes, str path) except -1
    cdef bytes stored_form(self, object spec, object column, object content)
    cdef const uint8_t *keep(self, bytes text)
