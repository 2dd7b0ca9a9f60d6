"""Data-plane consumer over librdkafka's C API, bound at run time to the library that confluent-kafka has loaded.

    Reader.poll --> rd_kafka_consume_batch_queue (no GIL) --> messages grouped by partition --> one Run per partition

    Run --owns--> messages[] (payload, key and headers stay where librdkafka decoded them)
     `----keeps alive--> Client --owns--> rd_kafka_t and its two queues

A message must be destroyed before its rd_kafka_t, and runs may outlive the reader: so each run holds the client, and
the last of them to go destroys it. No thread of librdkafka ever calls into Python: errors and logs of the client are
events on the main queue, polled by us, and the one callback, for errors met while a poll serves its queue, runs inside
that poll and only notes them down. Layouts and signatures are librdkafka's public ABI (rdkafka.h).
"""

from libc.stdint cimport int32_t, int64_t, uint8_t


cdef struct Message:                # rd_kafka_message_t
    int err                         # 0: a record; otherwise the error that stands in its place
    void *rkt                       # rd_kafka_topic_t; NULL when an error concerns the whole client
    int32_t partition
    void *payload                   # value, NULL for a tombstone; the error text when err != 0
    size_t len
    void *key                       # NULL when the record has none
    size_t key_len
    int64_t offset
    void *_private                  # librdkafka's own


cdef struct TopicPartition:         # rd_kafka_topic_partition_t
    char *topic
    int32_t partition
    int64_t offset
    void *metadata
    size_t metadata_size
    void *opaque
    int err
    void *_private


cdef struct Payload:
    const uint8_t *data             # borrowed; NULL for none
    size_t nbytes


cdef struct Seen:                   # what is wanted of a message, read in one pass: messages lie far apart in memory
    Py_ssize_t group                # index of its group, -1 for an error
    Payload payload
    int64_t offset
    int64_t timestamp


cdef struct Group:                  # the messages of one partition within one poll
    void *rkt
    int32_t partition
    Py_ssize_t count
    Py_ssize_t nbytes               # of all values
    Py_ssize_t largest_bytes        # of the largest value
    int64_t oldest_ms
    # of the Run
    Message **messages
    Payload *payloads
    int64_t *offsets
    int64_t *timestamps


cdef enum:
    NOTES_MAX = 64                  # further ones are dropped until the caller asks for events
    NOTE_BYTES = 512                # longer texts are cut


cdef struct Note:                   # what librdkafka told the error callback
    int code
    char text[NOTE_BYTES]


cdef struct Notes:
    int count
    Note items[NOTES_MAX]


cdef class Client:
    cdef Notes *notes               # owned; written only by the thread that polls or closes
    cdef void *rk                   # rd_kafka_t, owned
    cdef void *consumer_queue       # records, ends and errors of partitions, owned
    cdef void *main_queue           # logs and errors of the client, owned


cdef class Run:
    cdef Client client              # keeps rd_kafka_t alive until the messages are destroyed
    cdef Message **messages         # owned, `count` of them
    cdef Payload *payloads          # owned: of each message
    cdef Py_ssize_t count
    cdef list _values               # made when first asked for
    cdef readonly str topic
    cdef readonly int number        # of the partition
    cdef readonly object offsets    # array('q')
    cdef readonly object timestamps  # array('q'), milliseconds, -1 when the broker has none
    cdef readonly Py_ssize_t nbytes         # of all values
    cdef readonly Py_ssize_t largest_bytes  # of the largest value
    cdef readonly int64_t oldest_ms         # the earliest timestamp
    cdef public object partition    # whatever the caller puts here to name the partition
    cdef list _copy_values(self)
    cdef Message *_at(self, Py_ssize_t index) except NULL


cdef class Reader:
    cdef Client client              # None after close
    cdef Message **slots            # room for one poll, owned
    cdef Seen *seen                 # per slot; owned
    cdef Py_ssize_t records_max     # how many slots there are
    cdef Group *groups              # owned; grows with the number of partitions seen in one poll
    cdef Py_ssize_t groups_room
    cdef Py_ssize_t groups_count    # in use during one poll, otherwise 0
    cdef Py_ssize_t _fetch(self, Py_ssize_t records_max, int timeout_ms) noexcept nogil
    cdef Py_ssize_t _gather(self, Py_ssize_t records_max, int timeout_ms) noexcept nogil
    cdef int _look(self, Py_ssize_t count) except -1 nogil
    cdef void _hand_over(self, Py_ssize_t count) noexcept nogil
    cdef Py_ssize_t _group(self, Message *message) except -1 nogil
    cdef Run _run(self, Group *group)
    cdef void _drop(self, Py_ssize_t count) noexcept nogil
    cdef Client _open(self)
