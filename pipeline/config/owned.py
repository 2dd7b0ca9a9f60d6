"""Keys of librdkafka and settings of ClickHouse that the pipeline sets itself, because its promises rest on them."""

from __future__ import annotations

OWNED_KEYS: dict[str, str] = {
    # where and who: set from the configuration's own keys, secrets never from the pass-through
    "bootstrap.servers": "kafka.brokers",
    "metadata.broker.list": "kafka.brokers",
    "group.id": "kafka.group",
    "group.instance.id": "kafka.instance_id",
    "group.protocol": "kafka.group_protocol",
    "group.remote.assignor": "",
    "ssl.ca.location": "kafka.tls.ca_file",
    "ssl.certificate.location": "kafka.tls.certificate_file",
    "ssl.key.location": "kafka.tls.key_file",
    "ssl.key.password": "",
    "enable.ssl.certificate.verification": "kafka.tls.verify",
    "sasl.username": "kafka.sasl.username",
    "sasl.password": "kafka.sasl.password_file",
    # the delivery protocol rests on these
    "enable.auto.commit": "",
    "enable.auto.offset.store": "",
    "auto.commit.enable": "",
    "auto.commit.interval.ms": "",
    "auto.offset.reset": "kafka.start",
    "offset.store.method": "",
    "enable.partition.eof": "",
    "isolation.level": "kafka.isolation",
    "check.crcs": "",
    "partition.assignment.strategy": "",
    "session.timeout.ms": "kafka.session_timeout_ms",
    "max.poll.interval.ms": "kafka.max_poll_interval_ms",
    "allow.auto.create.topics": "",
    "enable.idempotence": "",
    "acks": "",
    "request.required.acks": "",
    "transactional.id": "",
    # the memory plan
    "queued.max.messages.kbytes": "",
    "fetch.max.bytes": "",
    # callbacks and queues belong to the code
    "error_cb": "",
    "logger": "",
    "log_cb": "",
    "log.queue": "",
    "log.thread.name": "",
    "stats_cb": "",
    "throttle_cb": "",
    "on_delivery": "",
    "delivery.report.only.error": "",
    "test.mock.num.brokers": "",
    "test.mock.broker.rtt": "",
}
"""librdkafka key -> the configuration key that sets it, '' where it is fixed."""

OWNED_SETTINGS: dict[str, str] = {
    "insert_deduplication_token": "every insert has a token of its own",
    "insert_deduplicate": "without it a repeated insert would be stored twice",
    "deduplicate_insert": "without it a repeated insert would be stored twice",
    "deduplicate_blocks_in_dependent_materialized_views": "without it a repeated insert would double every view",
    "async_insert": "the server would regroup blocks, and their tokens would be lost",
    "wait_for_async_insert": "inserts are synchronous",
    "async_insert_deduplicate": "inserts are synchronous",
    "max_insert_block_size": "one insert must stay one block",
    "max_insert_block_size_bytes": "one insert must stay one block",
    "min_insert_block_size_rows": "one insert must stay one block",
    "min_insert_block_size_bytes": "one insert must stay one block",
    "input_format_parallel_parsing": "one insert must stay one block",
    "max_insert_threads": "one insert must stay one block",
    "use_strict_insert_block_limits": "one insert must stay one block",
    "optimize_on_insert": "every row must be there to be looked up",
    "input_format_native_allow_types_conversion": "blocks hold some columns in a simpler type than the table",
    "session_id": "a session would serialise the inserts",
    "query_id": "every query has an id of its own",
    "database": "it is clickhouse.database",
}
"""ClickHouse setting -> why the pipeline sets it itself."""
