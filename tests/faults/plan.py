"""What goes wrong in a run, drawn from its seed: three sequences of faults that run side by side, each with its pauses.

Faults of workers, of servers, and of the wires between them. Each kind comes as often as its share says and all of them
come early: they are dealt like cards from a shuffled deck, and the deck is shuffled anew when it is used up.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

Category = Literal["process", "network", "answer", "cluster"]

WORKERS: Mapping[str, int] = {
    "kill_worker": 5,
    "zombie": 3,
    "pause_worker": 1,
    "kill_all_workers": 1,
    "rolling_restart": 1,
    "scale": 1,
    "forget_offsets": 1,
}
SERVERS: Mapping[str, int] = {
    "kill_broker": 2,
    "restart_broker": 1,
    "freeze_broker": 1,
    "move_leaders": 1,
    "kill_clickhouse": 3,
    "lose_letters_topic": 1,
}
WIRES: Mapping[str, int] = {
    "cut_broker": 3,
    "cut_clickhouse": 3,
    "delay_broker": 2,
    "delay_clickhouse": 2,
    "half_open_broker": 1,
    "half_open_clickhouse": 1,
    "commit_reply_lost": 4,
    "commit_late": 3,
    "commit_sent_twice": 3,
    "commit_lost": 2,
    "insert_reply_lost": 5,
    "insert_late": 4,
    "insert_lost": 2,
    "letter_reply_lost": 1,
    "heartbeat_reply_lost": 1,
    "fetch_reply_lost": 1,
    "query_reply_lost": 2,
    "too_many_parts": 2,
    "memory_limit": 2,
    "read_only": 2,
    "slow_insert": 2,
    "applied_and_refused": 2,
    "applied_and_dropped": 3,
}

Track = Literal["workers", "servers", "wires"]
DECKS: Mapping[Track, Mapping[str, int]] = {"workers": WORKERS, "servers": SERVERS, "wires": WIRES}
PAUSES_S: Mapping[Track, tuple[float, float]] = {"workers": (1.0, 6.0), "servers": (4.0, 12.0), "wires": (0.1, 1.2)}


class Fault(NamedTuple):
    """One fault, the pause before it, and the seed of whatever else is to be chosen for it."""

    kind: str
    pause_s: float
    seed: int


def faults(seed: int, track: Track) -> Iterator[Fault]:
    """Without end; the same for the same seed."""
    rng = random.Random(f"{seed} {track}")
    while True:
        deck = [kind for kind, share in DECKS[track].items() for _ in range(share)]
        rng.shuffle(deck)
        for kind in deck:
            yield Fault(kind, rng.uniform(*PAUSES_S[track]), rng.getrandbits(32))
