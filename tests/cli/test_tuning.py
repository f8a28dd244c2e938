"""`--tune`, `--tune-db`, `--tune-tracker`: what a user sees."""

from __future__ import annotations

import json
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

import lepton_compiler as lc


def built(out: Path) -> tuple[dict, bytes]:
    manifest = json.loads((out / "tiny.json").read_text())
    return manifest, (out / "libtiny.so").read_bytes()


def test_tuning_is_resumed_shared_and_never_implied(call, tiny, tmp_path, cache):
    database = tmp_path / "db.jsonl"
    plain, tuned, shared = tmp_path / "plain", tmp_path / "tuned", tmp_path / "shared"
    first = call("leptonc", tiny, "-O3", "-o", tuned, "--tune", 300, "--tune-db", database, "--verify", "--json")
    assert first.status == 0, first.err
    report = first.json["tune"]
    assert report["kernels"] == report["finished"] == report["measured"] == 1
    assert report["ratio"] <= 1.0
    lines = database.read_text().splitlines()
    assert len(lines) >= 1 and json.loads(lines[-1])["label"].startswith("matmul")
    second = call("leptonc", tiny, "-O3", "-o", tuned, "--tune", 1, "--tune-db", database, "--json")
    assert second.status == 0, second.err
    assert second.json["tune"]["measured"] == 0 and second.json["tune"]["finished"] == 1

    row = {**json.loads(lines[-1]), "choice": {"unroll": 2}}
    database.write_text(json.dumps(row) + "\n")
    assert call("leptonc", tiny, "-O3", "-o", shared, "--tune-db", database, "--verify", "-q").status == 0
    (cache / "tuning.jsonl").write_text(json.dumps(row) + "\n")
    assert call("leptonc", tiny, "-O3", "-o", plain, "-q").status == 0
    (cache / "tuning.jsonl").unlink()
    (without, code), (chosen, other) = built(plain), built(shared)
    assert "tuning" not in without
    assert [(r["kernel"], r["choice"]) for r in chosen["tuning"]] == [(row["kernel"], {"unroll": 2})]
    assert code != other
    assert call("leptonc", tiny, "-O3", "-o", shared, "--tune-db", database, "-q").status == 0
    assert built(shared) == (chosen, other)


def test_bad_requests_are_one_line_each(call, tiny, tmp_path):
    out, broken = tmp_path / "out", tmp_path / "broken.jsonl"
    broken.write_text("{}\n")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        closed = probe.getsockname()[1]
    cases: list[tuple[list[object], int, str]] = [
        (["--tune", "0"], 2, "--tune takes a positive number of seconds"),
        (["--tune", "soon"], 2, "--tune takes a positive number of seconds"),
        (["--tune", 5, "--target", "x86_64"], 2, "--tune measures on this machine, and the target is x86_64"),
        (["--tune", 5, "--target", "cortex-m4"], 2, "cortex-m4 cannot be tuned"),
        (["--tune-tracker", "localhost:9190"], 2, "--tune-tracker needs --tune SECONDS"),
        (["--tune", 5, "--tune-tracker", "localhost"], 2, "'localhost' is not HOST:PORT[,KEY]"),
        (["--tune-db", tmp_path / "none.jsonl"], 1, f"{tmp_path / 'none.jsonl'}: no such tuning database"),
        (["--tune-db", broken], 1, f"{broken}:1: not a line of a tuning database"),
        (["--tune", 5, "--tune-db", tmp_path], 1, f"{tmp_path}: cannot read the tuning database"),
        (["--tune", 5, "--emit", "onnx"], 2, "--emit onnx has no kernels to tune"),
    ]
    for arguments, status, message in cases:
        done = call("leptonc", tiny, "-o", out, *arguments)
        assert done.status == status, (arguments, done.err)
        assert done.err.startswith(f"leptonc: error: {message}") and done.err.count("error:") == 1, done.err
        assert not out.exists()
    unreachable = call("leptonc", tiny, "-o", out, "--tune", 5, "--tune-db", tmp_path / "db", "--tune-tracker", f"127.0.0.1:{closed}")
    assert unreachable.status == 1
    possible = (f"no tracker answers at 127.0.0.1:{closed}", "TVM's RPC needs")
    assert any(f"leptonc: error: {text}" in unreachable.err for text in possible), unreachable.err


def test_a_gpu_that_is_not_there_is_one_line(tiny, tmp_path):
    """In a process of its own, whatever driver this one has loaded."""
    command = [sys.executable, "-m", "lepton_compiler.cli.leptonc", str(tiny), "-o", str(tmp_path / "out"), "--target", "cuda"]
    environment = {**os.environ, "CUDA_VISIBLE_DEVICES": "-1"}
    for more, status, message in (
        (["--tune", "5"], 1, r"leptonc: error: no (driver of NVIDIA|GPU): .*"),
        (["--tune", "5", "--tune-tracker", "localhost:9190"], 2, "leptonc: error: --tune-tracker is for processors"),
    ):
        done = subprocess.run([*command, *more], env=environment, capture_output=True, text=True, timeout=120)
        first, *rest = done.stderr.strip().splitlines()
        assert done.returncode == status and re.fullmatch(message, first), done.stderr
        assert len(rest) == 1 and "hint: " in rest[0]
        assert not (tmp_path / "out").exists()


def test_open_dimensions_are_refused(unbound):
    with pytest.raises(lc.UsageError, match="tuning needs known sizes"):
        lc.compile(unbound, tune=5)
