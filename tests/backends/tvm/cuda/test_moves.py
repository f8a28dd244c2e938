"""Operators that move elements, in one kernel: run in the emulator, compared with the evaluator."""

from __future__ import annotations

import pytest

from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import parse_graph

ROTATED = (
    "%h = Reshape(shape=(2,9,3,16))(%x)",
    "%q = Transpose(perm=(0,2,1,3))(%h)",
    "%c = Mul()(%q, %cos)",
    "%a = Slice(starts=(0,),ends=(8,),axes=(3,),steps=(1,))(%q)",
    "%b = Slice(starts=(8,),ends=(16,),axes=(3,),steps=(1,))(%q)",
    "%n = Neg()(%b)",
    "%r = Concat(axis=3)(%n, %a)",
    "%s = Mul()(%r, %sin)",
    "%y = Add()(%c, %s)",
)
SHIFTED = (
    "%e = Mul()(%x, %x)",
    "%a = Slice(starts=(2,),ends=(11,),axes=(1,),steps=(1,))(%e)",
    "%b = Slice(starts=(0,),ends=(8,),axes=(1,),steps=(1,))(%e)",
    "%ap = Pad(pads=(0,0,0,2))(%a)",
    "%bp = Pad(pads=(0,3,0,0))(%b)",
    "%au = Unsqueeze(axes=(2,))(%ap)",
    "%bu = Unsqueeze(axes=(2,))(%bp)",
    "%y = Concat(axis=2)(%au, %bu)",
)
SPREAD = (
    "%a = Slice(starts=(1,),ends=(2,),axes=(1,),steps=(1,))(%x)",
    "%s = Expand(shape=(4,12))(%a)",
    "%p = Concat(axis=1)(%s, %x)",
    "%y = Relu()(%p)",
)
WHOLE = {
    "rotated halves": ("%x: float32[2,9,48], %cos: float32[9,16], %sin: float32[9,16]", ROTATED),
    "shifted copies side by side": ("%x: float32[5,11]", SHIFTED),
    "an element spread and joined": ("%x: float32[4,12]", SPREAD),
}
KEPT = {
    "a product keeps what it ends with": (
        "%x: float32[20,16], %w: float32[16,8], %z: float32[20,4]",
        ("%p = MatMul()(%x, %w)", "%r = Relu()(%p)", "%y = Concat(axis=1)(%r, %z)"),
        ["matmul_relu", "concat"],
    ),
    "functions are computed once": (
        "%x: float32[5,16]",
        ("%e = Exp()(%x)", "%a = Slice(starts=(0,),ends=(8,),axes=(1,),steps=(1,))(%e)", "%b = Slice(starts=(8,),ends=(16,),axes=(1,),steps=(1,))(%e)",
         "%y = Concat(axis=1)(%b, %a)"),
        ["exp", "slice_slice_concat"],
    ),
    "what is spread is computed before": (
        "%x: float32[5,1]",
        ("%e = Neg()(%x)", "%s = Expand(shape=(5,8))(%e)", "%y = Concat(axis=1)(%s, %x)"),
        ["neg", "expand_concat"],
    ),
    "a transpose of single elements goes through shared memory": (
        "%x: float32[40,50]",
        ("%t = Transpose(perm=(1,0))(%x)", "%y = Concat(axis=1)(%t, %t)"),
        ["concat", "transpose"],
    ),
}  # fmt: skip


def graph_of(signature: str, lines: tuple[str, ...]) -> Graph:
    return parse_graph("\n".join([f"graph @net({signature}) {{", *(f"  {line}" for line in lines), "  return %y", "}", ""]))


@pytest.mark.parametrize("case", WHOLE)
def test_one_kernel(agrees, case):
    assert len(agrees(graph_of(*WHOLE[case])).manifest["calls"]) == 1


@pytest.mark.parametrize("case", KEPT)
def test_what_stays_apart(agrees, case):
    signature, lines, wanted = KEPT[case]
    calls = agrees(graph_of(signature, lines)).manifest["calls"]
    assert [call["symbol"].removeprefix("lepton_").rpartition("_")[0] for call in calls] == wanted
