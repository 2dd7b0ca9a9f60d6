"""The command: what it prints where, and how it ends."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import msgspec
import pytest

from pipeline import cli
from pipeline.cli import output
from pipeline.errors import (
    ConfigurationError,
    DependencyDown,
    GaveUp,
    InvariantViolated,
    PipelineStopped,
    Problem,
    SinkError,
)

Boom = Callable[[Callable[..., int]], None]
GOOD = """
name = "orders"
[kafka]
brokers = "127.0.0.1:1"
group = "penstock-orders"
[clickhouse]
urls = ["http://127.0.0.1:1"]
[[routes]]
topic = "orders"
table = "orders"
[dead_letters]
topic = "orders-dead"
"""


@pytest.fixture
def boom(monkeypatch: pytest.MonkeyPatch) -> Boom:
    """Installs a command `boom` that runs the given function."""

    def install(run: Callable[..., int]) -> None:
        module = SimpleNamespace(add=lambda subparsers: subparsers.add_parser("boom"), run=lambda args: run())
        monkeypatch.setitem(sys.modules, "pipeline.cli.boom", module)
        monkeypatch.setattr(cli, "COMMANDS", ("version", "boom"))

    return install


def raising(error: BaseException) -> Callable[..., int]:
    def run() -> int:
        raise error

    return run


PROBLEM = Problem("batch.rows_max", "0", "must be at least 1", "Set it to 1")


@pytest.mark.parametrize(
    ("error", "code", "says"),
    [
        (ConfigurationError([PROBLEM]), 78, "batch.rows_max = 0: must be at least 1. Set it to 1"),
        (DependencyDown("no broker at a:1"), 69, "no broker at a:1"),
        (GaveUp("not caught up in 60 s"), 75, "not caught up"),
        (PipelineStopped("out of range"), 70, "out of range"),
        (SinkError("code 60", code=60, retriable=False), 70, "code 60"),
        (InvariantViolated("spans overlap"), 70, "spans overlap"),
        (KeyboardInterrupt(), 130, ""),
        (TypeError("oops"), 70, "TypeError: oops\nThis is a bug in penstock"),
        (ModuleNotFoundError("no chdb", name="chdb"), 78, "pip install 'penstock[embedded]'"),
        (ModuleNotFoundError("no thing", name="thing"), 70, "This is a bug in penstock"),
        (msgspec.ValidationError("card 4711"), 70, "ValidationError: (its text may hold data and is left out)"),
    ],
)
def test_how_a_command_ends(
    boom: Boom, capsys: pytest.CaptureFixture[str], error: BaseException, code: int, says: str
) -> None:
    boom(raising(error))
    assert cli.main(["boom"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert says in err
    assert "Traceback" not in err
    assert "4711" not in err


def test_the_code_of_a_command_is_passed_on(boom: Boom) -> None:
    for code in (0, 1, 75):
        boom(lambda code=code: code)
        assert cli.main(["boom"]) == code


def test_debug_shows_the_traceback(
    boom: Boom, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    boom(raising(TypeError("oops")))
    cli.main(["boom", "--debug"])
    assert "Traceback" in capsys.readouterr().err
    monkeypatch.setenv("PENSTOCK__LOG__LEVEL", "debug")
    cli.main(["boom"])
    assert "Traceback" in capsys.readouterr().err


def test_errors_are_an_object_under_json(boom: Boom, capsys: pytest.CaptureFixture[str]) -> None:
    boom(raising(ConfigurationError([PROBLEM])))
    assert cli.main(["boom", "--json"]) == 78
    last = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert last["ok"] is False
    assert last["exit"] == 78
    assert last["problems"] == [
        {"key": "batch.rows_max", "value": "0", "rule": "must be at least 1", "fix": "Set it to 1"}
    ]
    boom(raising(ValueError("x")))
    assert cli.main(["boom", "--json"]) == 70
    assert json.loads(capsys.readouterr().out) == {"ok": False, "exit": 70, "error": "ValueError: x", "problems": []}


def test_a_broken_pipe_elsewhere_is_not_taken_for_a_closed_stdout(
    boom: Boom, capfd: pytest.CaptureFixture[str]
) -> None:
    boom(raising(BrokenPipeError(32, "Broken pipe")))
    assert cli.main(["boom"]) == 70


def run(*words: str, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "pipeline", *words], capture_output=True, text=True, check=False, **options
    )


def test_a_reader_that_leaves_is_met_with_silence() -> None:
    read, write = os.pipe()
    os.close(read)
    done = subprocess.run(
        [sys.executable, "-m", "pipeline", "version"], stdout=write, stderr=subprocess.PIPE, check=False
    )
    os.close(write)
    assert (done.returncode, done.stderr) == (141, b"")


def test_usage_errors_leave_with_2_and_name_what_was_meant(capsys: pytest.CaptureFixture[str]) -> None:
    for words in (["chek"], ["check"], ["check", "--ofline"], []):
        with pytest.raises(SystemExit) as caught:
            cli.main(words)
        assert caught.value.code == 2
    assert "Did you mean `penstock check`?" in capsys.readouterr().err


def test_help_lists_every_command_and_the_exit_codes(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main(["--help"])
    assert caught.value.code == 0
    text = capsys.readouterr().out
    for command in ("demo", "run", "check", "ddl", "gen", "verify", "bench", "version"):
        assert f"\n    {command} " in text
    assert "69 Kafka or ClickHouse is down" in text


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_every_command_has_help_and_json(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        cli.main([command, "--help"])
    assert caught.value.code == 0
    assert "--json" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["version", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["penstock"] == found["native_core"]
    assert found["librdkafka"].count(".") == 2
    assert cli.main(["version"]) == 0
    assert capsys.readouterr().out.startswith("penstock ")


# check


@pytest.fixture
def good(tmp_path: Path) -> Path:
    path = tmp_path / "penstock.toml"
    path.write_text(GOOD)
    return path


def test_check_offline(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "-c", str(good), "--offline"]) == 0
    out, err = capsys.readouterr()
    assert out.startswith("ok       configuration  ")
    assert "an insert may take 120 s, a worker hangs after 240 s, the group expels it after 300 s" in out
    assert "skipped  contract orders: is inferred from the table orders" in out
    assert "blocks_in_flight" in out
    assert err == "\nno problems, no warnings\n"


def test_check_offline_as_json(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "-c", str(good), "--offline", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.count("\n") == 1
    found = json.loads(out)
    assert set(found) == {"ok", "exit", "problems", "warnings", "checks", "memory_plan"}
    assert [(check["check"], check["status"]) for check in found["checks"]] == [
        ("configuration", "ok"),
        ("deadlines", "ok"),
        ("contract", "skipped"),
        ("offline", "skipped"),
    ]
    assert all(set(check) == {"check", "name", "status", "text", "fix"} for check in found["checks"])
    plan = found["memory_plan"]
    assert plan.pop("sum") == sum(plan.values())


def test_check_tells_every_problem_of_the_file(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good.write_text(GOOD.replace('group = "penstock-orders"', "grup = 1") + "[batch]\nrows_max = 0\n")
    assert cli.main(["check", "-c", str(good), "--offline", "--json"]) == 78
    found = json.loads(capsys.readouterr().out)
    assert [check["name"] for check in found["checks"]] == ["kafka.grup", "kafka.group", "batch.rows_max"]
    assert found["problems"] == 3
    assert found["checks"][0]["fix"] == "Did you mean kafka.group?"
    assert cli.main(["check", "-c", str(good), "--offline"]) == 78
    assert "problem  batch.rows_max: 0 must be from 1 to 500000" in capsys.readouterr().out


def test_check_asks_librdkafka_about_the_pass_through(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good.write_text(GOOD + '[kafka.librdkafka]\n"socket.timout.ms" = 1\n')
    assert cli.main(["check", "-c", str(good), "--offline"]) == 78
    out = capsys.readouterr().out
    assert 'is refused by librdkafka: No such configuration property: "socket.timout.ms"' in out
    assert 'fix: Correct or remove "socket.timout.ms" under [kafka.librdkafka]' in out


def test_privileges_are_commands_that_can_be_pasted(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "-c", str(good), "--privileges"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert {line.split()[0] for line in lines if line} == {"#", "--", "kafka-acls.sh", "GRANT"}
    assert all(line.endswith(";") for line in lines if line.startswith("GRANT"))
    assert cli.main(["check", "-c", str(good), "--privileges", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {(system, who) for system in found for who in found[system]} == {
        (system, who) for system in ("kafka", "clickhouse") for who in ("worker", "check")
    }
    assert [f"{text}" for system in found.values() for one in system.values() for text in one] == [
        line for line in lines if line and line[0] not in "#-"
    ]


@pytest.mark.parametrize("hours", ["0", "-1", "9000", "x"])
def test_an_outage_is_a_sensible_time(good: Path, hours: str) -> None:
    with pytest.raises(SystemExit):
        cli.main(["check", "-c", str(good), "--offline", f"--outage={hours}"])


def test_check_loads_the_contract_without_any_server(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good.write_text(GOOD.replace('table = "orders"', 'table = "orders"\ncontract = "no_such_module:Order"'))
    assert cli.main(["check", "-c", str(good), "--offline"]) == 78
    assert "importing no_such_module failed" in capsys.readouterr().out


def test_check_with_everything_down(good: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nothing listens on port 1: both are told, once each, and nothing of the clients' own chatter."""
    assert cli.main(["check", "-c", str(good), "--timeout", "1"]) == 69
    out, err = capsys.readouterr()
    assert [line.split(":")[0] for line in out.splitlines() if line.startswith("down")] == [
        "down     kafka",
        "down     clickhouse",
    ]
    assert "Connection refused" in out
    assert err == "\n2 problems, no warnings\n"


def test_check_of_a_file_that_is_not_there(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["check", "-c", "/no/such.toml"]) == 78
    assert "problem  /no/such.toml: cannot be read (No such file or directory)" in capsys.readouterr().out


# ddl


def test_ddl_of_a_contract(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "ddl_events_for_test.py").write_text(
        "import msgspec\n"
        "class OrderPaid(msgspec.Struct, tag='OrderPaid'):\n    event_id: str\n    amount: int\n"
        "class OrderSent(msgspec.Struct, tag='OrderSent'):\n    event_id: str\n"
        "Event = OrderPaid | OrderSent\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    assert (
        cli.main(["ddl", "--contract", "ddl_events_for_test:OrderPaid", "--table", "shop.paid", "--key", "event_id"])
        == 0
    )
    out = capsys.readouterr().out
    assert out.startswith("CREATE TABLE `shop`.`paid`\n(\n    `event_id` String,\n    `amount` Int64,\n    `_topic`")
    assert "ENGINE = MergeTree\nORDER BY (`event_id`)\n" in out
    assert out.endswith("non_replicated_deduplication_window = 100000;\n")

    words = ["--engine", "ReplicatedMergeTree", "--replacing", "--order-by", "event_id,_offset", "--json"]
    assert cli.main(["ddl", "--contract", "ddl_events_for_test:Event", *words]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [text.split()[2] for text in found["statements"]] == ["`order_paid`", "`order_sent`"]
    for text in found["statements"]:
        assert "ENGINE = ReplicatedReplacingMergeTree\nORDER BY (`event_id`, `_offset`)\n" in text

    for wrong, says in (
        (["--table", "one"], "--table: names one table for several types. Write --table TAG=NAME for each"),
        (["--table", "a", "--table", "b"], "--table: is given more than once"),
        (["--table", "Nope=b"], "--table = Nope = 'b': no type of the contract has this tag"),
        (["--key", "nope"], "--key = nope: OrderPaid has no such field"),
        (["--order-by", "nope"], "--order-by = nope: the table has no such column"),
        (["--version-column", "_offset"], "--version-column = _offset: only a replacing table has a version column"),
    ):
        assert cli.main(["ddl", "--contract", "ddl_events_for_test:Event", *wrong]) == 78
        assert says in capsys.readouterr().err


def test_ddl_of_a_configuration(
    good: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.main(["ddl", "-c", str(good)]) == 1
    assert "orders: its contract is inferred from the table orders" in capsys.readouterr().err
    (good.parent / "ddl_config_for_test.py").write_text("import msgspec\nclass Order(msgspec.Struct):\n    id: str\n")
    monkeypatch.syspath_prepend(str(good.parent))
    text = GOOD.replace('table = "orders"', 'table = "orders"\ncontract = "ddl_config_for_test:Order"')
    good.write_text(text.replace("[[routes]]", 'database = "shop"\n[[routes]]') + '[dedup]\nkey = ["id"]\n')
    assert cli.main(["ddl", "-c", str(good)]) == 0
    out = capsys.readouterr().out
    assert out.startswith("CREATE TABLE `shop`.`orders`\n")
    assert "ORDER BY (`id`)" in out
    assert cli.main(["ddl", "-c", str(good), "--key", "id"]) == 78


# output


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    assert output.coloured("ok", "green", Terminal()) == "\x1b[32mok\x1b[0m"
    assert output.coloured("ok", "green", io.StringIO()) == "ok"
    monkeypatch.setenv("TERM", "dumb")
    assert output.coloured("ok", "green", Terminal()) == "ok"
    monkeypatch.delenv("TERM")
    monkeypatch.setenv("NO_COLOR", "1")
    assert output.coloured("ok", "green", Terminal()) == "ok"


def test_numbers_and_tables_for_people() -> None:
    sizes = (0, 1023, 1024, 64 * 1024**2, 3 * 1024**3)
    assert [output.bytes_text(nbytes) for nbytes in sizes] == ["0 B", "1023 B", "1.0 KiB", "64.0 MiB", "3.0 GiB"]
    assert output.count_text(500_000) == "500,000"
    assert output.table([("a", "1"), ("bb", "22")], right=(1,), indent="  ") == "  a    1\n  bb  22"
    assert output.table([]) == ""


def test_the_result_is_alone_on_the_last_line(capsys: pytest.CaptureFixture[str]) -> None:
    output.line("data")
    output.note("told")
    output.result({"ok": True, "path": Path("/x")})
    out, err = capsys.readouterr()
    assert json.loads(out.splitlines()[-1]) == {"ok": True, "path": "/x"}
    assert err == "told\n"
