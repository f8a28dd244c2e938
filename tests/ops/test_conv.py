"""Convolutions: types on symbolic shapes, numbers against ONNX Runtime and against plain definitions."""

from __future__ import annotations

import itertools
import time
from typing import Any

import ml_dtypes
import numpy as np
import pytest

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import Dim, bind, symbol
from lepton_compiler.ir.types import TensorType, tensor_type
from lepton_compiler.ops.conv import Col2Im, Conv, ConvInteger, ConvTranspose, DeformConv, DeformPatches
from lepton_compiler.ops.dynamic import Dynamic

RNG = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


def types(*specs: str) -> list[TensorType]:
    return [tensor_type(s) for s in specs]


CONVS = [
    ((1, 3, 9, 8), (4, 3, 3, 3), {"strides": (2, 1), "pads": (1, 0, 1, 2), "dilations": (1, 2)}, 1),
    ((2, 4, 7, 7), (6, 2, 3, 2), {"strides": (1, 1), "pads": (0, 0, 0, 0), "dilations": (1, 1)}, 2),
    ((2, 4, 7, 7), (8, 1, 3, 3), {"strides": (2, 2), "pads": (1, 1, 1, 1), "dilations": (1, 1)}, 4),
    ((1, 3, 11), (5, 3, 4), {"strides": (3,), "pads": (2, 1), "dilations": (2,)}, 1),
    ((1, 2, 5, 6, 4), (3, 2, 2, 3, 2), {"strides": (1, 2, 1), "pads": (1, 0, 1, 0, 1, 0), "dilations": (1, 1, 2)}, 1),
]


@pytest.mark.parametrize(("x_shape", "w_shape", "window", "groups"), CONVS)
def test_conv_agrees_with_onnxruntime(onnxruntime_node: Any, x_shape: Any, w_shape: Any, window: Any, groups: int) -> None:
    x, w, b = floats(*x_shape), floats(*w_shape), floats(w_shape[0])
    op = Conv(**window, groups=groups)
    (want,) = onnxruntime_node("Conv", [x, w, b], **window, group=groups)
    (got,) = op.evaluate(x, w, b)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    (inferred,) = op.infer(*(TensorType(tensor_type("float32[]").dtype, a.shape) for a in (x, w, b)))
    assert inferred.shape == want.shape
    last = Conv(**window, groups=groups, layout="NHWC")
    np.testing.assert_array_equal(last.evaluate(np.moveaxis(x, 1, -1), w, b)[0], np.moveaxis(got, 1, -1))


def test_conv_on_symbolic_sizes() -> None:
    n, h = symbol("n"), symbol("h")
    op = Conv(strides=(2, 1), pads=(1, 1, 1, 1))
    (y,) = op.infer(*types("float32[n,3,h,8]", "float32[4,3,3,3]"))
    assert y.shape == (n, 4, (h - 1) // 2 + 1, 8)
    (last,) = Conv(layout="NHWC").infer(*types("float32[n,h,8,3]", "float32[4,3,1,1]"))
    assert last.shape == (n, h, 8, 4)


@pytest.mark.parametrize(
    ("op", "operands", "message"),
    [
        (Conv(), ("float32[1,3,8,8]", "float32[4,2,3,3]"), "x has 3 channels"),
        (Conv(groups=3), ("float32[1,3,8,8]", "float32[4,1,3,3]"), "do not split"),
        (Conv(), ("float32[1,3,2,8]", "float32[4,3,3,3]"), "larger than the padded axis"),
        (Conv(strides=(1,)), ("float32[1,3,8,8]", "float32[4,3,3,3]"), "strides"),
        (Conv(strides=(0, 1)), ("float32[1,3,8,8]", "float32[4,3,3,3]"), "positive"),
        (Conv(), ("float32[1,3,8,8]", "float16[4,3,3,3]"), "w is float16"),
        (Conv(), ("float32[1,3,8,8]", "float32[4,3,3,3]", "float32[5]"), "bias has 5"),
        (Conv(layout="NCWH"), ("float32[1,3,8,8]", "float32[4,3,3,3]"), "layout"),
        (ConvTranspose(), ("float32[1,3,8,8]", "float32[4,3,3,3]"), "x has 3 channels"),
        (ConvInteger(), ("float32[1,3,8,8]", "int8[4,3,3,3]"), "needs an integer type"),
        (DeformConv(), ("float32[1,3,8,8]", "float32[4,3,3,3]", "float32[1,17,6,6]"), "offset has 17"),
        (DeformPatches((3, 3)), ("float32[1,8,8,3]", "float32[1,17,6,6]"), "offset has 17"),
        (DeformPatches((3, 3), offset_groups=2, blocks=3), ("float32[1,8,8,6]", "float32[1,36,6,6]"), "3 blocks do not split into 2"),
    ],
)
def test_refusals_say_what_is_wrong(op: Any, operands: tuple[str, ...], message: str) -> None:
    with pytest.raises(InferenceError, match=message):
        op.infer(*types(*operands))


def test_narrow_floats_are_summed_in_float32() -> None:
    x = np.ones((1, 4096, 1, 1), ml_dtypes.bfloat16)
    w = np.full((1, 4096, 1, 1), 1.0078125, ml_dtypes.bfloat16)
    (y,) = Conv().evaluate(x, w)
    assert y.dtype == ml_dtypes.bfloat16
    assert float(y.reshape(())) == 4128.0


@pytest.mark.parametrize("kind", [np.int8, np.int32, np.int64])
def test_integers_wrap_in_their_own_type(kind: type) -> None:
    x = RNG.integers(np.iinfo(kind).min, np.iinfo(kind).max, (1, 2, 4, 4), kind)
    w: np.ndarray = RNG.integers(-3, 3, (2, 2, 3, 3)).astype(kind)
    (y,) = Conv().evaluate(x, w)
    want = sum((int(a) * int(b) for a, b in zip(x[0, :, 1:4, 0:3].ravel(), w[1].ravel(), strict=True)), 0)
    bits = np.iinfo(kind).bits
    assert y.dtype == kind
    assert (int(y[0, 1, 1, 0]) - want) % (1 << bits) == 0


def test_conv_integer_takes_zero_points_per_channel(onnxruntime_node: Any) -> None:
    x, w = RNG.integers(0, 255, (1, 4, 6, 6)).astype(np.uint8), RNG.integers(0, 255, (6, 2, 3, 3)).astype(np.uint8)
    zero, zeros = np.array(9, np.uint8), RNG.integers(0, 9, 6).astype(np.uint8)
    op = ConvInteger(pads=(1, 1, 1, 1), groups=2)
    (want,) = onnxruntime_node("ConvInteger", [x, w, zero, zeros[:1].reshape(())], pads=(1, 1, 1, 1), group=2)
    np.testing.assert_array_equal(op.evaluate(x, w, zero, zeros[0])[0], want)
    (each,) = op.evaluate(x, w, zero, zeros)
    for channel in range(6):
        (one,) = op.evaluate(x, w, zero, zeros[channel])
        np.testing.assert_array_equal(each[:, channel], one[:, channel])


@pytest.mark.parametrize(
    ("x_shape", "w_shape", "window", "groups"),
    [
        ((1, 3, 4, 5), (3, 2, 3, 3), {"strides": (2, 1), "pads": (1, 0, 1, 1), "dilations": (1, 2), "output_padding": (1, 0)}, 1),
        ((2, 4, 3, 3), (4, 1, 2, 2), {"strides": (2, 2), "pads": (0, 0, 0, 0), "dilations": (1, 1), "output_padding": (0, 0)}, 4),
        ((1, 2, 5), (2, 3, 4), {"strides": (3,), "pads": (1, 2), "dilations": (1,), "output_padding": (2,)}, 1),
    ],
)
def test_conv_transpose_agrees_with_onnxruntime(onnxruntime_node: Any, x_shape: Any, w_shape: Any, window: Any, groups: int) -> None:
    x, w, b = floats(*x_shape), floats(*w_shape), floats(w_shape[1] * groups)
    (want,) = onnxruntime_node("ConvTranspose", [x, w, b], **window, group=groups)
    (got,) = ConvTranspose(**window, groups=groups).evaluate(x, w, b)
    np.testing.assert_allclose(got, want, rtol=1e-4, atol=1e-5)
    (last,) = ConvTranspose(**window, groups=groups, layout="NHWC").evaluate(np.moveaxis(x, 1, -1), w, b)
    np.testing.assert_array_equal(last, np.moveaxis(got, 1, -1))


def test_conv_transpose_is_the_adjoint_of_conv() -> None:
    x, w = floats(1, 3, 7, 6), floats(4, 3, 3, 2)
    window: dict[str, Any] = {"strides": (2, 1), "pads": (1, 0, 1, 1), "dilations": (1, 2)}
    (y,) = Conv(**window).evaluate(x, w)
    cotangent = floats(*y.shape)
    (back,) = ConvTranspose(**window).evaluate(cotangent, w)
    assert back.shape == x.shape
    np.testing.assert_allclose((y * cotangent).sum(), (x * back).sum(), rtol=1e-4)


def test_empty_batches_and_images() -> None:
    w = floats(4, 3, 3, 3)
    assert Conv(pads=(1, 1, 1, 1)).evaluate(floats(0, 3, 5, 5), w)[0].shape == (0, 4, 5, 5)
    assert ConvTranspose().evaluate(floats(0, 4, 5, 5), w)[0].shape == (0, 3, 7, 7)


def test_col2im_adds_back_what_windows_cut_out() -> None:
    image = floats(2, 3, 5, 6)
    op = Col2Im(image_shape=(5, 6), block_shape=(2, 3), strides=(1, 3), pads=(1, 0, 0, 0))
    eye = np.eye(18, dtype=np.float32).reshape(18, 3, 2, 3)
    (columns,) = Conv(strides=(1, 3), pads=(1, 0, 0, 0)).evaluate(image, eye)
    (back,) = op.evaluate(columns.reshape(2, 18, -1))
    times = np.full((5, 1), 2.0)
    times[-1] = 1
    np.testing.assert_allclose(back, image * times, rtol=1e-6)


def test_col2im_of_shapes_known_at_run_time() -> None:
    template = Col2Im(image_shape=(1, 1), block_shape=(2, 3))
    (y,) = Dynamic(template, ("image_shape",)).infer(*types("float32[n,18,l]", "int64[2]"))
    assert y.shape[:2] == (symbol("n"), 3)
    assert y.rank == 4


def test_deform_conv_without_offsets_is_conv() -> None:
    x, w = floats(2, 4, 7, 6), floats(6, 2, 3, 3)
    window: dict[str, Any] = {"strides": (2, 1), "pads": (1, 1, 1, 1), "dilations": (1, 2), "groups": 2}
    (want,) = Conv(**window).evaluate(x, w)
    offset = np.zeros((2, 36, *want.shape[2:]), np.float32)
    op = DeformConv(**window, offset_groups=2)
    np.testing.assert_allclose(op.evaluate(x, w, offset)[0], want, rtol=1e-4, atol=1e-5)
    mask = np.full((2, 18, *want.shape[2:]), 0.5, np.float32)
    np.testing.assert_allclose(op.evaluate(x, w, offset, None, mask)[0], want / 2, rtol=1e-4, atol=1e-5)


def test_deform_patches_are_what_deform_conv_multiplies() -> None:
    x, w, offset, mask = floats(2, 6, 7, 6), floats(4, 3, 3, 2), floats(2, 24, 7, 6), floats(2, 12, 7, 6)
    (want,) = DeformConv(pads=(1, 0, 1, 1), groups=2, offset_groups=2).evaluate(x, w, offset, None, mask)
    op = DeformPatches((3, 2), pads=(1, 0, 1, 1), offset_groups=2, blocks=2)
    (patches,) = op.evaluate(np.moveaxis(x, 1, -1), offset, mask)
    assert op.infer(*types("float32[2,7,6,6]", "float32[2,24,7,6]"))[0].shape == patches.shape == (2, 7, 6, 2, 6, 3)
    weights = w.reshape(2, 2, 3, 6)
    np.testing.assert_allclose(np.einsum("nhwgtc,gmct->ngmhw", patches, weights).reshape(want.shape), want, rtol=1e-4, atol=1e-5)


def test_cost_counts_multiply_accumulates() -> None:
    operands = types("float32[1,3,8,8]", "float32[4,3,3,3]")
    op = Conv(pads=(1, 1, 1, 1))
    assert op.cost(operands, op.infer(*operands)).macs == 4 * 8 * 8 * 27
    grouped = types("float32[1,4,8,8]", "float32[4,1,3,3]")
    op = Conv(pads=(1, 1, 1, 1), groups=4)
    assert op.cost(grouped, op.infer(*grouped)).macs == 4 * 8 * 8 * 9


def test_a_large_layer_takes_no_python_loop_over_pixels() -> None:
    start = time.perf_counter()
    Conv(pads=(1, 1, 1, 1)).evaluate(floats(1, 64, 112, 112), floats(64, 64, 3, 3))
    Conv(pads=(1, 1, 1, 1), groups=64).evaluate(floats(1, 64, 112, 112), floats(64, 1, 3, 3))
    assert time.perf_counter() - start < 10


def test_types_and_numbers_agree_for_every_size() -> None:
    op = Conv(strides=(3, 2), pads=(1, 0, 0, 1), dilations=(2, 1))
    w = floats(1, 1, 2, 3)
    h, v = symbol("h"), symbol("v")
    (general,) = op.infer(TensorType(tensor_type("float32[]").dtype, (1, 1, h, v)), tensor_type("float32[1,1,2,3]"))
    for height, width in itertools.product(range(2, 9), range(2, 9)):
        (y,) = op.evaluate(floats(1, 1, height, width), w)
        sizes: dict[str, Dim] = {"h": height, "v": width}
        assert y.shape == tuple(bind(d, sizes) for d in general.shape)
