"""Both lanes of one contract, and what a run of records becomes in each: to the byte, or it is a difference."""

from __future__ import annotations

import os
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import _native
from pipeline import contract as contracts
from pipeline import native
from pipeline.batch import Target
from pipeline.config.schema import Dedup as DedupConfig
from pipeline.contract import Contract
from pipeline.decode import Decoder
from pipeline.dedup import Dedup, domain
from pipeline.errors import InvariantViolated
from pipeline.lane import Lane, LeftOut
from pipeline.planning import native_lane
from pipeline.types import Headers, Partition
from pipeline.ways import Ways

# `make debug` and `make sanitize` must not test the ordinary build.
assert os.environ.get("PENSTOCK_NATIVE_BUILD", "") in str(_native.__file__), f"_native is {_native.__file__}"

PARTITION = Partition("fuzz", 3)
RECORD_BYTES_MAX = 100_000
SECRET = bytes(range(16))
FIRST_OFFSET = 1_000


class Run:
    """Records of one partition, from values alone."""

    partition = PARTITION

    def __init__(self, values: Sequence[bytes | None], first: int = FIRST_OFFSET) -> None:
        self.values = list(values)
        self.offsets = array("q", range(first, first + len(values)))
        self.timestamps = array("q", range(1_700_000_000_000, 1_700_000_000_000 + len(values)))
        self.next_offset = first + len(values)
        lengths = [len(value) for value in values if value is not None]
        self.nbytes = sum(lengths)
        self.largest_bytes = max(lengths, default=0)
        self.oldest_ms = self.timestamps[0] if values else -1

    def __len__(self) -> int:
        return len(self.values)

    def value(self, index: int) -> bytes | None:
        return self.values[index]

    def key(self, index: int) -> bytes | None:
        value = self.values[index]
        return None if not value or len(value) % 16 == 0 else value[len(value) // 3 :][:5]

    def headers(self, _index: int) -> Headers:
        return ()


class _Natively(Ways):
    """Every run through the native core, whatever it costs."""

    def choose(self) -> bool:
        return True


class Outcome(NamedTuple):
    """All that a run leaves behind."""

    counts: tuple[Any, ...]
    letters: list[tuple[Any, ...]]
    blocks: dict[str, bytes]
    lineage: dict[str, tuple[Any, ...]]
    ids: int


class Lanes:
    """The two lanes of a contract. Nothing is kept from one run to the next."""

    def __init__(self, contract: Contract, key: Sequence[str]) -> None:
        self._dedup = DedupConfig(key=list(key), ids_max=4_096)
        self._contract = contract
        self._lanes = {fast: self._lane(fast) for fast in (False, True)}
        self.native = self._lanes[True]._fast is not None
        """Whether the native lane takes any record of this contract."""

    def _lane(self, fast: bool) -> Lane:
        keyed = bool(self._dedup.key) and not self._dedup.key[0].startswith("@")
        targets = []
        for row_type, target in self._contract.tables.items():
            builder = native.BlockBuilder(
                target.columns,
                key=target.key_columns if keyed else (),
                domain=domain(PARTITION.topic, target.table),
                encode_json=contracts.encode_json,
            )
            names = tuple(column.name for column in target.columns)
            targets.append((row_type, Target(PARTITION.topic, target.table, names, builder)))
        dedup = Dedup(self._dedup)
        lane = native_lane(self._contract, targets).lane if fast else None
        made = Lane(self._contract, Decoder(self._contract, RECORD_BYTES_MAX, "drop"), targets, dedup, lane)
        made.ways = _Natively("fuzz")
        return made

    @property
    def handed_over(self) -> int:
        return self._lanes[True].handed_over

    def outcome(self, values: Sequence[bytes | None], *, fast: bool, left_out: LeftOut | None = None) -> Outcome:
        """What the records become in one lane."""
        lane, run = self._lanes[fast], Run(values)
        dedup = lane._dedup
        if self._dedup.key:
            dedup.claims = native.ClaimTable(self._dedup.ids_max, secret=SECRET)
            dedup._slots.clear()
            dedup.open(PARTITION)
        taken = lane.take(run, 0, len(run), left_out)
        counts = taken.counts
        finished = {target.table: target.builder.finish() for target in lane.targets}
        return Outcome(
            (counts.records, counts.rows, counts.duplicates, counts.filtered, counts.stored, dict(counts.rejects)),
            [(one.offset, one.value, one.key, one.contract, *one.reject) for one in taken.letters],
            {table: block.native() for table, block in finished.items()},
            {table: tuple(map(list, block.lineage())) for table, block in finished.items()},
            dedup.claims.ids if dedup.claims is not None else 0,
        )

    def difference(self, values: Sequence[bytes | None], left_out: LeftOut | None = None) -> str:
        """What differs between the lanes; empty when nothing does."""
        plain = self.outcome(values, fast=False, left_out=left_out)
        try:
            fast = self.outcome(values, fast=True, left_out=left_out)
        except InvariantViolated as error:
            for target in self._lanes[True].targets:
                target.discard()
            return str(error)
        for name, one, other in zip(Outcome._fields, plain, fast, strict=True):
            if one != other:
                return f"{name}: {_short(one, other)}"
        return ""


def _short(one: Any, other: Any) -> str:
    return f"msgspec {one!r:.1500} native {other!r:.1500}"
