"""Pattern rewriting: rules written as graphs are built, applied with a worklist, traced when they do not apply."""

from __future__ import annotations

from lepton_compiler.rewrite.driver import rewrite
from lepton_compiler.rewrite.pattern import is_constant_of
from lepton_compiler.rewrite.rule import Rewrite, Rule, simplifies
from lepton_compiler.rewrite.trace import NearMiss, Tracer

__all__ = ["NearMiss", "Rewrite", "Rule", "Tracer", "is_constant_of", "rewrite", "simplifies"]
