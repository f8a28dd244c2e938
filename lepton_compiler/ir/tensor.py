"""Constant tensors, lazy: bytes stay in the file, or in the caller's array, until somebody asks for them."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path
from typing import Any

import numpy as np

from lepton_compiler.ir.types import DType, TensorType, dtype


class Tensor:
    """A constant in memory. Immutable by contract: the array is marked read-only and shared, never copied."""

    __slots__ = ("_array", "_digest", "type")

    def __init__(self, array: Any) -> None:
        view: np.ndarray = np.asarray(array).view()
        view.flags.writeable = False
        self._array = view
        self._digest: str | None = None
        self.type = TensorType(dtype(view.dtype), tuple(view.shape))

    def numpy(self) -> np.ndarray:
        """The values, read-only."""
        return self._array

    @property
    def digest(self) -> str:
        """Hex SHA-256 of element type, shape and values: equal tensors have equal digests."""
        if self._digest is None:
            digest = hashlib.sha256(f"{self.type}:".encode())
            digest.update(np.ascontiguousarray(self.numpy()).reshape(-1).view(np.uint8).data)
            self._digest = digest.hexdigest()
        return self._digest


class FileTensor(Tensor):
    """A constant whose little-endian values lie in a file; mapped into memory on first use.

    Args:
        path: the file; who creates the tensor has checked that it may be read.
        offset: byte at which the values start.
        element: element type; types narrower than a byte are not stored this way.
        shape: static shape.
    """

    __slots__ = ("_offset", "_path")

    def __init__(self, path: Path, offset: int, element: DType, shape: tuple[int, ...]) -> None:
        self._path, self._offset, self._digest = path, offset, None
        self.type = TensorType(element, shape)

    @property
    def path(self) -> Path:
        """The file that the values lie in."""
        return self._path

    def numpy(self) -> np.ndarray:
        """The values, read-only, backed by the mapped file."""
        shape = self.type.static_shape
        if not math.prod(shape):
            return np.empty(shape, self.type.dtype.numpy)
        raw = np.memmap(self._path, np.uint8, "r", self._offset, (self.type.nbytes,))
        return raw.view(self.type.dtype.numpy).reshape(shape)
