"""Tensors on a GPU that belong to no other library: results of models whose feeds did not say how to make any."""

from __future__ import annotations

import contextlib
import ctypes
import functools
import math
import weakref
from collections.abc import Iterator, Sequence
from ctypes import c_int, c_uint64, c_void_p
from typing import Any

import numpy as np

from lepton_compiler.cuda_driver import RELAXED, Driver
from lepton_compiler.errors import UsageError
from lepton_compiler.ir.types import DType
from lepton_compiler.runtime import dlpack

CUDA = 2
"""DLPack's number for memory of a GPU."""


class DeviceTensor:
    """A dense tensor in memory of a GPU, complete when it is handed out. Others take it by DLPack, as in `jax.dlpack.from_dlpack(tensor)`.

    The memory is given back when neither this object nor a tensor that another library made of it is left.

    Args:
        shape, kind: what it holds.
        device: number of the GPU.

    Raises:
        LeptonError: there is no driver, no such GPU, or too little memory.
    """

    def __init__(self, shape: Sequence[int], kind: DType, device: int) -> None:
        self._kind, self.shape, self.device = kind, tuple(shape), device
        self._memory = Memory(math.prod(shape) * kind.numpy.itemsize, device)

    @property
    def address(self) -> int:
        """Of the first element."""
        return self._memory.address

    @property
    def dtype(self) -> np.dtype:
        """Element type, from ml_dtypes for those that numpy lacks."""
        return self._kind.numpy

    def front(self, shape: Sequence[int]) -> DeviceTensor:
        """The tensor of another shape that lies at the beginning of this one."""
        other = object.__new__(DeviceTensor)
        other._kind, other.shape, other.device, other._memory = self._kind, tuple(shape), self.device, self._memory
        return other

    def numpy(self) -> np.ndarray:
        """A copy in memory of the host."""
        array = np.empty(self.shape, self.dtype)
        if array.nbytes:
            with _current(self.device) as driver:
                driver("cuMemcpyDtoHAsync_v2", array.ctypes.data, self.address, array.nbytes, 0)
                driver("cuStreamSynchronize", 0)
        return array

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if copy is False:
            raise ValueError("a tensor on a GPU is copied to become an array")
        array = self.numpy()
        return array if dtype is None else array.astype(dtype, copy=False)

    def __dlpack_device__(self) -> tuple[int, int]:
        return CUDA, self.device

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> Any:
        """A capsule of the array API standard; no stream has to wait for the tensor, since it is complete.

        Raises:
            BufferError: a copy is wanted, or another device.
        """
        if copy or (dl_device is not None and tuple(map(int, dl_device)) != self.__dlpack_device__()):
            raise BufferError("a DeviceTensor is lent where it lies; numpy() copies it to the host")
        versioned = max_version is not None and max_version[0] >= dlpack.VERSION[0]
        return dlpack.lend(self._memory, self.address, self.shape, self._kind, self.__dlpack_device__(), versioned)

    @property
    def __cuda_array_interface__(self) -> dict[str, Any]:
        if self.dtype.kind == "V":
            raise AttributeError(f"the interface has no tensors of {self._kind}")
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "version": 3}

    def __repr__(self) -> str:
        return f"DeviceTensor({self._kind}{list(self.shape)} on GPU {self.device})"


class Memory:
    """An allocation in the primary context of a GPU.

    Attributes:
        address: of its first byte.

    Raises:
        LeptonError: there is no driver, no such GPU, or too little memory.
    """

    def __init__(self, size: int, device: int) -> None:
        address = c_uint64()
        with _current(device) as driver, _relaxed(driver):
            driver("cuMemAlloc_v2", ctypes.byref(address), max(1, size))
        self.address = int(address.value)
        weakref.finalize(self, _free, self.address, device).atexit = False


def _free(address: int, device: int) -> None:
    """Give an allocation back; what still uses it is waited for by the driver (`cuMemFree`, "implicit synchronization")."""
    with _current(device) as driver, _relaxed(driver):
        driver.library.cuMemFree_v2(address)


def finish(device: int, stream: int) -> None:
    """Wait until a stream has done all that was put into it.

    Raises:
        CudaError: something in it failed.
    """
    with _current(device) as driver:
        driver("cuStreamSynchronize", stream)


@contextlib.contextmanager
def _current(device: int) -> Iterator[Driver]:
    """Make the primary context of a GPU current in this thread."""
    driver, context = _primary(device)
    driver("cuCtxPushCurrent_v2", context)
    try:
        yield driver
    finally:
        driver("cuCtxPopCurrent_v2", ctypes.byref(c_void_p()))


@contextlib.contextmanager
def _relaxed(driver: Driver) -> Iterator[None]:
    """Allocate and free although another stream may be captured: nothing of that is to be part of its graph (`cuThreadExchangeStreamCaptureMode`)."""
    mode = c_int(RELAXED)
    driver("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))
    try:
        yield
    finally:
        driver("cuThreadExchangeStreamCaptureMode", ctypes.byref(mode))


@functools.cache
def _primary(device: int) -> tuple[Driver, int]:
    """The driver, and the primary context of a GPU, which stays from now on.

    Raises:
        LeptonError: there is no driver, or no such GPU.
    """
    driver, context, count = Driver(), c_void_p(), c_int()
    driver("cuDeviceGetCount", ctypes.byref(count))
    if not 0 <= device < count.value:
        raise UsageError(f"a feed is on GPU {device}, of which there are {count.value}", hint="is it visible (CUDA_VISIBLE_DEVICES)?")
    driver("cuDevicePrimaryCtxRetain", ctypes.byref(context), device)
    return driver, int(context.value or 0)
