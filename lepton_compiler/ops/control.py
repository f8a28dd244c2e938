"""Operators that run nested graphs. Regions are isolated: what they read from outside is passed as operands."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from lepton_compiler.errors import InferenceError, LeptonError
from lepton_compiler.ir.dim import Dim, SymDim, bind, symbol, symbols
from lepton_compiler.ir.op import Cost, Op, RunRegion, Types, require
from lepton_compiler.ir.types import BOOL, FLOAT32, INT64, DType, TensorType

if TYPE_CHECKING:
    from lepton_compiler.ir.graph import Graph


@dataclass(frozen=True)
class If(Op):
    """`cond` decides which of two regions (then, else) runs on the `captures`.

    Branches must agree in number, element types and ranks of their outputs; a dimension in which they differ is unknown.
    """

    has_regions: ClassVar[bool] = True

    def infer(self, cond: TensorType, *captures: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        raise InferenceError("If needs its two regions to infer types")

    def infer_regions(self, inputs: Types, regions: Sequence[Graph]) -> tuple[TensorType, ...]:  # noqa: D102
        require(len(regions) == 2, f"If has {len(regions)} regions, needs then and else")
        types = _present("If", inputs)
        _check_condition("If", types[0])
        branches = [region_types("If", r, types[1:]) for r in regions]
        require(len(branches[0]) == len(branches[1]), f"If: the branches return {len(branches[0])} and {len(branches[1])} values")
        return tuple(_unified(i, a, b) for i, (a, b) in enumerate(zip(*branches, strict=True)))

    def evaluate_regions(self, inputs: Sequence[np.ndarray | None], regions: Sequence[Graph], run: RunRegion) -> tuple[np.ndarray, ...]:  # noqa: D102
        cond, *captures = inputs
        assert cond is not None
        return tuple(run(regions[0 if bool(cond.reshape(())) else 1], _arrays(captures)))


@dataclass(frozen=True)
class Fail(Op):
    """A value that nothing can compute: whoever gets here stops with `message`.

    It stands for the results of a branch whose operators contradict the shapes that the model was bound to, and that
    would fail if it ran; or for a size that is larger than it was bounded to.

    Attributes:
        message: what is wrong.
        to: element type of the value.
        shape: its shape.
        reason: `branch` or `bound`, which decides the error code of native programs.
    """

    message: str
    to: DType = FLOAT32
    shape: tuple[Dim, ...] = ()
    reason: str = "branch"

    def infer(self) -> tuple[TensorType, ...]:  # noqa: D102
        return (TensorType(self.to, self.shape),)

    def evaluate(self) -> tuple[np.ndarray, ...]:  # noqa: D102
        raise LeptonError(self.message)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        return Cost()


@dataclass(frozen=True)
class Loop(Op):
    """Run a region again and again, at most `trip_count` times (absent: no limit) and while `cond` (absent: true) holds.

    Region: (iteration int64[], cond bool[], *carried, *captures) -> (cond, *carried, *scanned). Results: the last carried
    values, then the scanned ones stacked along a new first axis. A carried dimension that changes from one iteration to the
    next must be a symbol of its own in the region's input.

    Attributes:
        carried: how many operands after `cond` are carried.
        trips: the number of iterations where it is known at compile time, which gives the scanned results their size.
        rows: the size of the scanned results where it is to be independent of the number of iterations, which may not exceed it:
            the rows of iterations that did not happen are zero.
    """

    has_regions: ClassVar[bool] = True
    carried: int = 0
    trips: int | None = None
    rows: int | None = None

    def infer(self, trip_count: TensorType | None = None, cond: TensorType | None = None, *values: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        raise InferenceError("Loop needs its region to infer types")

    def infer_regions(self, inputs: Types, regions: Sequence[Graph]) -> tuple[TensorType, ...]:  # noqa: D102
        require(len(regions) == 1, f"Loop has {len(regions)} regions, needs one")
        require(len(inputs) >= 2 + self.carried, f"Loop carries {self.carried} values, has {len(inputs)} operands")
        trip_count, cond = inputs[:2]
        require(
            trip_count is None or (trip_count.dtype == INT64 and trip_count.rank <= 1),
            f"Loop: the trip count is {trip_count}, needs an int64 scalar",
        )
        if cond is not None:
            _check_condition("Loop", cond)
        values = _present("Loop", inputs[2:])
        region = regions[0]
        require(len(region.outputs) >= 1 + self.carried, f"Loop: the body returns {len(region.outputs)} values, carries {self.carried}")
        _check_condition("Loop", region.outputs[0].type)
        entry = (TensorType(INT64, ()), TensorType(BOOL, ()), *values)
        outputs = region_types("Loop", region, entry)
        known = self.trips if self.rows is None else self.rows
        first: Dim = symbol("?0") if known is None else known
        scanned = [TensorType(t.dtype, (first, *_numbered(t.shape, 1))) for t in outputs[1 + self.carried :]]
        return (*carried_types("Loop", region, 2, values[: self.carried], 1), *scanned)

    def evaluate_regions(self, inputs: Sequence[np.ndarray | None], regions: Sequence[Graph], run: RunRegion) -> tuple[np.ndarray, ...]:  # noqa: D102
        trip_count, cond, *values = inputs
        limit = None if trip_count is None else int(trip_count.reshape(()))
        going = cond is None or bool(cond.reshape(()))
        carried, captures = _arrays(values[: self.carried]), _arrays(values[self.carried :])
        rows: list[list[np.ndarray]] = []
        while going and (limit is None or len(rows) < limit):
            results = run(regions[0], [np.array(len(rows), np.int64), np.array(True), *carried, *captures])
            going, carried = bool(results[0].reshape(())), results[1 : 1 + self.carried]
            rows.append(results[1 + self.carried :])
        scanned = regions[0].outputs[1 + self.carried :]
        env = _sizes(regions[0].inputs[2:], [*carried, *captures])
        stacked = [_stacked([r[i] for r in rows], v.type, 0, env) for i, v in enumerate(scanned)]
        return (*carried, *(x if self.rows is None else _extended(x, self.rows) for x in stacked))


@dataclass(frozen=True)
class Scan(Op):
    """Run a region once for each element along an axis of the scan inputs.

    Region: (*carried, *scan elements, *captures) -> (*carried, *scan outputs). Results: the last carried values, then the
    scan outputs stacked along `output_axes`. A direction of 1 reads, or stacks, from the end. Empty tuples mean all zero.
    """

    has_regions: ClassVar[bool] = True
    num_scan_inputs: int = 1
    input_axes: tuple[int, ...] = ()
    input_directions: tuple[int, ...] = ()
    output_axes: tuple[int, ...] = ()
    output_directions: tuple[int, ...] = ()
    carried: int = 0

    def infer(self, *values: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        raise InferenceError("Scan needs its region to infer types")

    def infer_regions(self, inputs: Types, regions: Sequence[Graph]) -> tuple[TensorType, ...]:  # noqa: D102
        require(len(regions) == 1, f"Scan has {len(regions)} regions, needs one")
        types = _present("Scan", inputs)
        require(self.num_scan_inputs >= 1, "Scan needs at least one scan input")
        require(
            len(types) >= self.carried + self.num_scan_inputs,
            f"Scan has {len(types)} operands, needs {self.carried + self.num_scan_inputs}",
        )
        carried, scanned, captures = types[: self.carried], self._scanned(types), types[self.carried + self.num_scan_inputs :]
        length: Dim = 0
        elements: list[TensorType] = []
        for t, axis in zip(scanned, self.axes_in(), strict=True):
            require(-t.rank <= axis < t.rank, f"Scan: axis {axis} is outside {t}")
            size = t.shape[axis]
            differ = isinstance(size, int) and isinstance(length, int) and elements and size != length
            require(not differ, f"Scan: the scan inputs have {length} and {size} elements")
            length = size if not elements or isinstance(size, int) else length
            elements.append(TensorType(t.dtype, tuple(d for i, d in enumerate(t.shape) if i != axis % t.rank)))
        region = regions[0]
        require(len(region.outputs) >= self.carried, f"Scan: the body returns {len(region.outputs)} values, carries {self.carried}")
        outputs = region_types("Scan", region, (*carried, *elements, *captures))
        axes = self.output_axes or (0,) * (len(outputs) - self.carried)
        stacked = [_inserted(t, axis, length) for t, axis in zip(outputs[self.carried :], axes, strict=True)]
        return (*carried_types("Scan", region, 0, carried, 0), *stacked)

    def axes_in(self) -> tuple[int, ...]:
        """The scanned axis of each scan input."""
        return self.input_axes or (0,) * self.num_scan_inputs

    def _scanned(self, values: Sequence[Any]) -> Sequence[Any]:
        return values[self.carried : self.carried + self.num_scan_inputs]

    def evaluate_regions(self, inputs: Sequence[np.ndarray | None], regions: Sequence[Graph], run: RunRegion) -> tuple[np.ndarray, ...]:  # noqa: D102
        arrays = _arrays(inputs)
        carried, captures = arrays[: self.carried], arrays[self.carried + self.num_scan_inputs :]
        scanned = [np.moveaxis(x, axis, 0) for x, axis in zip(self._scanned(arrays), self.axes_in(), strict=True)]
        backwards = self.input_directions or (0,) * self.num_scan_inputs
        scanned = [x[::-1] if back else x for x, back in zip(scanned, backwards, strict=True)]
        rows = []
        for elements in zip(*scanned, strict=True):
            results = run(regions[0], [*carried, *map(np.asarray, elements), *captures])
            carried = results[: self.carried]
            rows.append(results[self.carried :])
        declared = regions[0].outputs[self.carried :]
        env = _sizes(regions[0].inputs, [*carried, *(x[0] if len(x) else np.empty(x.shape[1:]) for x in scanned), *captures])
        axes, flips = (given or (0,) * len(declared) for given in (self.output_axes, self.output_directions))
        stacked = []
        for i, value in enumerate(declared):
            column = [r[i] for r in rows]
            stacked.append(_stacked(column[::-1] if flips[i] else column, value.type, axes[i], env))
        return (*carried, *stacked)


@dataclass(frozen=True)
class Fused(Op):
    """A region that becomes one kernel: its inputs are the operands, its outputs the results.

    Attributes:
        label: for readers.
        kind: what the region is as a whole, where only backends that declare so take it: `attention`.
    """

    has_regions: ClassVar[bool] = True
    label: str = ""
    kind: str = ""

    def infer(self, *inputs: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        raise InferenceError("Fused needs its region to infer types")

    def infer_regions(self, inputs: Types, regions: Sequence[Graph]) -> tuple[TensorType, ...]:  # noqa: D102
        require(len(regions) == 1, f"Fused has {len(regions)} regions, needs one")
        return region_types("Fused", regions[0], _present("Fused", inputs))

    def evaluate_regions(self, inputs: Sequence[np.ndarray | None], regions: Sequence[Graph], run: RunRegion) -> tuple[np.ndarray, ...]:  # noqa: D102
        return tuple(run(regions[0], _arrays(inputs)))


def region_types(name: str, region: Graph, entry: Sequence[TensorType]) -> tuple[TensorType, ...]:
    """Types of the outputs of a region entered with values of types `entry`, in terms of the symbols outside.

    What only the region's own data decides becomes a placeholder.

    Raises:
        InferenceError: the region's inputs do not accept `entry`.
    """
    require(len(region.inputs) == len(entry), f"{name}: a region takes {len(region.inputs)} values, gets {len(entry)}")
    env: dict[str, Dim] = {}
    conflicts: set[str] = set()
    for value, given in zip(region.inputs, entry, strict=True):
        formal = value.type
        fits = formal.dtype == given.dtype and formal.rank == given.rank
        require(fits, f"{name}: input '{value.name}' of a region is {formal}, gets {given}")
        for want, have in zip(formal.shape, given.shape, strict=True):
            if isinstance(want, int):
                require(not isinstance(have, int) or want == have, f"{name}: input '{value.name}' of a region is {formal}, gets {given}")
            elif (symbol_name := _name(want)) is not None and env.setdefault(symbol_name, have) != have:
                conflicts.add(symbol_name)
    outer = {s for t in entry for d in t.shape for s in symbols(d)}
    known = {s: d for s, d in env.items() if s not in conflicts}
    return tuple(TensorType(o.type.dtype, _outside(o.type.shape, known, conflicts, outer)) for o in region.outputs)


def carried_types(name: str, region: Graph, first_input: int, entry: Sequence[TensorType], first_output: int) -> tuple[TensorType, ...]:
    """Types of carried values after the last iteration.

    Raises:
        InferenceError: an iteration changes a type or a dimension that the region's input fixes.
    """
    result = []
    formals = region.inputs[first_input : first_input + len(entry)]
    for i, (formal, given) in enumerate(zip(formals, entry, strict=True)):
        before, after = formal.type, region.outputs[first_output + i].type
        same = before.dtype == after.dtype and before.rank == after.rank
        require(same, f"{name}: carried value '{formal.name}' is {before} and becomes {after} after an iteration")
        shape: list[Dim] = []
        for axis, (want, becomes, have) in enumerate(zip(before.shape, after.shape, given.shape, strict=True)):
            if becomes == want:
                shape.append(have)
                continue
            if want == have or _name(want) is None:
                raise InferenceError(
                    f"{name}: dimension {axis} of carried value '{formal.name}' is {want} before and {becomes} after an iteration",
                    hint="make that dimension of the body's input a symbol of its own",
                )
            shape.append(symbol(f"?{axis}"))
        result.append(TensorType(before.dtype, tuple(shape)))
    return tuple(result)


def _outside(shape: Sequence[Dim], env: Mapping[str, Dim], conflicts: Iterable[str], outer: set[str]) -> tuple[Dim, ...]:
    """A region's shape seen from outside: symbols bound, local ones replaced by placeholders."""
    result: list[Dim] = []
    for i, d in enumerate(shape):
        names = symbols(d)
        seen = bind(d, env)
        local = names & set(conflicts) or any("?" in s and s not in env and s not in outer for s in names)
        result.append(symbol(f"?{i}") if local else seen)
    return tuple(result)


def _name(dim: Dim) -> str | None:
    """The symbol that `dim` is, if it is just that."""
    if isinstance(dim, SymDim) and len(dim.terms) == 1:
        (monomial, factor) = dim.terms[0]
        if factor == 1 and len(monomial) == 1 and isinstance(monomial[0], str):
            return monomial[0]
    return None


def _numbered(shape: Sequence[Dim], first: int) -> tuple[Dim, ...]:
    """Placeholders renumbered by position from `first` on."""
    return tuple(symbol(f"?{first + i}") if (_name(d) or "").startswith("?") else d for i, d in enumerate(shape))


def _inserted(t: TensorType, axis: int, length: Dim) -> TensorType:
    require(-t.rank - 1 <= axis <= t.rank, f"Scan: output axis {axis} is outside {t} with one axis more")
    axis %= t.rank + 1
    return TensorType(t.dtype, (*t.shape[:axis], length, *_numbered(t.shape[axis:], axis + 1)))


def _unified(i: int, a: TensorType, b: TensorType) -> TensorType:
    require(a.dtype == b.dtype, f"If: output {i} is {a} in one branch and {b} in the other: element types differ")
    require(a.rank == b.rank, f"If: output {i} is {a} in one branch and {b} in the other: ranks differ")
    unknown = [p != q or (_name(p) or "").startswith("?") for p, q in zip(a.shape, b.shape, strict=True)]
    return TensorType(a.dtype, tuple(symbol(f"?{k}") if u else d for k, (d, u) in enumerate(zip(a.shape, unknown, strict=True))))


def _check_condition(name: str, cond: TensorType) -> None:
    fits = cond.dtype == BOOL and cond.rank <= 1 and all(d == 1 for d in cond.shape if isinstance(d, int))
    require(fits, f"{name}: the condition is {cond}, needs a bool scalar")


def _present(name: str, types: Types) -> list[TensorType]:
    found = [t for t in types if t is not None]
    require(len(found) == len(types), f"{name}: a captured or carried operand is absent")
    return found


def _arrays(values: Sequence[np.ndarray | None]) -> list[np.ndarray]:
    return [v for v in values if v is not None]


def _sizes(formals: Sequence[Any], arrays: Sequence[np.ndarray]) -> dict[str, Dim]:
    """What the symbols of region inputs stand for, read off actual arrays."""
    pairs = ((d, n) for v, a in zip(formals, arrays, strict=True) for d, n in zip(v.type.shape, a.shape, strict=True))
    return {name: n for d, n in pairs if (name := _name(d)) is not None}


def _extended(x: np.ndarray, rows: int) -> np.ndarray:
    """`x` with rows of zeros up to `rows`."""
    require(len(x) <= rows, f"Loop ran {len(x)} times, more often than its {rows} rows")
    return np.concatenate([x, np.zeros((rows - len(x), *x.shape[1:]), x.dtype)])


def _stacked(rows: Sequence[np.ndarray], declared: TensorType, axis: int, env: Mapping[str, Dim]) -> np.ndarray:
    """Rows stacked along a new axis; of no rows, an empty array of the declared shape, unknown sizes being zero."""
    if rows:
        return np.stack(rows, axis)
    shape = [d if isinstance(d, int) else 0 for d in (bind(d, env) for d in declared.shape)]
    shape.insert(axis % (len(shape) + 1), 0)
    return np.zeros(shape, declared.dtype.numpy)
