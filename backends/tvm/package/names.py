"""C names for tensors, and C types for element types."""

from __future__ import annotations

import keyword
import re
from collections.abc import Sequence

from lepton_compiler.backends.tvm.carriers import carrier
from lepton_compiler.ir.graph import Node
from lepton_compiler.ir.types import DType

C_TYPES = {
    "bool": "bool", "float32": "float", "float64": "double", "float16": "uint16_t",
    **{f"{k}{b}": f"{k}{b}_t" for k in ("int", "uint") for b in (8, 16, 32, 64)},
}  # fmt: skip

RESERVED = frozenset(
    "auto break case char const continue default do double else enum extern float for goto if inline int long register restrict return short "
    "signed sizeof static struct switch typedef union unsigned void volatile while bool true false".split()
)


def c_type(element: DType) -> str:
    """The C type that holds one element: its code, where C has no such numbers."""
    return C_TYPES[carrier(element).name]


def origins(node: Node) -> str:
    """Names of the model's nodes that a node came from: four of them, and how many more there are."""
    sources = node.loc.sources
    return ", ".join(sources[:4]) + (f" and {len(sources) - 4} more" if len(sources) > 4 else "")


def storage_note(element: DType) -> str:
    """What a C programmer must know of elements that are codes; empty for numbers that C has."""
    if c_type(element).startswith("uint") == (element.kind == "uint") and element.bits >= 8:
        return ""
    return "; an element is its bits" if element.bits >= 8 else f"; an element is the low {element.bits} bits of a byte"


def identifiers(names: Sequence[str]) -> list[str]:
    """Distinct C identifiers, as close to the names as can be."""
    taken: set[str] = set()
    result = []
    for name in names:
        base = re.sub(r"\W", "_", name, flags=re.ASCII).strip("_") or "t"
        base = f"t_{base}" if base[0].isdigit() or base in RESERVED or keyword.iskeyword(base) else base
        unique, n = base, 1
        while unique in taken:
            n += 1
            unique = f"{base}_{n}"
        taken.add(unique)
        result.append(unique)
    return result
