"""The configuration as one strict msgspec tree. Defaults live here; rules and their reasons live in `rules`.

Nothing here reads a file or checks a value. The `repr` of every section hides its secrets.
"""

from __future__ import annotations

from typing import Annotated, Literal

import msgspec

from pipeline.config.secrets import SECRET, shown_struct

Secret = Annotated[str, msgspec.Meta(extra={SECRET: True})]
"""A text that is never shown: not in a `repr`, a log line, an error or the output of `check`."""


class Section(msgspec.Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What all sections share: they are immutable, refuse unknown keys and hide their secrets."""

    def __repr__(self) -> str:
        return shown_struct(self)


class Tls(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """TLS towards the brokers. An empty `ca_file` means the system's certificates."""

    enabled: bool = False
    """Encrypt the connections to the brokers."""
    ca_file: str = ""
    """Certificates of the authorities that may sign the brokers' (PEM)."""
    certificate_file: str = ""
    """This client's certificate (PEM), where the brokers ask for one."""
    key_file: str = ""
    """The private key of `certificate_file` (PEM)."""
    verify: bool = True
    """Check the brokers' certificates and host names."""


class Sasl(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """SASL towards the brokers; the password comes from a file or the environment only."""

    mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    """Empty: no SASL."""
    username: str = ""
    """Whom to log in as."""
    password_file: str = ""
    """A file that holds the password and nothing else."""
    password: Secret = ""
    """From the environment only."""


class Kafka(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where records come from and how the group is joined."""

    brokers: str
    """Where to find the cluster: `host:port`, several separated by commas."""
    group: str
    """The consumer group; every worker of the fleet names the same one, no other consumer does."""
    start: str = "earliest"
    """Where a partition without a committed offset begins: `earliest`, `latest` or an ISO 8601 time."""
    group_protocol: Literal["classic", "consumer"] = "classic"
    """`consumer` is the protocol of KIP-848; it needs brokers of 4.0 or later."""
    instance_id: str = ""
    """Static membership (`group.instance.id`) when not empty."""
    isolation: Literal["read_committed", "read_uncommitted"] = "read_committed"
    """Whether records of open and aborted transactions are read."""
    reader: Literal["native", "confluent"] = "native"
    """How records are fetched: over librdkafka's C API, or through confluent-kafka, which costs more CPU."""
    session_timeout_ms: int = 45_000
    """A worker that the group has not heard of for this long loses its partitions."""
    max_poll_interval_ms: int = 300_000
    """A worker that hangs for this long loses its partitions."""
    revoke_drain_ms_max: int = 5_000
    """How long a revoke waits for declared batches to finish before the partitions are handed over."""
    commit_timeout_ms: int = 15_000
    """How long an offset commit waits for its answer before the worker leaves the group and joins again."""
    tls: Tls = Tls()
    sasl: Sasl = Sasl()
    librdkafka: dict[str, str | int | float | bool] = {}
    """Passed through to librdkafka; the keys the pipeline owns are refused."""


class ClickHouse(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where rows go. `urls`: `http(s)://host:port`, tried in order, or one `chdb://DIRECTORY` for the embedded engine."""

    urls: list[str]
    """`http(s)://host:port`, tried in order, or one `chdb://DIRECTORY`, the embedded engine."""
    database: str = "default"
    """Where tables without a database of their own are."""
    username: str = "default"
    """Whom to log in as."""
    password_file: str = ""
    """A file that holds the password and nothing else."""
    password: Secret = ""
    """From the environment only."""
    insert_timeout_ms: int = 120_000
    """An insert without an answer for this long is sent again, the same bytes under the same token."""
    insert_threads: int = 2
    """How many inserts are under way at once."""
    retry_wait_ms_max: int = 30_000
    """Upper bound of the pause between two attempts; it begins at 100 ms and doubles, with jitter."""
    compression: Literal["lz4", "none"] = "lz4"
    """Of the blocks on the wire."""
    settings: dict[str, str | int | float | bool] = {}
    """ClickHouse settings sent with every insert; those that exactly once rests on are refused."""


class Route(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One topic, its format, its contract, and the table (or, by union tag, the tables) its rows go to."""

    topic: str
    """The topic that is read."""
    table: str = ""
    """The table its rows go to: `table` or `database.table`."""
    tables: dict[str, str] = {}
    """Union tag -> table, when the contract is a tagged union."""
    contract: str = ""
    """`module:Struct`, or empty: inferred from the table."""
    version: str = ""
    """The contract's version, for the headers of dead letters."""
    format: Literal["json", "msgpack"] = "json"
    """How records are encoded."""


class Dedup(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What identifies an event, and how far back a duplicate is recognised. An empty `key` switches dedup off."""

    key: list[str] = []
    """Fields of the contract; or the single entry `@key` (record key) or `@header:NAME`."""
    window_s: int = 3_600
    """How far back a copy is recognised, in record time."""
    ids_max: int = 10_000_000
    """How many ids are held at most; memory is allocated as they come, 32 to 48 bytes each."""
    rebuild: Literal["clickhouse", "kafka", "cold"] = "clickhouse"
    """How the window is filled after an assignment: from the table, by reading Kafka again, or not at all."""


class Batch(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a batch is sealed: whichever comes first."""

    rows_max: int = 200_000
    """Rows of all tables."""
    bytes_max: int = 64 * 1024 * 1024
    """Bytes of all blocks of a batch before compression."""
    age_ms_max: int = 1_000
    """Time since the batch's first record was read; or since its oldest was written to Kafka, when it was read soon after."""
    partitions_max: int = 64
    """Partitions in one batch."""

    @property
    def age_ms_min(self) -> float:
        """How long a batch that is not full stays open at least: only the rest may have passed in Kafka."""
        return self.age_ms_max / 2


class Limits(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Budgets of one worker: when one is used up the source is not read."""

    batches_in_flight_max: int = 4
    """Sealed batches that are not yet acknowledged."""
    rows_in_flight_max: int = 1_000_000
    """Their rows."""
    bytes_in_flight_max: int = 256 * 1024 * 1024
    """Their bytes before compression."""
    record_bytes_max: int = 4 * 1024 * 1024
    """A larger record is a reject before it is decoded."""
    poll_records_max: int = 10_000
    """Records taken from librdkafka at once."""
    stall_ms_max: int = 240_000
    """Without progress of the data plane for this long the membership is given up."""
    drain_ms_max: int = 30_000
    """How long a worker that was told to stop finishes its batches; what is left the next worker recovers."""


class Decode(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """How records become rows. Rows and rejects are the same either way."""

    lane: Literal["native", "msgspec"] = "native"
    """`native`: from bytes to columns without an object per record; what it is not sure of goes through msgspec."""


class DeadLetters(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where rejects go. Without a topic the pipeline stops at the first reject, unless `on_reject` says `drop`."""

    topic: str = ""
    """The dead-letter topic; it must exist."""
    on_reject: Literal["letter", "drop", "stop"] = "letter"
    """Write a dead letter, count and drop, or stop."""
    ratio_max: float = 0.5
    """Stop when more than this share of the last `ratio_records` records were rejects."""
    ratio_records: int = 10_000
    """How many recent records the share is taken of."""
    tombstones: Literal["drop", "reject"] = "drop"
    """What becomes of records without a value."""


class Http(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Metrics and health. Port 0 takes a free port and logs it; `enabled = false` opens none."""

    enabled: bool = True
    """Whether metrics and health are served."""
    host: str = "0.0.0.0"
    """The address listened on."""
    port: int = 9464
    """`/metrics`, `/livez` and `/readyz`."""


class Log(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Structured logs on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    """The least severe lines written."""
    format: Literal["json", "text"] = "json"
    """One JSON object a line, or text for people."""


class Config(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration of a pipeline.

    `name` is part of every token and intent: never change it while batches are in flight.
    """

    name: str
    """The pipeline's name; part of every token and intent."""
    kafka: Kafka
    clickhouse: ClickHouse
    routes: list[Route]
    dedup: Dedup = Dedup()
    batch: Batch = Batch()
    limits: Limits = Limits()
    decode: Decode = Decode()
    dead_letters: DeadLetters = DeadLetters()
    http: Http = Http()
    log: Log = Log()
