"""Whether materialised views that an insert feeds deduplicate like the table itself. Pure: facts in, checks out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Sequence
from typing import TYPE_CHECKING, NamedTuple

from pipeline.preflight.checks import Check, Status, plural
from pipeline.preflight.tables import WINDOW_BLOCKS, modify, window_key

if TYPE_CHECKING:
    from pipeline.clickhouse import TableFacts

SEND_TO_VIEWS = "deduplicate_blocks_in_dependent_materialized_views"
TOKEN_PER_VIEW = "update_insert_deduplication_token_in_dependent_materialized_views"


class View(NamedTuple):
    """A materialised view that an insert reaches, directly or through other views."""

    name: str
    target: str
    """The table it fills, as it is written in SQL; empty where its definition does not tell."""
    facts: TableFacts | None
    """None: the target cannot be seen."""


def view_checks(
    name: str, views: Sequence[View], known_settings: Collection[str], sent_settings: Collection[str] = ()
) -> Iterator[Check]:
    """What views double or lose when an insert into the table `name` is repeated.

    `known_settings` are those the server has and still heeds, `sent_settings` those of `clickhouse.settings`.
    """
    if not views:
        return
    name = f"table {name}"
    bad = list(_of_version(name, views, known_settings, sent_settings))
    for view in views:
        bad += _of_target(name, view)
    yield from bad
    if not bad:
        verb = "remembers" if len(views) == 1 else "remember"
        yield Check("views", name, Status.OK, f"{plural(len(views), 'view')} {verb} inserts as it does")


def _of_version(name: str, views: Sequence[View], known: Collection[str], sent: Collection[str]) -> Iterator[Check]:
    if SEND_TO_VIEWS not in known:
        yield Check(
            "views-version",
            name,
            Status.WARNING,
            f"feeds {', '.join(view.name for view in views)}, and this server is too old to deduplicate in views: "
            "a repeated insert repeats there",
            "Upgrade ClickHouse, or fill those tables from this one in another way",
        )
    targets = Counter(view.target for view in views if view.target)
    shared = [target for target, number in targets.items() if number > 1]
    if shared and TOKEN_PER_VIEW in known and TOKEN_PER_VIEW not in sent:
        yield Check(
            "views-version",
            name,
            Status.PROBLEM,
            f"feeds {', '.join(shared)} through several views, and this server gives their blocks one token: "
            "what the second view writes is taken for a duplicate and lost",
            f"Write under [clickhouse.settings]: {TOKEN_PER_VIEW} = 1",
        )


def _of_target(name: str, view: View) -> Iterator[Check]:
    where = view.target or "its target"
    if view.facts is None:
        yield Check(
            "views",
            name,
            Status.SKIPPED,
            f"feeds {view.name}, and {where} cannot be seen by this user: it may store repeated inserts twice",
            f"GRANT SHOW TABLES ON {where if view.target else '*.*'} TO the user, and check again",
        )
    elif not view.facts.engine.endswith("MergeTree"):
        if view.facts.engine != "Null":
            yield Check(
                "views",
                name,
                Status.WARNING,
                f"feeds {view.name}: a repeated insert repeats in {where}, whose engine {view.facts.engine} remembers none",
                "Let the view write to a MergeTree table with a deduplication window",
            )
    elif not view.facts.window_blocks:
        yield Check(
            "views",
            name,
            Status.WARNING,
            f"feeds {view.name}: a repeated insert repeats in {where}, which remembers none ({window_key(view.facts)} = 0)"
            + (", and its totals will not show it" if view.facts.totals else ""),
            modify(where, window_key(view.facts), WINDOW_BLOCKS),
        )
