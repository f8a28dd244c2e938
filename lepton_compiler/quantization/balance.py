"""Data of layers with channels about as wide as one another, so that one scale of codes suits all of them.

A layer multiplies each channel of its data by weights of this channel. So the channels can be divided by factors and the weights multiplied by
them, which leaves the model's results as they are. A depthwise convolution takes the factors up in the scales of its weights, one per channel,
and loses nothing by them; other layers trade the error of data for that of weights, as far as the sum gets smaller. The division costs
nothing: it goes into the layer or the constants before, or into the multiplication by the scale of the codes.

After M. Nagel et al., "Data-free quantization through weight equalization and bias correction", ICCV 2019, section 4.1, and G. Xiao et al.,
"SmoothQuant", ICML 2023; here the factors are those of the least error that is to be expected.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.calibration import Statistics
from lepton_compiler.calibration.observe import Run
from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.passes.quantize.profile import Profile
from lepton_compiler.passes.quantize.roles import channel_axis, output_channels, weight_of
from lepton_compiler.quantization.division import Division, divide, division
from lepton_compiler.quantization.exchange import exchange
from lepton_compiler.quantization.factors import (
    CAUTION,
    WORTH,
    Channels,
    CutOff,
    Powers,
    Weights,
    expected_error,
    make_factors,
    promising,
    total_power,
)


@dataclass(frozen=True)
class Read:
    """A value that only layers read, and where its channels can be divided.

    Attributes:
        layers: that read it.
        axis: along which its channels lie.
        where: see `division`.
    """

    layers: tuple[Node, ...]
    axis: int
    where: Division


def readable(graph: Graph, profile: Profile, keep: Iterable[str] = ()) -> dict[Value, Read]:
    """The values whose channels can be divided for nothing, for a target of these rules; those that a layer in `keep` reads are left out."""
    layers: dict[Value, list[Node]] = {}
    for node in graph:
        if weight_of(node) is not None:
            layers.setdefault(node.present_inputs[0], []).append(node)
    found = {}
    for value, nodes in layers.items():
        axes = {_data_axis(node) for node in nodes}
        axis = axes.pop()
        whole = not value.is_output and {node for node, _ in value.uses} == set(nodes) and not any(n.output.name in keep for n in nodes)
        if whole and not axes and axis is not None and isinstance(value.type.shape[axis], int):
            where = division(value, axis, nodes[0], profile)
            if where is not None:
                found[value] = Read(tuple(nodes), axis, where)
    return found


def _data_axis(node: Node) -> int | None:
    """The axis of its data that a layer sums over; None for layers that cannot take factors."""
    if node.op.name == "Conv":
        return 1 if channel_axis(node) == 1 else None
    return -1 if node.op.name in ("MatMul", "Gemm") else None


@dataclass(frozen=True)
class Trial:
    """What is tried of a value on one half of the samples that was worked out on the other.

    Attributes:
        seen: its channels on the first half.
        weights: of the layers that read it.
        powers: ways of making factors.
        cut: what the second half is cut off by them.
    """

    seen: Channels
    weights: tuple[Weights, ...]
    powers: tuple[Powers, ...]
    cut: CutOff

    def best(self) -> Powers | None:
        """The way of least error, of roundings and of what is cut off; None where factors are not worth it."""
        errors = []
        for powers, cut in zip(self.powers, self.cut.squares, strict=True):
            rounding = expected_error(make_factors(self.seen, self.weights, powers), self.seen, self.weights)
            errors.append(rounding + 12 * CAUTION * float((cut * total_power(self.weights)).sum()))
        k = int(np.argmin(errors))
        return self.powers[k] if errors[k] < WORTH * errors[0] else None


def trials(reads: Mapping[Value, Read], first: Mapping[str, Statistics]) -> dict[Value, Trial]:
    """What to try on the second half of the samples; values that no factors are promising for are left out."""
    found = {}
    for value, read in reads.items():
        seen, weights = Channels.of([first[value.name]]), tuple(Weights.of(node) for node in read.layers)
        powers = promising(seen, weights)
        if len(powers) > 1:
            cut = CutOff([make_factors(seen, weights, some) for some in powers], seen, read.axis)
            found[value] = Trial(seen, weights, tuple(powers), cut)
    return found


def watched(run: Run, tried: Mapping[Value, Trial]) -> Run:
    """A run that lets trials see the values that it gives."""

    def watch(feeds: Mapping[str, np.ndarray]) -> Mapping[str, np.ndarray]:
        tensors = run(feeds)
        for value, trial in tried.items():
            trial.cut.add(np.asarray(feeds[value.name] if value.is_input else tensors[value.name]))
        return tensors

    return watch


def balance(reads: Mapping[Value, Read], halves: Sequence[Mapping[str, Statistics]], tried: Mapping[Value, Trial]) -> set[str]:
    """Divide the channels of values and multiply the weights that they meet, where results of layers on codes get better by it.

    Args:
        reads: see `readable`.
        halves: of these values, with their channels, by name; on one half of the samples, and on the other.
        tried: see `trials`.

    Returns:
        The names of the layers whose weights have changed.
    """
    changed = set()
    for value, trial in tried.items():
        powers, read = trial.best(), reads[value]
        if powers is None:
            continue
        factor = make_factors(Channels.of([half[value.name] for half in halves]), trial.weights, powers)
        divide(value, read.where, factor, read.layers)
        for node in read.layers:
            exchange(node, 1, node.present_inputs[1].numpy() * _over_inputs(node, factor))
            changed.add(node.output.name)
    return changed


def _over_inputs(node: Node, factor: np.ndarray) -> np.ndarray:
    """Factors of the channels of data in a shape that multiplies the weights."""
    if node.op.name != "Conv":
        return factor[:, None] if output_channels(node) else factor[None, :]
    op: Any = node.op
    shape = node.present_inputs[1].type.static_shape
    rows = np.repeat(factor.reshape(op.groups, -1), shape[0] // op.groups, 0)
    return rows.reshape(*shape[:2], *[1] * (len(shape) - 2))
