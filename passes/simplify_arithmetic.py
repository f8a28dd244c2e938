"""Arithmetic with constants: neutral elements, chains, scales that fit into weights."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from lepton_compiler.ir.graph import Graph, Node, Value
from lepton_compiler.ops.builder import Builder
from lepton_compiler.passes.weights import INTO_WEIGHTS
from lepton_compiler.pipeline import Pass, PassContext
from lepton_compiler.rewrite import is_constant_of, rewrite, simplifies
from lepton_compiler.rewrite.rule import Replacement

NEUTRAL = {"Add": 0.0, "Sub": 0.0, "Mul": 1.0, "Div": 1.0, "Pow": 1.0}


@simplifies(*NEUTRAL)
def neutral_element(b: Builder, node: Node) -> Replacement:
    """Mul(x, 1), Add(x, 0), Pow(x, 1), ...  -->  x"""
    x, c = node.present_inputs
    return x if _exactly(c, NEUTRAL[node.op.name]) and x.type == node.output.type else None


@simplifies("Sub")
def sub_to_add(b: Builder, node: Node) -> Replacement:
    """Sub(x, c)  -->  Add(x, -c)"""
    x, c = node.present_inputs
    return b.Add(x, b.constant(-c.numpy(), name=c.name)) if _float_constant(c) else None


@simplifies("Div")
def div_to_mul(b: Builder, node: Node) -> Replacement:
    """Div(x, c)  -->  Mul(x, 1 / c), where 1 / c is an ordinary number"""
    x, c = node.present_inputs
    if not _float_constant(c):
        return None
    with np.errstate(all="ignore"):
        inverse = (1.0 / c.numpy().astype(np.float64)).astype(c.type.dtype.numpy)
    tiny = np.finfo(np.float32).tiny
    if not np.isfinite(inverse).all() or (np.abs(inverse.astype(np.float64)) < tiny).any():
        return "the reciprocal is not an ordinary number"
    return b.Mul(x, b.constant(inverse, name=c.name))


@simplifies("Pow")
def small_powers(b: Builder, node: Node) -> Replacement:
    """Pow(x, 2)  -->  Mul(x, x); Pow(x, 0.5)  -->  Sqrt(x); Pow(x, -1)  -->  Reciprocal(x)"""
    x, c = node.present_inputs
    if not x.type.dtype.is_float or x.type != node.output.type:
        return None
    if _exactly(c, 2.0):
        return b.Mul(x, x)
    if _exactly(c, 0.5):
        return b.Sqrt(x)
    return b.Reciprocal(x) if _exactly(c, -1.0) else None


@simplifies("Mul", "Add")
def merge_constants(b: Builder, node: Node) -> Replacement:
    """Mul(Mul(x, c), d)  -->  Mul(x, c * d); the same for Add"""
    inner, outer = node.present_inputs
    producer = inner.producer
    if producer is None or producer.op != node.op or not _float_constant(outer) or len(inner.uses) != 1 or inner.is_output:
        return None
    x, c = producer.present_inputs
    if not _float_constant(c):
        return None
    first, second = c.numpy().astype(np.float64), outer.numpy().astype(np.float64)
    merged = first * second if node.op.name == "Mul" else first + second
    if merged.size > max(first.size, second.size):
        return "the merged constant would be larger"
    if not _representable(node.op.name, first, second, merged, c):
        return "the merged constant is not an ordinary number"
    b.loc = producer.loc.merge(b.loc)
    return b(node.op, x, b.constant(merged.astype(c.type.dtype.numpy), name=c.name))


def _representable(name: str, first: np.ndarray, second: np.ndarray, merged: np.ndarray, like: Value) -> bool:
    """Whether merging ordinary numbers gives ordinary numbers; zeros of a product, infinities and NaNs stay what they are."""
    bounds, sizes = np.finfo(like.type.dtype.numpy), np.abs(merged)
    ordinary = np.isfinite(first) & np.isfinite(second)
    small = (sizes < bounds.tiny) & (first != 0) & (second != 0) if name == "Mul" else np.zeros(merged.shape, bool)
    return not (ordinary & (small | (sizes > bounds.max))).any()


def _float_constant(value: Value) -> bool:
    return value.tensor is not None and value.type.dtype.is_float and value.type.dtype.bits >= 32


def _exactly(value: Value, number: float) -> bool:
    return is_constant_of(value, number) and float(value.numpy().reshape(-1)[0]) == number


RULES = [neutral_element, sub_to_add, div_to_mul, small_powers, merge_constants, *INTO_WEIGHTS]


@dataclass(frozen=True)
class SimplifyArithmetic(Pass):
    """Drops neutral elements, merges chains of constants, and moves scales and shifts into the weights before them."""

    def run(self, graph: Graph, ctx: PassContext) -> None:  # noqa: D102
        rewrite(graph, RULES, ctx.tracer)
