"""Linear quantization."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.types import DTYPES, INT8, UINT8, tensor_type
from lepton_compiler.ops.quantize import DequantizeLinear, DynamicQuantizeLinear, QuantizeLinear

SCALE = np.array(0.5, np.float32)


def test_rounding_and_saturation() -> None:
    x = np.array([0, 0.25, 0.75, -0.25, 1e9, -1e9, np.inf, -np.inf, np.nan], np.float32)
    (y,) = QuantizeLinear(INT8).evaluate(x, SCALE, np.array(3, np.int8))
    np.testing.assert_array_equal(y, [3, 3, 5, 3, 127, -128, 127, -128, 3])
    (y,) = QuantizeLinear(UINT8).evaluate(x[:4], SCALE)
    np.testing.assert_array_equal(y, [0, 0, 2, 0])


@pytest.mark.parametrize(
    ("name", "low", "high"), [("int4", -8, 7), ("uint4", 0, 15), ("int2", -2, 1), ("int16", -32768, 32767), ("uint16", 0, 65535)]
)
def test_ranges(name: str, low: int, high: int) -> None:
    kind = DTYPES[name]
    (y,) = QuantizeLinear(kind).evaluate(np.array([-1e6, 1e6], np.float32), SCALE)
    assert y.dtype == kind.numpy
    np.testing.assert_array_equal(y.astype(np.int64), [low, high])
    (x,) = DequantizeLinear().evaluate(y, SCALE)
    np.testing.assert_array_equal(x, [low * 0.5, high * 0.5])


def test_small_floats() -> None:
    x = np.array([1000.0, 1.0], np.float32)
    (limited,) = QuantizeLinear(DTYPES["float8_e4m3fn"]).evaluate(x, SCALE)
    np.testing.assert_array_equal(limited.astype(np.float32), [448, 2])
    (free,) = QuantizeLinear(DTYPES["float8_e5m2"], saturate=False).evaluate(x * 1e6, SCALE)
    assert np.isinf(free.astype(np.float32)[0])
    (back,) = DequantizeLinear().evaluate(limited, SCALE)
    np.testing.assert_array_equal(back, [224, 1])


def test_per_axis_and_blocked() -> None:
    x = np.arange(12, dtype=np.float32).reshape(2, 3, 2)
    scale, zero = np.array([1, 2, 4], np.float32), np.array([0, 1, 2], np.uint8)
    (y,) = QuantizeLinear(UINT8, axis=-2).evaluate(x, scale, zero)
    np.testing.assert_array_equal(y, np.rint(x / scale[:, None]) + zero[:, None])
    blocks = np.array([[[1, 1], [2, 2]], [[4, 4], [1, 1]]], np.float32)
    (y,) = QuantizeLinear(UINT8, axis=1, block_size=2).evaluate(x, blocks)
    np.testing.assert_array_equal(y, np.rint(x / np.repeat(blocks, 2, axis=1)[:, :3]))
    (z,) = DequantizeLinear(axis=1, block_size=2).evaluate(y, blocks)
    np.testing.assert_array_equal(z, y * np.repeat(blocks, 2, axis=1)[:, :3])


def test_types_of_dequantized_values() -> None:
    (y,) = DequantizeLinear(DTYPES["float16"]).evaluate(np.array([3, -3], np.int8), np.array(0.5, np.float16), np.array(1, np.int8))
    assert y.dtype == np.float16
    np.testing.assert_array_equal(y, [1, -2])
    (y,) = DequantizeLinear(DTYPES["bfloat16"]).evaluate(np.array([3], np.int32), np.array(0.5, ml_dtypes.bfloat16))
    assert y.dtype == ml_dtypes.bfloat16 and float(y[0]) == 1.5


def test_quotient_in_a_narrow_precision() -> None:
    x, scale = np.array([1.0], np.float32), np.array(0.003, np.float32)
    (fine,) = QuantizeLinear(DTYPES["int16"]).evaluate(x, scale)
    (coarse,) = QuantizeLinear(DTYPES["int16"], precision=DTYPES["bfloat16"]).evaluate(x, scale)
    assert fine[0] == 333 and coarse[0] in (332, 334)


def test_dynamic() -> None:
    x = np.array([-1, 0, 2, 4.1], np.float32)
    y, scale, zero = DynamicQuantizeLinear().evaluate(x)
    assert [y.dtype.name, scale.dtype.name, zero.dtype.name] == ["uint8", "float32", "uint8"]
    assert scale.shape == zero.shape == ()
    np.testing.assert_allclose(scale, 5.1 / 255, rtol=1e-6)
    assert zero == 50
    np.testing.assert_allclose((y.astype(np.float32) - zero) * scale, x, atol=0.02)
    y, scale, zero = DynamicQuantizeLinear().evaluate(np.zeros(3, np.float32))
    assert not y.any() and zero == 0 and scale > 0


def test_types_and_errors() -> None:
    x, scale = tensor_type("float32[n,6,4]"), tensor_type("float32[6]")
    assert QuantizeLinear(INT8).infer(x, scale, tensor_type("int8[6]")) == (tensor_type("int8[n,6,4]"),)
    assert DequantizeLinear(axis=1, block_size=4).infer(tensor_type("int8[n,6,4]"), tensor_type("float32[n,2,4]")) == (x,)
    with pytest.raises(InferenceError, match="makes int8, its zero point is uint8"):
        QuantizeLinear(INT8).infer(x, scale, tensor_type("uint8[6]"))
    with pytest.raises(InferenceError, match="6 scales for 4 indices of axis 2"):
        QuantizeLinear(INT8, axis=2).infer(x, scale)
    with pytest.raises(InferenceError, match="each block of 4"):
        QuantizeLinear(INT8, block_size=4).infer(x, tensor_type("float32[n,3,4]"))
    with pytest.raises(InferenceError, match="zero point"):
        QuantizeLinear(INT8).infer(x, scale, tensor_type("int8[5]"))
