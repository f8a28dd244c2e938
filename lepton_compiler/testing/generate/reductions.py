"""Reductions, positions of extremes, running sums, the largest elements, and normalizations along axes."""

from __future__ import annotations

from lepton_compiler.ir.types import TensorType
from lepton_compiler.ops.builder import make_op
from lepton_compiler.testing.generate.maker import Maker, step

NUMERIC = ("int", "uint", "float")
SUMS = ("ReduceSum", "ReduceMean", "ReduceProd", "ReduceL1", "ReduceL2", "ReduceSumSquare", "ReduceLogSum", "ReduceLogSumExp")


@step(8)
def reduction(m: Maker) -> None:
    """Any reduction over any set of axes, an empty one included."""
    name = m.pick((*SUMS, "ReduceMax", "ReduceMin", "ReduceMax", "ReduceSum", "ReduceMean"))
    kinds: tuple[str, ...] = (*NUMERIC, "bool") if name in ("ReduceMax", "ReduceMin") else NUMERIC
    if name in ("ReduceLogSum", "ReduceLogSumExp"):
        kinds = ("float",)
    x = m.value(kinds)
    axes = m.axes(x.type.rank, 0 if m.flag(0.2) else 1)
    if name == "ReduceMean" and not x.type.dtype.is_float and any(x.type.shape[a] == 0 for a in axes):
        return  # the mean of no integers is undefined
    m.add(make_op(name, {"axes": axes, "keepdims": m.flag()}), m.b.Abs(x) if name == "ReduceLogSum" else x)


@step(3)
def extreme_index(m: Maker) -> None:
    """ArgMax and ArgMin."""
    x = m.value(NUMERIC, 1)
    full = [a for a, d in enumerate(x.type.static_shape) if d]
    if full:
        attributes = {"axis": m.pick(full), "keepdims": m.flag(), "select_last_index": m.flag()}
        m.add(make_op(m.pick(("ArgMax", "ArgMin")), attributes), x)


@step(2)
def running(m: Maker) -> None:
    """Running sums and products."""
    x = m.value(NUMERIC, 1)
    attributes = {"axis": m.axis(x.type.rank), "exclusive": m.flag(), "reverse": m.flag()}
    m.add(make_op(m.pick(("CumSum", "CumSum", "CumProd")), attributes), x)


@step(2)
def top(m: Maker) -> None:
    """The k largest or smallest."""
    x = m.value(NUMERIC, 1)
    axis = m.axis(x.type.rank)
    m.add(make_op("TopK", {"k": m.number(0, x.type.static_shape[axis]), "axis": axis, "largest": m.flag()}), x)


@step(5)
def softmax(m: Maker) -> None:
    """Softmax and what is like it."""
    x = m.value(("float",), 1)
    name = m.pick(("Softmax", "Softmax", "LogSoftmax", "Hardmax", "LpNormalization"))
    attributes = {"axis": m.axis(x.type.rank)}
    m.add(make_op(name, attributes | ({"p": m.number(1, 2)} if name == "LpNormalization" else {})), x)


@step(4)
def normalization(m: Maker) -> None:
    """Layer, root-mean-square and mean-variance normalization."""
    x = m.value(("float",), 1, 4)
    axis = m.axis(x.type.rank)
    shape = x.type.static_shape[axis % x.type.rank :]
    scale, bias = (m.tame(TensorType(x.type.dtype, shape)) for _ in range(2))
    epsilon = m.pick((1e-5, 0.01))
    match m.number(0, 3):
        case 0:
            m.b.node(make_op("LayerNormalization", {"axis": axis, "epsilon": epsilon, "statistics": True}), [x, scale, bias])
        case 1:
            m.add(make_op("LayerNormalization", {"axis": axis, "epsilon": epsilon}), x, scale, bias if m.flag() else None)
        case 2:
            m.add(make_op("RMSNormalization", {"axis": axis, "epsilon": epsilon}), x, scale)
        case _:
            m.add(make_op("MeanVarianceNormalization", {"axes": m.axes(x.type.rank, 1)}), x)


@step(4)
def channel_normalization(m: Maker) -> None:
    """Normalizations with parameters per channel."""
    x = m.value(("float",), 3, 5)
    channels = x.type.static_shape[1]
    row = TensorType(x.type.dtype, (channels,))
    scale, bias, mean = (m.tame(row) for _ in range(3))
    epsilon = m.pick((1e-5, 0.01))
    match m.number(0, 3):
        case 0:
            axis = m.pick((1, 1, x.type.rank - 1))
            row = TensorType(x.type.dtype, (x.type.static_shape[axis],))
            parameters = [m.tame(row) for _ in range(3)]
            m.add(make_op("BatchNormalization", {"epsilon": epsilon, "axis": axis}), x, *parameters, m.weight(abs(m.tame(row).numpy())))
        case 1:
            m.add(make_op("InstanceNormalization", {"epsilon": epsilon}), x, scale, bias)
        case 2 if channels:
            groups = m.pick([g for g in range(1, channels + 1) if channels % g == 0])
            m.add(make_op("GroupNormalization", {"num_groups": groups, "epsilon": epsilon}), x, scale, mean)
        case _:
            m.add(make_op("LRN", {"size": m.number(1, 5), "alpha": m.pick((1e-4, 0.5)), "bias": m.pick((1.0, 2.0))}), x)
