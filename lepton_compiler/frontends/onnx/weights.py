"""From `TensorProto` to lazy tensors: views on raw bytes, unpacked 2- and 4-bit types, checked external files."""

from __future__ import annotations

import math
import stat
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from lepton_compiler.errors import LeptonError, ModelError, UnsupportedError
from lepton_compiler.ir.tensor import FileTensor, Tensor
from lepton_compiler.ir.types import DTYPES, DType

ELEMENT_TYPES: dict[int, DType] = {
    getattr(onnx.TensorProto, onnx_name): DTYPES[name]
    for onnx_name, name in {
        "BOOL": "bool", "INT8": "int8", "INT16": "int16", "INT32": "int32", "INT64": "int64", "INT2": "int2", "INT4": "int4",
        "UINT8": "uint8", "UINT16": "uint16", "UINT32": "uint32", "UINT64": "uint64", "UINT2": "uint2", "UINT4": "uint4",
        "FLOAT16": "float16", "BFLOAT16": "bfloat16", "FLOAT": "float32", "DOUBLE": "float64", "FLOAT4E2M1": "float4_e2m1fn",
        "FLOAT8E4M3FN": "float8_e4m3fn", "FLOAT8E4M3FNUZ": "float8_e4m3fnuz", "FLOAT8E5M2": "float8_e5m2",
        "FLOAT8E5M2FNUZ": "float8_e5m2fnuz", "FLOAT8E8M0": "float8_e8m0fnu", "COMPLEX64": "complex64", "COMPLEX128": "complex128",
    }.items()
    if hasattr(onnx.TensorProto, onnx_name)
}  # fmt: skip
ONNX_TYPES: dict[DType, int] = {element: number for number, element in ELEMENT_TYPES.items()}

DENSE_LIMIT = 2**30
"""Largest number of bytes that a sparse tensor may take once written out."""


def element_type(number: int) -> DType:
    """The `DType` of an ONNX `elem_type`.

    Raises:
        UnsupportedError: strings.
        ModelError: no such type.
    """
    if number == onnx.TensorProto.STRING:
        raise UnsupportedError("string tensors are not supported", hint="convert text to numbers outside the model")
    if number not in ELEMENT_TYPES:
        raise ModelError(f"unknown element type {number}")
    return ELEMENT_TYPES[number]


def read_tensor(proto: onnx.TensorProto, folder: Path | None) -> Tensor:
    """The tensor of an initialiser or attribute; external data stays in its file.

    Args:
        proto: the protobuf; any of its ways to store data.
        folder: where the model file lies; external data must lie in it too.

    Raises:
        ModelError: the data does not match type and shape, or the external file is refused.
        UnsupportedError: a string tensor.
    """
    try:
        element, shape = element_type(proto.data_type), _shape(proto.dims)
        if proto.data_location == onnx.TensorProto.EXTERNAL:
            return _external(proto, element, shape, folder)
        if proto.HasField("raw_data"):
            return Tensor(_from_bytes(proto.raw_data, element, shape))
        return Tensor(_from_fields(proto, element, shape))
    except LeptonError as error:
        problem = error.diagnostics[0]
        raise type(error)(problem.message, where=problem.where or f"tensor '{proto.name}'", hint=problem.hint) from error


def read_sparse(proto: onnx.SparseTensorProto, folder: Path | None) -> Tensor:
    """A sparse tensor, written out densely.

    Raises:
        ModelError: indices out of range, or a dense form above 1 GiB.
    """
    shape = _shape(proto.dims)
    values, indices = read_tensor(proto.values, folder).numpy(), read_tensor(proto.indices, folder).numpy()
    if math.prod(shape) * max(1, values.itemsize) > DENSE_LIMIT:
        raise ModelError("the dense form of a sparse tensor is larger than 1 GiB", where=f"tensor '{proto.values.name}'")
    dense = np.zeros(shape, values.dtype)
    flat = indices if indices.ndim == 1 else np.ravel_multi_index(tuple(indices.T.astype(np.int64)), shape)
    if len(flat) != len(values) or (len(flat) and not 0 <= int(flat.min()) <= int(flat.max()) < dense.size):
        raise ModelError("indices of a sparse tensor are out of range", where=f"tensor '{proto.values.name}'")
    dense.reshape(-1)[flat] = values
    return Tensor(dense)


def _shape(dims: Any) -> tuple[int, ...]:
    shape = tuple(int(d) for d in dims)
    if any(d < 0 for d in shape) or len(shape) > 64:
        raise ModelError(f"impossible shape {list(shape)}")
    return shape


def _stored_bytes(element: DType, shape: tuple[int, ...]) -> int:
    return (math.prod(shape) * element.bits + 7) // 8


def _from_bytes(raw: bytes, element: DType, shape: tuple[int, ...]) -> np.ndarray:
    wanted = _stored_bytes(element, shape)
    if len(raw) != wanted:
        raise ModelError(f"{element}{list(shape)} takes {wanted} bytes, the file has {len(raw)}")
    if element.bits < 8:
        return _unpack(np.frombuffer(raw, np.uint8), element, shape)
    return np.frombuffer(raw, element.numpy.newbyteorder("<")).astype(element.numpy, copy=False).reshape(shape)


def _unpack(packed: np.ndarray, element: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Spread elements of 2 or 4 bits, lowest bits first, to one byte each as ml_dtypes stores them."""
    per_byte = 8 // element.bits
    shifts = np.arange(per_byte, dtype=np.uint8) * np.uint8(element.bits)
    codes: np.ndarray = ((packed[:, None] >> shifts) & np.uint8(2**element.bits - 1)).reshape(-1)[: math.prod(shape)]
    if element.is_float:
        return codes.view(element.numpy).reshape(shape)
    if element.kind == "int":
        sign = np.int8(2 ** (element.bits - 1))
        codes = (codes.astype(np.int8) ^ sign) - sign
    return codes.astype(element.numpy).reshape(shape)


def _from_fields(proto: onnx.TensorProto, element: DType, shape: tuple[int, ...]) -> np.ndarray:
    """Data in the typed fields of the protobuf; narrow types come as one integer each, packed types as bytes."""
    name, count = element.name, math.prod(shape)
    if name in ("float32", "complex64"):
        items: Any = proto.float_data
    elif name in ("float64", "complex128"):
        items = proto.double_data
    elif name in ("uint32", "uint64"):
        items = proto.uint64_data
    else:
        items = proto.int64_data if name == "int64" else proto.int32_data
    expected = (count * element.bits + 7) // 8 if element.bits < 8 else count * (2 if element.kind == "complex" else 1)
    if len(items) != expected:
        raise ModelError(f"{element}{list(shape)} needs {expected} values, the file has {len(items)}")
    if element.bits < 8:
        return _unpack(np.array(items, np.int64).astype(np.uint8), element, shape)
    if element.kind == "complex":
        pairs: np.ndarray = np.array(items, np.float32 if name == "complex64" else np.float64)
        return pairs.view(element.numpy).reshape(shape)
    if element.is_float and element.bits <= 16:
        codes: np.ndarray = np.array(items, np.int64).astype(np.uint16 if element.bits == 16 else np.uint8)
        return codes.view(element.numpy).reshape(shape)
    if element.is_float:
        return np.array(items, element.numpy).reshape(shape)
    return np.array(items, np.uint64 if name in ("uint32", "uint64") else np.int64).astype(element.numpy).reshape(shape)


def _external(proto: onnx.TensorProto, element: DType, shape: tuple[int, ...], folder: Path | None) -> Tensor:
    entries = {e.key: e.value for e in proto.external_data}
    path = _checked_path(entries.get("location", ""), folder)
    wanted = _stored_bytes(element, shape)
    try:
        offset, length = int(entries.get("offset", 0) or 0), int(entries.get("length", wanted) or wanted)
    except ValueError as error:
        raise ModelError("offset or length of its external data is not a number") from error
    size = path.stat().st_size
    if length != wanted:
        raise ModelError(f"{element}{list(shape)} takes {wanted} bytes, its external data has {length}")
    if offset < 0 or offset + length > size:
        raise ModelError(f"external data {offset}+{length} lies outside '{path.name}' of {size} bytes")
    if element.bits < 8:
        with path.open("rb") as file:
            file.seek(offset)
            return Tensor(_from_bytes(file.read(length), element, shape))
    return FileTensor(path, offset, element, shape)


def _checked_path(location: str, folder: Path | None) -> Path:
    """The external file, if it is a plain file of its own inside the model's folder."""
    if folder is None:
        raise ModelError("has external data, but the model was not read from a file", hint="import it by its path")
    relative = Path(location.replace("\\", "/"))
    if not location or "\0" in location or relative.is_absolute() or ".." in relative.parts or relative.drive:
        raise ModelError(f"external data at '{location}' is refused: the location must be relative and inside the model's folder")
    root = folder.resolve()
    path = root / relative
    try:
        status = path.lstat()
    except OSError as error:
        raise ModelError(f"external data '{location}' cannot be read: {error.strerror}", hint="keep the file beside the model") from error
    if not path.resolve().is_relative_to(root):
        raise ModelError(f"external data at '{location}' is refused: it leads outside the model's folder")
    if not stat.S_ISREG(status.st_mode):
        raise ModelError(f"external data at '{location}' is refused: not a regular file (links are not followed)")
    if status.st_nlink > 1:
        raise ModelError(f"external data at '{location}' is refused: the file has several hard links", hint="copy the file")
    return path
