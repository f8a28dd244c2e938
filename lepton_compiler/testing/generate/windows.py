"""Sliding windows and resampling: convolutions, poolings, resizing, sampling along grids."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_compiler.ir.types import DType, TensorType
from lepton_compiler.ops.builder import make_op
from lepton_compiler.ops.pool import MaxUnpool
from lepton_compiler.ops.resize import COORDINATES, NEAREST
from lepton_compiler.testing.generate.maker import FLOAT32, Maker, step


def image(m: Maker, element: DType, channels: int, spatial: int, least: int) -> Any:
    """A value [N, channels, spatial...] whose spatial sizes are at least `least`."""
    found = m.find(lambda v: v.type.dtype == element and v.type.rank == spatial + 2 and v.type.static_shape[1] == channels
                   and min(v.type.static_shape[2:]) >= least)  # fmt: skip
    if found is not None and m.flag(0.8):
        return found
    batch = 0 if m.flag(0.03) else m.number(1, 2)
    sizes = [m.number(least, least + 5) if m.flag(0.9) else m.pick((16, 17, 20)) for _ in range(spatial)]
    return m.fresh(TensorType(element, (batch, channels, *(min(s, 9) if spatial > 2 else s for s in sizes))))


def window(m: Maker, spatial: int) -> dict[str, Any]:
    """Kernel, strides, dilations and pads of a window, as a pooling's attributes."""
    kernel = tuple(m.number(1, 3) for _ in range(spatial))
    strides, dilations = tuple(m.number(1, 2) for _ in kernel), tuple(m.pick((1, 1, 1, 2)) for _ in kernel)
    pads = tuple(m.number(0, min(1, k - 1)) if m.flag() else 0 for k in (*kernel, *kernel))
    return {"kernel_shape": kernel, "strides": strides, "dilations": dilations, "pads": pads}


def reach(attributes: dict[str, Any]) -> int:
    """The largest extent of a window along an axis."""
    kernel, dilations = attributes["kernel_shape"], attributes["dilations"]
    return max(int((k - 1) * d + 1) for k, d in zip(kernel, dilations, strict=True))


@step(8)
def conv(m: Maker) -> None:
    """Convolution: plain, grouped, depthwise, of one to three spatial axes; perhaps with a normalization and an activation."""
    spatial, element = m.pick((1, 2, 2, 2, 2, 3)), m.float_type()
    attributes = window(m, spatial)
    groups, per_group, filters = m.pick((1, 1, 1, 2, 3)), m.pick((1, 1, 2, 3, 8)), m.pick((1, 2, 4, 8, 9))
    x = image(m, element, groups * per_group, spatial, reach(attributes))
    w = weights(m, element, (filters * groups, per_group, *attributes.pop("kernel_shape")))
    bias = m.tame(TensorType(element, (filters * groups,))) if m.flag() else None
    if not np.isfinite(m.known(w)).all():
        return  # what infinite weights make of padding depends on the algorithm
    y = m.add(make_op("Conv", {**attributes, "groups": groups}), x, w, bias)
    if m.flag(0.3):
        rows = [m.tame(TensorType(element, (filters * groups,))) for _ in range(3)]
        y = m.b.BatchNormalization(y, *rows, m.weight(abs(m.tame(rows[0].type).numpy()) + rows[0].numpy().dtype.type(0.5)), epsilon=0.01)
    if m.flag(0.4):
        m.add(make_op(m.pick(("Relu", "Sigmoid", "HardSwish", "Tanh")), {}), y)


def weights(m: Maker, element: DType, shape: tuple[int, ...]) -> Any:
    """Filters: constants as a rule, now and then computed."""
    return m.tame(TensorType(element, shape)) if m.flag(0.85) else m.like(TensorType(element, shape))


@step(3)
def conv_transpose(m: Maker) -> None:
    """Transposed convolution, with groups, dilations and output padding."""
    spatial, element = m.pick((1, 2, 2, 2, 3)), m.float_type()
    attributes = window(m, spatial)
    kernel = attributes.pop("kernel_shape")
    groups, per_group, filters = m.pick((1, 1, 2)), m.pick((1, 2, 3)), m.pick((1, 2, 4))
    x = image(m, element, groups * per_group, spatial, 2)
    extra = tuple(m.number(0, max(s, d) - 1) for s, d in zip(attributes["strides"], attributes["dilations"], strict=True))
    bias = m.tame(TensorType(element, (filters * groups,))) if m.flag() else None
    w = weights(m, element, (groups * per_group, filters, *kernel))
    if not (np.isfinite(m.known(x)).all() and np.isfinite(m.known(w)).all()):
        return  # beside the zeros of an algorithm, infinities become NaN
    m.add(make_op("ConvTranspose", {**attributes, "groups": groups, "output_padding": extra}), x, w, bias)


@step(5)
def pool(m: Maker) -> None:
    """Maximum, mean and p-norm of windows, with all attributes."""
    spatial, element = m.pick((1, 2, 2, 2, 3)), m.float_type()
    attributes = window(m, spatial) | {"ceil_mode": m.flag(0.3)}
    x = image(m, element, m.number(1, 4), spatial, reach(attributes))
    match m.number(0, 6):
        case 0 | 1 | 2:
            m.add(make_op("MaxPool", attributes), x)
        case 3 | 4 | 5:
            m.add(make_op("AveragePool", attributes | {"count_include_pad": m.flag()}), x)
        case _:
            m.add(make_op("LpPool", attributes | {"p": m.number(1, 3)}), x)


@step(1)
def pool_indices(m: Maker) -> None:
    """Maximum with its places, and perhaps the way back."""
    spatial = m.number(1, 2)
    attributes = {**window(m, spatial), "dilations": (1,) * spatial, "pads": (0,) * (2 * spatial)}
    x = image(m, FLOAT32, m.number(1, 2), spatial, reach(attributes))
    order = m.flag(0.3)
    pooled = m.b.node(make_op("MaxPool", attributes | {"indices": True, "storage_order": int(order)}), [x]).outputs
    if not order and m.flag():
        back = {k: attributes[k] for k in ("kernel_shape", "strides", "pads")}
        if MaxUnpool(**back).pooled_from(pooled[0].type.static_shape) == x.type.static_shape:
            m.add(MaxUnpool(**back), *pooled)


@step(4)
def resize(m: Maker) -> None:
    """Resampling in all modes."""
    element, rank = m.float_type(), m.pick((3, 4, 4, 4, 5))
    x = image(m, element, m.number(1, 3), rank - 2, 2)
    mode = m.pick(("nearest", "nearest", "linear", "linear", "cubic"))
    attributes: dict[str, Any] = {"mode": mode, "nearest_mode": m.pick(NEAREST)}
    attributes["coordinate_transformation_mode"] = m.pick(COORDINATES)
    if mode == "cubic":
        attributes |= {"cubic_coeff_a": m.pick((-0.75, -0.5)), "exclude_outside": m.flag(0.3)}
    if mode != "nearest":
        attributes["antialias"] = m.flag(0.2)
    if attributes["coordinate_transformation_mode"] == "tf_crop_and_resize":
        begins, ends = [m.pick((0.0, 0.25, -0.1)) for _ in range(rank)], [m.pick((1.0, 0.75, 1.2)) for _ in range(rank)]
        attributes |= {"roi": (0.0, 0.0, *begins[2:], 1.0, 1.0, *ends[2:]), "extrapolation_value": m.pick((0.0, 1.5))}
    if m.flag():
        attributes["sizes"] = (*x.type.static_shape[:2], *(m.number(1, 8) for _ in range(rank - 2)))
    else:
        attributes["scales"] = (1.0, 1.0, *(m.pick((0.5, 0.6, 1.0, 1.5, 2.0, 3.0)) for _ in range(rank - 2)))
    m.add(make_op("Resize", attributes), x)


@step(1)
def grid(m: Maker) -> None:
    """Sampling along a grid that is given, or that comes from an affine map."""
    element, spatial, align = m.float_type(), m.pick((2, 2, 3)), m.flag()
    x = image(m, element, m.number(1, 2), spatial, 2)
    batch, out = x.type.static_shape[0], tuple(m.number(1, 4) for _ in range(spatial))
    if m.flag():
        theta = m.like(TensorType(element, (batch, spatial, spatial + 1)))
        places = m.b.AffineGrid(theta, size=(batch, 1, *out), align_corners=align)
    else:
        places = m.b.Mul(m.like(TensorType(element, (batch, *out, spatial))), 0.5)
    mode = m.pick(("linear", "nearest", "cubic") if spatial == 2 else ("linear", "nearest"))
    m.b.GridSample(x, places, mode=mode, padding_mode=m.pick(("zeros", "border", "reflection")), align_corners=align)


@step(1)
def columns(m: Maker) -> None:
    """Columns added back into an image."""
    block, image_shape = (m.number(1, 2), m.number(1, 2)), (m.number(2, 4), m.number(2, 4))
    count = int(np.prod([n - b + 1 for n, b in zip(image_shape, block, strict=True)]))
    x = m.like(TensorType(m.float_type(), (m.number(1, 2), m.number(1, 2) * block[0] * block[1], count)))
    m.b.Col2Im(x, image_shape=image_shape, block_shape=block)


@step(1)
def regions(m: Maker) -> None:
    """Regions of interest, and convolution at learnt places."""
    x = image(m, FLOAT32, 2, 2, 4)
    n = x.type.static_shape[0]
    if not n:
        return
    match m.number(0, 2):
        case 0:
            boxes = np.array(
                [[m.number(0, n - 1), m.number(0, 2), m.number(0, 2), m.number(2, 4), m.number(2, 4)] for _ in range(2)], np.float32
            )
            m.b.MaxRoiPool(x, m.weight(boxes), pooled_shape=(2, 2), spatial_scale=m.pick((1.0, 0.5)))
        case 1:
            boxes = np.array(
                [[m.number(0, 9) / 4, m.number(0, 9) / 4, m.number(9, 16) / 4, m.number(9, 16) / 4] for _ in range(2)], np.float32
            )
            which = m.weight(np.array([m.number(0, n - 1) for _ in range(2)], np.int64))
            mode = {"mode": m.pick(("avg", "max")), "coordinate_transformation_mode": m.pick(("half_pixel", "output_half_pixel"))}
            m.add(
                make_op("RoiAlign", {"output_height": 2, "output_width": 3, "sampling_ratio": m.number(0, 2), **mode}),
                x,
                m.weight(boxes),
                which,
            )
        case _:
            h, w = x.type.static_shape[2:]
            offset = m.like(TensorType(FLOAT32, (n, 8, h - 1, w - 1)))
            mask = m.like(TensorType(FLOAT32, (n, 4, h - 1, w - 1))) if m.flag() else None
            m.b.DeformConv(x, m.tame(TensorType(FLOAT32, (3, 2, 2, 2))), offset, None, mask)
