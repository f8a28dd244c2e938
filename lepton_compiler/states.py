"""Streaming: which outputs are the inputs of the next call. Such a pair lives in the arena and is no input or output any more."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from lepton_compiler.errors import Diagnostic, UsageError
from lepton_compiler.ir.graph import Graph, Value
from lepton_compiler.ir.tensor import Tensor


@dataclass(frozen=True)
class States:
    """What a stateful model keeps between calls.

    Attributes:
        inputs: by the name of an output, the input that reads it in the next call.
        initial: by the name of such an input, its value in the first call, and after a reset; zeros where nothing is said.
    """

    inputs: Mapping[str, str] = field(default_factory=dict)
    initial: Mapping[str, np.ndarray] = field(default_factory=dict)

    def __bool__(self) -> bool:
        return bool(self.inputs or self.initial)

    def pairs(self, graph: Graph) -> list[tuple[Value, Value]]:
        """Output and input of each state, in the order of the outputs."""
        inputs = {v.name: v for v in graph.inputs}
        return [(v, inputs[self.inputs[v.name]]) for v in graph.outputs if v.name in self.inputs]

    def first(self, value: Value) -> np.ndarray:
        """The value of a state's input in the first call."""
        given = self.initial.get(value.name)
        return np.zeros(value.type.static_shape, value.type.dtype.numpy) if given is None else np.asarray(given)

    def check(self, graph: Graph, scales: Mapping[str, tuple[float, int]]) -> None:
        """Refuse states that the model cannot have.

        Args:
            graph: the model.
            scales: what integers of its inputs and outputs mean, by name.

        Raises:
            UsageError: all problems at once: unknown names, inputs that two outputs feed, types or scales that differ.
        """
        inputs, outputs = {v.name: v for v in graph.inputs}, {v.name: v for v in graph.outputs}
        problems: list[Diagnostic] = []
        for name, target in self.inputs.items():
            where = f"state '{name}' to '{target}'"
            if name not in outputs:
                problems.append(Diagnostic(f"the model has no output '{name}'", where, f"outputs: {', '.join(outputs)}"))
            if target not in inputs:
                problems.append(Diagnostic(f"the model has no input '{target}'", where, f"inputs: {', '.join(inputs)}"))
            if list(self.inputs.values()).count(target) > 1:
                problems.append(Diagnostic(f"several outputs feed the input '{target}'", where, "name one of them"))
            if name in outputs and target in inputs:
                problems += _mismatches(outputs[name], inputs[target], scales, where)
        if outputs and not outputs.keys() - self.inputs.keys():
            problems.append(Diagnostic("every output is a state: none is left to look at", "", "leave one of them out"))
        for name, array in self.initial.items():
            problems += self._wrong_initial(name, np.asarray(array), inputs)
        if problems:
            raise UsageError(problems)

    def _wrong_initial(self, name: str, array: np.ndarray, inputs: Mapping[str, Value]) -> list[Diagnostic]:
        where = f"initial value of '{name}'"
        if name not in self.inputs.values():
            return [Diagnostic("it is the input of no state", where, "say --state OUT=IN, or states={'OUT': 'IN'}")]
        wanted = inputs.get(name)
        if wanted is None or not wanted.type.is_static:
            return []
        if array.shape == wanted.type.static_shape and array.dtype == wanted.type.dtype.numpy:
            return []
        return [Diagnostic(f"the input is {wanted.type}, the value {array.dtype}{list(array.shape)}", where, "convert the value")]

    def as_json(self) -> dict[str, Any]:
        """What of it decides the bytes of an artefact: the pairs, and hashes of the initial values."""
        return {"pairs": dict(self.inputs), "initial": {n: Tensor(np.asarray(a)).digest for n, a in sorted(self.initial.items())}}


def _mismatches(source: Value, target: Value, scales: Mapping[str, tuple[float, int]], where: str) -> list[Diagnostic]:
    if source.type != target.type:
        return [Diagnostic(f"the output is {source.type}, the input {target.type}", where, "a state has one type; bind open dimensions")]
    if not source.type.is_static:
        return [Diagnostic(f"its size is not known: {source.type}", where, "bind the dimensions: --input, --dim")]
    given, read = scales.get(source.name), scales.get(target.name)
    if given and read and given != read:
        return [Diagnostic(f"the output has scale and zero point {given}, the input {read}", where, "quantize both alike")]
    return []
