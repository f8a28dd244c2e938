"""Linear quantization: real = (quantized - zero point) * scale."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import ml_dtypes
import numpy as np

from lepton_compiler.ir.op import Op, require
from lepton_compiler.ir.types import FLOAT32, INT32, UINT8, DType, TensorType
from lepton_compiler.ops.axes import normal_axis
from lepton_compiler.ops.broadcasting import may_equal
from lepton_compiler.ops.cast import cast_array
from lepton_compiler.ops.precision import NARROW, widen


@dataclass(frozen=True)
class Quantization(Op):
    """Base of both directions.

    Parameters are one value, one per index of `axis`, or (`block_size` > 0) of the data's shape with `axis` divided into blocks.
    """

    def infer(self, x: TensorType, scale: TensorType, zero_point: TensorType | None = None) -> tuple[TensorType, ...]:
        """Check the parameters against the data."""
        self.require_parameters(x, scale, zero_point)
        return (x,)

    def require_parameters(self, x: TensorType, scale: TensorType, zero_point: TensorType | None) -> None:
        """Check the parameters' types and shapes.

        Raises:
            InferenceError: they do not fit the data.
        """
        axis, block = self.granularity
        require(scale.dtype.is_float, f"{self.name}'s scale is {scale.dtype}, not a float")
        single = all(t is None or all(d == 1 for d in t.shape) for t in (scale, zero_point))
        alike = zero_point is None or (zero_point.rank == scale.rank and all(map(may_equal, zero_point.shape, scale.shape)))
        require(single or alike, f"{self.name}'s scale is {scale}, its zero point {zero_point}")
        if block:
            require(block > 0, f"{self.name} cannot make blocks of {block}")
            axis = normal_axis(axis, x.rank)
            require(scale.rank == x.rank, f"{self.name}'s scale is {scale}, not of the rank of the data {x}")
            wanted = tuple(-(-d // block) if i == axis else d for i, d in enumerate(x.shape))
            require(
                all(map(may_equal, scale.shape, wanted)), f"{self.name}'s scale is {scale}, not one value for each block of {block} of {x}"
            )
        elif scale.rank and scale.shape != (1,):
            require(scale.rank == 1, f"{self.name}'s scale is {scale}, not a scalar or a vector")
            size = x.shape[normal_axis(axis, x.rank)]
            require(may_equal(scale.shape[0], size), f"{self.name} has {scale.shape[0]} scales for {size} indices of axis {axis}")

    @property
    def granularity(self) -> tuple[int, int]:
        """The axis and the block size."""
        raise NotImplementedError(f"{self.name}.granularity")

    def spread(self, parameter: Any, shape: tuple[int, ...]) -> Any:
        """A parameter in the shape that broadcasts to the data."""
        axis, block = self.granularity
        if block:
            repeated = np.repeat(parameter, block, axis=axis)
            return np.take(repeated, np.arange(shape[axis]), axis=axis)
        if parameter.size == 1:
            return parameter.reshape(())
        wanted = [1] * len(shape)
        wanted[axis] = -1
        return parameter.reshape(wanted)


@dataclass(frozen=True)
class QuantizeLinear(Quantization):
    """x / scale + zero point, rounded half to even and saturated to `dtype` (an integer or a small float).

    The quotient is computed in `precision`, by default the type of x and float32 for narrow floats. NaN becomes the zero point of
    integers and NaN of floats that have it.
    """

    dtype: DType
    axis: int = 1
    block_size: int = 0
    saturate: bool = True
    precision: DType | None = None

    @property
    def granularity(self) -> tuple[int, int]:  # noqa: D102
        return self.axis, self.block_size

    def infer(self, x: TensorType, scale: TensorType, zero_point: TensorType | None = None) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.dtype.is_float or x.dtype == INT32, f"QuantizeLinear takes floats or int32, not {x.dtype}")
        require(self.dtype.is_integer or self.dtype.is_float, f"QuantizeLinear cannot make {self.dtype}")
        require(zero_point is None or zero_point.dtype == self.dtype, f"QuantizeLinear makes {self.dtype}, its zero point is {zero_point}")
        self.require_parameters(x, scale, zero_point)
        return (TensorType(self.dtype, x.shape),)

    def evaluate(self, x: Any, scale: Any, zero_point: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        scale = self.spread(scale, x.shape)
        if self.precision is not None:
            x, scale = x.astype(self.precision.numpy), scale.astype(self.precision.numpy)
        ratio = np.asarray(widen(x) / widen(scale))
        ratio = ratio if self.precision is None or self.precision.numpy not in NARROW else widen(ratio.astype(self.precision.numpy))
        zero = None if zero_point is None else self.spread(zero_point, x.shape)
        if not self.dtype.is_integer:
            return (cast_array(ratio if zero is None else ratio + zero.astype(ratio.dtype), self.dtype, saturate=self.saturate),)
        return (round_to_integer(ratio, zero, self.dtype),)


@dataclass(frozen=True)
class DequantizeLinear(Quantization):
    """(x - zero point) * scale as `dtype`, computed in float32."""

    dtype: DType = FLOAT32
    axis: int = 1
    block_size: int = 0

    @property
    def granularity(self) -> tuple[int, int]:  # noqa: D102
        return self.axis, self.block_size

    def infer(self, x: TensorType, scale: TensorType, zero_point: TensorType | None = None) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.dtype.is_integer or x.dtype.is_float, f"DequantizeLinear takes integers or small floats, not {x.dtype}")
        require(zero_point is None or zero_point.dtype == x.dtype, f"DequantizeLinear takes {x.dtype}, its zero point is {zero_point}")
        require(self.dtype.is_float, f"DequantizeLinear cannot make {self.dtype}")
        self.require_parameters(x, scale, zero_point)
        return (TensorType(self.dtype, x.shape),)

    def evaluate(self, x: Any, scale: Any, zero_point: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        if zero_point is None:
            moved = x.astype(np.float32)
        elif x.dtype == np.int32:
            moved = (x.astype(np.int64) - self.spread(zero_point, x.shape)).astype(np.float32)
        else:
            moved = x.astype(np.float32) - self.spread(zero_point, x.shape).astype(np.float32)
        return ((moved * widen(self.spread(scale, x.shape))).astype(self.dtype.numpy),)


@dataclass(frozen=True)
class DynamicQuantizeLinear(Op):
    """float32 to uint8 with the scale and the zero point that the range of the data, widened to hold 0, asks for."""

    def infer(self, x: TensorType) -> tuple[TensorType, ...]:  # noqa: D102
        require(x.dtype == FLOAT32, f"DynamicQuantizeLinear takes float32, not {x.dtype}")
        return TensorType(UINT8, x.shape), TensorType(FLOAT32, ()), TensorType(UINT8, ())

    def evaluate(self, x: Any) -> tuple[np.ndarray, ...]:  # noqa: D102
        low, high = np.min(x, initial=np.float32(0)), np.max(x, initial=np.float32(0))
        scale = np.float32((high - low) / np.float32(255)) if high != low else np.float32(1) / np.float32(255)
        zero = np.asarray(np.rint(np.clip(-low / scale, 0, 255)), np.float32)
        return np.clip(np.rint(x / scale) + zero, 0, 255).astype(np.uint8), np.asarray(scale), zero.astype(np.uint8)


def round_to_integer(ratio: np.ndarray, zero_point: Any, dtype: DType) -> np.ndarray:
    """Round half to even, add the zero point (None is 0), saturate; NaN becomes the zero point."""
    info = ml_dtypes.iinfo(dtype.numpy)
    rounded = np.rint(np.where(np.isnan(ratio), 0, ratio))
    if dtype.bits >= 32:
        rounded = rounded.astype(np.float64)
    if zero_point is not None:
        rounded = rounded + zero_point.astype(rounded.dtype)
    wide = np.asarray(np.clip(rounded, float(info.min), float(info.max)))
    return wide.astype(np.int64).astype(dtype.numpy)
