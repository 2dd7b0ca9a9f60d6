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
    ca_file: str = ""
    certificate_file: str = ""
    key_file: str = ""
    verify: bool = True


class Sasl(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """SASL towards the brokers; the password comes from a file or the environment only."""

    mechanism: Literal["", "PLAIN", "SCRAM-SHA-256", "SCRAM-SHA-512"] = ""
    username: str = ""
    password_file: str = ""
    password: Secret = ""


class Kafka(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where records come from and how the group is joined."""

    brokers: str
    group: str
    start: str = "earliest"
    """Where a partition without a committed offset begins: `earliest`, `latest` or an ISO 8601 time."""
    group_protocol: Literal["classic", "consumer"] = "classic"
    instance_id: str = ""
    """Static membership (`group.instance.id`) when not empty."""
    isolation: Literal["read_committed", "read_uncommitted"] = "read_committed"
    reader: Literal["native", "confluent"] = "native"
    session_timeout_ms: int = 45_000
    max_poll_interval_ms: int = 300_000
    revoke_drain_ms_max: int = 5_000
    """How long a revoke waits for declared batches to finish before the partitions are handed over."""
    commit_timeout_ms: int = 15_000
    tls: Tls = Tls()
    sasl: Sasl = Sasl()
    librdkafka: dict[str, str | int | float | bool] = {}
    """Passed through to librdkafka; the keys the pipeline owns are refused."""


class ClickHouse(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where rows go. `urls`: `http(s)://host:port`, tried in order, or one `chdb://DIRECTORY` for the embedded engine."""

    urls: list[str]
    database: str = "default"
    username: str = "default"
    password_file: str = ""
    password: Secret = ""
    insert_timeout_ms: int = 120_000
    insert_threads: int = 2
    retry_wait_ms_max: int = 30_000
    compression: Literal["lz4", "none"] = "lz4"
    settings: dict[str, str | int | float | bool] = {}


class Route(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """One topic, its format, its contract, and the table (or, by union tag, the tables) its rows go to."""

    topic: str
    table: str = ""
    tables: dict[str, str] = {}
    """Union tag -> table, when the contract is a tagged union."""
    contract: str = ""
    """`module:Struct`, or empty: inferred from the table."""
    version: str = ""
    format: Literal["json", "msgpack"] = "json"


class Dedup(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """What identifies an event, and how far back a duplicate is recognised. An empty `key` switches dedup off."""

    key: list[str] = []
    """Fields of the contract; or the single entry `@key` (record key) or `@header:NAME`."""
    window_s: int = 3_600
    ids_max: int = 10_000_000
    rebuild: Literal["clickhouse", "kafka", "cold"] = "clickhouse"


class Batch(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """When a batch is sealed: whichever comes first."""

    rows_max: int = 200_000
    bytes_max: int = 64 * 1024 * 1024
    """Bytes of all blocks of a batch before compression."""
    age_ms_max: int = 1_000
    partitions_max: int = 64


class Limits(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Budgets of one worker: when one is used up the source is not read."""

    batches_in_flight_max: int = 4
    rows_in_flight_max: int = 1_000_000
    bytes_in_flight_max: int = 256 * 1024 * 1024
    record_bytes_max: int = 4 * 1024 * 1024
    """A larger record is a reject before it is decoded."""
    poll_records_max: int = 10_000
    stall_ms_max: int = 240_000
    """Without progress of the data plane for this long the membership is given up."""
    drain_ms_max: int = 30_000


class DeadLetters(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Where rejects go. Without a topic the pipeline stops at the first reject, unless `on_reject` says `drop`."""

    topic: str = ""
    on_reject: Literal["letter", "drop", "stop"] = "letter"
    ratio_max: float = 0.5
    """Stop when more than this share of the last `ratio_records` records were rejects."""
    ratio_records: int = 10_000
    tombstones: Literal["drop", "reject"] = "drop"


class Http(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Metrics and health. Port 0 takes a free port and logs it; `enabled = false` opens none."""

    enabled: bool = True
    host: str = "0.0.0.0"
    port: int = 9464


class Log(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """Structured logs on stderr."""

    level: Literal["debug", "info", "warning", "error"] = "info"
    format: Literal["json", "text"] = "json"


class Config(Section, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """The whole configuration of a pipeline.

    `name` is part of every token and intent: never change it while batches are in flight.
    """

    name: str
    kafka: Kafka
    clickhouse: ClickHouse
    routes: list[Route]
    dedup: Dedup = Dedup()
    batch: Batch = Batch()
    limits: Limits = Limits()
    dead_letters: DeadLetters = DeadLetters()
    http: Http = Http()
    log: Log = Log()
