"""The tuning database and what can be asked for."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

import lepton_compiler as lc
from lepton_compiler.target import parse_target
from lepton_compiler.tuning import Database, Request, Row, Tracker, describe, this_cpu

TARGET = parse_target("x86_64")
ROW = Row("k1", "conv", "float32[1,2]", "v1", describe(TARGET), "Some CPU, L1 32K", 1, {"pixels": 4}, 0.9, 12)


def test_rows_are_read_back(tmp_path: Path) -> None:
    path = tmp_path / "new" / "db.jsonl"
    database = Database(path)
    database.add(ROW)
    database.add(replace(ROW, kernel="k2", choice={}, ratio=1.0))
    assert Row.from_line(ROW.to_line()) == ROW
    assert list(Database(path).rows.values()) == [ROW, replace(ROW, kernel="k2", choice={}, ratio=1.0)]


def test_a_later_line_replaces_an_earlier_one(tmp_path: Path) -> None:
    path = tmp_path / "db.jsonl"
    path.write_text(ROW.to_line() + "\n" + replace(ROW, choice={"pixels": 5}).to_line())
    found = Database(path).find("v1", TARGET, ROW.cpu, 1)
    assert {name: row.choice for name, row in found.items()} == {"k1": {"pixels": 5}}


def test_rows_count_for_their_machine_only(tmp_path: Path) -> None:
    database = Database(None)
    for row in (ROW, replace(ROW, kernel="k2", cpu="Other CPU")):
        database.add(row)
    assert set(database.find("v1", TARGET, "Other CPU", 1)) == {"k2"}
    assert database.find("v2", TARGET, "Other CPU", 1) == {}
    assert database.find("v1", TARGET, "Other CPU", 2) == {}
    assert database.find("v1", parse_target("x86_64", "znver3"), "Other CPU", 1) == {}
    with pytest.raises(lc.UsageError, match="rows of several processors: Other CPU; Some CPU, L1 32K"):
        database.find("v1", TARGET, None, 1)
    alone = Database(None)
    alone.add(ROW)
    assert set(alone.find("v1", TARGET, None, 1)) == {"k1"}


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("nonsense\n", r"db.jsonl:2: not a line of a tuning database: Expecting value"),
        ('{"kernel": "k"}\n', r'db.jsonl:2: not a line of a tuning database: a line begins with {"lepton_tuning": 1'),
        ("[1]\n", r"db.jsonl:2: not a line"),
        ('{"lepton_tuning": 1, "kernel": "k"}\n', r"db.jsonl:2: .*missing 9 required"),
        (ROW.to_line().replace('"threads": 1', '"threads": "1"'), r"db.jsonl:2: .*'threads' has a wrong type"),
    ],
)
def test_a_bad_line_is_named(text: str, message: str, tmp_path: Path) -> None:
    path = tmp_path / "db.jsonl"
    path.write_text(ROW.to_line() + text)
    with pytest.raises(lc.LeptonError, match=message):
        Database(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    binary = tmp_path / "binary"
    binary.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(lc.LeptonError, match="binary: cannot read the tuning database: not a text file"):
        Database(binary)
    with pytest.raises(lc.LeptonError, match="cannot read the tuning database: Is a directory"):
        Database(tmp_path)


def test_requests() -> None:
    native = parse_target("native")
    assert Request.of(native, None, None, None) == Request()
    assert Request.of(native, "2.5", "a", "10.0.0.1:9190,rasp") == Request(2.5, Path("a"), Tracker("10.0.0.1", 9190, "rasp"))
    assert Request.of(TARGET, 5, None, "host:1").tracker == Tracker("host", 1, "x86_64")


@pytest.mark.parametrize("seconds", ["0", -1, "soon", float("nan"), float("inf")])
def test_seconds_are_positive(seconds: object) -> None:
    with pytest.raises(lc.UsageError, match="--tune takes a positive number of seconds"):
        Request.of(parse_target("native"), seconds, None, None)


@pytest.mark.parametrize("tracker", ["host", "host:", ":9190", "host:port", "host:70000"])
def test_a_tracker_is_host_and_port(tracker: str) -> None:
    with pytest.raises(lc.UsageError, match=r"is not HOST:PORT\[,KEY\]"):
        Request.of(parse_target("native"), 5, None, tracker)


def test_this_machine_has_a_name() -> None:
    assert this_cpu() and "\n" not in this_cpu()
