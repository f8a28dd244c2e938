"""The functions that tell of a layer's elements: as numbers, what lies outside, zero points of weights, and what is stored for a sum."""

from __future__ import annotations

from lepton_compiler.backends.tvm.c99.expressions import bare
from lepton_compiler.backends.tvm.c99.support import C_TYPES
from lepton_compiler.backends.tvm.cuda.generate.function import KernelText
from lepton_compiler.backends.tvm.cuda.products.generated import epilogue_of, with_functions, writer_at
from lepton_compiler.backends.tvm.cuda.rules import number_of
from lepton_compiler.backends.tvm.cuda.sliding.layer import Layer
from lepton_compiler.backends.tvm.cuda.tensor_cores import Epilogue
from lepton_compiler.backends.tvm.cuda.text.support import INLINE
from lepton_compiler.backends.tvm.lower.context import expression
from lepton_compiler.backends.tvm.lower.movement import unravel

LOWEST = {"float32": 0xFF800000, "float16": 0xFC00FC00, "bfloat16": 0xFF80FF80, "int8": 0x80808080}
"""A word of elements that no other is smaller than; zero for others."""


def ending(kernel: KernelText, symbol: str, layer: Layer) -> Epilogue:
    """The functions `SYMBOL_value` and `SYMBOL_place`, and those of integers that are not known here, and of elements."""
    found = epilogue_of(kernel, symbol, layer.buffers[-1], layer.sums)
    fill, zero = layer.fill, layer.weight_zero
    found = with_functions(
        kernel,
        found,
        layer.sums,
        {"fill": None if fill is None else lambda i, m, n: fill, "zero": None if zero is None else lambda i, m, n: zero(n)},
    )
    if layer.source is not None:
        kernel.functions.append(_number(kernel, symbol, layer, found.parameters))
    return found


def _number(kernel: KernelText, symbol: str, layer: Layer, parameters: str) -> str:
    """`SYMBOL_number`: what is summed or compared for an element as it is stored, at a pixel of the image and a channel."""
    assert layer.source is not None
    shape = layer.source.shape
    writer, (image, m, n) = writer_at(kernel, {"batch": shape[0], "m": layer.windows.height * layer.windows.width, "n": shape[-1]})
    writer.registers[hash(layer.image)] = writer.name("stored")
    element = expression(layer.source, [image, *unravel(m, shape[1:-1]), n])
    text = bare(writer.value(number_of(element, layer.source.type.dtype, layer.sums.kind)))
    head = f"{INLINE} {C_TYPES[layer.sums.kind]} {symbol}_number({parameters}, int batch, int m, int n, {C_TYPES[str(layer.image.dtype)]} stored) {{"
    return "\n".join([head, *writer.lines, f"  return {text};", "}"])


def number(symbol: str, layer: Layer, every: str) -> str:
    """What makes numbers of elements, as an argument of the library; `every`: the parameters of the kernel."""
    if layer.source is None:
        return "0"
    return f"[&](int i, int m, int n, {C_TYPES[str(layer.image.dtype)]} stored) {{ return {symbol}_number({every}, i, m, n, stored); }}"


def filling(symbol: str, layer: Layer, every: str) -> str:
    """A word of what lies outside of the image, likewise."""
    if layer.fill is not None:
        return f"({symbol}_fill({every}, 0, 0, 0) & 0xFF) * 0x01010101u"
    return f"0x{LOWEST.get(layer.windows.element, 0):08X}u" if layer.windows.taken == "maximum" else "0u"


def weight_zero(symbol: str, layer: Layer, every: str) -> str:
    """The zero point of the weights of a channel, likewise."""
    if layer.weight_zero is None:
        return f"[&](int n) {{ return {C_TYPES[layer.sums.kind]}(0); }}"
    return f"[&](int n) {{ return {symbol}_zero({every}, 0, 0, n); }}"
