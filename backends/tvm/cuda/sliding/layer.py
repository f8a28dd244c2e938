"""The layer of sliding windows that a kernel is about: a depthwise convolution or a pool, with the element-wise operators around it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from tvm import tirx

from lepton_compiler.backends.tvm.cuda.products.builder import Builder
from lepton_compiler.backends.tvm.cuda.products.operands import element_type
from lepton_compiler.backends.tvm.cuda.products.product import Expr, Sums
from lepton_compiler.backends.tvm.cuda.products.weights import are_converted
from lepton_compiler.backends.tvm.cuda.products.zero_points import are_fit, zero_points
from lepton_compiler.backends.tvm.cuda.rules import number_of, sum_type
from lepton_compiler.backends.tvm.cuda.sliding.choose import fits
from lepton_compiler.backends.tvm.cuda.sliding.problem import Taken, Windows
from lepton_compiler.backends.tvm.cuda.text.writer import MOST_ELEMENTS
from lepton_compiler.backends.tvm.kernels import KernelParameter
from lepton_compiler.backends.tvm.lower.context import ELEMENTS, Arg
from lepton_compiler.backends.tvm.lower.movement import unravel
from lepton_compiler.backends.tvm.lower.pool import taps_inside
from lepton_compiler.backends.tvm.spec import KernelSpec
from lepton_compiler.ir.types import TensorType

STORED = frozenset({"float32", "float16", "bfloat16", "int8", "uint8"})
"""Types of elements that the library reads."""
MOST_TAPS = 1 << 10
"""Of a window; sums of as many products of codes are far from what int32 does not hold."""
MOST_MULTIPLIER = 8
"""Results of a channel; more are a product."""
MOST_IMAGES = 65535
"""Along the second axis of a grid."""


@dataclass(frozen=True)
class Layer:
    """A layer with the buffers that its kernel takes.

    Attributes:
        windows: sizes, and what becomes of the elements under a window.
        sums: what becomes of a result; the batch are images, rows pixels of the result, columns its channels.
        image, weights: buffers; weights are `[taps, channels of the result]`, in the type of the sums.
        fill: the code that lies outside of the image, if not zero.
        weight_zero: the zero point of the weights of a channel.
        buffers, parameters: of the kernel; the last one is its result.
    """

    windows: Windows
    sums: Sums
    image: Any
    weights: Any = None
    fill: Expr | None = None
    weight_zero: Callable[[Expr], Expr] | None = None
    buffers: tuple[Any, ...] = ()
    parameters: tuple[KernelParameter, ...] = ()


def find_layer(spec: KernelSpec) -> Layer | None:
    """The layer of a kernel with channels last over one axis, or two, if all other operators are element-wise and of its shape, or before it."""
    heavy = [s for s in spec.steps if s.op.name not in ELEMENTS]
    if spec.kind or len(heavy) != 1 or heavy[0].op.name not in LAYERS or len(spec.outputs) != 1:
        return None
    step, place = heavy[0], spec.steps.index(heavy[0])
    kind = spec.types[step.outputs[0]]
    if any(spec.types[s.outputs[0]].shape != kind.shape for s in spec.steps[place + 1 :]) or 0 in kind.static_shape:
        return None
    last = getattr(step.op, "layout", "NCHW") == "NHWC" and len(kind.shape) in (3, 4)
    if not last or getattr(step.op, "indices", False) or kind.static_shape[0] > MOST_IMAGES:
        return None
    builder = Builder(spec, step, place, frozenset())
    found = LAYERS[step.op.name](builder, step.op, kind, *builder.operands())
    if found is None or not fits(found.windows):
        return None
    buffers, parameters = builder.taken()
    return replace(found, buffers=tuple(buffers), parameters=tuple(parameters))


def depthwise(b: Builder, op: Any, kind: TensorType, x: Arg, w: Arg, *rest: Arg | None) -> Layer | None:
    """A convolution of each channel by itself, of floats or of codes."""
    integer, multiplier = op.name == "ConvInteger", w.shape[0] // op.groups
    bias, x_zero, w_zero = (None, *(*rest, None, None)[:2]) if integer else ((*rest, None)[0], None, None)
    acc = "int32" if integer else sum_type(kind.dtype)
    few = multiplier <= (MOST_MULTIPLIER if op.groups > 1 else 3)  # more channels of one are a product
    if w.shape[1] != 1 or not few or not are_fit(x_zero, w_zero, w.shape[0]) or acc != ("int32" if integer else "float32"):
        return None
    known = w.constant and w.body is None and w.number is None
    if not known and (integer or w.scales is not None or not are_converted(w, 0)):
        return None
    found = _layer(b, op, kind, x, acc, "products", multiplier, w.shape[2:])
    if found is None:
        return None
    points = zero_points(x_zero, w_zero, lambda: b.weight(w, "filter_sums"), found.windows.taps)

    def change(total: Expr, index: Sequence[Expr]) -> Expr:
        total = points.end(total, index[-1])
        return total if bias is None else total + number_of(bias[[index[-1]]], bias.type.dtype, acc)

    if bias is not None:
        bias.uses += 1
    weights = b.weight(w, "taps", int(integer))
    return replace(_ending(b, found, change), weights=weights, fill=points.data if any(op.pads) else None, weight_zero=points.weights)


def max_pool(b: Builder, op: Any, kind: TensorType, x: Arg) -> Layer | None:
    """The largest element under each window; NaN wins."""
    found = _layer(b, op, kind, x, "float32" if kind.dtype.is_float else "int32", "maximum", 1, op.kernel_shape)
    return None if found is None else _ending(b, found, lambda total, index: total)


def average_pool(b: Builder, op: Any, kind: TensorType, x: Arg) -> Layer | None:
    """The mean of the elements under each window."""
    found = _layer(b, op, kind, x, "float32", "sum", 1, op.kernel_shape)
    if found is None:
        return None
    size, spatial = x.shape[1:-1], len(x.shape) - 2

    def change(total: Expr, index: Sequence[Expr]) -> Expr:
        count: Expr = tirx.const(1, "int32")
        for axis, at in enumerate(index[1:-1]):
            stride, taps, dilation = op.strides[axis], op.kernel_shape[axis], op.dilations[axis]
            low = -int(op.pads[axis]) if op.count_include_pad else 0
            high = size[axis] + (int(op.pads[spatial + axis]) if op.count_include_pad else 0)
            reach = (kind.static_shape[1 + axis] - 1) * stride - int(op.pads[axis]) + (taps - 1) * dilation
            count = count * taps_inside(at * stride - int(op.pads[axis]), taps, dilation, low, high, reach)
        return total / count.astype("float32")

    return _ending(b, found, change)


def _layer(b: Builder, op: Any, kind: TensorType, x: Arg, acc: str, taken: Taken, multiplier: int, kernel: Sequence[int]) -> Layer | None:
    """What all layers have; None where the library does not read such an image, or a window is too large."""
    direct = x.body is None and x.number is None and x.type.dtype.name in STORED
    if math.prod(kind.static_shape[1:-1]) == 1 and taken != "products":
        return None  # threads share what a window over the whole image has: see `generate.columns`
    if not direct or not 1 <= math.prod(kernel) <= MOST_TAPS or x.type.size > MOST_ELEMENTS:
        return None
    one = len(kind.shape) == 3
    (height, width), (out_height, out_width) = (((1, *s[1:-1]) if one else s[1:-1]) for s in (x.shape, kind.static_shape))

    def two(values: Sequence[Any], filler: int) -> tuple[int, int]:
        return (filler, int(values[0])) if one else (int(values[0]), int(values[1]))

    windows = Windows(
        taken, element_type(x), x.type.dtype.bits // 8, x.shape[0], height, width, x.shape[-1], multiplier,
        out_height, out_width, two(kernel, 1), two(op.strides, 1), two(op.dilations, 1), two(op.pads, 0),
    )  # fmt: skip

    def place(at: Expr, m: Expr, n: Expr) -> tuple[Expr, ...]:
        return (at, *unravel(m, kind.static_shape[1:-1]), n)

    sums = Sums(x.shape[0], math.prod(kind.static_shape[1:-1]), kind.static_shape[-1], acc, place, lambda total, index: total)
    return Layer(windows, sums, b.buffer(x))


def _ending(b: Builder, layer: Layer, change: Callable[[Expr, Sequence[Expr]], Expr]) -> Layer:
    return replace(layer, sums=replace(layer.sums, ending=b.ending(change)))


LAYERS: dict[str, Callable[..., Layer | None]] = {
    "AveragePool": average_pool,
    "Conv": depthwise,
    "ConvInteger": depthwise,
    "MaxPool": max_pool,
}
"""What tells of the layer of an operator."""
