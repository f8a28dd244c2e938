"""Arrays to feed a model with: drawn from a fixed seed, filled by a recipe, or read from files."""

from __future__ import annotations

import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_compiler.errors import UsageError
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.types import DType, TensorType, dtype

INTEGER_BOUND = 2
"""Random integers are below this: token types, masks and the smallest embedding tables accept 0 and 1."""


def random_feeds(inputs: Sequence[Value], seed: int = 0, fixed: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
    """One array per input, the same ones on every run and every machine.

    Floats are uniform in [-1, 1), integers 0 or 1, booleans mixed; a scalar that the model compares with a constant, as in
    `sample_rate == 16000`, is that constant. Otherwise an array depends on the seed and on the name of its input only, so that two
    models with the same inputs get the same feeds.

    Args:
        inputs: graph inputs; the shape of each one not in `fixed` must be static.
        seed: another seed gives other feeds.
        fixed: feeds that the caller has already.

    Raises:
        LeptonError: a dimension is unbound.
        UsageError: `fixed` names something that is not an input.
    """
    fixed = fixed or {}
    known = [v.name for v in inputs]
    if unknown := [name for name in fixed if name not in known]:
        raise UsageError(f"no input '{unknown[0]}'", hint=f"the model has {', '.join(known)}")
    return {
        v.name: np.asarray(fixed[v.name])
        if v.name in fixed
        else fill(v.type.dtype, v.type.static_shape, _compared_with(v) or "random", seed, v.name)
        for v in inputs
    }


def _compared_with(value: Value) -> str | None:
    """The recipe for a scalar integer that the model tests for being equal to a constant."""
    if not (value.type.dtype.is_integer and value.type.size == 1):
        return None
    others = [other for user in value.users if user.op.name == "Equal" for other in user.present_inputs if other is not value]
    known = [other for other in others if other.is_constant and other.type.size == 1]
    return f"const:{known[0].numpy().item()}" if known else None


def feeds_for_rows(rows: Sequence[Mapping[str, Any]], seed: int = 0, fixed: Mapping[str, Any] | None = None) -> dict[str, np.ndarray]:
    """`random_feeds` for the inputs as a manifest lists them: rows with `name`, `dtype` and `shape`."""
    graph = Graph()
    for row in rows:
        graph.add_input(row["name"], TensorType(dtype(row["dtype"]), tuple(row["shape"])))
    return random_feeds(graph.inputs, seed, fixed)


def fill(element: DType | str, shape: Sequence[int], recipe: str, seed: int = 0, name: str = "") -> np.ndarray:
    """An array filled by a recipe.

    Args:
        element: element type.
        shape: static shape.
        recipe: `random` (see `random_feeds`), `uniform` ([0, 1)), `zeros`, `ones`, `const:V`, `integers:LOW:HIGH` (HIGH excluded).
        seed: of the generator.
        name: mixed into the seed.

    Raises:
        UsageError: no such recipe.
    """
    kind, *numbers = recipe.split(":")
    element, shape = dtype(element), tuple(shape)
    rng = np.random.default_rng([seed, zlib.crc32(name.encode())])
    try:
        match kind, numbers:
            case "random", []:
                array = _random(rng, element, shape)
            case "uniform", []:
                array = rng.random(shape)
            case ("zeros" | "ones") as constant, []:
                array = np.full(shape, int(constant == "ones"))
            case "const", [value]:
                array = np.full(shape, float(value))
            case "integers", [low, high]:
                array = rng.integers(int(low), int(high), shape)
            case _:
                raise ValueError(recipe)
    except ValueError as error:
        raise UsageError(f"no fill recipe '{recipe}'", hint="random, uniform, zeros, ones, const:V, integers:LOW:HIGH") from error
    return np.asarray(array).astype(element.numpy)


def _random(rng: np.random.Generator, element: DType, shape: tuple[int, ...]) -> np.ndarray:
    if element.is_float:
        return rng.uniform(-1, 1, shape)
    if element.kind == "complex":
        return np.asarray(rng.uniform(-1, 1, shape) + 1j * rng.uniform(-1, 1, shape))
    return rng.integers(0, INTEGER_BOUND, shape)


def feeds_from_recipes(recipes: Mapping[str, Mapping[str, Any]], seed: int = 0) -> dict[str, np.ndarray]:
    """Feeds by the `inputs` of a zoo entry: `{name: {"dtype", "shape", "fill"}}`."""
    return {name: fill(r["dtype"], r["shape"], r["fill"], seed, name) for name, r in recipes.items()}


def read_feeds(specs: Iterable[str]) -> dict[str, np.ndarray]:
    """Feeds from files: each spec is `NAME=FILE.npy`, or `FILE.npz` with one array per input.

    Raises:
        UsageError: a spec that is neither, or a file that cannot be read.
    """
    feeds: dict[str, np.ndarray] = {}
    for spec in specs:
        name, _, file = spec.rpartition("=")
        if not name and Path(file).suffix != ".npz":
            raise UsageError(f"'{spec}' is not NAME=FILE.npy or FILE.npz")
        try:
            loaded = np.load(file, allow_pickle=False)
            feeds |= {name: np.asarray(loaded)} if name else {key: loaded[key] for key in loaded.files}
        except (OSError, ValueError, EOFError, KeyError, zlib.error, AttributeError) as error:
            raise UsageError(f"cannot read feeds from '{file}': {error}", hint="write it with numpy.save or numpy.savez") from error
    return feeds
