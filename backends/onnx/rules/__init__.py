"""Emission rules: lepton operator to ONNX nodes. What has the same name and attributes in ONNX needs no row."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any

import onnx

from lepton_compiler.backends.onnx.body import Emission
from lepton_compiler.errors import UnsupportedError

Rule = Callable[[Emission], None]

RENAMED = {"groups": "group", "offset_groups": "offset_group", "trans_a": "transA", "trans_b": "transB"}
"""Fields whose ONNX attribute has another name."""


def find_rule(name: str) -> Rule:
    """The rule for an operator; by reflection if it has no row of its own."""
    return rule_table().get(name, reflected)


@cache
def rule_table() -> Mapping[str, Rule]:
    """All rows."""
    from lepton_compiler.backends.onnx.rules import layers, shapes, trees

    return layers.RULES | shapes.RULES | trees.RULES


def reflected(emission: Emission) -> None:
    """The ONNX operator of the same name, its attributes from the fields of the same names."""
    if emission.late:
        raise UnsupportedError(f"ONNX has no {emission.op.name} whose {', '.join(emission.late)} is computed at run time")
    emission.emit(emission.op.name, emission.inputs, **attributes(emission))


def attributes(emission: Emission, *skipped: str) -> dict[str, Any]:
    """The operator's fields as ONNX attributes, except those named.

    Raises:
        UnsupportedError: the opset's operator lacks an attribute that is not at its default.
    """
    known = onnx.defs.get_schema(emission.op.name, emission.opset, "").attributes
    emission.static(*(f.name for f in fields(emission.op) if f.name not in skipped))
    found: dict[str, Any] = {}
    for field in fields(emission.op):
        name, value = RENAMED.get(field.name, field.name), getattr(emission.op, field.name)
        default = () if field.default is MISSING else field.default
        if field.name in skipped or value is None or value == ():
            continue
        if name in known:
            found[name] = value
        elif value != default:
            raise UnsupportedError(
                f"{emission.op.name} of ONNX opset {emission.opset} has no attribute '{name}'", hint="choose a newer opset"
            )
    return found
