"""Every decomposition computes what its operator computes, down to operators that have none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.dim import symbol
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import DTYPES, INT8, UINT8, TensorType, dtype, tensor_type
from lepton_compiler.ops import activation, conv, matmul, normalize, quantize, reduce, signal
from lepton_compiler.ops.attention import Attention, RotaryEmbedding
from lepton_compiler.ops.binary import Mean, Sum
from lepton_compiler.ops.decompose import decomposition_of, expand
from lepton_compiler.ops.evaluator import evaluate

RNG = np.random.default_rng(17)


def draw(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def whole(element: type, *shape: int) -> np.ndarray:
    return RNG.integers(0, 100, shape).astype(element)


IMAGE, CHANNEL = draw(2, 6, 4, 5), draw(6)
HEADS, KEYS = draw(2, 4, 3, 8), draw(2, 2, 5, 8)
Case = tuple[Op, Sequence[np.ndarray | None]]
FLOATS: list[Case] = [
    *((op, [draw(3, 4)]) for op in (activation.Celu(2.0), activation.Celu(-1.5), activation.Elu(0.5), activation.Gelu(), activation.Gelu("tanh"))),
    *((op, [draw(3, 4)]) for op in (activation.HardSigmoid(), activation.HardSwish(), activation.LeakyRelu(), activation.Mish(), activation.Relu())),
    *((op, [draw(3, 4)]) for op in (activation.Selu(), activation.Shrink(0.1), activation.Softplus(), activation.Softsign(), activation.Swish(1.7))),
    (activation.ThresholdedRelu(0.5), [draw(3, 4)]),
    (activation.Clip(), [draw(3, 4), np.array([-0.5], np.float32), np.array(0.5, np.float32)]),
    (activation.PRelu(), [draw(3, 4), draw(4)]),
    (Sum(), [draw(3, 4), draw(4), draw(3, 1)]),
    (Mean(), [draw(3, 4), draw(4)]),
    *((cls((1, -1), keep), [np.abs(IMAGE)]) for cls in (reduce.ReduceL1, reduce.ReduceL2, reduce.ReduceLogSum) for keep in (True, False)),
    *((cls((0,), keep), [IMAGE]) for cls in (reduce.ReduceLogSumExp, reduce.ReduceSumSquare) for keep in (True, False)),
    *((cls(axis), [IMAGE]) for cls in (normalize.Softmax, normalize.LogSoftmax, normalize.Hardmax, normalize.LpNormalization) for axis in (1, -1)),
    (normalize.LpNormalization(1, 1), [IMAGE]),
    (normalize.BatchNormalization(), [IMAGE, CHANNEL, CHANNEL, CHANNEL, np.abs(CHANNEL)]),
    (normalize.BatchNormalization(axis=-1), [draw(2, 3, 6), CHANNEL, CHANNEL, CHANNEL, np.abs(CHANNEL)]),
    (normalize.InstanceNormalization(), [IMAGE, CHANNEL, CHANNEL]),
    (normalize.GroupNormalization(3), [IMAGE, CHANNEL, CHANNEL]),
    (normalize.LayerNormalization(2), [IMAGE, draw(4, 5), draw(5)]),
    (normalize.LayerNormalization(statistics=True), [IMAGE, draw(5)]),
    (normalize.RMSNormalization(), [IMAGE, draw(5)]),
    (normalize.MeanVarianceNormalization(), [IMAGE]),
    *((normalize.LRN(size, alpha=0.5), [IMAGE]) for size in (1, 2, 5)),
    (matmul.Gemm(0.5, 2.0, True, True), [draw(4, 3), draw(5, 4), draw(3, 1)]),
    (matmul.Gemm(), [draw(3, 4), draw(4, 5)]),
    *((matmul.Einsum(e), [draw(*s) for s in shapes]) for e, shapes in (
        ("bhid,bhjd->bhij", ((2, 3, 4, 5), (2, 3, 6, 5))),
        ("bij,bj->ib", ((1, 2, 3), (7, 3))),
        ("abc,cd,de->eab", ((2, 3, 4), (4, 5), (5, 2))),
        ("...ii->...i", ((2, 3, 3),)),
        ("i,j->ji", ((2,), (3,))),
        ("ij,kl->", ((2, 3), (4, 5))),
        ("...ij,...jk", ((2, 1, 3, 4), (5, 4, 2))),
        ("ij,ij->ij", ((3, 4), (3, 4))),
        ("ij,ij->i", ((3, 4), (3, 1))),
        ("bi,bj,i->bj", ((2, 3), (2, 4), (3,))),
        ("ab,cd,bc,da->", ((2, 3), (4, 5), (3, 4), (5, 2))),
    )),
    (RotaryEmbedding(), [HEADS, draw(9, 4), draw(9, 4), RNG.integers(0, 9, (2, 3))]),
    (RotaryEmbedding(interleaved=True, num_heads=2, rotary_embedding_dim=4), [draw(2, 3, 16), draw(2, 3, 2), draw(2, 3, 2)]),
    (Attention(), [HEADS, KEYS, draw(2, 2, 5, 6)]),
    (Attention(is_causal=True, outputs=3), [HEADS, KEYS, KEYS, None, draw(2, 2, 7, 8), draw(2, 2, 7, 8)]),
    (Attention(softcap=0.7, outputs=4, qk_matmul_output_mode=2), [HEADS, KEYS, KEYS, RNG.uniform(size=(3, 4)) > 0.4]),
    (Attention(q_num_heads=4, kv_num_heads=2, left_window_size=1, right_window_size=2), [draw(2, 3, 32), draw(2, 5, 16), draw(2, 5, 16), draw(2, 1, 3, 5)]),
    (Attention(is_causal=True, scale=0.2), [HEADS, KEYS, KEYS, None, None, None, np.array([5, 2])]),
    *((signal.DFT(1, onesided, inverse, length), [draw(2, 8, parts)]) for parts in (1, 2) for onesided, inverse, length in ((False, False, None), (True, False, 5), (False, True, 11))),
    *((signal.DFT(1, False, inverse, length), [draw(2, 20, 2)]) for inverse in (True, False) for length in (12, 16, 20, 96)),
    *((signal.DFT(1, onesided), [draw(2, size, 1)]) for onesided in (True, False) for size in (144, 256)),
    *((signal.DFT(-2, True, True, length), [draw(2, 5, 3, 2)[:, :, :size]]) for size, length in ((3, None), (3, 5), (2, 9))),
    (signal.STFT(3, 8), [draw(2, 20, 1), draw(8)]),
    (signal.STFT(4, 8, False), [draw(2, 20, 2)]),
]  # fmt: skip
INTEGERS: list[Case] = [
    (matmul.MatMulInteger(), [whole(np.uint8, 2, 3, 4), whole(np.int8, 4, 5), whole(np.uint8, 3), whole(np.int8, 5)]),
    (matmul.MatMulInteger(), [whole(np.uint8, 4), whole(np.int8, 4, 5), whole(np.uint8, 1)]),
    (conv.ConvInteger(pads=(1, 1, 1, 1)), [whole(np.uint8, 1, 2, 5, 5), whole(np.int8, 3, 2, 3, 3), whole(np.uint8), whole(np.int8, 3)]),
    (quantize.QuantizeLinear(INT8), [4 * IMAGE, np.abs(CHANNEL) + 0.1, whole(np.int8, 6)]),
    (quantize.QuantizeLinear(UINT8, axis=1, block_size=4), [IMAGE, np.abs(draw(2, 2, 4, 5)) + 0.1, whole(np.uint8, 2, 2, 4, 5)]),
    (quantize.QuantizeLinear(DTYPES["float8_e4m3fn"]), [1e4 * IMAGE, np.array(2.0, np.float32)]),
    (quantize.QuantizeLinear(INT8, precision=DTYPES["bfloat16"]), [IMAGE, np.array(0.013, np.float32)]),
    (quantize.DequantizeLinear(axis=-1), [whole(np.uint8, 3, 4), np.abs(draw(4)), whole(np.uint8, 4)]),
    (quantize.DequantizeLinear(axis=0, block_size=2), [whole(np.int8, 3, 4), np.abs(draw(2, 4))]),
    (quantize.DequantizeLinear(), [whole(np.int32, 3), np.array(0.1, np.float32), np.array(7, np.int32)]),
    (quantize.DynamicQuantizeLinear(), [IMAGE]),
    (quantize.DynamicQuantizeLinear(), [np.zeros((2, 3), np.float32)]),
    (reduce.ReduceL2((0,)), [whole(np.int32, 3, 4)]),
    (activation.Relu(), [whole(np.int32, 3, 4) - 50]),
]


def graph_of(op: Op, operands: Sequence[np.ndarray | None], types: Sequence[TensorType | None] | None = None) -> Graph:
    graph = Graph()
    types = types or [None if a is None else TensorType(dtype(a.dtype), a.shape) for a in operands]
    values = [None if t is None else graph.add_input(f"x{i}", t) for i, t in enumerate(types)]
    node = graph.add(op, values, names=[f"y{i}" for i in range(4)])
    graph.set_outputs(node.outputs)
    return graph


def expand_all(graph: Graph) -> int:
    """Expand until nothing can be expanded; the number of expansions."""
    count = 0
    for node in iter(lambda: next((n for n in graph if decomposition_of(n.op) is not None), None), None):
        assert expand(node)
        count += 1
        assert count < 50
    return count


def check(op: Op, operands: Sequence[np.ndarray | None], tolerance: float) -> None:
    graph = graph_of(op, operands)
    feeds = {f"x{i}": a for i, a in enumerate(operands) if a is not None}
    before = evaluate(graph, feeds)
    kinds = [v.type for v in graph.outputs]
    assert expand_all(graph) >= 1
    assert [v.type for v in graph.outputs] == kinds
    after = evaluate(graph, feeds)
    assert list(after) == list(before)
    for name, expected in before.items():
        assert after[name].dtype == expected.dtype
        np.testing.assert_allclose(after[name].astype(np.float64), expected.astype(np.float64), rtol=tolerance, atol=tolerance)


@pytest.mark.parametrize(("op", "operands"), FLOATS, ids=lambda v: repr(v) if isinstance(v, Op) else "")
@pytest.mark.parametrize(("element", "tolerance"), [(np.float32, 3e-5), (np.float64, 1e-9), (np.float16, 2e-3)])
def test_floats(op: Op, operands: Sequence[np.ndarray | None], element: type, tolerance: float) -> None:
    check(op, [a.astype(element) if a is not None and a.dtype == np.float32 else a for a in operands], tolerance)


@pytest.mark.parametrize(("op", "operands"), INTEGERS, ids=lambda v: repr(v) if isinstance(v, Op) else "")
def test_integers(op: Op, operands: Sequence[np.ndarray | None]) -> None:
    check(op, operands, 1e-6)


@pytest.mark.parametrize(
    ("op", "types", "shapes"),
    [
        (normalize.GroupNormalization(3), ["float32[n,6,h,w]", "float32[6]", "float32[6]"], [(2, 6, 4, 5), (6,), (6,)]),
        (normalize.LRN(3), ["float32[n,6,h,w]"], [(2, 6, 4, 5)]),
        (normalize.Hardmax(1), ["float32[n,c,h]"], [(2, 6, 4)]),
        (matmul.Einsum("bhid,bhjd->bhij"), ["float32[b,3,i,5]", "float32[b,3,j,5]"], [(2, 3, 4, 5), (2, 3, 6, 5)]),
        (
            Attention(is_causal=True),
            ["float32[b,4,l,8]", *["float32[b,2,l,8]"] * 2, "float32[b,1,l,l]"],
            [(2, 4, 3, 8), (2, 2, 3, 8), (2, 2, 3, 8), (2, 1, 3, 3)],
        ),
        (
            Attention(is_causal=True, outputs=3),
            ["float32[b,4,1,8]", *["float32[b,2,1,8]"] * 2, None, *["float32[b,2,p,8]"] * 2],
            [(2, 4, 1, 8), (2, 2, 1, 8), (2, 2, 1, 8), None, (2, 2, 5, 8), (2, 2, 5, 8)],
        ),
        (signal.STFT(3, 8), ["float32[b,n]", "float32[8]"], [(2, 20), (8,)]),
        (signal.DFT(1), ["float32[b,8,1]"], [(2, 8, 1)]),
        (
            RotaryEmbedding(num_heads=2),
            ["float32[b,l,16]", "float32[9,4]", "float32[9,4]", "int64[b,l]"],
            [(2, 3, 16), (9, 4), (9, 4), (2, 3)],
        ),
    ],
    ids=lambda v: repr(v) if isinstance(v, Op) else "",
)
def test_symbolic_sizes(op: Op, types: list[str | None], shapes: list[tuple[int, ...] | None]) -> None:
    parsed = [None if t is None else tensor_type(t) for t in types]
    operands = [
        None if s is None or t is None else (np.zeros(s, np.int64) if t.dtype.is_integer else draw(*s))
        for s, t in zip(shapes, parsed, strict=True)
    ]
    graph = graph_of(op, operands, parsed)
    sizes = {
        repr(d): n
        for t, s in zip(parsed, shapes, strict=True)
        if t and s
        for d, n in zip(t.shape, s, strict=True)
        if not isinstance(d, int)
    }
    feeds = {f"x{i}": a for i, a in enumerate(operands) if a is not None}
    before = evaluate(graph.copy(sizes), feeds)
    assert expand_all(graph) >= 1
    after = evaluate(graph.copy(sizes), feeds)
    for name, expected in before.items():
        np.testing.assert_allclose(after[name], expected, rtol=3e-5, atol=3e-5)


def test_new_nodes_carry_the_rule_and_the_names() -> None:
    graph = graph_of(activation.HardSwish(), [draw(3)])
    added = expand(graph.nodes[0])
    assert added is not None and len(added) == len(graph)
    assert all(node.loc.rules == ("decompose-hardswish",) for node in graph)
    assert graph.outputs[0].name == "y0"


def test_operators_without_decomposition_are_left_alone() -> None:
    graph = graph_of(matmul.MatMul(), [draw(2, 3), draw(3, 2)])
    assert expand(graph.nodes[0]) is None and len(graph) == 1


def test_unknown_length_is_refused_before_anything_changes() -> None:
    graph = graph_of(signal.DFT(1), [None], [TensorType(DTYPES["float32"], (1, symbol("n"), 1))])
    with pytest.raises(UnsupportedError, match="length of a DFT"):
        expand(graph.nodes[0])
    assert len(graph) == 1


def test_einsum_multiplies_the_operands_with_the_smallest_product_first() -> None:
    graph = Graph()
    operands = [graph.add_input(n, tensor_type(s)) for n, s in (("x", "float32[50,60]"), ("y", "float32[60,70]"), ("z", "float32[70,80]"))]
    node = graph.add(matmul.Einsum("ab,cd,bc->ad"), [operands[0], operands[2], operands[1]])
    graph.set_outputs(node.outputs)
    expand(node)
    assert max(v.type.size for n in graph for v in n.outputs) <= 70 * 80
