"""One way of quantizing a graph: which layers, and what became of each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from lepton_compiler.calibration import Range
from lepton_compiler.ir.graph import Graph, Node
from lepton_compiler.ir.traverse import bodies
from lepton_compiler.ops.evaluator import evaluate_node
from lepton_compiler.passes.quantize.dynamic import Dynamic, place_dynamic
from lepton_compiler.passes.quantize.parameters import spread, weight_codes
from lepton_compiler.passes.quantize.place import Layer, Placement
from lepton_compiler.passes.quantize.recurrent import StateProduct
from lepton_compiler.passes.quantize.roles import weight_of
from lepton_compiler.passes.quantize.tables import Table, is_table, place_tables
from lepton_compiler.passes.quantize.weight_only import Stored, place_weights
from lepton_compiler.quantization.lockstep import Expected, LayerError, Mendable, Settled, decibels, mend, settled_codes
from lepton_compiler.quantization.recipe import Recipe


@dataclass(frozen=True)
class Done:
    """What was done to a layer; see `report.LayerRow`."""

    name: str
    precision: str
    reason: str
    data: str = ""
    scale: float | None = None
    zero_point: int | None = None
    weights_sqnr: float | None = None
    range: Range | None = None


@dataclass(frozen=True)
class Candidate:
    """A quantized graph.

    Attributes:
        graph: the graph.
        layers: what was done to the layers on codes.
        order: the layers of the float graph, in order.
        kept: names of the layers that were to stay in floating point.
        work: multiplications by name of layer.
        errors: what is left of errors after mending, by name of layer, where samples were there.
        placement: of static schemes.
        codes: of the weights of layers, with their scales, by name.
    """

    graph: Graph
    layers: tuple[Done, ...]
    order: tuple[Node, ...]
    kept: frozenset[str]
    work: Mapping[str, int]
    errors: Mapping[str, LayerError]
    placement: Placement | None
    codes: Mapping[str, Settled] = field(default_factory=dict)

    @property
    def rows(self) -> dict[str, Done]:
        """What was done, by name of layer."""
        return {done.name: done for done in self.layers}


def make_candidate(
    source: Graph, recipe: Recipe, ranges: Mapping[str, Range], samples: Sequence[Mapping[str, np.ndarray]], arch: str, emit: str,
    settled: Mapping[str, Settled] | None = None,
) -> Candidate:  # fmt: skip
    """Quantize a copy of `source` and mend its layers on samples; `settled` are codes of weights that are taken over."""
    graph = source.copy()
    placement, mendable, done = None, list[Mendable](), list[Done]()
    match recipe.scheme:
        case "dynamic":
            done = [_dynamic(found) for found in place_dynamic(graph, recipe.keep)]
        case "w8" | "w4":
            stored = place_weights(graph, 4 if recipe.scheme == "w4" else 8, recipe.group, recipe.keep)
            mendable = [Mendable(s.name, s.node, s.weights, None, s.float_weights, None) for s in stored if s.node.graph is graph]
        case _:
            placement = recipe.step.place_static(graph, ranges, arch, emit)
            mendable = [_mendable(layer) for layer in placement.layers]
    tables = [_table(found) for found in place_tables(graph, recipe.keep)]
    errors = _mend(source, graph, mendable, recipe, samples, settled)
    if placement is not None:
        done = [_static(layer, placement) for layer in placement.layers]
        done += [_state(found, placement) for found in placement.states]
    elif recipe.scheme != "dynamic":
        done = [_stored(s) for s in stored]
    done += tables
    order = tuple(node for part in bodies(source) for node in part if weight_of(node) is not None or is_table(node))
    return Candidate(graph, tuple(done), order, frozenset(recipe.keep), _work(source), errors, placement, settled_codes(mendable))


def _mend(
    source: Graph, graph: Graph, layers: Sequence[Mendable], recipe: Recipe, samples: Sequence[Mapping[str, np.ndarray]],
    settled: Mapping[str, Settled] | None,
) -> dict[str, LayerError]:  # fmt: skip
    if not samples or not layers:
        return {}
    expected = Expected(source, [layer.name for layer in layers], samples)
    together = recipe.rounding == "error"
    corrected = recipe.correct_bias != "off"
    return mend(graph, layers, expected, samples, correct_bias=corrected, round_together=together, settled=settled)


def _mendable(layer: Layer) -> Mendable:
    return Mendable(layer.name, layer.node, layer.weights, layer.bias, layer.float_weights, layer.scale)


def _static(layer: Layer, placement: Placement) -> Done:
    raised = layer.element.bits > placement.activations.bits
    reason = "16 bits of data are enough for the bound on the loss" if raised else "as the recipe says"
    sqnr = _sqnr(layer.float_weights, layer.weights)
    return Done(layer.name, _precision(layer.element.bits), reason, layer.data, layer.scale, layer.zero_point, sqnr)


def _precision(bits: int) -> str:
    return "int8" if bits == 8 else f"int{bits} x int8"


def _state(found: StateProduct, placement: Placement) -> Done:
    sqnr = _sqnr(found.float_weights, found.weights)
    precision = _precision(placement.activations.bits)
    return Done(found.name, precision, "static, one scale for the state of all steps", "", found.scale, found.zero_point, sqnr, found.range)


def _stored(layer: Stored) -> Done:
    few = "few products per output, 4 bits would go into scales" if layer.bits == 8 else "weights only"
    reason = few if layer.weights.op.granularity[1] == 0 and layer.bits == 8 else "weights only"  # type: ignore[attr-defined]
    return Done(layer.name, f"w{layer.bits}", reason, weights_sqnr=_sqnr(layer.float_weights, layer.weights))


def _dynamic(layer: Dynamic) -> Done:
    factor = spread(layer.scales, layer.float_weights.shape, 1)
    real = weight_codes(layer.float_weights, factor, 8).astype(np.float32) * factor
    return Done(layer.name, "int8", "range of the data measured as the model runs", weights_sqnr=_ratio(layer.float_weights, real))


def _table(found: Table) -> Done:
    sqnr = _ratio(found.float_rows, found.codes.astype(np.float32) * found.scales)
    return Done(found.name, "w8", "a table: the rows that are looked up are decoded", weights_sqnr=sqnr)


def _sqnr(wanted: np.ndarray, weights: Node) -> float:
    return _ratio(wanted, evaluate_node(weights, [v.numpy() for v in weights.present_inputs])[0])


def _ratio(wanted: np.ndarray, found: np.ndarray) -> float:
    difference = wanted.astype(np.float64) - found
    return decibels(float(np.square(wanted, dtype=np.float64).sum()), float(np.square(difference).sum()))


def _work(graph: Graph) -> dict[str, int]:
    """Multiplications of the layers whose sizes are known."""
    found = {}
    for node in graph:
        types = [v.type if v is not None else None for v in node.inputs]
        if weight_of(node) is not None and all(t is None or t.is_static for t in (*types, *(o.type for o in node.outputs))):
            found[node.output.name] = int(node.op.cost(types, [o.type for o in node.outputs]).macs)
    return found


def weight_bytes(graph: Graph) -> int:
    """Bytes that the constants take, each once, codes of less than a byte packed."""
    constants = {v.tensor.digest: v.type for part in bodies(graph) for v in part.constants if v.tensor is not None}
    return sum(-(-t.size * t.dtype.bits // 8) for t in constants.values())
