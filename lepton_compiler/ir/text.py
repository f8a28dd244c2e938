"""The text form of graphs (`.lir`): printing, and files with their weights beside them. `parser` reads it back.

    graph @main(%x: float32[n,3]) {
      %w = const float32[3] (1.0, 2.5, nan)
      %big = const float32[3,64] @1f0c5e...            # by content: the values are in NAME.lir.npz
      %y = Mul()(%x, %w) : float32[n,3] loc("scale" by "fold-batch-norm")
      return %y
    }

Reading back what was printed gives the same text and the same values, bit for bit (NaNs lose their payload).
"""

from __future__ import annotations

import json
import os
import re
import zipfile
import zlib
from collections.abc import Iterator
from dataclasses import MISSING, fields
from pathlib import Path
from typing import Any

import numpy as np

from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.dim import SymDim
from lepton_compiler.ir.graph import Graph, Loc, Node, Value
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.parser import parse_graph
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.types import DType

INLINE = 16
"""Constants of up to this many elements are printed with their values."""

HASH_DIGITS = 24
_PLAIN = re.compile(r"[\w./]+\Z")

__all__ = ["INLINE", "format_attribute", "format_op", "parse_graph", "print_graph", "read_lir", "write_lir"]


def print_graph(graph: Graph, weights: dict[str, Tensor] | None = None) -> str:
    """The graph as text; constants that are not inlined are also put into `weights`, under their hash."""
    return "\n".join(_graph_lines(graph, weights if weights is not None else {}, "")) + "\n"


def write_lir(graph: Graph, path: str | os.PathLike[str]) -> Path:
    """Write `path` and, where there are larger constants, `path.npz` with their bytes; two writes give equal files."""
    path, weights = Path(path), dict[str, Tensor]()
    path.write_text(print_graph(graph, weights), encoding="utf-8")
    side = weights_path(path)
    if weights:
        with open(side, "wb") as file:
            np.savez(file, **{key: raw_bytes(weights[key]) for key in sorted(weights)})  # type: ignore[arg-type]
    else:
        side.unlink(missing_ok=True)
    return path


def read_lir(path: str | os.PathLike[str]) -> Graph:
    """The graph that `write_lir` wrote.

    Raises:
        ParseError: the text is not a graph, or weights are missing or damaged.
        LeptonError: the file cannot be read.
    """
    path = Path(path)
    side = weights_path(path)
    try:
        text = path.read_text(encoding="utf-8")
        if not side.exists():
            return parse_graph(text, source=path.name)
        with np.load(side, allow_pickle=False) as archive:
            return parse_graph(text, archive, source=path.name)
    except (OSError, UnicodeDecodeError) as error:
        raise LeptonError(f"cannot read '{path}': {error}") from error
    except (EOFError, KeyError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise LeptonError(f"the weights in '{side}' are damaged: {error}", hint="write the pair of files again") from error


def weights_path(path: Path) -> Path:
    """Where the larger constants of a `.lir` file lie."""
    return path.with_name(path.name + ".npz")


def raw_bytes(tensor: Tensor) -> np.ndarray:
    """The values of a tensor as flat uint8: one storage form for all element types."""
    return np.ascontiguousarray(tensor.numpy()).reshape(-1).view(np.uint8)


def format_op(op: Op) -> str:
    """`Conv(strides=(2, 2))`: the operator with the attributes that differ from their defaults."""
    shown = []
    for field in fields(op):
        value, default = getattr(op, field.name), field.default
        if default is MISSING or type(value) is not type(default) or repr(value) != repr(default):
            shown.append(f"{field.name}={format_attribute(value)}")
    return f"{op.name}({', '.join(shown)})"


def format_attribute(value: Any) -> str:
    """One attribute value; symbolic dimensions stand between backquotes, strings between double quotes."""
    if isinstance(value, Op):
        return format_op(value)
    if isinstance(value, SymDim):
        return f"`{value!r}`"
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False)
    if isinstance(value, np.generic):
        return format_attribute(value.item())
    if isinstance(value, tuple):
        inner = ", ".join(map(format_attribute, value))
        return f"({inner},)" if len(value) == 1 else f"({inner})"
    if value is None or isinstance(value, (bool, int, float, DType)):
        return repr(value)
    raise LeptonError(f"an attribute of type {type(value).__name__} has no text form")


def format_name(prefix: str, name: str) -> str:
    """`%name`, quoted where it has odd characters."""
    return prefix + (name if _PLAIN.match(name) else json.dumps(name, ensure_ascii=False))


def format_node(node: Node) -> str:
    """One node on one line, without its regions."""
    operands = ", ".join("none" if v is None else format_name("%", v.name) for v in node.inputs)
    head = ", ".join(format_name("%", o.name) for o in node.outputs)
    types = ", ".join(repr(o.type) for o in node.outputs)
    return f"{head} = {format_op(node.op)}({operands}){f' : {types}' if types else ''}{_loc(node.loc)}"


def _graph_lines(graph: Graph, weights: dict[str, Tensor], indent: str) -> Iterator[str]:
    inputs = ", ".join(f"{format_name('%', v.name)}: {v.type!r}" for v in graph.inputs)
    yield f"{indent}graph {format_name('@', graph.name)}({inputs}) {{"
    inner, seen = indent + "  ", set[Value]()
    for node in graph:
        yield from _constant_lines([v for v in node.inputs if v is not None], seen, weights, inner)
        yield inner + format_node(node)
        for region in node.regions:
            yield from _graph_lines(region, weights, inner + "  ")
    yield from _constant_lines(graph.outputs, seen, weights, inner)
    yield inner + " ".join(["return", ", ".join(format_name("%", v.name) for v in graph.outputs)]).rstrip()
    yield indent + "}"


def _constant_lines(values: Any, seen: set[Value], weights: dict[str, Tensor], indent: str) -> Iterator[str]:
    for value in values:
        if value.tensor is not None and value not in seen:
            seen.add(value)
            yield f"{indent}{format_name('%', value.name)} = const {value.type!r} {_data(value.tensor, weights)}"


def _data(tensor: Tensor, weights: dict[str, Tensor]) -> str:
    if tensor.type.size > INLINE:
        key = tensor.digest[:HASH_DIGITS]
        weights[key] = tensor
        return f"@{key}"
    return f"({', '.join(_scalar(x, tensor.type.dtype) for x in tensor.numpy().reshape(-1))})"


def _scalar(item: Any, dtype: DType) -> str:
    if dtype.kind == "bool":
        return repr(bool(item))
    if dtype.kind == "complex":
        return f"({item.real!s}, {item.imag!s})"
    if dtype.kind == "float":
        return str(item if dtype.bits == 64 else np.float32(item))
    return str(int(item))


def _loc(loc: Loc) -> str:
    if not loc.sources and not loc.rules:
        return ""
    sources, rules = (", ".join(json.dumps(s, ensure_ascii=False) for s in names) for names in (loc.sources, loc.rules))
    return f" loc({sources}{' ' if sources and rules else ''}{'by ' if rules else ''}{rules})"
