"""The buffers of a kernel around a product: what it takes, and in which arrangement."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from tvm import tirx

from lepton_compiler.backends.tvm.carriers import carrier
from lepton_compiler.backends.tvm.cuda.products.product import Expr, Product
from lepton_compiler.backends.tvm.cuda.rules import element_of
from lepton_compiler.backends.tvm.kernels import KernelParameter, PackedWeight
from lepton_compiler.backends.tvm.lower import scales_of_groups, stored_weight
from lepton_compiler.backends.tvm.lower.context import ELEMENTS, Arg, expression
from lepton_compiler.backends.tvm.lower.whole import Result
from lepton_compiler.backends.tvm.packing import PACKINGS
from lepton_compiler.backends.tvm.spec import KernelSpec, Step
from lepton_compiler.ir.types import TensorType, dtype

THIN = 4
"""Rows, or columns, up to which a warp for each element of the result does better than tiles."""
SMALL = 1 << 14
"""Multiplications of a product that is not worth tiles."""


@dataclass
class Anchor:
    """A product with the buffers that its kernel takes, and what they are.

    Attributes:
        product: the product.
        buffers, parameters: of the kernel; the last one is its result.
    """

    product: Product
    buffers: list[Any]
    parameters: list[KernelParameter]

    @property
    def output(self) -> Any:
        """The buffer of the result."""
        return self.buffers[-1]


class Builder:
    """Collects the buffers of one kernel while its product is described."""

    def __init__(self, spec: KernelSpec, step: Step, place: int, generated: frozenset[str]) -> None:
        self.spec, self.step, self.place, self.generated = spec, step, place, generated
        self.args: dict[int, Arg] = {}
        self.inputs: dict[int, Any] = {}
        self.packed: dict[tuple[int, PackedWeight], tuple[Any, TensorType]] = {}
        self.result = Result()

    def build(self, describe: Describe) -> Anchor | None:
        """The kernel around the product that `describe` tells of; None where tiles are not worth it."""
        product = describe(self, self.step.op, *self.operands())
        if product is None or product.depth < 1:
            return None
        if product.multiplications < SMALL or (min(product.rows, product.columns) <= THIN and not product.takes_few):
            return None
        return Anchor(product, *self.taken())

    def operands(self) -> list[Arg | None]:
        """What the operator reads: buffers, numbers, and expressions of them."""
        spec = self.spec
        for k in range(spec.inputs):
            kind = spec.types[k]
            self.inputs[k] = tirx.decl_buffer(kind.static_shape, carrier(kind.dtype).name, f"in{k}", layout=None)
            self.args[k] = Arg(kind, tensor=_reader(self.inputs[k]), operand=k, constant=k in spec.constants)
        for k, value in spec.scalars:
            self.args[k] = Arg(spec.types[k], number=value)
        for step in spec.steps[: self.place]:
            self.elementwise(step)
        return [None if i is None else self.args[i] for i in self.step.inputs]

    def taken(self) -> tuple[list[Any], list[KernelParameter]]:
        """The buffers that were asked for and that of the result, and what they are."""
        spec = self.spec
        read = sorted({i for s in spec.steps for i in s.inputs if i is not None and i in self.inputs})
        buffers, parameters = list[Any](), list[KernelParameter]()
        replaced = {operand for operand, _ in self.packed}
        for k in read:
            if k not in replaced:
                buffers.append(self.inputs[k])
                parameters.append(KernelParameter("input", k, spec.types[k]))
        for (operand, packed), (buffer, kind) in self.packed.items():
            buffers.append(buffer)
            parameters.append(KernelParameter("packed", operand, kind, packed))
        kind = spec.types[spec.outputs[0]]
        buffers.append(tirx.decl_buffer(kind.static_shape, carrier(kind.dtype).name, "out", layout=None))
        parameters.append(KernelParameter("output", 0, kind))
        return buffers, parameters

    def elementwise(self, step: Step) -> None:
        """An operator as an expression of its operands."""
        operands = [None if i is None else self.args[i] for i in step.inputs]
        kind = self.spec.types[step.outputs[0]]
        for operand in operands:
            if operand is not None:
                operand.uses += 1
        result = Arg(kind, body=lambda index, read: ELEMENTS[step.op.name](step.op, kind, index, read, *operands))
        result.stored, result.scales = stored_weight(step.op, operands[0]), scales_of_groups(step.op, operands)
        self.args[step.outputs[0]] = result

    def ending(self, change: Callable[[Expr, Sequence[Expr]], Expr]) -> Callable[[Expr, Sequence[Expr]], Expr]:
        """What is stored for a sum: `change` of it, then the operators after the product."""
        kind = self.spec.types[self.step.outputs[0]]
        self.args[self.step.outputs[0]] = self.result.arg(kind)
        for step in self.spec.steps[self.place + 1 :]:
            self.elementwise(step)
        last = self.args[self.spec.outputs[0]]

        def end(total: Expr, index: Sequence[Expr]) -> Expr:
            self.result.value = element_of(change(total, index), kind.dtype)
            return expression(last, index)

        return end

    def weight(self, w: Arg, function: str, *arguments: int) -> Any:
        """A constant rearranged at compile time by a packing function."""
        w = w.stored or w
        assert w.operand is not None
        key = w.operand, PackedWeight(function, arguments)
        if key not in self.packed:
            made = PACKINGS[function](np.broadcast_to(np.zeros((), w.type.dtype.numpy), w.shape), *arguments)
            kind = TensorType(dtype(made.dtype), made.shape)
            buffer = tirx.decl_buffer(made.shape, carrier(kind.dtype).name, f"packed{len(self.packed)}", layout=None)
            self.packed[key] = buffer, kind
        return self.packed[key][0]

    def buffer(self, x: Arg) -> Any:
        """The buffer of an operand that is one of the kernel's."""
        assert x.operand is not None
        return self.inputs[x.operand]


def _reader(buffer: Any) -> Callable[..., Expr]:
    return lambda *index: tirx.BufferLoad(buffer, list(index))


Describe = Callable[..., Product | None]
"""What tells of the product of an operator: of a builder, the operator and its operands."""
