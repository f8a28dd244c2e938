"""What is printed is read back: the same text, the same values, bit for bit."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from lepton_compiler.errors import LeptonError, ParseError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.text import INLINE, format_attribute, parse_graph, print_graph, read_lir, write_lir
from lepton_compiler.ir.types import DTYPES, tensor_type
from lepton_compiler.ir.verify import verify
from lepton_compiler.ops.binary import Add

ROUND_TRIPS = {
    "attributes": """\
graph @main(%x: float32[1,3,8,8], %w: float32[3,1,3,3]) {
  %y = Conv(strides=(2, 2), pads=(1, 1, 1, 1), groups=3)(%x, %w) : float32[1,3,4,4]
  %z = Gelu(approximate="tanh")(%y) : float32[1,3,4,4]
  %c = Clip()(%z, none, none) : float32[1,3,4,4]
  %h = Cast(to=float16)(%c) : float16[1,3,4,4]
  %s = Swish(alpha=-1e-30)(%c) : float32[1,3,4,4]
  %r = ReduceMean(axes=(1,), keepdims=False)(%s) : float32[1,4,4]
  return %h, %r
}
""",
    "symbolic dimensions": """\
graph @main(%x: float32[n,3,h,max(w,2)]) {
  %y = Reshape(shape=(`n`, `3*h`, -1))(%x) : float32[n,3*h,max(w,2)]
  %p = MaxPool(kernel_shape=(2, 2), strides=(2, 2), pads=(0, 0, 0, 0), dilations=(1, 1))(%x) : float32[n,3,(h)//(2),(max(w,2))//(2)]
  return %y, %p
}
""",
    "dimensions that data decides": """\
graph @main(%x: float32[4,4]) {
  %i = NonZero()(%x) : int64[2,i?1]
  %t = Transpose(perm=(1, 0))(%i) : int64[i?1,2]
  return %t
}
""",
    "operators as attributes": """\
graph @main(%x: float32[4,4], %s: int64[2]) {
  %y = Dynamic(template=Slice(axes=(0, 1), steps=(1, 1)), params=("starts", "ends"))(%x, %s, %s) : float32[y?0,y?1]
  return %y
}
""",
    "nested graphs": """\
graph @main(%x: float32[2], %c: bool[]) {
  %three = const int64[] (3)
  %y, %rows = Loop(carried=1)(%three, none, %x, %c) : float32[2], float32[rows?0,2]
    graph @body(%i: int64[], %go: bool[], %v: float32[2], %c: bool[]) {
      %r = If()(%c, %v) : float32[2]
        graph @then(%v: float32[2]) {
          %k = const float32[2] (1.0, 2.0)
          %r = Add()(%v, %k) : float32[2]
          return %r
        }
        graph @else(%v: float32[2]) {
          return %v
        }
      return %go, %r, %v
    }
  return %y, %rows
}
""",
    "provenance": """\
graph @main(%x: float32[2]) {
  %a = Exp()(%x) : float32[2] loc("node \\"a\\"", "größe")
  %b = Exp()(%a) : float32[2] loc("b" by "rule", "other")
  %c = Exp()(%b) : float32[2] loc(by "rule")
  return %c
}
""",
    "odd names": """\
graph @"a model"(%"x:0": float32[2]) {
  %"größe \\"y\\"" = Exp()(%"x:0") : float32[2]
  %a/b.1 = Exp()(%"größe \\"y\\"") : float32[2]
  return %a/b.1
}
""",
    "constants": """\
graph @main() {
  %f = const float32[2,3] (1.0, -0.0, inf, -inf, nan, 1e-45)
  %d = const float64[2] (0.1, 5e-324)
  %h = const bfloat16[2] (0.5, 3.390625)
  %z = const complex64[2] ((1.0, -0.0), (nan, inf))
  %b = const bool[2] (True, False)
  %i = const int64[2] (-9223372036854775808, 9223372036854775807)
  %u = const uint64[1] (18446744073709551615)
  %q = const int4[3] (-8, 0, 7)
  %none = const float32[0,2] ()
  %one = const int8[] (1)
  return %f, %d, %h, %z, %b, %i, %u, %q, %none, %one
}
""",
    "nothing": "graph @main() {\n  return\n}\n",
}


@pytest.mark.parametrize("text", ROUND_TRIPS.values(), ids=list(ROUND_TRIPS))
def test_round_trip(text: str) -> None:
    graph = parse_graph(text)
    verify(graph)
    assert print_graph(graph) == text


def test_types_may_be_left_out_and_comments_stand_anywhere() -> None:
    short = "graph @m(%x: float32[2]) { # a comment\n %y = Exp()(%x) return %y } # the end"
    assert print_graph(parse_graph(short)) == "graph @m(%x: float32[2]) {\n  %y = Exp()(%x) : float32[2]\n  return %y\n}\n"


@pytest.mark.parametrize("name", DTYPES)
@pytest.mark.parametrize("size", [INLINE, INLINE + 1])
def test_weights_of_every_type_survive(name: str, size: int, tmp_path: Path) -> None:
    dtype = DTYPES[name].numpy
    bits = np.random.default_rng(0).integers(0, 256, size * dtype.itemsize).astype(np.uint8)
    array = bits.view(dtype) if DTYPES[name].bits >= 8 and name != "bool" else (bits % 2).astype(np.int8).astype(dtype)
    if DTYPES[name].kind == "complex":
        array = array.astype(np.complex128).astype(dtype)
    graph = Graph()
    graph.set_outputs([graph.constant(array)])
    again = read_lir(write_lir(graph, tmp_path / "m.lir"))
    assert (tmp_path / "m.lir.npz").exists() == (size > INLINE)
    found = again.outputs[0].numpy()
    assert found.dtype == dtype and again.outputs[0].type == graph.outputs[0].type
    plain = np.asarray(np.isnan(array.astype(np.complex128 if array.dtype.kind == "c" else np.float64)))
    np.testing.assert_array_equal(found[~plain].view(np.uint8), array[~plain].view(np.uint8))
    if size > INLINE:
        np.testing.assert_array_equal(found.view(np.uint8), array.view(np.uint8))


def test_large_weights_lie_in_the_side_file_once_and_by_content(tmp_path: Path) -> None:
    graph, weights = Graph(), dict[str, Tensor]()
    x = graph.add_input("x", tensor_type("float32[100]"))
    a = graph.add(Add(), [x, graph.constant(np.arange(100, dtype=np.float32))]).output
    graph.set_outputs([graph.add(Add(), [a, graph.constant(np.arange(100, dtype=np.float32), "again")]).output])
    text = print_graph(graph, weights)
    assert len(weights) == 1 and text.count(f"@{next(iter(weights))}") == 2
    assert print_graph(parse_graph(text, weights)) == text
    first, second = (write_lir(graph, tmp_path / name) for name in ("a.lir", "b.lir"))
    assert first.read_bytes() == second.read_bytes()
    assert first.with_name("a.lir.npz").read_bytes() == second.with_name("b.lir.npz").read_bytes()
    assert print_graph(read_lir(first)) == text


def test_writing_a_smaller_graph_removes_the_old_side_file(tmp_path: Path) -> None:
    graph = Graph()
    graph.set_outputs([graph.constant(np.arange(100))])
    side = tmp_path / "m.lir.npz"
    write_lir(graph, tmp_path / "m.lir")
    assert side.exists()
    graph.set_outputs([graph.constant(np.arange(3))])
    write_lir(graph, tmp_path / "m.lir")
    assert not side.exists()


def test_missing_or_damaged_weights(tmp_path: Path) -> None:
    graph = Graph()
    graph.set_outputs([graph.constant(np.arange(100))])
    path = write_lir(graph, tmp_path / "m.lir")
    side = path.with_name("m.lir.npz")
    with np.load(side) as archive:
        (key,) = archive.files
        raw = archive[key].copy()
    raw[0] += 1
    np.savez(side, **{key: raw})
    with pytest.raises(ParseError, match="are damaged"):
        read_lir(path)
    np.savez(side, **{key: raw[:8]})
    with pytest.raises(ParseError, match=r"are not a int64\[100\]"):
        read_lir(path)
    side.unlink()
    with pytest.raises(ParseError, match=r"m\.lir:2: no weights .*\n.*must lie beside"):
        read_lir(path)


def test_a_side_file_that_is_no_archive(tmp_path: Path) -> None:
    graph = Graph()
    graph.set_outputs([graph.constant(np.arange(100))])
    path = write_lir(graph, tmp_path / "m.lir")
    path.with_name("m.lir.npz").write_bytes(b"not an archive")
    with pytest.raises(LeptonError):
        read_lir(path)


@pytest.mark.parametrize(
    ("body", "where", "message"),
    [
        ("%y = Exp(%x)\nreturn %y", 2, "expected word, found '%x'"),
        ("%y = Frobnicate()(%x)\nreturn %y", 2, "no operator called 'Frobnicate'"),
        ("%y = Exp(speed=3)(%x)\nreturn %y", 2, "unexpected keyword argument 'speed'"),
        ("%y = Exp()(%z)\nreturn %y", 2, "'%z' is not defined here"),
        ("%x = Exp()(%x)\nreturn %x", 2, "'%x' is defined twice"),
        ("%y = Exp()(%x)\nreturn %w", 3, "'%w' is not defined here"),
        ("%y = Exp()(%x) : float32[3]\nreturn %y", 2, r"'%y' is float32\[2\], not float32\[3\]"),
        ("%y, %z = Exp()(%x)\nreturn %y", 2, "Exp has 1 outputs, not 2"),
        ("%y = Add()(%x)\nreturn %y", 2, "Add needs operand"),
        ("%y = const float32[2] (1.0)\nreturn %y", 2, r"float32\[2\] needs 2 values"),
        ("%y = const float99[2] (1.0, 2.0)\nreturn %y", 2, "no element type 'float99'"),
        ("%y = const float32[2] @abc\nreturn %y", 2, "no weights '@abc'"),
        ("%y = Exp()(%x) $\nreturn %y", 2, r"unexpected character '\$'"),
        ("return %x\n} graph", 3, "expected end"),
    ],
)
def test_diagnostics_name_the_line(body: str, where: int, message: str) -> None:
    with pytest.raises(ParseError, match=message) as caught:
        parse_graph(f"graph @m(%x: float32[2]) {{\n{body}\n}}")
    assert caught.value.diagnostics[0].where == f"line {where}"


def test_text_that_is_no_text(tmp_path: Path) -> None:
    (tmp_path / "m.lir").write_bytes(b"\xff\xfe")
    with pytest.raises(LeptonError, match="cannot read"):
        read_lir(tmp_path / "m.lir")
    with pytest.raises(LeptonError, match="cannot read"):
        read_lir(tmp_path / "absent.lir")
    with pytest.raises(ParseError, match="expected graph, found 'the end of the text'"):
        parse_graph("")


def test_attributes_without_a_text_form_are_refused() -> None:
    with pytest.raises(LeptonError, match="an attribute of type list has no text form"):
        format_attribute([1])
