"""Delivers one declared batch: its blocks into ClickHouse, its rejects into the dead-letter topic, all acknowledged.

Runs in an insert thread. It never commits; when it returns, the batch is durable.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from pipeline import spans as span_reader
from pipeline.batch import TableBlock
from pipeline.deadletter import DeadLetters
from pipeline.errors import RejectLimitExceeded
from pipeline.intent import Identity, token
from pipeline.lane import Lane
from pipeline.sink import Sink, Write
from pipeline.types import DeadLetter, Partition, Reject, Source, Span


class Delivery:
    """Writes blocks and letters. Safe to use from several threads at once."""

    def __init__(
        self,
        identity: Identity,
        sink: Sink,
        dead_letters: DeadLetters | None,
        lanes: Callable[[str], Lane],
        open_source: Callable[[], Source],
        *,
        on_reject: str,
    ) -> None:
        self._identity = identity
        self._sink = sink
        self._dead_letters = dead_letters
        self._lanes = lanes
        self._open_source = open_source
        self._on_reject = on_reject
        self.screen: Callable[[TableBlock, tuple[Span, ...]], TableBlock] | None = None
        """Takes rows out of a block right before its insert; for a bounded reading (`Bounds.screen`)."""

    def deliver(
        self,
        spans: tuple[Span, ...],
        blocks: Sequence[TableBlock],
        letters: Sequence[DeadLetter],
        heartbeat: Callable[[], None],
        *,
        salt: str = "",
        look: int = 0,
        written: Collection[tuple[Partition, int]] = frozenset(),
    ) -> int:
        """Inserts every block under the token of (pipeline, table, spans); returns how many rows are not in the tables by it:
        ClickHouse refused them as data, or the screen took them out.

        `salt` and `look` become part of the tokens, see `intent.token`. `written`: records that have a letter already; a row
        of theirs that is refused again needs no other. Raises SinkError when ClickHouse must not be asked
        again, RejectLimitExceeded when a row is refused and the configuration gives rejects no place.
        """
        refused: list[tuple[Partition, int, Reject]] = []
        screened = 0
        for block in blocks:
            left = block if self.screen is None else self.screen(block, spans)
            screened += block.block.rows - left.block.rows
            refused += self._sink.insert(self._write(spans, left, salt, look))
        unwritten = [one for one in refused if one[:2] not in written]
        self.write_letters([*letters, *self._letters_of(unwritten, heartbeat)])
        return len(refused) + screened

    def write_letters(self, letters: Sequence[DeadLetter]) -> None:
        """Acts on rejects as the configuration says: write them, drop them, or stop."""
        if not letters or self._on_reject == "drop":
            return
        if self._dead_letters is None or self._on_reject == "stop":
            raise RejectLimitExceeded(no_place_for(letters[0]))
        self._dead_letters.write(letters)

    def _write(self, spans: tuple[Span, ...], block: TableBlock, salt: str, look: int) -> Write:
        def token_of(path: str, again: int) -> str:
            return token(self._identity, f"{block.topic}>{block.table}", spans, salt=salt, path=path, look=look + again)

        return Write(block.table, block.columns, block.block, spans, token_of)

    def _letters_of(
        self, refused: Sequence[tuple[Partition, int, Reject]], heartbeat: Callable[[], None]
    ) -> list[DeadLetter]:
        """Reads the refused records again: a block keeps their columns, a letter needs their bytes."""
        if not refused or self._on_reject == "drop":
            return []
        wanted = {(partition, offset): reject for partition, offset, reject in refused}
        spans = [Span(partition, offset, offset + 1) for partition, offset in wanted]
        letters = [
            self._lanes(records.partition.topic).letter(
                records, index, wanted[records.partition, records.offsets[index]]
            )
            for records, first, cut in span_reader.read(self._open_source, spans, heartbeat)
            for index in range(first, cut)
        ]
        for partition, offset in wanted.keys() - {(letter.partition, letter.offset) for letter in letters}:
            # Compaction has removed it since it was read; its letter says so.
            letters.append(
                self._lanes(partition.topic).letter_without_record(partition, offset, wanted[partition, offset])
            )
        return letters


def no_place_for(letter: DeadLetter) -> str:
    """The message of a stop at a reject."""
    return (
        f"{letter.partition} offset {letter.offset} is a reject ({letter.reject.stage}, {letter.reject.code}: "
        f"{letter.reject.detail}) and there is no place for it. Set dead_letters.topic to keep rejects, "
        'or dead_letters.on_reject = "drop" to count and drop them'
    )
