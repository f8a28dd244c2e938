"""The reference interpreter: runs a graph node by node with each operator's `evaluate`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from lepton_compiler.errors import InferenceError, LeptonError, UsageError
from lepton_compiler.ir.dim import Dim, SymDim, bind
from lepton_compiler.ir.graph import Graph, Node, Value

Observer = Callable[[Node, Sequence[np.ndarray]], None]
Execute = Callable[[Node, Sequence["np.ndarray | None"], Mapping[str, Dim]], Sequence[np.ndarray]]


def evaluate(graph: Graph, feeds: Mapping[str, Any], observe: Observer | None = None) -> dict[str, np.ndarray]:
    """Run `graph` with numpy.

    Args:
        graph: any valid graph; symbolic dimensions take their sizes from the feeds.
        feeds: an array (or anything with `__array__` or DLPack) per graph input, of its dtype and shape.
        observe: called after each node, nested ones too, with its outputs.

    Returns:
        Output name to array, in the order of the graph's outputs.

    Raises:
        UsageError: feeds that do not fit the inputs.
        LeptonError: a node that failed on these values, named.
    """
    arrays = check_feeds(graph, feeds)
    with np.errstate(all="ignore"):
        results = _run(graph, arrays, observe, {})
    return {out.name: value for out, value in zip(graph.outputs, results, strict=True)}


def check_feeds(graph: Graph, feeds: Mapping[str, Any]) -> list[np.ndarray]:
    """The feeds as arrays in the order of the graph's inputs.

    Raises:
        UsageError: a name, dtype or shape that does not fit; all of them at once.
    """
    known = [v.name for v in graph.inputs]
    problems = [f"no input '{name}'; the model has {', '.join(known)}" for name in feeds if name not in known]
    problems += [f"input '{name}' is missing" for name in known if name not in feeds]
    arrays, sizes = [], dict[str, Dim]()
    for value in graph.inputs:
        if value.name not in feeds:
            continue
        array = as_array(feeds[value.name], value.type.dtype.numpy)
        problems += _mismatch(value, array, sizes)
        arrays.append(array)
    if problems:
        raise UsageError("; ".join(problems))
    return arrays


def as_array(feed: Any, element: np.dtype | None = None) -> np.ndarray:
    """A numpy view of a feed: an array, a DLPack tensor, or nested sequences.

    `numpy.save` keeps the bytes of bfloat16 and narrower elements, not their type: such an array is viewed as `element`, if that fits.

    Raises:
        UsageError: a tensor of another library whose elements numpy does not know.
    """
    try:
        plain = not hasattr(feed, "__array__") and hasattr(feed, "__dlpack__")
        array = np.from_dlpack(feed) if plain else np.asarray(feed)
    except (TypeError, BufferError) as error:
        raise UsageError(
            f"a feed is no array: {error}", hint="view narrow floats as integers there, and as ml_dtypes types here"
        ) from error
    untyped = array.dtype.type is np.void and array.dtype.names is None
    if untyped and element is not None and element.isbuiltin == USER_DEFINED and element.itemsize == array.dtype.itemsize:
        return array.view(element)
    return array


USER_DEFINED = 2
"""`numpy.dtype.isbuiltin` of the types that ml_dtypes registers."""


def _mismatch(value: Value, array: np.ndarray, sizes: dict[str, Dim]) -> list[str]:
    if array.dtype != value.type.dtype.numpy:
        return [f"input '{value.name}' is {value.type.dtype}, not {array.dtype}"]
    if array.ndim != value.type.rank:
        return [f"input '{value.name}' is {value.type}, the feed has shape {array.shape}"]
    for dim, size in zip(value.type.shape, array.shape, strict=True):
        if repr(dim).isidentifier():
            sizes.setdefault(repr(dim), size)
    wanted = tuple(bind(d, sizes) for d in value.type.shape)
    if any(isinstance(w, int) and w != s for w, s in zip(wanted, array.shape, strict=True)):
        return [f"input '{value.name}' is {value.type}, the feed has shape {array.shape}"]
    return []


def interpret(graph: Graph, arrays: Sequence[np.ndarray], execute: Execute, outer_sizes: Mapping[str, Dim]) -> list[np.ndarray]:
    """Run the nodes of `graph` in order on the arrays of its inputs; gives its outputs.

    Args:
        graph: the graph, or a region of one.
        arrays: one per input.
        execute: gives the outputs of a node from the arrays of its operands and the sizes of symbolic dimensions so far.
        outer_sizes: the sizes that are known outside the region.
    """
    values: dict[Value, np.ndarray] = dict(zip(graph.inputs, arrays, strict=True))
    sizes = dict(outer_sizes)
    for value, array in values.items():
        learn_sizes(value, array, sizes)
    left = {v: len(v.uses) for node in graph for v in node.outputs}
    kept = set(graph.outputs)
    for node in graph:
        inputs = [None if v is None else v.numpy() if v.is_constant else values[v] for v in node.inputs]
        for value, array in zip(node.outputs, execute(node, inputs, sizes), strict=True):
            values[value] = array
            learn_sizes(value, array, sizes)
        for v in node.present_inputs:
            if v in left and v not in kept:
                left[v] -= 1
                if not left[v]:
                    values.pop(v, None)
    return [v.numpy() if v.is_constant else values[v] for v in graph.outputs]


def _run(graph: Graph, arrays: Sequence[np.ndarray], observe: Observer | None, outer_sizes: Mapping[str, Dim]) -> list[np.ndarray]:
    def execute(node: Node, inputs: Sequence[np.ndarray | None], sizes: Mapping[str, Dim]) -> list[np.ndarray]:
        results = evaluate_node(node, inputs, observe, sizes)
        if observe is not None:
            observe(node, results)
        return results

    return interpret(graph, arrays, execute, outer_sizes)


def learn_sizes(value: Value, array: np.ndarray, sizes: dict[str, Dim]) -> None:
    """Note the sizes of the named dimensions of `value`; inside a loop they may change from one iteration to the next."""
    for dim, size in zip(value.type.shape, array.shape, strict=False):
        if isinstance(dim, SymDim) and len(dim.terms) == 1 and dim.terms[0][1] == 1 and len(dim.terms[0][0]) == 1:
            atom = dim.terms[0][0][0]
            if isinstance(atom, str):
                sizes[atom] = size


def evaluate_node(
    node: Node, inputs: Sequence[np.ndarray | None], observe: Observer | None = None, sizes: Mapping[str, Dim] | None = None
) -> list[np.ndarray]:
    """The outputs of one node, of the declared dtypes; symbolic dimensions in its attributes are taken from `sizes`.

    Raises:
        LeptonError: the operator failed on these values.
    """
    op = node.op.bind(sizes) if sizes else node.op
    try:
        if op.has_regions:
            results = op.evaluate_regions(inputs, node.regions, lambda region, arrays: _run(region, arrays, observe, sizes or {}))
        else:
            results = op.evaluate(*inputs)
    except LeptonError as error:
        raise error if error.diagnostics[0].where else InferenceError(str(error), where=node.describe()) from error
    except (ValueError, IndexError, TypeError, ZeroDivisionError, OverflowError, MemoryError, np.linalg.LinAlgError) as error:
        raise LeptonError(f"evaluation failed: {error}", where=node.describe()) from error
    return [
        np.asarray(r) if np.asarray(r).dtype == o.type.dtype.numpy else np.asarray(r).astype(o.type.dtype.numpy)
        for r, o in zip(results, node.outputs, strict=True)
    ]
