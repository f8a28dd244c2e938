"""The import rules: ONNX operator type to a function that adds lepton operators. One row per operator, one file per family."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache

from lepton_compiler.frontends.onnx.call import Call, Result

Rule = Callable[[Call], Result | None]

FAMILIES = "elementwise convolution pooling reduction normalization shapes indexing resizing quantization recurrence signals ngrams control experimental".split()
DOMAINS = {"com.microsoft": ["microsoft"], "ai.onnx.ml": ["features", "linear", "trees"]}


def find_rule(domain: str, op_type: str, version: int) -> Rule | None:
    """The rule for an operator of an opset, or None."""
    settled, legacy = _legacy_table(domain).get(op_type, (0, None))
    return legacy if version < settled else rule_table(domain).get(op_type)


@cache
def _legacy_table(domain: str) -> Mapping[str, tuple[int, Rule | None]]:
    """For operators that were once quite different: the opset that ended this, and the rule for older ones."""
    return importlib.import_module(f"{__name__}.legacy").RULES if domain == "" else {}


@cache
def rule_table(domain: str) -> Mapping[str, Rule]:
    """All rules of a domain."""
    modules = FAMILIES if domain == "" else DOMAINS.get(domain, [])
    table: dict[str, Rule] = {}
    for module in modules:
        table |= importlib.import_module(f"{__name__}.{module}").RULES
    return table
