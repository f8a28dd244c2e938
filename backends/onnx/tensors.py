"""Constants as `TensorProto`: raw little-endian bytes, narrow types packed, large weights in a file beside the model."""

from __future__ import annotations

from pathlib import Path
from typing import BinaryIO

import numpy as np
import onnx

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.types import DTYPES, DType

ONNX_NAMES = {
    "bool": "BOOL", "int8": "INT8", "int16": "INT16", "int32": "INT32", "int64": "INT64", "int2": "INT2", "int4": "INT4",
    "uint8": "UINT8", "uint16": "UINT16", "uint32": "UINT32", "uint64": "UINT64", "uint2": "UINT2", "uint4": "UINT4",
    "float16": "FLOAT16", "bfloat16": "BFLOAT16", "float32": "FLOAT", "float64": "DOUBLE", "float4_e2m1fn": "FLOAT4E2M1",
    "float8_e4m3fn": "FLOAT8E4M3FN", "float8_e4m3fnuz": "FLOAT8E4M3FNUZ", "float8_e5m2": "FLOAT8E5M2",
    "float8_e5m2fnuz": "FLOAT8E5M2FNUZ", "float8_e8m0fnu": "FLOAT8E8M0", "complex64": "COMPLEX64", "complex128": "COMPLEX128",
}  # fmt: skip
NUMBERS: dict[DType, int] = {
    DTYPES[ours]: getattr(onnx.TensorProto, theirs) for ours, theirs in ONNX_NAMES.items() if hasattr(onnx.TensorProto, theirs)
}

ALIGNMENT = 4096
"""External tensors start on a page, so that runtimes can map them."""

SMALL = 1024
"""Tensors of fewer bytes stay in the model file even when there is an external one."""


def type_number(element: DType) -> int:
    """The ONNX number of an element type.

    Raises:
        UnsupportedError: ONNX has no such type.
    """
    if element not in NUMBERS:
        raise UnsupportedError(f"ONNX has no element type {element}")
    return NUMBERS[element]


def stored_bytes(tensor: Tensor) -> int:
    """Bytes that a constant takes in a file."""
    return (tensor.type.size * tensor.type.dtype.bits + 7) // 8


def tensor_proto(name: str, tensor: Tensor, external: ExternalFile | None = None) -> onnx.TensorProto:
    """A constant as protobuf, its values in `external` if that is given and they are not tiny."""
    proto = onnx.TensorProto(name=name, data_type=type_number(tensor.type.dtype), dims=tensor.type.static_shape)
    raw = _bytes(tensor)
    if external is not None and len(raw) >= SMALL:
        external.store(proto, raw)
    else:
        proto.raw_data = raw
    return proto


def _bytes(tensor: Tensor) -> bytes:
    array, element = np.ascontiguousarray(tensor.numpy()), tensor.type.dtype
    if element.bits >= 8:
        return array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes()
    per_byte = 8 // element.bits
    codes = (array.view(np.uint8) if element.is_float else array.astype(np.int8).view(np.uint8)).reshape(-1) & np.uint8(2**element.bits - 1)
    codes = np.concatenate([codes, np.zeros(-len(codes) % per_byte, np.uint8)]).reshape(-1, per_byte)
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(element.bits)
    packed: np.ndarray = np.bitwise_or.reduce(codes << shifts, axis=1)
    return packed.astype(np.uint8).tobytes()


class ExternalFile:
    """The file that holds the values of large constants, written front to back."""

    def __init__(self, path: Path, stream: BinaryIO) -> None:
        self.location, self._stream, self._offset = path.name, stream, 0

    def store(self, proto: onnx.TensorProto, raw: bytes) -> None:
        """Append the values, and note in `proto` where they are."""
        gap = -self._offset % ALIGNMENT
        self._stream.write(b"\0" * gap + raw)
        proto.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", self.location), ("offset", self._offset + gap), ("length", len(raw))):
            proto.external_data.add(key=key, value=str(value))
        self._offset += gap + len(raw)
