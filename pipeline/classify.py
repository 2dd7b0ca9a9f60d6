"""What an error of ClickHouse means for an insert: try again, bad data, or stop. A pure function of integer codes.

It never sees a client library, and looks at a message for one code only. Whatever the tables do not name is UNKNOWN,
which stops: what is not proven to be bad data must neither be dropped nor become a dead letter.
"""

from __future__ import annotations

from enum import StrEnum


class ErrorClass(StrEnum):
    """What to do about an error."""

    RETRIABLE = "retriable"
    """Passes by itself, or once an operator acted: the same bytes are sent again under the same token, without end."""
    DATA = "data"
    """Some row of the block is refused for what it holds: the block is bisected to the rows that ClickHouse refuses."""
    STOP = "stop"
    """Stays until the table, the rights or the configuration change."""
    UNKNOWN = "unknown"
    """Not in the tables: stops like STOP."""


_NETWORK, _TIMEOUT, _OVERLOAD, _MEMORY = "network", "timeout", "overload", "memory"
_READ_ONLY, _KEEPER, _DISK, _CANCELLED = "read_only", "keeper", "disk", "cancelled"

RETRIABLE: dict[int, tuple[str, str]] = {
    3: ("UNEXPECTED_END_OF_FILE", _NETWORK),  # the request broke off on its way
    95: ("CANNOT_READ_FROM_SOCKET", _NETWORK),
    96: ("CANNOT_WRITE_TO_SOCKET", _NETWORK),
    159: ("TIMEOUT_EXCEEDED", _TIMEOUT),
    160: ("TOO_SLOW", _TIMEOUT),
    173: ("CANNOT_ALLOCATE_MEMORY", _MEMORY),
    198: ("DNS_ERROR", _NETWORK),
    201: ("QUOTA_EXCEEDED", _OVERLOAD),
    202: ("TOO_MANY_SIMULTANEOUS_QUERIES", _OVERLOAD),
    203: ("NO_FREE_CONNECTION", _OVERLOAD),
    204: ("CANNOT_FSYNC", _DISK),
    209: ("SOCKET_TIMEOUT", _TIMEOUT),
    210: ("NETWORK_ERROR", _NETWORK),
    # Our query id is the token: an earlier attempt of this very insert is still at work.
    216: ("QUERY_WITH_SAME_ID_IS_ALREADY_RUNNING", _TIMEOUT),
    225: ("NO_ZOOKEEPER", _KEEPER),
    236: ("ABORTED", _CANCELLED),
    241: ("MEMORY_LIMIT_EXCEEDED", _MEMORY),
    242: ("TABLE_IS_READ_ONLY", _READ_ONLY),  # a replica without its Keeper session
    243: ("NOT_ENOUGH_SPACE", _DISK),
    244: ("UNEXPECTED_ZOOKEEPER_ERROR", _KEEPER),
    252: ("TOO_MANY_PARTS", _OVERLOAD),  # or too many partitions: see `classify`
    254: ("NO_ACTIVE_REPLICAS", _KEEPER),
    265: ("NO_AVAILABLE_REPLICA", _KEEPER),
    279: ("ALL_CONNECTION_TRIES_FAILED", _NETWORK),
    285: ("TOO_FEW_LIVE_REPLICAS", _KEEPER),
    286: ("UNSATISFIED_QUORUM_FOR_PREVIOUS_WRITE", _KEEPER),
    289: ("REPLICA_IS_NOT_IN_QUORUM", _KEEPER),
    297: ("SHARD_HAS_NO_CONNECTIONS", _NETWORK),
    319: ("UNKNOWN_STATUS_OF_INSERT", _KEEPER),
    364: ("RECEIVED_ERROR_TOO_MANY_REQUESTS", _OVERLOAD),
    369: ("ALL_REPLICAS_ARE_STALE", _KEEPER),
    384: ("PART_IS_TEMPORARILY_LOCKED", _OVERLOAD),
    394: ("QUERY_WAS_CANCELLED", _CANCELLED),
    425: ("SYSTEM_ERROR", _OVERLOAD),
    439: ("CANNOT_SCHEDULE_TASK", _OVERLOAD),
    473: ("DEADLOCK_AVOIDED", _OVERLOAD),
    499: ("S3_ERROR", _DISK),
    500: ("AZURE_BLOB_STORAGE_ERROR", _DISK),
    574: ("DISTRIBUTED_TOO_MANY_PENDING_BYTES", _OVERLOAD),
    700: ("USER_SESSION_LIMIT_EXCEEDED", _OVERLOAD),
    722: ("ASYNC_LOAD_WAIT_FAILED", _OVERLOAD),  # the server is starting and has not loaded the table yet
    733: ("TABLE_IS_BEING_RESTARTED", _OVERLOAD),
    735: ("QUERY_WAS_CANCELLED_BY_CLIENT", _CANCELLED),
    745: ("SERVER_OVERLOADED", _OVERLOAD),
    749: ("TCP_CONNECTION_LIMIT_REACHED", _OVERLOAD),
    762: ("HTTP_CONNECTION_LIMIT_REACHED", _OVERLOAD),
    777: ("MEMORY_RESERVATION_KILLED", _MEMORY),
    778: ("MEMORY_RESERVATION_FAILED", _MEMORY),
    999: ("KEEPER_EXCEPTION", _KEEPER),
    1000: ("POCO_EXCEPTION", _NETWORK),
    1019: ("QUERY_SLOT_ACQUISITION_TIMEOUT", _OVERLOAD),
    1020: ("MEMORY_RESERVATION_ACQUISITION_TIMEOUT", _MEMORY),
}
"""Code -> (name, what it is about: the label of the retries in the metrics)."""

DATA: dict[int, str] = {
    6: "CANNOT_PARSE_TEXT",
    25: "CANNOT_PARSE_ESCAPE_SEQUENCE",
    26: "CANNOT_PARSE_QUOTED_STRING",
    27: "CANNOT_PARSE_INPUT_ASSERTION_FAILED",
    38: "CANNOT_PARSE_DATE",
    41: "CANNOT_PARSE_DATETIME",
    53: "TYPE_MISMATCH",
    69: "ARGUMENT_OUT_OF_BOUND",
    70: "CANNOT_CONVERT_TYPE",
    72: "CANNOT_PARSE_NUMBER",
    117: "INCORRECT_DATA",
    128: "TOO_LARGE_ARRAY_SIZE",
    131: "TOO_LARGE_STRING_SIZE",
    153: "ILLEGAL_DIVISION",
    190: "SIZES_OF_ARRAYS_DONT_MATCH",
    321: "VALUE_IS_OUT_OF_RANGE_OF_DATA_TYPE",
    349: "CANNOT_INSERT_NULL_IN_ORDINARY_COLUMN",
    376: "CANNOT_PARSE_UUID",
    395: "FUNCTION_THROW_IF_VALUE_IS_NON_ZERO",
    407: "DECIMAL_OVERFLOW",
    467: "CANNOT_PARSE_BOOL",
    469: "VIOLATED_CONSTRAINT",
    675: "CANNOT_PARSE_IPV4",
    676: "CANNOT_PARSE_IPV6",
    691: "UNKNOWN_ELEMENT_OF_ENUM",
}

_TABLE_CHANGED = "Compare the table with the contract: `penstock check`"
_CREDENTIALS = "Check clickhouse.username and the password"
_SETTINGS = "Look at clickhouse.settings and at the limits of the user's settings profile"
_GRANT = "Grant the user what `penstock check --privileges` prints"

STOP: dict[int, tuple[str, str]] = {
    8: ("THERE_IS_NO_COLUMN", _TABLE_CHANGED),
    10: ("NOT_FOUND_COLUMN_IN_BLOCK", _TABLE_CHANGED),
    16: ("NO_SUCH_COLUMN_IN_TABLE", _TABLE_CHANGED),
    20: ("NUMBER_OF_COLUMNS_DOESNT_MATCH", _TABLE_CHANGED),
    36: ("BAD_ARGUMENTS", _TABLE_CHANGED),
    44: ("ILLEGAL_COLUMN", _TABLE_CHANGED),
    47: ("UNKNOWN_IDENTIFIER", _TABLE_CHANGED),
    50: ("UNKNOWN_TYPE", "The server is older than a column type of the contract: upgrade it or choose another type"),
    60: ("UNKNOWN_TABLE", "Create the table: `penstock ddl` prints the statement"),
    62: ("SYNTAX_ERROR", "Check the name of the table"),
    81: ("UNKNOWN_DATABASE", "Create the database, or correct clickhouse.database"),
    115: (
        "UNKNOWN_SETTING",
        "Remove the setting from clickhouse.settings; after a downgrade of the server start penstock again",
    ),
    164: ("READONLY", "The user may only read: lift `readonly` in its settings profile"),
    192: ("UNKNOWN_USER", _CREDENTIALS),
    193: ("WRONG_PASSWORD", _CREDENTIALS),
    194: ("REQUIRED_PASSWORD", _CREDENTIALS),
    195: ("IP_ADDRESS_NOT_ALLOWED", "Allow this host in the user's networks"),
    218: ("TABLE_IS_DROPPED", "Create the table: `penstock ddl` prints the statement"),
    291: ("DATABASE_ACCESS_DENIED", _GRANT),
    452: ("SETTING_CONSTRAINT_VIOLATION", _SETTINGS),
    472: ("READONLY_SETTING", _SETTINGS),
    497: ("ACCESS_DENIED", _GRANT),
    511: ("UNKNOWN_ROLE", _CREDENTIALS),
    512: ("SET_NON_GRANTED_ROLE", _GRANT),
    516: ("AUTHENTICATION_FAILED", _CREDENTIALS),
    720: ("USER_EXPIRED", _CREDENTIALS),
    764: ("DEDUPLICATION_IS_NOT_POSSIBLE", "Give the table a deduplication window: `penstock ddl` prints the setting"),
    774: ("TABLE_IS_PERMANENTLY_READ_ONLY", "Make the table writable, or name another one"),
}
"""Code -> (name, the next step)."""

TOO_MANY_PARTITIONS_STEP = (
    "One batch touches more partitions of the table than `max_partitions_per_insert_block` allows, and sending it again "
    "never helps: partition the table more coarsely, raise the setting in clickhouse.settings, or make batches smaller"
)
_UNKNOWN_STEP = (
    "Look the code up in ClickHouse's log; penstock stops rather than lose or double a row, and goes on from here"
)

_HTTP_RETRIABLE = frozenset({408, 425, 429})
_HTTP_STOP: dict[int, str] = {
    401: _CREDENTIALS,
    403: "Check clickhouse.username, the password, and what a proxy in between allows",
    404: "Check clickhouse.urls: nothing that speaks ClickHouse's HTTP interface answers at this path",
    413: "A proxy in between refuses requests this large: raise its limit, or lower batch.bytes_max",
    414: "A proxy in between refuses addresses this long: raise its limit",
}


def too_many_partitions(code: int, message: str) -> bool:
    """Whether this 252 is the one that a retry never cures. Its message holds names and numbers only, no row data."""
    return code == 252 and "partitions for single insert block" in message.lower()


def classify(code: int, message: str = "", http_status: int | None = None) -> ErrorClass:
    """What to do about ClickHouse's error `code`; 0 when there was none, then `http_status` decides, if there is one.

    Without a code and a status the request got no answer at all: the connection failed or timed out.
    """
    if code:
        if too_many_partitions(code, message) or code in STOP:
            return ErrorClass.STOP
        if code in RETRIABLE:
            return ErrorClass.RETRIABLE
        return ErrorClass.DATA if code in DATA else ErrorClass.UNKNOWN
    if http_status is None or http_status >= 500 or http_status in _HTTP_RETRIABLE:
        return ErrorClass.RETRIABLE
    return ErrorClass.STOP if http_status in _HTTP_STOP else ErrorClass.UNKNOWN


def name(code: int) -> str:
    """ClickHouse's name of a code in the tables, or empty. Names are never taken from error texts, which echo row data."""
    if code in RETRIABLE:
        return RETRIABLE[code][0]
    if code in STOP:
        return STOP[code][0]
    return DATA.get(code, "")


def reason(code: int, http_status: int | None = None) -> str:
    """What a retriable error is about, in one word: the label of the retries in the metrics."""
    if code in RETRIABLE:
        return RETRIABLE[code][1]
    return _NETWORK if http_status is None else _OVERLOAD


def next_step(code: int, message: str = "", http_status: int | None = None) -> str:
    """What an operator can do about an error that stops, or about a server that cannot be reached; empty for the others."""
    if too_many_partitions(code, message):
        return TOO_MANY_PARTITIONS_STEP
    if code in STOP:
        return STOP[code][1]
    if not code and http_status is None:
        return "Check clickhouse.urls, the network, and that the server is up"
    if not code and http_status in _HTTP_STOP:
        return _HTTP_STOP[http_status]
    return _UNKNOWN_STEP if classify(code, message, http_status) is ErrorClass.UNKNOWN else ""
