"""What a kernel of sliding windows has functions for: what lies outside of an image, zero points of weights, and what is stored for a sum."""

from __future__ import annotations

from lepton_compiler.backends.tvm.c99.support import C_TYPES
from lepton_compiler.backends.tvm.cuda.generate.function import KernelText
from lepton_compiler.backends.tvm.cuda.products.generated import epilogue_of, with_functions
from lepton_compiler.backends.tvm.cuda.sliding.layer import Layer
from lepton_compiler.backends.tvm.cuda.tensor_cores import Epilogue

LOWEST = {"float32": 0xFF800000, "float16": 0xFC00FC00, "bfloat16": 0xFF80FF80, "int8": 0x80808080}
"""A word of elements that no other is smaller than; zero for others."""


def ending(kernel: KernelText, symbol: str, layer: Layer) -> Epilogue:
    """The functions `SYMBOL_value` and `SYMBOL_place`, and those of integers that are not known here."""
    found = epilogue_of(kernel, symbol, layer.buffers[-1], layer.sums)
    fill, zero = layer.fill, layer.weight_zero
    return with_functions(
        kernel,
        found,
        layer.sums,
        {"fill": None if fill is None else lambda i, m, n: fill, "zero": None if zero is None else lambda i, m, n: zero(n)},
    )


def filling(symbol: str, layer: Layer, every: str) -> str:
    """A word of what lies outside of the image, `every` being the parameters of the kernel, as an argument of the library."""
    if layer.fill is not None:
        return f"({symbol}_fill({every}, 0, 0, 0) & 0xFF) * 0x01010101u"
    return f"0x{LOWEST.get(layer.windows.element, 0):08X}u" if layer.windows.taken == "maximum" else "0u"


def weight_zero(symbol: str, layer: Layer, every: str) -> str:
    """The zero point of the weights of a channel, likewise."""
    if layer.weight_zero is None:
        return f"[&](int n) {{ return {C_TYPES[layer.sums.kind]}(0); }}"
    return f"[&](int n) {{ return {symbol}_zero({every}, 0, 0, n); }}"
