"""How far rounding alone can move the results of a graph: the tolerance of comparisons between two ways to compute it.

A graph is evaluated several times in float64, each time with fresh random errors of the size of the rounding errors that a correct
implementation makes: every result of an operator that rounds moves by up to `OUTPUT_ULPS` units in the last place of its type, or by
`FUNCTION_ULPS`, and so do operands by `INPUT_ULPS`, where they are not exact, or the operator combines several of them. Together with an evaluation without errors and the one in the model's own types
these results show, element by element, what is well-determined and what is not (D. S. Parker, "Monte Carlo Arithmetic", 1997). A result
under test must lie among them, or outside by at most `MARGIN` times their spread.

This bound hides no fault that rounding could not have made: an element that no rounding error reaches (copies, comparisons of exact
values, integers, sums of small integers) has no spread and must be equal; one that cancellation or a nearby step of a discontinuous function
makes uncertain has a wide one, however large the tensor's other elements are. What overflows in some order of arithmetic and not in
another may be anything: one more evaluation, in which large numbers overflow early, tells where. `Ensemble.open` says how much that is.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from ml_dtypes import finfo

from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Graph, Node
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import FLOAT64, DType, TensorType
from lepton_compiler.ops.cast import BitCast, Cast
from lepton_compiler.ops.decompose import expand
from lepton_compiler.ops.evaluator import check_feeds, evaluate, interpret
from lepton_compiler.ops.quantize import DequantizeLinear

RUNS = 6
"""Evaluations with random errors; a difference is looked at again with `MORE_RUNS` before it counts."""
MORE_RUNS = 48
INPUT_ULPS, OUTPUT_ULPS, FUNCTION_ULPS = 1.0, 1.0, 2.0
"""Largest random errors, in units in the last place: of operands, of results of arithmetic, and of those of other functions."""
MARGIN = 1.0
"""How far outside the range of all runs a result may lie, as a multiple of that range."""

EXACT = frozenset(
    "BitCast Col2Im Compress Concat ConstantOfShape DepthToSpace Expand EyeLike Gather GatherElements GatherND Identity MaxUnpool NonZero "
    "OneHot Pad Range Reshape ReverseSequence Shape Size Slice SpaceToDepth Split Squeeze TensorScatter Tile Transpose Trilu Unique "
    "Unsqueeze".split()
)
"""Operators whose results are elements of their operands, or do not depend on their values."""
STEPS = frozenset(
    "Abs And ArgMax ArgMin Ceil Clip DynamicQuantizeLinear Equal Floor Greater GreaterOrEqual Hardmax IsInf IsNaN Less LessOrEqual Max MaxPool MaxRoiPool Min Neg "
    "NonMaxSuppression Not Or QuantizeLinear ReduceMax ReduceMin Relu Round Sign TopK Where Xor".split()
)
"""Operators that round nothing, but may turn a small difference of operands into a large one, or tell two equal computations apart."""
ROUNDED_ONCE = frozenset("Add Cast Div LeakyRelu Mod Mul Neg PRelu Reciprocal Shrink Sqrt Sub ThresholdedRelu".split())
"""Operators of which each element is one number, rounded: exact where it needs no rounding, and no reciprocal of a divisor does."""
SUMS = frozenset(
    "AveragePool Conv ConvTranspose CumProd CumSum DequantizeLinear Einsum Gemm MatMul Mean ReduceL1 ReduceMean ReduceProd ReduceSum "
    "ReduceSumSquare ScatterElements ScatterND Sum".split()
)
"""Operators that add up products: exact where their operands have so few digits that nothing on the way needs rounding."""
WEIGHTED = frozenset("Conv ConvTranspose Einsum Gemm MatMul".split())
SCALES = frozenset("BatchNormalization Div Mul".split())
"""Where one of these is in the graph, it may move into the weights of those, whose sums are not exact then."""
MEANS = frozenset("AveragePool Mean ReduceMean".split())
"""Sums divided by a count, which may be a product with its rounded reciprocal."""
STANDARDIZED = frozenset("GroupNormalization InstanceNormalization LayerNormalization MeanVarianceNormalization".split())
"""Operators that subtract a mean, which is rounded before: no error of operands or results is like that one."""
SIMPLE = frozenset({"unary", "binary", "cast"})
"""Families of functions of single elements that are not put together from others: exact operands are exact."""
PLACES = {"GridSample": 1}
"""The operand that holds coordinates from -1 to 1, to which 1 is added before they are scaled: its error is one of numbers around 1."""
FEW_DIGITS = 12
"""Of two operands of so many binary digits every product is a float32."""
LARGE, LARGE_FACTOR = 2.0**118, 2.0**63
"""Numbers that overflow in float32 when a thousand of them are added, or when two are multiplied."""

SMALLEST = {"float16": 2.0**-24, "float32": 2.0**-149, "float64": 2.0**-1074, "bfloat16": 2.0**-133}
PRECISION = {"float16": 2.0**-10, "float32": 2.0**-23, "float64": 2.0**-50, "bfloat16": 2.0**-7}
"""One unit in the last place relative to the number; that of float64 is eight times as large, since float64 is also the yardstick."""


@dataclass(frozen=True)
class Ensemble:
    """Results of one graph under random rounding: per output name the type and an array [run, ...] of float64, integers or booleans."""

    results: Mapping[str, tuple[DType, np.ndarray]]

    def difference(self, actual: Mapping[str, Any]) -> str:
        """The first output of `actual` that rounding does not explain, in words, or an empty string."""
        if list(self.results) != list(actual):
            return f"outputs are {list(actual)} instead of {list(self.results)}"
        for name, (element, runs) in self.results.items():
            if problem := _difference(element, runs, np.asarray(actual[name])):
                return f"output '{name}' {problem}"
        return ""

    @property
    def open(self) -> float:
        """The share of elements that may be anything, because they overflow in some of the runs only."""
        total = sum(runs[0].size for _, runs in self.results.values())
        anything = sum(int(_undetermined(runs).sum()) for kind, runs in self.results.values() if kind.is_float)
        return anything / total if total else 0.0


def ensemble(graph: Graph, feeds: Mapping[str, Any], runs: int = RUNS, seed: int = 0) -> Ensemble:
    """Evaluate `graph` in its own types, in float64, and in float64 with `runs` sets of random rounding errors.

    Raises:
        UsageError: feeds that do not fit.
        LeptonError: a node that fails on these values.
    """
    plain = evaluate(graph, feeds)
    arrays = check_feeds(graph, feeds)
    with np.errstate(all="ignore"):
        kinds = [(0.0, False, False), (0.0, True, False), *((1.0, False, bool(k % 2)) for k in range(runs))]
        noisy = [_Noise(np.random.default_rng([seed, k]), *kind).run(graph, arrays, {}) for k, kind in enumerate(kinds)]
    results = {}
    for i, value in enumerate(graph.outputs):
        kind = value.type.dtype
        columns = [plain[value.name], *(run[i] for run in noisy)]
        if kind.is_float:
            with np.errstate(over="ignore"):
                columns = [np.asarray(c).astype(kind.numpy).astype(np.float64) for c in columns]
        results[value.name] = (kind, _stack(columns))
    return Ensemble(results)


def explained(graph: Graph, feeds: Mapping[str, Any], known: Ensemble, actual: Mapping[str, Any]) -> str:
    """The difference of `actual` from what `graph` gives on these feeds, in words; a suspicion is confirmed with more runs."""
    if not known.difference(actual):
        return ""
    return ensemble(graph, feeds, MORE_RUNS, seed=1).difference(actual)


class _Noise:
    """One evaluation in float64, with errors of `scale` times the usual size.

    With `early`, numbers overflow before they must. With `narrow`, functions and other composites are computed in float32, for the
    rounding errors that their formulas make inside.
    """

    def __init__(self, rng: np.random.Generator, scale: float, early: bool = False, narrow: bool = False) -> None:
        self.rng, self.scale, self.early, self.narrow = rng, scale, early, narrow
        self.scaling: dict[Graph, bool] = {}

    def run(self, graph: Graph, arrays: Sequence[np.ndarray], sizes: Mapping[str, Dim]) -> list[np.ndarray]:
        return [_widened(a) for a in interpret(graph, [_widened(a) for a in arrays], self.execute, sizes)]

    def execute(self, node: Node, inputs: Sequence[np.ndarray | None], sizes: Mapping[str, Dim]) -> list[np.ndarray]:
        wide = [None if a is None else _widened(a) for a in inputs]
        op = node.op.bind(sizes) if sizes else node.op
        if op.has_regions:
            nested = op.evaluate_regions(wide, node.regions, lambda region, arrays: self.run(region, arrays, sizes))
            return [_widened(np.asarray(r)) for r in nested]
        evaluate_wide = _in_float64(node)
        if self.early and op.name not in EXACT and op.name not in STEPS:
            results = evaluate_wide(op, [_overflown(a, op.name not in ROUNDED_ONCE) for a in wide])
            return [_overflown(r, False) for r in results]
        if op.name in EXACT or not self.scale:
            return evaluate_wide(op, wide)
        known = [v is None or not v.type.dtype.is_float or _representable(a, v.type.dtype) for v, a in zip(node.inputs, wide, strict=True)]
        moved = [
            a if a is None or v is None else self.moved(a, v.type.dtype, INPUT_ULPS, k) for v, a, k in self._operands(node, wide, known)
        ]
        if op.name in STEPS or not any(v.type.dtype.is_float for v in node.outputs):
            return evaluate_wide(op, moved)
        basic = op.name in ROUNDED_ONCE or op.name in SUMS
        operands = moved if type(op).__module__.rpartition(".")[2] in SIMPLE else self._summed(node, wide)
        exact, shaken = evaluate_wide(op, wide), evaluate_wide(op, operands if basic or not self.narrow else _narrowed(node, operands))
        if op.name in STANDARDIZED:
            shaken = [y + moved for y, moved in zip(shaken, self._inside(op, node, wide), strict=True)]
        ulps = OUTPUT_ULPS if basic else FUNCTION_ULPS
        return [
            np.where(self._is_exact(node, y, v.type.dtype, known, wide), y, self.moved(z, v.type.dtype, ulps, np.False_))
            if v.type.dtype.is_float else z
            for v, y, z in zip(node.outputs, exact, shaken, strict=True)
        ]  # fmt: skip

    def _operands(self, node: Node, arrays: Sequence[Any], known: Sequence[Any]) -> Any:
        return zip(node.inputs, arrays, known, strict=True)

    def _summed(self, node: Node, arrays: Sequence[Any]) -> list[Any]:
        moved = [
            a if a is None or v is None else self.moved(a, v.type.dtype, INPUT_ULPS, np.False_)
            for v, a in zip(node.inputs, arrays, strict=True)
        ]
        if (k := PLACES.get(node.op.name)) is not None and (place := node.inputs[k]) is not None and place.type.dtype.name in PRECISION:
            moved[k] = moved[k] + self.scale * self.rng.uniform(-1, 1, moved[k].shape) * PRECISION[place.type.dtype.name]
        return moved

    def _inside(self, op: Op, node: Node, arrays: Sequence[Any]) -> list[Any]:
        """How far rounding of the steps that an operator is put together from moves its results."""
        graph, given = Graph(), [a for a in arrays if a is not None]
        kinds = [v.type.dtype for v in node.present_inputs]
        inputs = iter([graph.add_input(f"x{k}", TensorType(t, a.shape)) for k, (t, a) in enumerate(zip(kinds, given, strict=True))])
        whole = graph.add(op, [None if a is None else next(inputs) for a in arrays])
        graph.set_outputs(whole.outputs)
        expand(whole)
        with_errors, without = self.run(graph, given, {}), _Noise(self.rng, 0.0).run(graph, given, {})
        return [a - b for a, b in zip(with_errors, without, strict=True)]

    def _is_exact(self, node: Node, y: np.ndarray, kind: DType, known: Sequence[Any], arrays: Sequence[Any]) -> Any:
        """Which elements of a result come from exact operands and need no rounding."""
        fits = _representable(y, kind)
        if node.op.name in ROUNDED_ONCE:
            for k in known:
                fits = fits & k
            return fits & (np.abs(np.frexp(arrays[1])[0]) == 0.5) if node.op.name == "Div" else fits
        sums = node.op.name in SUMS and not (node.op.name in WEIGHTED and self._scales(node.graph))
        sums = sums and not (node.op.name in MEANS and _count(node, arrays, y) is None)
        return fits & (sums and all(a is None or _is_short(a) for a in arrays))

    def _scales(self, graph: Graph) -> bool:
        """Whether something in the graph multiplies, and may move into weights."""
        if graph not in self.scaling:
            self.scaling[graph] = any(node.op.name in SCALES for node in graph)
        return self.scaling[graph]

    def moved(self, x: np.ndarray, kind: DType, ulps: float, exact: Any) -> np.ndarray:
        """`x` with a random error of up to `ulps` units in the last place of `kind`, except where it is exact."""
        if not kind.is_float or kind.name not in PRECISION or np.all(exact):
            return x
        relative, absolute = (self.scale * self.rng.uniform(-ulps, ulps, x.shape) for _ in range(2))
        shaken = x * (1 + relative * PRECISION[kind.name]) + absolute * SMALLEST[kind.name]
        return np.where(np.isfinite(x) & ~np.asarray(exact), shaken, x)


def _count(node: Node, arrays: Sequence[Any], y: np.ndarray) -> int | None:
    """How many numbers each mean is of, if that is a power of two everywhere, so that dividing by it rounds nothing."""
    op: Any = node.op
    match op.name:
        case "Mean":
            count = len(arrays)
        case "AveragePool":
            count = 0 if any(op.pads) or op.ceil_mode else int(np.prod(op.kernel_shape))
        case _:
            count = arrays[0].size // y.size if y.size else 0
    return count if count and count & (count - 1) == 0 else None


def _overflown(x: Any, in_products: bool) -> Any:
    """Infinities in place of numbers beyond which float32 overflows in a sum, or in a product of two of them."""
    if x is None or x.dtype.kind != "f":
        return x
    return np.where(np.abs(x) > (LARGE_FACTOR if in_products else LARGE), np.copysign(np.inf, x), x)


def _widened(array: np.ndarray) -> np.ndarray:
    """Real numbers as float64, everything else as it is."""
    array = np.asarray(array)
    return array.astype(np.float64) if array.dtype.kind == "f" or "float" in array.dtype.name else array


def _narrowed(node: Node, arrays: Sequence[Any]) -> list[Any]:
    """Operands of float32 and narrower types as float32."""
    narrow = [v is not None and v.type.dtype.is_float and v.type.dtype != FLOAT64 for v in node.inputs]
    return [a.astype(np.float32) if n and a is not None else a for n, a in zip(narrow, arrays, strict=True)]


def _representable(x: Any, kind: DType) -> Any:
    """Which elements of a float64 array are numbers of `kind`, denormal ones excepted.

    Of float64, those of float32, since every result would seem exact.
    """
    narrow = np.dtype(np.float32) if kind == FLOAT64 else kind.numpy
    rounded = x.astype(narrow).astype(np.float64)
    return ((rounded == x) & ((x == 0) | (np.abs(x) >= float(finfo(narrow).smallest_normal)))) | np.isnan(x)


def _is_short(x: np.ndarray) -> bool:
    """Whether all numbers have at most `FEW_DIGITS` binary digits."""
    if x.dtype.kind != "f":
        return True
    mantissa = np.frexp(np.where(np.isfinite(x), x, 0))[0] * 2**FEW_DIGITS
    return bool(np.all(mantissa == np.rint(mantissa)))


def _in_float64(node: Node) -> Callable[[Any, Sequence[Any]], list[np.ndarray]]:
    """How to evaluate a node on float64 in place of its own float types, without rounding to them."""
    source = node.inputs[0].type.dtype if node.inputs and node.inputs[0] is not None else None
    kinds = [v.type.dtype for v in node.outputs]

    def plain(op: Any, arrays: Sequence[Any]) -> list[np.ndarray]:
        if isinstance(op, DequantizeLinear):
            op = replace(op, dtype=FLOAT64)
        return [
            _widened(r) if k.is_float else np.asarray(r).astype(k.numpy, copy=False)
            for r, k in zip(op.evaluate(*arrays), kinds, strict=True)
        ]

    def bits(op: Any, arrays: Sequence[Any]) -> list[np.ndarray]:
        assert source is not None
        return plain(op, [arrays[0].astype(source.numpy)])

    match node.op:
        case Cast(to=to) if source is not None and to.name in PRECISION and source.kind != "bool":
            return lambda op, arrays: [_widened(arrays[0].astype(np.float64))]
        case BitCast():
            return bits
    return plain


def _stack(columns: Sequence[np.ndarray]) -> np.ndarray:
    """Results of all runs; where their sizes depend on rounding, those of the first run alone."""
    same = [c for c in columns if c.shape == columns[0].shape]
    return np.stack(same)


def _difference(element: DType, runs: np.ndarray, got: np.ndarray) -> str:
    if got.dtype != element.numpy or got.shape != runs.shape[1:]:
        return f"is {got.dtype}{list(got.shape)} instead of {element.numpy}{list(runs.shape[1:])}"
    outside = _float_faults(runs, got.astype(np.float64)) if element.is_float else _integer_faults(runs, got)
    if not outside.any():
        return ""
    at = tuple(int(i) for i in np.argwhere(outside)[0])
    seen = np.array([run[at] for run in runs])
    span = f"{seen[0]}" if (seen == seen[0]).all() else f"{np.fmin.reduce(seen)} to {np.fmax.reduce(seen)}"
    return f"differs in {int(outside.sum())} of {outside.size} elements: {got[at]} instead of {span} at {list(at)}"


def _integer_faults(runs: np.ndarray, got: np.ndarray) -> np.ndarray:
    low, high = (f(runs, axis=0).astype(np.longdouble) for f in (np.min, np.max))
    spread = np.where(high - low > 1, high - low, 0) if runs.dtype != np.bool_ else np.zeros(got.shape)
    value = got.astype(np.longdouble)
    return np.asarray((value < low - spread) | (value > high + spread), bool)


def _float_faults(runs: np.ndarray, got: np.ndarray) -> np.ndarray:
    finite = np.isfinite(runs)
    low = np.min(runs, axis=0, where=finite, initial=np.inf)
    high = np.max(runs, axis=0, where=finite, initial=-np.inf)
    with np.errstate(invalid="ignore", over="ignore"):
        spread = np.where(high > low, high - low, 0.0)
        near = (got >= low - MARGIN * spread) & (got <= high + MARGIN * spread)
    special = np.zeros(got.shape, bool)
    for test in (np.isnan, np.isposinf, np.isneginf):
        special |= test(got) & test(runs).any(axis=0)
    return ~(_undetermined(runs) | np.where(np.isfinite(got), near & finite.any(axis=0), special))


def _undetermined(runs: np.ndarray) -> np.ndarray:
    """Where the runs disagree on whether the result is finite, which infinity it is, or NaN."""
    classes = np.where(np.isnan(runs), 3, np.where(np.isposinf(runs), 2, np.where(np.isneginf(runs), 1, 0)))
    return np.asarray((classes != classes[0]).any(axis=0))
