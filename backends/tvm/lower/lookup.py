"""Tables of bytes: one read per element."""

from __future__ import annotations

from collections.abc import Sequence

from lepton_compiler.backends.tvm.lower.context import Arg, Expr, Read, element
from lepton_compiler.ir.op import Op
from lepton_compiler.ir.types import TensorType


@element("Lookup")
def lookup(op: Op, kind: TensorType, index: Sequence[Expr], read: Read, x: Arg, table: Arg) -> Expr:
    """The entry that the bits of a code say."""
    return read(table, [read(x, index).astype("uint8").astype("int32")])
