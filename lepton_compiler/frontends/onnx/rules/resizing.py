"""Resize in all its opsets, and its ancestor Upsample: sizes and scales are always full rank here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from fractions import Fraction

import numpy as np

from lepton_compiler.errors import ModelError, UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.ir.dim import Dim, floordiv
from lepton_compiler.ir.graph import Value
from lepton_compiler.ops.indexing import Gather
from lepton_compiler.ops.rearrange import Concat
from lepton_compiler.ops.resize import Resize
from lepton_compiler.ops.shape import Shape


def resize(call: Call) -> Result:
    """Resize; opset 10 had only scales, from 11 on there are regions, sizes and, from 18 on, axes."""
    x = call.value(0)
    if call.version < 11:
        return resize_10(call)
    axes = tuple(int(a) % x.type.rank for a in call.attr("axes", range(x.type.rank)))
    template = Resize(
        mode=call.attr("mode", "nearest"),
        coordinate_transformation_mode=call.attr("coordinate_transformation_mode", "half_pixel"),
        cubic_coeff_a=call.attr("cubic_coeff_a", -0.75),
        nearest_mode=call.attr("nearest_mode", "round_prefer_floor"),
        antialias=bool(call.attr("antialias", 0)),
        exclude_outside=bool(call.attr("exclude_outside", 0)),
        extrapolation_value=call.attr("extrapolation_value", 0.0),
    )
    roi = call.optional(1) if template.coordinate_transformation_mode == "tf_crop_and_resize" else None
    if roi is not None:
        roi = _full_roi(call, roi, axes)
    sizes, scales = call.optional(3), call.optional(2)
    if sizes is not None and sizes.type.shape != (0,):
        return _by_sizes(call, template, sizes, axes, roi)
    if scales is None or scales.type.shape == (0,):
        raise ModelError("Resize needs scales or sizes")
    return _by_scales(call, template, scales, axes, roi)


def resize_10(call: Call) -> Result:
    """Resize of opset 10; along axes that shrink, the nearest element is the next one, and not the last as along those that grow."""
    template, scales = _old_template(call), call.value(1)
    if template.mode != "nearest":
        return _by_scales(call, template, scales)
    known = call.known(scales)
    if known is None:
        raise UnsupportedError("the scales of Resize of opset 10 are not known at compile time", hint="make them a constant of the model")
    shrinking = replace(template, nearest_mode="ceil")
    factors: list[float] = known.reshape(-1).tolist()
    if not any(f > 1 for f in factors):
        return _by_scales(call, shrinking, scales)
    call.inputs[0] = _one(_by_scales(call, template, call.constant(np.maximum(factors, 1).astype(np.float32))))
    if not any(f < 1 for f in factors):
        return call.value(0)
    return _by_scales(call, shrinking, call.constant(np.minimum(factors, 1).astype(np.float32)))


def _one(result: Result) -> Value:
    return result if isinstance(result, Value) else result[0]


def upsample(call: Call) -> Result:
    """Upsample: scales are an attribute in opset 7 and an operand in opset 9."""
    scales = call.constant(np.array(call.attr("scales"), np.float32)) if call.has("scales") else call.value(1)
    return upsample_by(call, scales)


def upsample_by(call: Call, scales: Value) -> Result:
    """Upsample by factors for all axes."""
    return _by_scales(call, _old_template(call), scales)


def _old_template(call: Call) -> Resize:
    mode = {"bilinear": "linear"}.get(call.attr("mode", "nearest"), call.attr("mode", "nearest"))
    return Resize(mode=mode, coordinate_transformation_mode="asymmetric", nearest_mode="floor")


def _spread(call: Call, given: Value, default: Value, axes: Sequence[int]) -> Value:
    """A full-rank vector: `given` at `axes`, `default` elsewhere."""
    rank = call.value(0).type.rank
    if tuple(axes) == tuple(range(rank)):
        return given
    places = {axis: i for i, axis in enumerate(axes)}
    index = [places.get(axis, len(places) + axis) for axis in range(rank)]
    return call.add(Gather(axis=0), call.add(Concat(axis=0), given, default), call.ints(index))


def _full_roi(call: Call, roi: Value, axes: Sequence[int]) -> Value:
    rank, count = call.value(0).type.rank, len(axes)
    if len(axes) == rank:
        return roi
    places = {axis: i for i, axis in enumerate(axes)}
    index = [places.get(a, 2 * count) for a in range(rank)] + [places[a] + count if a in places else 2 * count + 1 for a in range(rank)]
    edges = call.constant(np.array([0, 1], roi.type.dtype.numpy))
    return call.add(Gather(axis=0), call.add(Concat(axis=0), roi, edges), call.ints(index))


def _by_scales(call: Call, template: Resize, scales: Value, axes: Sequence[int] | None = None, roi: Value | None = None) -> Result:
    x = call.value(0)
    axes = tuple(range(x.type.rank)) if axes is None else axes
    known = call.known(scales)
    if known is None:
        ones = call.constant(np.ones(x.type.rank, scales.type.dtype.numpy))
        return call.parametric(template, [x], scales=_spread(call, scales, ones, axes), roi=roi)
    values = [float(v) for v in known.reshape(-1)]
    if len(values) != len(axes) or not all(np.isfinite(v) and v > 0 for v in values):
        raise ModelError(f"impossible scales {values} for {x.type}")
    full = [1.0] * x.type.rank
    for axis, value in zip(axes, values, strict=True):
        full[axis] = value
    sizes = tuple(_scaled(d, s) for d, s in zip(x.type.shape, full, strict=True))
    return call.parametric(replace(template, sizes=sizes, scales=tuple(full)), [x], roi=roi)


def _scaled(size: Dim, scale: float) -> Dim:
    """`floor(size * scale)`, in float32 for numbers as other runtimes do it."""
    if isinstance(size, int):
        return int(np.floor(np.float32(size) * np.float32(scale)))
    ratio = Fraction(scale).limit_denominator(1024)
    return floordiv(size * ratio.numerator, ratio.denominator)


def _by_sizes(call: Call, template: Resize, sizes: Value, axes: Sequence[int], roi: Value | None) -> Result:
    x = call.value(0)
    known, policy = call.known_dims(sizes), call.attr("keep_aspect_ratio_policy", "stretch")
    if known is None:
        if policy != "stretch":
            raise UnsupportedError(
                "keep_aspect_ratio_policy needs sizes that are known at compile time", hint="make them a constant of the model"
            )
        own = call.add(Shape(), x)
        return call.parametric(template, [x], sizes=_spread(call, sizes, own, axes), roi=roi)
    if len(known) != len(axes):
        raise ModelError(f"{len(known)} sizes for {len(axes)} axes")
    full: list[Dim] = list(x.type.shape)
    if policy != "stretch":
        scales = _keep_aspect(x, full, known, axes, policy)
    else:
        for axis, size in zip(axes, known, strict=True):
            full[axis] = size
        scales = _ratios(x.type.shape, full)
    return call.parametric(replace(template, sizes=tuple(full), scales=tuple(scales)), [x], roi=roi)


def _ratios(old: Sequence[Dim], new: Sequence[Dim]) -> list[float]:
    """New size over old; empty where a ratio depends on unbound dimensions, then the operator works it out."""
    ratios: list[float] = []
    for before, after in zip(old, new, strict=True):
        if isinstance(before, int) and isinstance(after, int):
            ratios.append(after / before if before else 1.0)
        elif isinstance(ratio := floordiv(after, before), int) and ratio * before == after:
            ratios.append(float(ratio))
        else:
            return []
    return ratios


def _keep_aspect(x: Value, full: list[Dim], known: Sequence[Dim], axes: Sequence[int], policy: str) -> list[float]:
    """One scale for all axes, such that the result is not larger, or not smaller, than asked for."""
    pairs = [(full[axis], size) for axis, size in zip(axes, known, strict=True)]
    if not all(isinstance(a, int) and isinstance(b, int) and a > 0 for a, b in pairs):
        raise UnsupportedError("keep_aspect_ratio_policy needs known sizes", hint="bind the dimensions")
    ratios = [int(b) / int(a) for a, b in pairs if isinstance(a, int) and isinstance(b, int)]
    scale = min(ratios) if policy == "not_larger" else max(ratios)
    scales = [1.0] * x.type.rank
    for axis in axes:
        before = full[axis]
        full[axis] = int(np.floor(scale * before + 0.5)) if isinstance(before, int) else before
        scales[axis] = scale
    return scales


RULES = {"Resize": resize, "Upsample": upsample}
