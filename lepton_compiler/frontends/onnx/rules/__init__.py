"""The import rules: ONNX operator type to a function that adds lepton operators. One row per operator, one file per family."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Mapping
from functools import cache

from lepton_compiler.frontends.onnx.call import Call, Result

Rule = Callable[[Call], Result | None]

FAMILIES = (
    "elementwise convolution pooling reduction normalization shapes indexing resizing quantization recurrence signals control".split()
)
DOMAINS = {"com.microsoft": "microsoft"}


def find_rule(domain: str, op_type: str) -> Rule | None:
    """The rule for an operator, or None."""
    return rule_table(domain).get(op_type)


@cache
def rule_table(domain: str) -> Mapping[str, Rule]:
    """All rules of a domain."""
    modules = FAMILIES if domain == "" else [DOMAINS[domain]] if domain in DOMAINS else []
    table: dict[str, Rule] = {}
    for module in modules:
        table |= importlib.import_module(f"{__name__}.{module}").RULES
    return table
