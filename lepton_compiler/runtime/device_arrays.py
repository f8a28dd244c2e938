"""Tensors in the memory of a GPU, whoever made them: where they lie, and new ones of the same kind."""

from __future__ import annotations

import contextlib
import math
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.errors import LeptonError, UsageError
from lepton_compiler.ir.types import DType, dtype
from lepton_compiler.runtime.device_tensor import DeviceTensor
from lepton_compiler.runtime.dlpack import borrow, is_dense

CUDA_DEVICES = (2, 13)
"""DLPack's numbers for memory of a GPU, and for managed memory."""
DENSE = "make it contiguous"


@dataclass(frozen=True)
class DeviceArray:
    """A dense tensor on a GPU.

    Attributes:
        tensor: what the caller has.
        address: of its first element.
        shape, dtype: as everywhere.
        device: number of the GPU.
        stream: in which it is complete, and in which its library goes on.
        in_order: whether its library itself puts all use of its tensors into that stream. With others, a run must have ended before its results
            are handed out and its feeds given back.
    """

    tensor: Any
    address: int
    shape: tuple[int, ...]
    dtype: DType
    device: int
    stream: int = 0
    in_order: bool = False

    def empty_like(self, shape: tuple[int, ...], kind: DType) -> DeviceArray:
        """A new tensor beside this one, of another shape and type: of its library if that is torch or cupy, else a `DeviceTensor`.

        Raises:
            UsageError: the library has no such type.
            LeptonError: there is too little memory.
        """
        made: Any
        if (torch := _module("torch", "Tensor", self.tensor)) is not None:
            made = self.tensor.new_empty(shape, dtype=getattr(torch, kind.name, None) or _no_type("torch", kind))
            return DeviceArray(made, int(made.data_ptr()), shape, kind, self.device)
        if (cupy := _module("cupy", "ndarray", self.tensor)) is not None:
            with cupy.cuda.Device(self.device):
                made = cupy.empty(shape, dtype=kind.name if kind.numpy.kind != "V" else _no_type("cupy", kind))
            return DeviceArray(made, int(made.data.ptr), shape, kind, self.device)
        made = DeviceTensor(shape, kind, self.device)
        return DeviceArray(made, made.address, shape, kind, self.device)

    def cut(self, shape: Sequence[int]) -> Any:
        """The tensor that lies at the front of this one."""
        if isinstance(self.tensor, DeviceTensor):
            return self.tensor.front(shape)
        return self.tensor.reshape(-1)[: math.prod(shape)].reshape(tuple(shape))

    def stand_in(self) -> np.ndarray:
        """An array of the host of this shape and type, whose elements are nothing."""
        return np.broadcast_to(np.zeros((), self.dtype.numpy), self.shape)


def is_on_device(feed: Any) -> bool:
    """Whether a feed lies in the memory of a GPU.

    Raises:
        UsageError: it does not say where it lies.
    """
    place = getattr(feed, "__dlpack_device__", None)
    if place is None:
        return hasattr(feed, "__cuda_array_interface__")
    try:
        return int(place()[0]) in CUDA_DEVICES
    except Exception as error:  # whatever another library fails with
        raise UsageError(f"a {type(feed).__name__} does not say where it lies: {error}", hint="feed an array on one device") from error


def device_arrays(feeds: Mapping[str, Any], until: contextlib.ExitStack) -> dict[str, DeviceArray]:
    """Where feeds lie that are on a GPU; what is borrowed is complete in the stream of the `leader`.

    Args:
        feeds: tensors on devices.
        until: what is borrowed is given back at its end.

    Raises:
        UsageError: a tensor is not dense, of a type that is not known, or its library does not lend it.
    """
    found = {name: array for name, feed in feeds.items() if (array := _own_array(feed)) is not None}
    stream = leader(found).stream if found else 0
    return found | {name: _borrowed(feed, stream, until) for name, feed in feeds.items() if name not in found}


def leader(arrays: Mapping[str, DeviceArray]) -> DeviceArray:
    """The one of several tensors whose library and stream results are for: the first one whose library has an order of its own, if any."""
    return next((array for array in arrays.values() if array.in_order), next(iter(arrays.values())))


def _own_array(feed: Any) -> DeviceArray | None:
    """Where a tensor lies that needs not be borrowed: torch's and cupy's, and those with a `__cuda_array_interface__` alone."""
    if (torch := _module("torch", "Tensor", feed)) is not None:
        dense = feed.detach().contiguous()
        kind, device = dtype(str(dense.dtype).removeprefix("torch.")), int(dense.device.index or 0)
        stream = int(torch.cuda.current_stream(device).cuda_stream)
        return DeviceArray(dense, int(dense.data_ptr()), tuple(dense.shape), kind, device, stream, True)
    is_cupy = _module("cupy", "ndarray", feed) is not None
    if not is_cupy and hasattr(feed, "__dlpack__"):
        return None
    facts = feed.__cuda_array_interface__
    shape, kind = tuple(facts["shape"]), _type_of(feed, str(facts["typestr"]))
    strides = facts.get("strides")
    if facts.get("mask") is not None or (strides and not is_dense(shape, [step / kind.numpy.itemsize for step in strides])):
        raise UsageError("a tensor on the GPU is not dense", hint=DENSE)
    device = int(feed.device.id) if is_cupy else 0
    stream = facts.get("stream") or 0
    return DeviceArray(feed, int(facts["data"][0] or 0), shape, kind, device, 0 if stream == 1 else int(stream), is_cupy)


def _borrowed(feed: Any, stream: int, until: contextlib.ExitStack) -> DeviceArray:
    lent = borrow(feed, stream)
    until.callback(lent.close)
    if not lent.dense:
        raise UsageError(f"a {type(feed).__name__} on the GPU is not dense", hint=DENSE)
    if lent.device[0] not in CUDA_DEVICES:
        raise UsageError(f"a {type(feed).__name__} on a GPU lent memory of another kind (DLPack's device {lent.device[0]})")
    return DeviceArray(feed, lent.address, lent.shape, lent.dtype, lent.device[1], stream)


def _type_of(feed: Any, code: str) -> DType:
    """The element type of a `typestr`."""
    try:
        if code[0] != ">":
            return dtype(np.dtype(code))
    except (LeptonError, TypeError):
        pass
    raise UsageError(
        f"elements '{code}' of a {type(feed).__name__} on the GPU are not known here", hint="convert them, or feed numpy arrays"
    )


def _module(name: str, kind: str, tensor: Any) -> Any:
    """A library, if it is loaded and the tensor is one of its own."""
    module = sys.modules.get(name)
    return module if module is not None and isinstance(tensor, getattr(module, kind, ())) else None


def _no_type(library: str, kind: DType) -> Any:
    raise UsageError(f"{library} has no tensors of {kind}", hint="feed numpy arrays")
