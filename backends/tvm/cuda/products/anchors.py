"""The product that a kernel is about: a matrix product or a convolution, with the element-wise operators around it."""

from __future__ import annotations

from lepton_compiler.backends.tvm.cuda.products.builder import Anchor, Builder, Describe
from lepton_compiler.backends.tvm.cuda.products.convolutions import conv
from lepton_compiler.backends.tvm.cuda.products.matrices import gemm, matmul
from lepton_compiler.backends.tvm.lower.context import ELEMENTS
from lepton_compiler.backends.tvm.spec import KernelSpec

__all__ = ["Anchor", "find_anchor"]


def find_anchor(spec: KernelSpec, generated: frozenset[str]) -> Anchor | None:
    """The product of a kernel, if that is one, and all other operators are element-wise and of the same shape as its result, or before it.

    Products of types that are `generated` have their weights as the generator of tensor cores wants them.
    """
    heavy = [s for s in spec.steps if s.op.name not in ELEMENTS]
    if len(heavy) != 1 or heavy[0].op.name not in PRODUCTS or len(spec.outputs) != 1:
        return None
    step = heavy[0]
    shape = spec.types[step.outputs[0]].shape
    place = spec.steps.index(step)
    if any(spec.types[s.outputs[0]].shape != shape for s in spec.steps[place + 1 :]) or 0 in spec.types[step.outputs[0]].static_shape:
        return None
    return Builder(spec, step, place, generated).build(PRODUCTS[step.op.name])


PRODUCTS: dict[str, Describe] = {
    "Conv": conv,
    "ConvInteger": conv,
    "Gemm": gemm,
    "MatMul": matmul,
    "MatMulInteger": matmul,
}
"""What describes the product of an operator."""
