"""Instruments see every pass, find the broken one, and leave what is needed to see it again."""

from __future__ import annotations

import io
import shlex
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from lepton_compiler.cli.lepton import main
from lepton_compiler.errors import InvalidIR, VerificationError
from lepton_compiler.instruments import CrashReproducer, Dump, NumericBisect, PrintIRAfter, Timing, Verify
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import parse_graph, print_graph, read_lir, write_lir
from lepton_compiler.ops.unary import Neg
from lepton_compiler.passes import registry
from lepton_compiler.pipeline import Instrument, Pass, PassContext, parse_pipeline

TEXT = """\
graph @main(%x: float32[n,2]) {
  %a = Exp()(%x) : float32[n,2]
  %b = Exp()(%x) : float32[n,2]
  %k = const float32[2] (1.0, 2.0)
  %c = Mul()(%b, %k) : float32[n,2]
  %y = Add()(%a, %c) : float32[n,2]
  return %y
}
"""


@dataclass(frozen=True)
class SwapOperator(Pass):
    """Wrong numbers in valid IR."""

    def run(self, graph: Graph, ctx: PassContext) -> None:
        last = graph.outputs[0].producer
        assert last is not None
        last.op = Neg() if len(last.inputs) == 1 else type(last.op)()
        graph.set_inputs(last, [last.inputs[0]] * len(last.inputs))


@dataclass(frozen=True)
class BreakTypes(Pass):
    """Invalid IR."""

    def run(self, graph: Graph, ctx: PassContext) -> None:
        graph.rename(graph.nodes[0].output, "broken")
        graph.nodes[0].output.type = graph.constant(np.zeros(3)).type


@dataclass(frozen=True)
class RenameOutput(Pass):
    """Valid IR of another interface."""

    def run(self, graph: Graph, ctx: PassContext) -> None:
        graph.rename(graph.outputs[0], "z")


@dataclass(frozen=True)
class Crash(Pass):
    """Stumbles over what an earlier pass made."""

    after: int = 0

    def run(self, graph: Graph, ctx: PassContext) -> None:
        graph.rename(graph.outputs[0], "half_done")
        if len(graph) > self.after:
            raise ZeroDivisionError("stumbled")


@pytest.fixture(autouse=True)
def passes() -> Iterator[None]:
    broken: tuple[type[Pass], ...] = (SwapOperator, BreakTypes, RenameOutput, Crash)
    for cls in broken:
        registry.register(cls.name, cls)
    yield
    for cls in broken:
        registry._loaded.pop(cls.name)


def run(passes: str, *instruments: Instrument) -> Graph:
    return parse_pipeline(passes).run(parse_graph(TEXT), PassContext(instruments=instruments))


def test_instruments_nest() -> None:
    seen: list[str] = []

    class Log(Instrument):
        def __init__(self, name: str) -> None:
            self.name = name

        def before(self, step: Pass, graph: Graph) -> None:
            seen.append(f"{self.name} before {step}")

        def after(self, step: Pass, graph: Graph, changed: bool) -> None:
            seen.append(f"{self.name} after {step} {changed}")

        def failed(self, step: Pass, graph: Graph, error: Exception) -> None:
            seen.append(f"{self.name} failed {step} {error}")

    run("cse,dce", Log("a"), Log("b"))
    assert seen[:4] == ["a before cse", "b before cse", "b after cse True", "a after cse True"]
    assert seen[4:] == ["a before dce", "b before dce", "b after dce False", "a after dce False"]
    seen.clear()
    with pytest.raises(ZeroDivisionError):
        run("crash", Log("a"), Log("b"))
    assert seen == ["a before crash", "b before crash", "a failed crash stumbled", "b failed crash stumbled"]


def test_timing() -> None:
    timing = Timing()
    run("cse,dce,fold-constants", timing)
    assert [(row.name, row.changed, row.nodes) for row in timing.rows] == [
        ("cse", True, 3),
        ("dce", False, 3),
        ("fold-constants", False, 3),
    ]
    assert all(row.seconds >= 0 for row in timing.rows)
    head, *rows, total = timing.table().splitlines()
    assert head.split() == ["pass", "ms", "%", "nodes"] and total.startswith("total")
    assert rows[0].split()[:2] == ["cse", "*"] and rows[1].split()[0] == "dce"
    assert Timing().table().splitlines()[-1].split() == ["total", "0.00"]


def test_dumps_are_numbered_and_can_be_run_again(tmp_path: Path) -> None:
    result = run("cse,dce,legalize-decompose{keep=Mul},fuse", Dump(tmp_path / "dumps"))
    files = sorted(p.name for p in (tmp_path / "dumps").iterdir())
    assert files == ["000_input.lir", "001_cse.lir", "004_fuse.lir"]
    assert (tmp_path / "dumps" / files[0]).read_text() == TEXT
    assert print_graph(read_lir(tmp_path / "dumps" / files[-1])) == print_graph(result)
    again = parse_pipeline("fuse").run(read_lir(tmp_path / "dumps" / files[1]))
    assert print_graph(again) == print_graph(result)


@pytest.mark.parametrize(
    ("which", "heads"),
    [
        ("all", ["# IR after cse", "# IR after dce (unchanged)", "# IR after fuse{depth=1}"]),
        ("changed", ["# IR after cse", "# IR after fuse{depth=1}"]),
        ("dce", ["# IR after dce (unchanged)"]),
        ("layout", []),
    ],
)
def test_printing(which: str, heads: list[str]) -> None:
    stream = io.StringIO()
    run("cse,dce,fuse{depth=1}", PrintIRAfter(which, stream))
    assert [line for line in stream.getvalue().splitlines() if line.startswith("#")] == heads


def test_printing_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    run("cse", PrintIRAfter("cse"))
    out, err = capsys.readouterr()
    assert not out and parse_graph(err)


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        ("break-types", r"after pass 'break-types': output 'broken' is declared float64\[3\] and inferred float32\[n,2\]"),
        ("rename-output", r"pass 'rename-output' changed the interface from .*%y.* to .*%z"),
    ],
)
def test_verification_names_the_broken_pass(broken: str, message: str) -> None:
    with pytest.raises(InvalidIR, match=message):
        run(f"cse,{broken},dce", Verify())
    run("cse,dce", Verify())


def test_bisection_names_the_pass_that_changed_the_numbers() -> None:
    run("cse,dce,fold-constants,fuse", NumericBisect())
    with pytest.raises(VerificationError, match="pass 'swap-operator' changed the results: output 'y' differs by"):
        run("cse,swap-operator,dce", Verify(), NumericBisect(seed=3))


def test_bisection_takes_feeds() -> None:
    zeros = {"x": np.full((1, 2), -np.inf, np.float32)}
    run("cse,swap-operator", NumericBisect(zeros))  # exp(-inf) is zero whatever is added


@pytest.mark.parametrize("instruments", [lambda f: [f], lambda f: [f, Verify()], lambda f: [Timing(), f]])
def test_crashes_can_be_replayed(
    instruments: Callable[[Instrument], list[Instrument]], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "a folder"
    with pytest.raises(ZeroDivisionError):
        run("cse,dce,crash{after=2},fuse", *instruments(CrashReproducer(folder)))
    command = (folder / "reproducer.txt").read_text().splitlines()[0]
    assert command in capsys.readouterr().err
    assert "ZeroDivisionError: stumbled" in (folder / "reproducer.txt").read_text()
    program, *arguments = shlex.split(command)
    assert program == "lepton" and arguments[-2:] == ["--passes", "crash{after=2}"]
    before = read_lir(folder / "reproducer.lir")
    assert print_graph(before) == print_graph(run("cse,dce"))  # as it was before the pass that failed, not what that left
    with pytest.raises(ZeroDivisionError):
        parse_pipeline(arguments[-1]).run(before)
    assert main([*arguments[:-1], "dce"]) == 0
    assert parse_graph(capsys.readouterr().out)


LOADED = """
from dataclasses import dataclass
from lepton_compiler.pipeline import Pass

@dataclass(frozen=True)
class Stumble(Pass):
    name = "stumble"
    def run(self, graph, ctx):
        raise ZeroDivisionError("stumbled")
"""


def test_replay_loads_the_passes_that_were_loaded(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "stumble.py"
    file.write_text(LOADED)
    write_lir(parse_graph(TEXT), tmp_path / "net.lir")
    arguments = [
        "opt",
        str(tmp_path / "net.lir"),
        "--load-pass",
        str(file),
        "--passes",
        "cse,stumble",
        "--dump-dir",
        str(tmp_path / "dump"),
    ]
    assert main(arguments) == 1
    program, *replayed = shlex.split((tmp_path / "dump/reproducer.txt").read_text().splitlines()[0])
    capsys.readouterr()
    assert program == "lepton" and main(replayed) == 1
    assert "stumbled" in capsys.readouterr().err


def test_invalid_ir_is_a_crash_too(tmp_path: Path) -> None:
    with pytest.raises(InvalidIR):
        run("cse,break-types", CrashReproducer(tmp_path, io.StringIO()), Verify())
    assert "--passes break-types" in (tmp_path / "reproducer.txt").read_text()


def test_nothing_is_left_where_nothing_failed(tmp_path: Path) -> None:
    run("cse,dce", CrashReproducer(tmp_path / "absent"))
    assert not (tmp_path / "absent").exists()
