"""The native lane: records of one run from bytes to columns in one pass, without the GIL.

    payload --copy--> Work.record --take_record--> columns --event id, from the columns' bytes--> claim --> kept
                                        |                                                           `-----> taken back
                                        `--> not sure: taken back, and handed over at its place in the order
"""

from libc.stdint cimport int32_t, int64_t, uint8_t, uint32_t, uint64_t

from _native.buffer cimport Buffer
from _native.claims cimport ClaimTable
from _native.json_scan cimport Text
from _native.lineage cimport Origins
from _native.node cimport Node
from _native.reader cimport Payload
from _native.recipe cimport Object
from _native.siphash cimport Id, SipKey
from _native.table cimport Table
from _native.work cimport Work

cdef enum:
    KEY_COLUMNS_MAX = 16
    GROUP = 8               # records whose claims are looked ahead for together, so that they wait for memory at once
    PAYLOADS_AHEAD = 20     # records by which payloads are asked for in advance: two groups and some


cdef struct Ahead:          # what was found where the event id of a record may be
    size_t key_at           # bytes before the text of a UUID; 0 when there is none
    uint64_t halves[2]      # the UUID, as read_uuid has it
    uint64_t hash           # of the event id


cdef struct Route:          # one row type during a call
    size_t number           # index of its recipe
    const Object *object    # NULL when no record of the type can be taken
    const uint8_t *tag      # borrowed
    size_t tag_nbytes
    Node *nodes             # the columns of the builder's block in the making
    size_t columns
    Origins *origins
    size_t *rows            # the builder's
    int32_t topic           # the run's topic in the builder's lineage; -1 until a row is kept
    Id mask                 # of the builder's domain
    size_t key_indexes[KEY_COLUMNS_MAX]
    size_t key_count
    bint key_is_uuid
    size_t key_hint         # bytes before the key's text in the last record that had one


# What depends on the format of the records: take_record and find_tag, or their twins for MessagePack.
ctypedef bint (*Take)(Work *work, const Object *object, Node *nodes, size_t nbytes) except? False nogil
ctypedef bint (*FindTag)(
    Work *work, size_t nbytes, const uint8_t *name, size_t name_nbytes, Text *tag
) noexcept nogil


cdef class Part:
    cdef readonly object run        # vocabulary.Run
    cdef public object records      # a Run of messages, or what has `values`; None once they are taken
    cdef readonly size_t first      # index of the part's first record in them
    cdef readonly object keys       # a key or None for each record, or None
    cdef readonly bytes flags       # not 0 where a record is left out, or None
    cdef readonly bytearray statuses
    cdef readonly size_t unexplained


cdef class RecordLane:
    cdef list recipes
    cdef Route *routes      # owned, one a recipe
    cdef size_t route_count
    cdef bytes tag_text     # keeps `tag_name`
    cdef const uint8_t *tag_name    # the union's tag field, followed by zeros; NULL outside a union
    cdef size_t tag_nbytes
    cdef bint packed        # records are MessagePack
    cdef Take take_record
    cdef FindTag find_tag
    cdef Work work          # owned
    cdef Buffer collected   # owned: a Payload for each record that is no message
    cdef Buffer explicit    # owned: a Payload for each explicit key
    cdef Buffer key         # owned: the key of one row, in RowBinary
    # of the call that is running
    cdef size_t nbytes_max
    cdef str topic
    cdef Table *table       # NULL: every row that fits is kept
    cdef SipKey secret
    cdef bint keyless       # a row type has no key columns
    # of the part that is being taken
    cdef size_t count
    cdef const Payload *payloads
    cdef const int64_t *offsets
    cdef const int64_t *timestamps
    cdef uint8_t *status
    cdef size_t unexplained  # records that were marked as such
    cdef const uint8_t *left_out    # a flag for each record, or NULL
    cdef int32_t partition
    cdef uint32_t slot
    cdef bint keyed         # the event ids come from `explicit`
    cdef Ahead ahead[2 * GROUP]  # of this group of records and the next, by their index modulo its length

    cdef bint take_part(self, Part part, hand_over) except -1
    cdef int begin(self, Part part, ClaimTable claims) except -1
    cdef int open(self, str topic, ClaimTable claims) except -1
    cdef int open_route(self, Route *route, object recipe, ClaimTable claims) except -1
    cdef int open_topic(self, Route *route) except -1 with gil
    cdef int collect(self, Part part) except -1
    cdef size_t go(self, size_t index) except? 0 nogil
    cdef bint take_one(self, size_t index) except? False nogil
    cdef Route *route_of(self, size_t nbytes) noexcept nogil
    cdef int keep(self, Route *route, size_t index) except -1 nogil
    cdef bint event_id(self, Route *route, size_t index, Id *id) except? False nogil
    cdef void look_ahead(self, size_t index) noexcept nogil
    cdef void foresee_group(self, size_t first) noexcept nogil
    cdef void ask_for_entries(self, size_t first) noexcept nogil
    cdef bint foresee(self, const Payload *payload, Ahead *ahead) noexcept nogil
