"""Records with neither a row nor a dead letter: what each should have become, and whether the row it would repeat is stored.

Uses the very decoder and block builder of the worker, so that both decide alike. One object serves one topic.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from typing import Any

from pipeline import native
from pipeline.config.schema import Config
from pipeline.contract import LINEAGE, Contract, Target, encode_json
from pipeline.decode import Decoder
from pipeline.types import Partition, Records
from pipeline.verify.keys import KeySearch, digest, keys_of, source_of
from pipeline.verify.report import Report
from pipeline.verify.tables import Tables

CANDIDATES_MAX = 100_000
"""Possible duplicates that wait for one look into the tables; a few megabytes of ids."""
CANDIDATES_BYTES_MAX = 32 * 1024 * 1024
"""The same for long ids."""
KEYS_MAX = 250_000
"""The same where ids are not in the tables: then what was consumed is read again for every so many of them."""
SECRET = bytes(16)


class Candidates:
    """Decides about the unaccounted records of one topic, and counts them in the report."""

    def __init__(
        self, config: Config, topic: str, contract: Contract, tables: Tables, report: Report, keys: KeySearch
    ) -> None:
        self._config = config
        self._topic = topic
        self._tables = tables
        self._report = report
        self._decoder = Decoder(contract, config.limits.record_bytes_max, config.dead_letters.tombstones)
        self._search = keys
        self._source = source_of(config)
        self._deduplicates = bool(config.dedup.key)
        columns_count = self._deduplicates and not self._source
        self._targets = contract.tables
        self._builders = {
            row_type: native.BlockBuilder(
                target.columns, key=target.key_columns if columns_count else (), encode_json=encode_json
            )
            for row_type, target in contract.tables.items()
        }
        self._pending = {row_type: _Pending(target) for row_type, target in contract.tables.items() if columns_count}
        self._keys: dict[tuple[bytes, str], list[tuple[Partition, int]]] = {}
        """(digest of the key, table) -> the records that wait for somebody with that key to be stored."""
        self._keys_held = 0
        self._keys_oldest_ms = 0

    def examine(self, records: Records, indices: Sequence[int]) -> None:
        """Records that have neither row nor letter: filtered, dropped, possible duplicates, or missing."""
        rows, rejects, filtered = self._decoder.decode([records.values[index] for index in indices])
        self._report.filtered += filtered
        offsets = array("q", [records.offsets[index] for index in indices])
        for index, reject in rejects:
            self._reject(records.partition, offsets[index], reject.code.value)
        keys = keys_of(self._source, records, indices) if self._source else None
        run = native.Run(
            records.partition.topic,
            records.partition.number,
            0,
            offsets,
            array("q", [records.timestamps[index] for index in indices]),
        )
        good = self._encodable(rows, run, keys)
        if not self._deduplicates:
            for index in good:
                self._missing(records.partition, offsets[index], "no row, and no dead letter")
        elif keys is not None:
            tables = {index: self._targets[type(rows[index])].table for index in good}
            self._hold_keys(records.partition, run, keys, tables)
        else:
            self._hold_rows(rows, run, good)

    def look_up(self) -> None:
        """Settles the possible duplicates that still wait."""
        for pending in self._pending.values():
            self._settle(pending)
        self._search_keys()

    def _search_keys(self) -> None:
        """Settles the possible duplicates whose ids are in Kafka only: reads what was consumed once more."""
        if not self._keys:
            return
        wanted = frozenset(one for one, _ in self._keys)
        for found in self._search.find(self._topic, wanted, self._keys_oldest_ms):
            # Records with the key that go to the same table as the stored one are its duplicates.
            row = self._decoder.decode([found.value])[0][0]
            if row is not None:
                self._report.duplicates += len(self._keys.pop((found.digest, self._targets[type(row)].table), ()))
        for places in self._keys.values():
            for partition, offset in places:
                self._missing(partition, offset, "no row, no dead letter, and no stored record has its key")
        self._keys.clear()
        self._keys_held = self._keys_oldest_ms = 0

    def _encodable(self, rows: list[Any], run: native.Run, keys: list[bytes | None] | None) -> list[int]:
        """The rows that the block builder takes; the others are counted as rejects."""
        statuses = bytearray(len(rows))
        # Without a claim table a row without a key would pass; one for these rows alone refuses it.
        claims = native.ClaimTable(max(1_000, len(rows)), secret=SECRET) if self._deduplicates else None
        if claims is not None:
            run = run._replace(slot=claims.open_slot(0))
        partition = Partition(run.topic, run.partition)
        for refusal in native.append(self._builders, rows, run, claims, keys, statuses):
            self._reject(partition, run.offsets[refusal.index], str(refusal.code))
        for builder in self._builders.values():
            builder.discard()
        return [index for index, status in enumerate(statuses) if status in (native.APPENDED, native.DUPLICATE)]

    def _hold_rows(self, rows: list[Any], run: native.Run, good: list[int]) -> None:
        kept: list[Any] = [None] * len(rows)
        for index in good:
            kept[index] = rows[index]
        builders = {row_type: pending.builder for row_type, pending in self._pending.items()}
        native.append(builders, kept, run, None, None, bytearray(len(rows)))
        for index in good:
            self._pending[type(rows[index])].places.append((run.partition, run.offsets[index]))
        for pending in self._pending.values():
            if len(pending.places) >= CANDIDATES_MAX or pending.builder.nbytes >= CANDIDATES_BYTES_MAX:
                self._settle(pending)

    def _settle(self, pending: _Pending) -> None:
        if not pending.places:
            return
        places, pending.places = pending.places, []
        block = pending.builder.finish().native()
        owned = self._tables.owned(self._topic, pending.target, block)
        self._report.duplicates += len(owned)
        for number, offset in sorted(set(places) - owned):
            self._missing(
                Partition(self._topic, number), offset, "no row, no dead letter, and its event id is not stored"
            )

    def _hold_keys(
        self, partition: Partition, run: native.Run, keys: list[bytes | None], tables: dict[int, str]
    ) -> None:
        for index, table in tables.items():
            if self._keys_held >= KEYS_MAX:
                self._search_keys()
            self._keys_held += 1
            time_ms = run.timestamps[index]
            self._keys_oldest_ms = min(self._keys_oldest_ms or time_ms, time_ms)
            place = (digest(keys[index] or b""), table)
            self._keys.setdefault(place, []).append((partition, run.offsets[index]))

    def _reject(self, partition: Partition, offset: int, code: str) -> None:
        if self._config.dead_letters.on_reject == "drop":
            self._report.dropped += 1
        else:
            self._missing(partition, offset, f"it is a reject ({code}), and there is no dead letter for it")

    def _missing(self, partition: Partition, offset: int, why: str) -> None:
        self._report.fault("missing", partition.topic, partition.number, offset, why)


class _Pending:
    """Possible duplicates of one row type: key and lineage columns in a builder, and where they are."""

    def __init__(self, target: Target) -> None:
        self.target = target
        columns = [column for column in target.columns if column.name in target.key_columns]
        columns += [native.Column(name, LINEAGE[name][1], LINEAGE[name][0]) for name in ("_partition", "_offset")]
        self.builder = native.BlockBuilder(columns, key=(), encode_json=encode_json)
        self.places: list[tuple[int, int]] = []
