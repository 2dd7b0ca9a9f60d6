"""The claim table in plain Python: what `_native.claims` must be equal to. For tests; never used in its place.

Dicts instead of a log and an index, no bound on probing. Everything a caller can see is the same, slot handles included.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from _native.chtypes import leaf, parse
from _native.vocabulary import APPENDED, DUPLICATE

MASK = 2**64 - 1
NEVER = 2**63 - 1


def siphash128(data: bytes, secret: bytes) -> bytes:
    """SipHash-2-4-128, one word and one round at a time."""
    low, high = (int.from_bytes(secret[i : i + 8], "little") for i in (0, 8))
    v = [
        0x736F6D6570736575 ^ low,
        0x646F72616E646F6D ^ high ^ 0xEE,
        0x6C7967656E657261 ^ low,
        0x7465646279746573 ^ high,
    ]
    padded = data + bytes(7 - len(data) % 8) + bytes([len(data) & 0xFF])
    for start in range(0, len(padded), 8):
        word = int.from_bytes(padded[start : start + 8], "little")
        v[3] ^= word
        _rounds(v, 2)
        v[0] ^= word
    v[2] ^= 0xEE
    _rounds(v, 4)
    first = v[0] ^ v[1] ^ v[2] ^ v[3]
    v[1] ^= 0xDD
    _rounds(v, 4)
    return first.to_bytes(8, "little") + (v[0] ^ v[1] ^ v[2] ^ v[3]).to_bytes(8, "little")


def _rotate(value: int, bits: int) -> int:
    return (value << bits | value >> (64 - bits)) & MASK


def _rounds(v: list[int], count: int) -> None:
    for _ in range(count):
        v[0] = (v[0] + v[1]) & MASK
        v[1] = _rotate(v[1], 13) ^ v[0]
        v[0] = _rotate(v[0], 32)
        v[2] = (v[2] + v[3]) & MASK
        v[3] = _rotate(v[3], 16) ^ v[2]
        v[0] = (v[0] + v[3]) & MASK
        v[3] = _rotate(v[3], 21) ^ v[0]
        v[2] = (v[2] + v[1]) & MASK
        v[1] = _rotate(v[1], 17) ^ v[2]
        v[2] = _rotate(v[2], 32)


def varint(number: int) -> bytes:
    """LEB128."""
    encoded = bytearray()
    while number >= 0x80:
        encoded.append((number & 0x7F) | 0x80)
        number >>= 7
    return bytes([*encoded, number])


def string(text: bytes) -> bytes:
    """A String in Native and RowBinary."""
    return varint(len(text)) + text


@dataclass(slots=True)
class _Slot:
    identity: int = 0
    valid_below: int = NEVER
    frozen_at: int | None = None
    epoch: int = 0
    free: bool = True


class ClaimTable:
    """The oracle of `_native.claims.ClaimTable`."""

    def __init__(self, ids_max: int, *, secret: bytes, generations: int = 16) -> None:
        self.ids_max = ids_max
        self.generations_max = generations
        self.rotations = 0
        self.ids_dropped = 0
        self._secret = secret
        self._live: list[dict[bytes, tuple[int, int]]] = [{}]
        self._number = 1
        self._slots: list[_Slot] = []

    def open_slot(self, identity: int) -> int:
        free = [index for index, slot in enumerate(self._slots) if slot.free]
        if not free:
            self._slots.append(_Slot())
        index = free[0] if free else len(self._slots) - 1
        self._slots[index] = _Slot(identity, NEVER, None, self._slots[index].epoch + 1, False)
        return index | self._slots[index].epoch << 32

    def freeze_slot(self, slot: int, valid_below: int) -> None:
        frozen = self._slots[self._index(slot)]
        frozen.valid_below = valid_below
        frozen.frozen_at = self._number

    def _index(self, handle: int) -> int:
        index = handle & 0xFFFFFFFF
        if index >= len(self._slots) or self._slots[index].epoch != handle >> 32:
            raise ValueError(f"{handle} is not a slot of this claim table, or has been dropped")
        if self._slots[index].free or self._slots[index].frozen_at is not None:
            raise ValueError(f"slot {handle} is frozen; open another one to go on claiming")
        return index

    def drop(self) -> None:
        if len(self._live) > 1:
            oldest = self._number - len(self._live) + 1
            for slot in self._slots:
                if slot.frozen_at is not None and slot.frozen_at <= oldest:
                    slot.free = True
            self.ids_dropped += len(self._live.pop())

    def rotate(self) -> None:
        if len(self._live) == self.generations_max:
            self.drop()
        self._live.insert(0, {})
        self._number += 1
        self.rotations += 1

    def claim(self, id: bytes, slot: int, offset: int) -> int:
        """The rule itself. `slot` is an index, not a handle."""
        for generation in self._live:
            if id not in generation:
                continue
            owner, owned = generation[id]
            own_record = self._slots[owner].identity == self._slots[slot].identity and owned == offset
            if not own_record and owned < self._slots[owner].valid_below:
                return DUPLICATE
            generation[id] = (slot, offset)
            return APPENDED
        if len(self._live[0]) >= self.ids_max // (self.generations_max // 2):
            self.rotate()
        while self.ids >= self.ids_max:
            self.drop()
        self._live[0][id] = (slot, offset)
        return APPENDED

    def _take_over(self, id: bytes, slot: int, offset: int) -> None:
        """The claim of a record that is stored."""
        for generation in self._live:
            if id in generation:
                generation[id] = (slot, offset)
                return
        self.claim(id, slot, offset)

    def claim_many(self, ids: bytes, slot: int, offsets: Iterable[int]) -> bytearray:
        index = self._index(slot)
        return bytearray(
            self.claim(ids[number * 16 : number * 16 + 16], index, offset) for number, offset in enumerate(offsets)
        )

    def event_id(self, key: bytes) -> bytes:
        return siphash128(string(key), self._secret)

    def find(self, id: bytes) -> tuple[int, int, bool] | None:
        for generation in self._live:
            if id in generation:
                slot, offset = generation[id]
                return self._slots[slot].identity, offset, offset >= self._slots[slot].valid_below
        return None

    def masked(self, id: bytes, domain: bytes) -> bytes:
        """The id combined with the hash of its domain."""
        mask = siphash128(domain, self._secret) if domain else bytes(16)
        return bytes(left ^ right for left, right in zip(id, mask, strict=True))

    def restore(self, rows: bytes, key_layout: Sequence[str], slots: Mapping[int, int], domain: bytes = b"") -> int:
        specs = [parse(text) for text in key_layout]
        indexes = {number: self._index(slot) for number, slot in slots.items()}
        position = claimed = 0
        while position < len(rows):
            parts: list[bytes | None] = []
            for spec in specs:
                if spec.kind == "nullable":
                    position += 1
                    if rows[position - 1]:
                        parts.append(None)
                        continue
                width = leaf(spec).width or _string_nbytes(rows, position)
                parts.append(rows[position : position + width])
                position += width
            partition = int.from_bytes(rows[position : position + 4], "little", signed=True)
            offset = int.from_bytes(rows[position + 4 : position + 12], "little", signed=True)
            position += 12
            if partition in indexes and None not in parts:
                key = b"".join(part for part in parts if part is not None)
                uuid = len(specs) == 1 and leaf(specs[0]).kind == "uuid"
                id = key if uuid else siphash128(key, self._secret)
                self._take_over(self.masked(id, domain), indexes[partition], offset)
                claimed += 1
        return claimed

    @property
    def ids(self) -> int:
        return sum(self.generations)

    @property
    def generations(self) -> list[int]:
        return [len(generation) for generation in self._live]

    @property
    def slots(self) -> int:
        return sum(not slot.free for slot in self._slots)


def _string_nbytes(rows: bytes, position: int) -> int:
    size = shift = 0
    for count in range(1, 11):
        byte = rows[position + count - 1]
        size |= (byte & 0x7F) << shift
        shift += 7
        if byte < 0x80:
            return count + size
    raise ValueError("not a length")
