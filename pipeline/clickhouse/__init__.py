"""ClickHouse as the pipeline sees it: one attempt at an insert or a question, over several servers, with errors as codes.

It owns connections, fail-over, the settings of an insert and what is known of a table. It never retries an insert (that
is `sink`), never shows the text of a server's error (it echoes row data) and never prints user info of a URL.

How an insert travels over HTTP: `POST /?database=..&query_id=..&insert_deduplication_token=..&<settings>`, with
`Content-Encoding: lz4` and as body one LZ4 frame of

    "INSERT INTO `table` (`a`, `b`) FORMAT Native\\n"  one Native block

The statement is in the body because wide tables would make addresses longer than proxies take. The query id is made of
the token: a server that is still at work on an attempt we gave up on answers 216 to the next one, so attempts never pile
up, and the wait ends when the first attempt has ended (then the token makes the resent block a duplicate of it). That is
why no `max_execution_time` is sent: an insert that is always a little too slow would be cancelled every time, and never
land; left alone, it lands on the first attempt and is recognised on the second.

A question is given up by the server when we hang up, so that its attempts do not pile up either (`QUERY_SETTINGS`).
"""

from pipeline.clickhouse.client import ClickHouse, Encoded, NativeBlock, TableFacts, literal, quote, quote_table
from pipeline.clickhouse.connection import (
    INSERT_SETTINGS,
    OWNED_SETTINGS,
    QUERY_SETTINGS,
    ClickHouseError,
    Endpoint,
    endpoints,
    insert_settings,
    query_settings,
)

__all__ = [
    "INSERT_SETTINGS",
    "OWNED_SETTINGS",
    "QUERY_SETTINGS",
    "ClickHouse",
    "ClickHouseError",
    "Encoded",
    "Endpoint",
    "NativeBlock",
    "TableFacts",
    "endpoints",
    "insert_settings",
    "literal",
    "query_settings",
    "quote",
    "quote_table",
]
