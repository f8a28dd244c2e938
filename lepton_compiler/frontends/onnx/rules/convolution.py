"""Convolutions: `auto_pad`, `output_shape` and missing attributes become explicit strides, pads and dilations."""

from __future__ import annotations

from lepton_compiler.errors import ModelError, UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.ir.dim import Dim, ceildiv, maximum
from lepton_compiler.ir.graph import Value
from lepton_compiler.ops.conv import Col2Im, Conv, ConvInteger, ConvTranspose, DeformConv

Ints = tuple[int, ...]


def spatial_attr(call: Call, name: str, rank: int, default: int) -> Ints:
    """A per-dimension attribute, `default` in each spatial dimension where absent.

    Raises:
        ModelError: wrong number of entries.
    """
    given: Ints = tuple(call.attr(name) or (default,) * rank)
    if len(given) != rank:
        raise ModelError(f"attribute '{name}' has {len(given)} entries for {rank} spatial dimensions")
    return given


def kernel_of(call: Call, weight: Value, first: int = 2) -> Ints:
    """The kernel's spatial shape, from the attribute or the weight."""
    if call.has("kernel_shape"):
        return tuple(int(k) for k in call.attr("kernel_shape"))
    dims = weight.type.shape[first:]
    if not all(isinstance(d, int) for d in dims):
        raise UnsupportedError("the kernel's shape is not known at compile time", hint="give the attribute kernel_shape")
    return tuple(int(d) for d in dims if isinstance(d, int))


def same_pads(sizes: tuple[Dim, ...], kernel: Ints, strides: Ints, dilations: Ints, upper: bool) -> tuple[Dim, ...]:
    """Pads with which the output has `ceil(size / stride)` elements; the odd one goes to the end if `upper`."""
    totals = []
    for size, k, stride, dilation in zip(sizes, kernel, strides, dilations, strict=True):
        totals.append(maximum((ceildiv(size, stride) - 1) * stride + (k - 1) * dilation + 1 - size, 0))
    return split_pads(totals, upper)


def split_pads(totals: list[Dim], upper: bool) -> tuple[Dim, ...]:
    """Distribute total padding over begin and end."""
    small = [t // 2 for t in totals]
    large = [t - s for t, s in zip(totals, small, strict=True)]
    return (*small, *large) if upper else (*large, *small)


def window_pads(call: Call, sizes: tuple[Dim, ...], kernel: Ints, strides: Ints, dilations: Ints) -> tuple[Dim, ...]:
    """Pads of a convolution or pooling window, `auto_pad` worked out."""
    mode = call.attr("auto_pad", "NOTSET")
    match mode:
        case "SAME_UPPER" | "SAME_LOWER":
            return same_pads(sizes, kernel, strides, dilations, mode == "SAME_UPPER")
        case "VALID":
            return (0,) * (2 * len(kernel))
        case "NOTSET" | "":
            pads: tuple[Dim, ...] = tuple(call.attr("pads") or (0,) * (2 * len(kernel)))
            if len(pads) != 2 * len(kernel):
                raise ModelError(f"attribute 'pads' has {len(pads)} entries for {len(kernel)} spatial dimensions")
            return pads
    raise ModelError(f"auto_pad '{mode}' is unknown")


def spatial(x: Value) -> tuple[Dim, ...]:
    """The spatial dimensions of `[N, C, ...]`.

    Raises:
        ModelError: rank below 3.
    """
    if x.type.rank < 3:
        raise ModelError(f"expected [N, C, spatial...], got {x.type}")
    return x.type.shape[2:]


def conv_op(call: Call, x: Value, w: Value) -> Conv:
    """The convolution that a node's attributes describe, for these operands."""
    sizes = spatial(x)
    rank, kernel = len(sizes), kernel_of(call, w)
    if len(kernel) != rank:
        raise ModelError(f"the kernel has {len(kernel)} dimensions, the operand {rank} spatial ones")
    strides, dilations = spatial_attr(call, "strides", rank, 1), spatial_attr(call, "dilations", rank, 1)
    pads = window_pads(call, sizes, kernel, strides, dilations)
    return Conv(strides=strides, pads=pads, dilations=dilations, groups=int(call.attr("group", 1)))


def conv(call: Call) -> Result:
    """Conv."""
    return call.add(conv_op(call, call.value(0), call.value(1)), *call.inputs)


def conv_integer(call: Call) -> Result:
    """ConvInteger."""
    op = conv_op(call, call.value(0), call.value(1))
    return call.add(ConvInteger(strides=op.strides, pads=op.pads, dilations=op.dilations, groups=op.groups), *call.inputs)


def conv_transpose(call: Call) -> Result:
    """ConvTranspose, `output_shape` and `auto_pad` turned into pads and output padding."""
    x, w = call.value(0), call.value(1)
    sizes = spatial(x)
    rank, kernel = len(sizes), kernel_of(call, w)
    strides, dilations = spatial_attr(call, "strides", rank, 1), spatial_attr(call, "dilations", rank, 1)
    extra = list(spatial_attr(call, "output_padding", rank, 0))
    mode = call.attr("auto_pad", "NOTSET")
    wanted: tuple[Dim, ...] | None = tuple(call.attr("output_shape")) if call.has("output_shape") else None
    if wanted is None and mode in ("SAME_UPPER", "SAME_LOWER"):
        wanted = tuple(size * stride for size, stride in zip(sizes, strides, strict=True))
    if wanted is None:
        pads = window_pads(call, sizes, kernel, strides, dilations)
    else:
        totals: list[Dim] = []
        for i, out in enumerate(wanted[-rank:]):
            total = strides[i] * (sizes[i] - 1) + extra[i] + (kernel[i] - 1) * dilations[i] + 1 - out
            if isinstance(total, int) and total < 0:
                extra[i], total = extra[i] - total, 0
            totals.append(total)
        pads = split_pads(totals, mode != "SAME_LOWER" if mode.startswith("SAME") else False)
        if mode == "SAME_UPPER":
            pads = split_pads(totals, True)
    op = ConvTranspose(strides=strides, pads=pads, dilations=dilations, output_padding=tuple(extra), groups=int(call.attr("group", 1)))
    return call.add(op, *call.inputs)


def deform_conv(call: Call) -> Result:
    """DeformConv."""
    x, w = call.value(0), call.value(1)
    rank = len(spatial(x))
    strides, dilations = spatial_attr(call, "strides", rank, 1), spatial_attr(call, "dilations", rank, 1)
    pads = window_pads(call, spatial(x), kernel_of(call, w), strides, dilations)
    op = DeformConv(
        strides=strides, pads=pads, dilations=dilations, groups=int(call.attr("group", 1)), offset_groups=int(call.attr("offset_group", 1))
    )
    return call.add(op, *call.inputs)


def col2im(call: Call) -> Result:
    """Col2Im; the shapes of image and block are operands in ONNX."""
    block = call.value(2)
    rank = block.type.shape[0]
    if not isinstance(rank, int):
        raise UnsupportedError("the rank of the image is not known at compile time")
    template = Col2Im(
        image_shape=(1,) * rank,
        block_shape=(1,) * rank,
        dilations=spatial_attr(call, "dilations", rank, 1),
        pads=tuple(call.attr("pads") or (0,) * (2 * rank)),
        strides=spatial_attr(call, "strides", rank, 1),
    )
    return call.parametric(template, [call.value(0)], image_shape=call.value(1), block_shape=block)


RULES = {"Conv": conv, "ConvInteger": conv_integer, "ConvTranspose": conv_transpose, "DeformConv": deform_conv, "Col2Im": col2im}
