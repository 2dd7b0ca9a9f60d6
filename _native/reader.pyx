"""Data-plane consumer over librdkafka's C API; reader.pxd draws who owns what."""

cimport cython
from cpython cimport array
from cpython.bytes cimport PyBytes_AS_STRING, PyBytes_FromStringAndSize
from cpython.list cimport PyList_New, PyList_SET_ITEM
from cpython.ref cimport Py_INCREF
from libc.stdint cimport INT64_MAX, int32_t, int64_t, uint8_t
from libc.stdlib cimport calloc, free, malloc, realloc
from libc.string cimport memcpy, strncpy

from _native.dynamic cimport find_symbol, loaded

import array as _array

cdef extern from "<sys/types.h>" nogil:
    ctypedef long ssize_t

cdef extern from *:
    """
    #include <time.h>
    static void penstock_pause(long microseconds) {
        struct timespec time = {0, microseconds * 1000};
        nanosleep(&time, NULL);
    }
    """
    void pause "penstock_pause"(long microseconds) noexcept nogil

ctypedef Message *MessagePointer
ctypedef Notes *NotesPointer

# -- librdkafka, bound at run time (rdkafka.h; every function may be called from any thread) ---------------------------

ctypedef void (*ErrorCallback)(void *rk, int err, const char *reason, void *opaque) noexcept nogil

cdef struct Api:
    int (*version)() noexcept nogil
    const char *(*version_str)() noexcept nogil
    const char *(*err2name)(int err) noexcept nogil
    void *(*conf_new)() noexcept nogil
    void (*conf_destroy)(void *conf) noexcept nogil
    int (*conf_set)(void *conf, const char *name, const char *value, char *errstr, size_t errstr_size) noexcept nogil
    void (*conf_set_events)(void *conf, int events) noexcept nogil
    void (*conf_set_error_cb)(void *conf, ErrorCallback callback) noexcept nogil
    void (*conf_set_opaque)(void *conf, void *opaque) noexcept nogil
    void *(*new)(int type, void *conf, char *errstr, size_t errstr_size) noexcept nogil
    void (*destroy)(void *rk) noexcept nogil
    int (*consumer_close)(void *rk) noexcept nogil
    int (*set_log_queue)(void *rk, void *queue) noexcept nogil
    void *(*queue_get_consumer)(void *rk) noexcept nogil
    void *(*queue_get_main)(void *rk) noexcept nogil
    void (*queue_destroy)(void *queue) noexcept nogil
    void (*queue_yield)(void *queue) noexcept nogil
    void *(*queue_poll)(void *queue, int timeout_ms) noexcept nogil
    ssize_t (*consume_batch_queue)(void *queue, int timeout_ms, Message **messages, size_t size) noexcept nogil
    int (*assign)(void *rk, const void *partitions) noexcept nogil
    void *(*topic_partition_list_new)(int size) noexcept nogil
    TopicPartition *(*topic_partition_list_add)(void *list, const char *topic, int32_t partition) noexcept nogil
    void (*topic_partition_list_destroy)(void *list) noexcept nogil
    const char *(*topic_name)(const void *rkt) noexcept nogil
    void (*message_destroy)(Message *message) noexcept nogil
    int64_t (*message_timestamp)(const Message *message, int *type) noexcept nogil
    const char *(*message_errstr)(const Message *message) noexcept nogil
    int (*message_headers)(const Message *message, void **headers) noexcept nogil
    int (*header_get_all)(
        const void *headers, size_t index, const char **name, const void **value, size_t *size
    ) noexcept nogil
    int (*event_type)(const void *event) noexcept nogil
    int (*event_error)(void *event) noexcept nogil
    const char *(*event_error_string)(void *event) noexcept nogil
    int (*event_log)(void *event, const char **facility, const char **text, int *level) noexcept nogil
    void (*event_destroy)(void *event) noexcept nogil

cdef enum:
    COMPANY_US = 3_000                  # a poll that finds little waits so long for more
    RD_KAFKA_CONSUMER = 1
    RD_KAFKA_EVENT_LOG = 0x4
    RD_KAFKA_EVENT_ERROR = 0x8
    PARTITION_EOF = -191                # RD_KAFKA_RESP_ERR__PARTITION_EOF
    VERSION_MIN = 0x020f0000            # 2.15.0, the lowest this project supports (0xMMmmrrpp)
    ERRSTR_BYTES = 512

cdef Api api
cdef bint bound = False
cdef array.array LONGS = _array.array("q")


cdef int resolve(void *handle, const char *symbol, void **slot) except -1:
    return find_symbol(handle, symbol, slot, 'Set kafka.reader = "confluent", or install the confluent-kafka wheel')


def bind(str extension_path not None):
    """Binds to the librdkafka that the extension module at `extension_path` is linked with; returns its version text.

    The extension must be loaded already."""
    global bound
    if bound:
        return api.version_str().decode()
    cdef void *handle = loaded(extension_path)
    resolve(handle, "rd_kafka_version", <void **>&api.version)
    resolve(handle, "rd_kafka_version_str", <void **>&api.version_str)
    if api.version() < VERSION_MIN:
        raise ImportError(f"librdkafka {api.version_str().decode()} is too old for the native reader; 2.15.0 is needed")
    bind_client(handle)
    bind_records(handle)
    bound = True
    return api.version_str().decode()


cdef int bind_client(void *handle) except -1:
    resolve(handle, "rd_kafka_err2name", <void **>&api.err2name)
    resolve(handle, "rd_kafka_conf_new", <void **>&api.conf_new)
    resolve(handle, "rd_kafka_conf_destroy", <void **>&api.conf_destroy)
    resolve(handle, "rd_kafka_conf_set", <void **>&api.conf_set)
    resolve(handle, "rd_kafka_conf_set_events", <void **>&api.conf_set_events)
    resolve(handle, "rd_kafka_conf_set_error_cb", <void **>&api.conf_set_error_cb)
    resolve(handle, "rd_kafka_conf_set_opaque", <void **>&api.conf_set_opaque)
    resolve(handle, "rd_kafka_new", <void **>&api.new)
    resolve(handle, "rd_kafka_destroy", <void **>&api.destroy)
    resolve(handle, "rd_kafka_consumer_close", <void **>&api.consumer_close)
    resolve(handle, "rd_kafka_set_log_queue", <void **>&api.set_log_queue)
    resolve(handle, "rd_kafka_queue_get_consumer", <void **>&api.queue_get_consumer)
    resolve(handle, "rd_kafka_queue_get_main", <void **>&api.queue_get_main)
    resolve(handle, "rd_kafka_queue_destroy", <void **>&api.queue_destroy)
    resolve(handle, "rd_kafka_queue_yield", <void **>&api.queue_yield)
    resolve(handle, "rd_kafka_queue_poll", <void **>&api.queue_poll)
    resolve(handle, "rd_kafka_assign", <void **>&api.assign)
    resolve(handle, "rd_kafka_topic_partition_list_new", <void **>&api.topic_partition_list_new)
    resolve(handle, "rd_kafka_topic_partition_list_add", <void **>&api.topic_partition_list_add)
    resolve(handle, "rd_kafka_topic_partition_list_destroy", <void **>&api.topic_partition_list_destroy)
    return 0


cdef int bind_records(void *handle) except -1:
    resolve(handle, "rd_kafka_consume_batch_queue", <void **>&api.consume_batch_queue)
    resolve(handle, "rd_kafka_topic_name", <void **>&api.topic_name)
    resolve(handle, "rd_kafka_message_destroy", <void **>&api.message_destroy)
    resolve(handle, "rd_kafka_message_timestamp", <void **>&api.message_timestamp)
    resolve(handle, "rd_kafka_message_errstr", <void **>&api.message_errstr)
    resolve(handle, "rd_kafka_message_headers", <void **>&api.message_headers)
    resolve(handle, "rd_kafka_header_get_all", <void **>&api.header_get_all)
    resolve(handle, "rd_kafka_event_type", <void **>&api.event_type)
    resolve(handle, "rd_kafka_event_error", <void **>&api.event_error)
    resolve(handle, "rd_kafka_event_error_string", <void **>&api.event_error_string)
    resolve(handle, "rd_kafka_event_log", <void **>&api.event_log)
    resolve(handle, "rd_kafka_event_destroy", <void **>&api.event_destroy)
    return 0


cdef str text(const char *chars):
    return "" if chars == NULL else chars.decode("utf-8", "replace")


# -- the client -------------------------------------------------------------------------------------------------------

cdef class Client:
    """One rd_kafka_t. Destroyed with its last reference, which a reader or any of its runs may hold."""

    def __dealloc__(self):
        with nogil:
            if self.main_queue != NULL:
                api.queue_destroy(self.main_queue)
            if self.consumer_queue != NULL:
                api.queue_destroy(self.consumer_queue)
            if self.rk != NULL:
                api.destroy(self.rk)
            free(self.notes)


cdef void note_error(void *rk, int err, const char *reason, void *opaque) noexcept nogil:
    """The error callback. Called inside consume_batch_queue or consumer_close by the thread that called those."""
    cdef NotesPointer notes = <NotesPointer>opaque
    if notes.count < NOTES_MAX:
        notes.items[notes.count].code = err
        strncpy(notes.items[notes.count].text, reason, NOTE_BYTES - 1)
        notes.count += 1


cdef Client open_client(dict properties):
    cdef char errstr[ERRSTR_BYTES]
    cdef Client client = Client.__new__(Client)
    client.notes = <NotesPointer>calloc(1, sizeof(Notes))
    if client.notes == NULL:
        raise MemoryError
    cdef void *conf = configuration(properties)
    api.conf_set_events(conf, RD_KAFKA_EVENT_ERROR | RD_KAFKA_EVENT_LOG)
    api.conf_set_error_cb(conf, note_error)
    api.conf_set_opaque(conf, client.notes)
    with nogil:
        client.rk = api.new(RD_KAFKA_CONSUMER, conf, errstr, ERRSTR_BYTES)
    if client.rk == NULL:
        # On failure, and only then, the configuration is still ours.
        api.conf_destroy(conf)
        raise ValueError(text(errstr))
    client.consumer_queue = api.queue_get_consumer(client.rk)
    client.main_queue = api.queue_get_main(client.rk)
    # NULL: logs go to the main queue.
    if client.consumer_queue == NULL or client.main_queue == NULL or api.set_log_queue(client.rk, NULL) != 0:
        raise MemoryError("librdkafka gave no queues")
    return client


cdef void *configuration(dict properties) except NULL:
    cdef char errstr[ERRSTR_BYTES]
    cdef void *conf = api.conf_new()
    cdef bytes name, value
    if conf == NULL:
        raise MemoryError
    try:
        for key, given in [*properties.items(), ("log.queue", True)]:
            name = str(key).encode()
            value = (str(given).lower() if isinstance(given, bool) else str(given)).encode()
            if api.conf_set(conf, name, value, errstr, ERRSTR_BYTES) != 0:
                raise ValueError(text(errstr))
    except BaseException:
        api.conf_destroy(conf)
        raise
    return conf


# -- records ----------------------------------------------------------------------------------------------------------

# The collector must not let go of the client while messages of it are held: its end would wait for them.
@cython.no_gc_clear
cdef class Run:
    """Records of one partition in offset order. Keys and headers are read from librdkafka's messages when asked for."""

    def __dealloc__(self):
        cdef Py_ssize_t index
        with nogil:
            for index in range(self.count):
                if self.messages[index] != NULL:
                    api.message_destroy(self.messages[index])
            free(self.messages)
            free(self.payloads)

    def __len__(self):
        return self.count

    @property
    def values(self):
        """The payloads as bytes, None for a tombstone; a list made once."""
        if self._values is None:
            self._values = self._copy_values()
        return self._values

    @property
    def next_offset(self):
        return self.messages[self.count - 1].offset + 1

    def lines(self):
        """The payloads, each followed by a newline, as one bytes; tombstones are left out."""
        cdef Py_ssize_t index, size = self.nbytes
        for index in range(self.count):
            size += self.messages[index].payload != NULL
        cdef bytes joined = PyBytes_FromStringAndSize(NULL, size)
        cdef char *end = PyBytes_AS_STRING(joined)
        cdef Message *message
        with nogil:
            for index in range(self.count):
                message = self.messages[index]
                if message.payload != NULL:
                    memcpy(end, message.payload, message.len)
                    end += message.len
                    end[0] = c"\n"
                    end += 1
        return joined

    cdef list _copy_values(self):
        cdef list values = PyList_New(self.count)
        cdef Py_ssize_t index
        cdef Message *message
        cdef object value
        for index in range(self.count):
            message = self.messages[index]
            value = None
            if message.payload != NULL:
                value = PyBytes_FromStringAndSize(<char *>message.payload, <Py_ssize_t>message.len)
            Py_INCREF(value)
            PyList_SET_ITEM(values, index, value)
        return values

    cdef Message *_at(self, Py_ssize_t index) except NULL:
        if index < 0 or index >= self.count:
            raise IndexError(f"record {index} of {self.count}")
        return self.messages[index]

    def value(self, Py_ssize_t index):
        cdef Message *message = self._at(index)
        if message.payload == NULL:
            return None
        return PyBytes_FromStringAndSize(<char *>message.payload, <Py_ssize_t>message.len)

    def key(self, Py_ssize_t index):
        cdef Message *message = self._at(index)
        if message.key == NULL:
            return None
        return PyBytes_FromStringAndSize(<char *>message.key, <Py_ssize_t>message.key_len)

    def headers(self, Py_ssize_t index):
        cdef Message *message = self._at(index)
        cdef void *headers = NULL
        cdef const char *name = NULL
        cdef const void *value = NULL
        cdef size_t size = 0
        cdef list found = []
        if api.message_headers(message, &headers) != 0:
            return found
        while api.header_get_all(headers, <size_t>len(found), &name, &value, &size) == 0:
            content = None if value == NULL else PyBytes_FromStringAndSize(<char *>value, <Py_ssize_t>size)
            found.append((text(name), content))
        return found


# -- the reader -------------------------------------------------------------------------------------------------------

cdef class Reader:
    """A consumer with manual assignment. One thread at a time, except `interrupt`, which may come from any.

    `properties` are librdkafka's; ValueError says which one it refuses. The caller keeps `close` and `poll` apart.
    """

    def __cinit__(self, dict properties not None, Py_ssize_t records_max):
        if not bound:
            raise RuntimeError("bind() has not been called")
        if records_max < 1:
            raise ValueError("records_max must be at least 1")
        self.records_max = records_max
        self.groups_room = 64
        self.slots = <Message **>calloc(<size_t>records_max, sizeof(MessagePointer))
        self.seen = <Seen *>calloc(<size_t>records_max, sizeof(Seen))
        self.groups = <Group *>calloc(<size_t>self.groups_room, sizeof(Group))
        if self.slots == NULL or self.seen == NULL or self.groups == NULL:
            raise MemoryError
        self.client = open_client(properties)

    def __dealloc__(self):
        free(self.slots)
        free(self.seen)
        free(self.groups)

    cdef Client _open(self):
        if self.client is None:
            raise ValueError("the reader is closed")
        return self.client

    def assign(self, list positions not None):
        """Replaces the assignment by (topic, partition, offset) triples. What was fetched before never comes out."""
        cdef Client client = self._open()
        cdef void *partitions = api.topic_partition_list_new(<int>len(positions))
        cdef TopicPartition *entry
        cdef bytes name
        cdef int error
        if partitions == NULL:
            raise MemoryError
        try:
            for topic, number, offset in positions:
                name = topic.encode()
                entry = api.topic_partition_list_add(partitions, name, number)
                entry.offset = offset
            with nogil:
                error = api.assign(client.rk, partitions)
        finally:
            api.topic_partition_list_destroy(partitions)
        if error:
            raise OSError(error, f"assign: {text(api.err2name(error))}")

    def poll(self, Py_ssize_t records_max, int timeout_ms):
        """(runs, signals): up to `records_max` records that are there, else waits up to `timeout_ms` for the first.

        A signal is (topic, partition, offset, code, name, text): the end of a partition or an error.
        """
        self._open()
        cdef Py_ssize_t count, index
        cdef list runs = [], signals = []
        with nogil:
            count = self._gather(min(records_max, self.records_max), timeout_ms)
        if count <= 0:
            return runs, signals
        try:
            with nogil:
                self._look(count)
            for index in range(count):
                if self.seen[index].group < 0:
                    signals.append(signal(self.slots[index]))
            for index in range(self.groups_count):
                runs.append(self._run(&self.groups[index]))
        except BaseException:
            with nogil:
                self._drop(count)
            raise
        with nogil:
            self._hand_over(count)
        return runs, signals

    cdef Py_ssize_t _fetch(self, Py_ssize_t records_max, int timeout_ms) noexcept nogil:
        # The batch call waits until it has as many as asked for: so first what is there, then one, then its company.
        cdef void *queue = self.client.consumer_queue
        cdef Py_ssize_t count = api.consume_batch_queue(queue, 0, self.slots, <size_t>records_max)
        if count == 0 and timeout_ms > 0:
            count = api.consume_batch_queue(queue, timeout_ms, self.slots, 1)
            if count == 1 and records_max > 1:
                count += api.consume_batch_queue(queue, 0, self.slots + 1, <size_t>(records_max - 1))
        return count

    cdef Py_ssize_t _gather(self, Py_ssize_t records_max, int timeout_ms) noexcept nogil:
        """As `_fetch`, but less than half of what may come waits a moment for company.

        After thousands of records nothing of Python is left in the processor's caches, so that what a poll costs beside
        its records is much.
        """
        cdef Py_ssize_t count = self._fetch(records_max, timeout_ms)
        if timeout_ms > 0 and 0 < count < records_max // 2:
            pause(COMPANY_US)
            count += api.consume_batch_queue(
                self.client.consumer_queue, 0, self.slots + count, <size_t>(records_max - count)
            )
        return count

    cdef int _look(self, Py_ssize_t count) except -1 nogil:
        """Reads what is wanted of each message, and counts those of each partition."""
        cdef Py_ssize_t index, last = -1
        cdef Message *message
        cdef Seen *seen
        cdef Group *group = NULL
        cdef int kind
        self.groups_count = 0
        for index in range(count):
            message = self.slots[index]
            seen = &self.seen[index]
            seen.group = -1
            if message.err == 0:
                if last < 0 or group.rkt != message.rkt or group.partition != message.partition:
                    last = self._group(message)
                    group = &self.groups[last]
                seen.group = last
                seen.payload = Payload(<const uint8_t *>message.payload, message.len)
                seen.offset = message.offset
                seen.timestamp = api.message_timestamp(message, &kind)
                # Spelt out: with overflow checks Cython compiles no in-place operation on an attribute without the GIL.
                group.count = group.count + 1
                group.nbytes = group.nbytes + <Py_ssize_t>message.len
                group.largest_bytes = max(group.largest_bytes, <Py_ssize_t>message.len)
                group.oldest_ms = min(group.oldest_ms, seen.timestamp)
        return 0

    cdef void _hand_over(self, Py_ssize_t count) noexcept nogil:
        """Gives every record to the run of its partition, in order; errors are destroyed."""
        cdef Py_ssize_t index
        cdef const Seen *seen
        cdef Group *group
        for index in range(count):
            seen = &self.seen[index]
            if seen.group < 0:
                api.message_destroy(self.slots[index])
                continue
            group = &self.groups[seen.group]
            group.messages[0] = self.slots[index]
            group.payloads[0] = seen.payload
            group.offsets[0] = seen.offset
            group.timestamps[0] = seen.timestamp
            group.messages += 1
            group.payloads += 1
            group.offsets += 1
            group.timestamps += 1

    cdef Py_ssize_t _group(self, Message *message) except -1 nogil:
        """Index of the message's group, made when missing. Asked only where the partition changes."""
        cdef Py_ssize_t index
        cdef Group *grown
        for index in range(self.groups_count):
            if self.groups[index].rkt == message.rkt and self.groups[index].partition == message.partition:
                return index
        if self.groups_count == self.groups_room:
            grown = <Group *>realloc(self.groups, <size_t>(2 * self.groups_room) * sizeof(Group))
            if grown == NULL:
                raise MemoryError
            self.groups = grown
            self.groups_room = 2 * self.groups_room
        index = self.groups_count
        self.groups[index] = Group(message.rkt, message.partition, 0, 0, 0, INT64_MAX, NULL, NULL, NULL, NULL)
        self.groups_count = self.groups_count + 1
        return index

    cdef Run _run(self, Group *group):
        """The run of a group, with room for its records. It owns none of them until they are handed over."""
        cdef array.array offsets = array.clone(LONGS, group.count, False)
        cdef array.array timestamps = array.clone(LONGS, group.count, False)
        cdef Run run = Run.__new__(Run)
        run.topic = text(api.topic_name(group.rkt))
        run.number = group.partition
        run.offsets = offsets
        run.timestamps = timestamps
        run.nbytes = group.nbytes
        run.largest_bytes = group.largest_bytes
        run.oldest_ms = group.oldest_ms
        run.client = self.client
        run.messages = <Message **>calloc(<size_t>group.count, sizeof(MessagePointer))
        run.payloads = <Payload *>malloc(<size_t>group.count * sizeof(Payload))
        if run.messages == NULL or run.payloads == NULL:
            raise MemoryError
        run.count = group.count
        group.messages, group.payloads = run.messages, run.payloads
        group.offsets = <int64_t *>offsets.data.as_longlongs
        group.timestamps = <int64_t *>timestamps.data.as_longlongs
        return run

    cdef void _drop(self, Py_ssize_t count) noexcept nogil:
        """Destroys everything, after a failure."""
        cdef Py_ssize_t index
        for index in range(count):
            api.message_destroy(self.slots[index])

    def drain(self, Py_ssize_t records_max, int timeout_ms):
        """(records, bytes, ends, touched): fetches and iterates without making any Python object per record.

        This is the least that any consumer must spend; the bench calls it the floor. `touched` is the sum of the first
        bytes of the values, so that the memory is really read.
        """
        self._open()
        cdef Py_ssize_t count, index, records = 0, ends = 0
        cdef int64_t nbytes = 0, touched = 0
        cdef Message *message
        with nogil:
            count = self._fetch(min(records_max, self.records_max), timeout_ms)
            for index in range(count):
                message = self.slots[index]
                if message.err == 0:
                    records += 1
                    nbytes += <int64_t>message.len
                    if message.len > 0:
                        touched += (<unsigned char *>message.payload)[0]
                elif message.err == PARTITION_EOF:
                    ends += 1
                api.message_destroy(message)
        return records, nbytes, ends, touched

    def events(self):
        """What the client reported since the last call: (code, syslog level, facility, text); code 0 is a log line."""
        cdef Client client = self._open()
        cdef void *event
        cdef const char *facility = NULL
        cdef const char *line = NULL
        cdef int level = 0, code
        cdef list found = noted(client.notes)
        while True:
            event = api.queue_poll(client.main_queue, 0)
            if event == NULL:
                return found
            try:
                if api.event_type(event) == RD_KAFKA_EVENT_LOG and api.event_log(event, &facility, &line, &level) == 0:
                    found.append((0, level, text(facility), text(line)))
                elif api.event_type(event) == RD_KAFKA_EVENT_ERROR:
                    code = api.event_error(event)
                    found.append((code, 3, text(api.err2name(code)), text(api.event_error_string(event))))
            finally:
                api.event_destroy(event)

    def interrupt(self):
        """Makes a poll that is waiting in another thread return at once. Safe from any thread."""
        cdef Client client = self.client
        if client is not None:
            api.queue_yield(client.consumer_queue)

    def close(self):
        """Stops fetching and lets go of the client, which lives on until its last run is gone. May be called twice."""
        cdef Client client = self.client
        if client is not None:
            with nogil:
                api.consumer_close(client.rk)
            self.client = None


cdef list noted(Notes *notes):
    """The errors noted down by the callback, as events; the notes are empty afterwards."""
    cdef list found = []
    cdef int index, code
    for index in range(notes.count):
        code = notes.items[index].code
        found.append((code, 3, text(api.err2name(code)), text(notes.items[index].text)))
    notes.count = 0
    return found


cdef tuple signal(Message *message):
    return (
        text(api.topic_name(message.rkt)) if message.rkt != NULL else "",
        message.partition,
        message.offset,
        message.err,
        text(api.err2name(message.err)),
        text(api.message_errstr(message)),
    )
