"""Recurrent layers."""

from __future__ import annotations

from typing import Any

from lepton_compiler import ops
from lepton_compiler.errors import ModelError, UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.frontends.onnx.rules.elementwise import from_attributes
from lepton_compiler.ir.graph import Value

ACTIVATIONS = "Affine Elu HardSigmoid LeakyRelu Relu ScaledTanh Sigmoid Softplus Softsign Tanh ThresholdedRelu".split()
BY_LOWER_CASE = {name.lower(): name for name in ACTIVATIONS}


def recurrent(call: Call) -> Result:
    """LSTM, GRU and RNN."""
    return call.add_all(recurrent_op(call, call.op_type, call.value(2)), *call.inputs)


def recurrent_op(call: Call, name: str, recurrence: Value) -> Any:
    """The operator `name` that a node's attributes describe.

    Raises:
        ModelError: an unknown activation.
        UnsupportedError: the hidden size is not known.
    """
    hidden = call.attr("hidden_size", recurrence.type.shape[-1])
    if not isinstance(hidden, int):
        raise UnsupportedError("the hidden size is not known at compile time", hint="give the attribute hidden_size")
    given: dict[str, Any] = {"hidden_size": hidden}
    if call.has("activations"):
        wanted = call.attr("activations")
        unknown = [a for a in wanted if a.lower() not in BY_LOWER_CASE]
        if unknown:
            raise ModelError(f"unknown activation '{unknown[0]}'")
        given["activations"] = tuple(BY_LOWER_CASE[a.lower()] for a in wanted)
    return from_attributes(call, ops.get(name), **given)


RULES = {"LSTM": recurrent, "GRU": recurrent, "RNN": recurrent}
