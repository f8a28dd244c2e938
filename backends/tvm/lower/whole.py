"""What kernels written as loops need to take the element-wise operators after them into their innermost loops."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from lepton_compiler.backends.tvm.lower.context import Arg, Expr
from lepton_compiler.ir.types import TensorType


@dataclass
class Result:
    """An element of the main operator while it is in registers: what the epilogue reads in place of a tensor."""

    value: Expr = None

    def arg(self, kind: TensorType) -> Arg:
        """As an operand of element-wise operators."""
        return Arg(kind, body=lambda index, read: self.value)


@contextmanager
def read_through(args: Sequence[Arg], loaded: Sequence[Arg]) -> Iterator[None]:
    """Let operands be read from the buffers that the procedure was given for them."""
    kept = [a.tensor for a in args]
    for arg, reader in zip(args, loaded, strict=True):
        arg.tensor = reader.tensor
    try:
        yield
    finally:
        for arg, tensor in zip(args, kept, strict=True):
            arg.tensor = tensor
