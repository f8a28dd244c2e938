"""Conversion of element types."""

from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from lepton_compiler.errors import InferenceError
from lepton_compiler.ir.dim import symbol
from lepton_compiler.ir.types import DTYPES, tensor_type
from lepton_compiler.ops.cast import BitCast, Cast


def cast(values: object, to: str, element: type = np.float32, **options: object) -> np.ndarray:
    (y,) = Cast(to=DTYPES[to], **options).evaluate(np.asarray(values, element))  # type: ignore[arg-type]
    assert y.dtype == DTYPES[to].numpy
    return y


def test_to_integers_and_truth() -> None:
    np.testing.assert_array_equal(cast([1.9, -1.9, 0.5], "int32"), [1, -1, 0])
    np.testing.assert_array_equal(cast([300, -1], "uint8", np.int64), [44, 255])
    np.testing.assert_array_equal(cast([0.0, -0.0, 0.25, np.nan], "bool"), [False, False, True, True])
    np.testing.assert_array_equal(cast([True, False], "float16", np.bool_), [1, 0])
    np.testing.assert_array_equal(cast([0, 1], "bool", ml_dtypes.int4), [False, True])


def test_saturation_of_small_floats() -> None:
    values = [1000.0, -1000.0, np.inf, np.nan, 1.5]
    limited = cast(values, "float8_e4m3fn").astype(np.float32)
    np.testing.assert_array_equal(limited, [448, -448, 448, np.nan, 1.5])
    free = cast(values, "float8_e4m3fn", saturate=False).astype(np.float32)
    np.testing.assert_array_equal(free, [np.nan, np.nan, np.nan, np.nan, 1.5])
    np.testing.assert_array_equal(cast([1e6], "float8_e5m2", saturate=False).astype(np.float32), [np.inf])
    np.testing.assert_array_equal(cast([9.0, -0.3], "float4_e2m1fn").astype(np.float32), [6, -0.5])


@pytest.mark.parametrize(("mode", "expected"), [("up", [1, 2, 2, 4]), ("down", [1, 1, 1, 2]), ("nearest", [1, 1, 2, 4])])
def test_exponents_round_as_asked(mode: str, expected: list[float]) -> None:
    y = cast([1.0, 1.25, 1.5, 3.5], "float8_e8m0fnu", round_mode=mode)
    np.testing.assert_array_equal(y.astype(np.float32), expected)


def test_exponent_limits() -> None:
    largest = float(np.finfo(np.float32).max)
    assert float(cast([largest], "float8_e8m0fnu").astype(np.float32)[0]) == 2.0**127
    assert np.isnan(cast([largest, np.inf], "float8_e8m0fnu", saturate=False).astype(np.float32)).all()
    with pytest.raises(InferenceError, match="round_mode 'away'"):
        Cast(to=DTYPES["float8_e8m0fnu"], round_mode="away").infer(tensor_type("float32[1]"))


def test_sizes_survive_a_cast_between_integers() -> None:
    n = symbol("n")
    assert list(Cast(to=DTYPES["int32"]).evaluate_symbolic(np.array([n, True], object))[0]) == [n, 1]
    with pytest.raises(TypeError):
        Cast(to=DTYPES["bool"]).evaluate_symbolic(np.array([n], object))


def test_bit_cast() -> None:
    (y,) = BitCast(to=DTYPES["int32"]).evaluate(np.array([1.0, -0.0], np.float32))
    np.testing.assert_array_equal(y, [0x3F800000, -(2**31)])
    (scalar,) = BitCast(to=DTYPES["uint16"]).evaluate(np.array(1.0, np.float16))
    assert scalar.shape == () and scalar == 0x3C00
    with pytest.raises(InferenceError, match="equal width"):
        BitCast(to=DTYPES["int64"]).infer(tensor_type("float32[2]"))
