"""The checks of whole models for GPUs that need none: artefacts and their machine code, emulated runs."""

from __future__ import annotations

import json
import re
import subprocess
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import lepton_compiler as lc
from bench import cuda_artefacts, cuda_emulated
from bench.cubins import Usage, cubins_of, find_cuobjdump, parse
from bench.cuda_cases import Case
from lepton_compiler.backends.tvm.cuda.compilers import find_compiler
from lepton_compiler.errors import LeptonError, MissingDependency
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.testing.cuda_emulator import available

TINY = """\
graph @net(%x: float32[16,32]) {
  %w = const float32[32] (0.5)
  %a = Mul()(%x, %w) : float32[16,32]
  %y = Softmax(axis=1)(%a) : float32[16,32]
  return %y
}
"""
PRODUCT = """\
graph @net(%x: float32[40,64]) {
  %a = Softmax(axis=1)(%x) : float32[40,64]
  %t = Transpose(perm=(1,0))(%a) : float32[64,40]
  %y = MatMul()(%t, %x) : float32[64,64]
  return %y
}
"""
CUBIN = b"\x7fELF" + bytes(14) + (190).to_bytes(2, "little") + b"code"


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    path = tmp_path / "tiny.lir"
    path.write_text(TINY.replace("(0.5)", "(" + ", ".join(["0.5"] * 32) + ")"))
    return path


def rows(folder: Path, stem: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads((folder / f"{stem}.json").read_text())["rows"]
    return found


def test_artefacts_are_compiled_twice_and_looked_at(tiny: Path, tmp_path: Path) -> None:
    try:
        compiler = find_compiler().version
    except MissingDependency as error:
        pytest.skip(str(error))
    arguments = [str(tiny), "--precision", "fp32", "--target", "cuda:sm_80", "--output", str(tmp_path), "-q"]
    assert cuda_artefacts.main(arguments) == 0
    (row,) = rows(tmp_path, "cuda_artefacts")
    assert row["identical"] and not row["error"] and row["kernels"] >= 1 and row["serial"] == 0 and row["compiler"] == compiler
    if find_cuobjdump():
        assert 0 < row["registers"] <= 255 and row["local"] == {}
    assert f"| tiny.lir | fp32 | {compiler} |" in (tmp_path / "cuda_artefacts.md").read_text()
    before = (tmp_path / "cuda_artefacts.json").read_bytes()
    assert cuda_artefacts.main([*arguments, "--resume"]) == 0
    assert (tmp_path / "cuda_artefacts.json").read_bytes() == before


def test_rows_stay_while_the_artefact_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """By the stamp of the sources, or by the bytes that the first compilation gives; otherwise all is done again."""
    compiled: list[Path | None] = []
    contents = [b"a"]

    def compile(arguments: Any, folder: Path, cache: Path | None) -> tuple[float, dict[str, bytes]]:
        compiled.append(cache)
        return 1.0, {"libm.so": contents[-1]}

    monkeypatch.setattr(cuda_artefacts, "_compile", compile)
    monkeypatch.setattr(cuda_artefacts, "_describe", lambda row, *rest: setattr(row, "local", {}))
    monkeypatch.setattr(cuda_artefacts, "find_compiler", lambda: SimpleNamespace(version="nvrtc 0.0"))
    case = Case("m", tmp_path / "m.onnx")

    def again(stamp: str, old: cuda_artefacts.Row | None) -> tuple[cuda_artefacts.Row, int]:
        compiled.clear()
        return cuda_artefacts.measure(case, "fp16", "cuda", False, None, stamp, old), len(compiled)

    first, count = again("1", None)
    assert count == 2 and first.identical and compiled[0] is None and compiled[1] is not None
    assert again("1", first) == (first, 0)
    assert again("2", first) == (replace(first, stamp="2"), 1)
    contents.append(b"b")
    row, count = again("2", first)
    assert count == 2 and row.digest != first.digest
    assert again("2", replace(first, stamp="2", error="it failed"))[1] == 2


def test_artefacts_that_do_not_compile_are_told_of(tmp_path: Path) -> None:
    (tmp_path / "bad.lir").write_text("graph @net(%x: float32[?]) {\n")
    assert cuda_artefacts.main([str(tmp_path / "bad.lir"), "--precision", "fp32", "--output", str(tmp_path), "-q"]) == 1
    assert "leptonc failed with status 1" in rows(tmp_path, "cuda_artefacts")[0]["error"]


def test_what_cuobjdump_prints_is_read() -> None:
    usage = (
        "\nResource usage:\n Common:\n  GLOBAL:0\n"
        " Function first_0:\n  REG:27 STACK:8 SHARED:256 LOCAL:0 CONSTANT[0]:384 TEXTURE:0 SURFACE:0 SAMPLER:0\n"
        " Function second_0:\n  REG:255 STACK:0 SHARED:0 LOCAL:16 CONSTANT[0]:368 TEXTURE:0 SURFACE:0 SAMPLER:0\n"
    )
    cubin = parse("ELF file    1: code.sm_90.cubin\n", usage)
    assert cubin.architecture == "sm_90"
    assert cubin.kernels == {"first_0": Usage(27, 8, 256), "second_0": Usage(255, 16, 0)}
    with pytest.raises(LeptonError, match="no code"):
        parse("", usage)


def test_cubins_are_cut_out_as_the_manifest_lists_them() -> None:
    images = [{"kind": "cubin", "bytes": len(CUBIN)}, {"kind": "ptx", "bytes": 3}]
    assert cubins_of(b"\x7fELF of a host" + bytes(32) + CUBIN + b"ptx", {"images": images}) == [CUBIN]
    with pytest.raises(LeptonError, match="holds 2 cubins, the manifest lists 1"):
        cubins_of(CUBIN + CUBIN, {"images": images})


@pytest.mark.skipif(bool(available()), reason=available())
def test_models_are_emulated_and_compared(tiny: Path, tmp_path: Path) -> None:
    arguments = [str(tiny), "--precision", "fp16", "--output", str(tmp_path), "-q"]
    assert cuda_emulated.main(arguments) == 0
    (row,) = rows(tmp_path, "cuda_emulated")
    assert row["checked"] and row["launches"] >= 1 and row["reference"] == "evaluator" and 0 < row["max_rel"] < 1e-2
    assert not cuda_emulated.Row(**row | {"max_rel": 0.02}).ok and cuda_emulated.Row(**row | {"max_rel": 0.02, "own": 0.015}).ok
    assert cuda_emulated.main([*arguments, "--most", "-1"]) == 0
    assert rows(tmp_path, "cuda_emulated")[0]["error"] == "too large"


@pytest.mark.skipif(find_cuobjdump() is None, reason="no cuobjdump")
def test_machine_code_waits_for_the_kernel_before_from_sm_90_on(tmp_path: Path) -> None:
    """`griddepcontrol` is ACQBULK and PREEXIT there; no access to memory comes before, not even those that the compiler moves."""
    try:
        find_compiler()
    except MissingDependency as error:
        pytest.skip(str(error))
    model = lc.compile(parse_graph(PRODUCT), target="cuda:sm_80,sm_90")
    assert model.artifact is not None
    library = next(data for name, data in model.artifact.files.items() if name.endswith(".so"))
    (old, new) = (_listing(code, tmp_path) for code in cubins_of(library, model.manifest))
    assert len(old) == len(new) >= 2 and not any("ACQBULK" in instructions for instructions in old)
    for instructions in new:
        wait = instructions.index("ACQBULK")
        assert "PREEXIT" in instructions[wait:]
        assert not [i for i in instructions[:wait] if i.startswith(("LDG", "STG", "RED", "ATOM", "EXIT"))]


def _listing(code: bytes, folder: Path) -> list[list[str]]:
    """The names of the instructions of each kernel."""
    (folder / "code.cubin").write_bytes(code)
    command = [str(find_cuobjdump()), "-sass", str(folder / "code.cubin")]
    text = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True).stdout
    return [re.findall(r"/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z]\w*)", body) for body in text.split("Function : ")[1:]]
