"""What a ClickHouse server and its user's profile do to the settings an insert depends on. Pure: facts in, checks out."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from pipeline.config.schema import Config
from pipeline.preflight.checks import Check, Status

NAME = "insert settings"


class Setting(NamedTuple):
    """A setting as this user's session begins with it."""

    value: str
    fixed: bool
    """The profile does not let the user change it."""
    low: str = ""
    high: str = ""
    """The profile's bounds; empty where there is none."""


def setting_checks(
    config: Config, ours: Mapping[str, Any], settings: Mapping[str, Setting], user: str
) -> Iterator[Check]:
    """Whether the settings sent with each insert (`ours`) are allowed, `async_insert` among them, and what else decides."""
    bad = list(_refused(ours, settings, user)) + list(_execution_time(config, settings, user))
    yield from bad
    if bad:
        return
    default = settings.get("async_insert")
    on = default is not None and default.value not in ("0", "false")
    text = "async_insert is on by default on this server; penstock's inserts switch it off" if on else "all allowed"
    yield Check("async-insert" if on else "insert-settings", NAME, Status.OK, text)


def _refused(ours: Mapping[str, Any], settings: Mapping[str, Setting], user: str) -> Iterator[Check]:
    for key, wanted in ours.items():
        setting = settings.get(key)
        value = str(int(wanted) if isinstance(wanted, bool) else wanted)
        if setting is None or setting.value == value:
            continue  # An unknown setting is not sent.
        if setting.fixed:
            rule = f"is {setting.value} and the profile of the user {user} does not let it be changed"
        elif _outside(value, setting):
            rule = f"may be {setting.low or 'anything'} to {setting.high or 'anything'} for the user {user}"
        else:
            continue
        yield Check(
            "async-insert" if key == "async_insert" else "insert-settings",
            NAME,
            Status.PROBLEM,
            f"{key} {rule}; inserts need {value}, and would be refused or not be exactly-once",
            f"Take the constraint on {key} out of the settings profile, or let it be {value}",
        )


def _outside(value: str, setting: Setting) -> bool:
    number = _number(value)
    low, high = _number(setting.low), _number(setting.high)
    if number is None:
        return False
    return (low is not None and number < low) or (high is not None and number > high)


def _number(text: str) -> float | None:
    try:
        return float(text)
    except ValueError:
        return None


def _execution_time(config: Config, settings: Mapping[str, Setting], user: str) -> Iterator[Check]:
    """An insert that the server cancels a little too early is cancelled at every attempt, and never lands."""
    key = "max_execution_time"
    own = config.clickhouse.settings.get(key)
    setting = settings.get(key)
    seconds = float(own) if own is not None else _number(setting.value if setting else "") or 0.0
    deadline_ms = config.clickhouse.insert_timeout_ms
    if 0 < seconds < deadline_ms / 1000:
        where = "[clickhouse.settings]" if own is not None else f"the profile of the user {user}"
        yield Check(
            "execution-time",
            NAME,
            Status.WARNING,
            f"{key} is {seconds:g} s in {where}, less than clickhouse.insert_timeout_ms = {deadline_ms}: an insert that "
            "takes longer is cancelled at every attempt and never lands",
            f"Remove {key} from [clickhouse.settings]" if own is not None else f"ALTER USER {user} SETTINGS {key} = 0",
        )
