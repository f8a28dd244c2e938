"""Tensors in the memory of a GPU, whoever made them: where they lie, and new ones of the same kind."""

from __future__ import annotations

import math
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from lepton_compiler.errors import UsageError
from lepton_compiler.ir.types import DType, dtype

CUDA_DEVICES = (2, 13)
"""DLPack's numbers for memory of a GPU, and for managed memory."""
CODES = {"f": "float", "i": "int", "u": "uint", "b": "bool"}


@dataclass(frozen=True)
class DeviceArray:
    """A dense tensor on a GPU.

    Attributes:
        tensor: what the caller has.
        address: of its first element.
        shape, dtype: as everywhere.
        device: number of the GPU.
    """

    tensor: Any
    address: int
    shape: tuple[int, ...]
    dtype: DType
    device: int

    @property
    def stream(self) -> int:
        """The stream on which the library that made the tensor works: torch's current one, else the default."""
        torch = _torch_of(self.tensor)
        return int(torch.cuda.current_stream(self.device).cuda_stream) if torch is not None else 0

    def empty_like(self, shape: tuple[int, ...], kind: DType) -> DeviceArray:
        """A new tensor beside this one, of another shape and type.

        Raises:
            UsageError: the library that made this one has no such type, or no way to make tensors that is known here.
        """
        torch = _torch_of(self.tensor)
        if torch is not None:
            made = self.tensor.new_empty(shape, dtype=getattr(torch, kind.name, None) or _no_type(kind))
            return DeviceArray(made, int(made.data_ptr()), shape, kind, self.device)
        maker = sys.modules.get(type(self.tensor).__module__.partition(".")[0])
        if not hasattr(maker, "empty"):
            raise UsageError(
                f"no results can be made beside a {type(self.tensor).__name__}", hint="feed tensors of torch or cupy, or numpy arrays"
            )
        return device_array(maker.empty(shape, dtype=kind.name))  # type: ignore[union-attr]

    def cut(self, shape: Sequence[int]) -> Any:
        """The tensor that lies at the front of this one."""
        return self.tensor.reshape(-1)[: math.prod(shape)].reshape(tuple(shape))


def is_on_device(feed: Any) -> bool:
    """Whether a feed lies in the memory of a GPU."""
    if hasattr(feed, "__cuda_array_interface__") and _torch_of(feed) is None:
        return True
    place = getattr(feed, "__dlpack_device__", None)
    return place is not None and int(place()[0]) in CUDA_DEVICES


def device_array(feed: Any) -> DeviceArray:
    """Where a tensor on a GPU lies.

    Raises:
        UsageError: it is not dense, or of a type that is not known.
    """
    torch = _torch_of(feed)
    if torch is not None:
        dense = feed.detach().contiguous()
        kind = dtype(str(dense.dtype).removeprefix("torch."))
        return DeviceArray(dense, int(dense.data_ptr()), tuple(dense.shape), kind, int(dense.device.index or 0))
    facts = getattr(feed, "__cuda_array_interface__", None)
    if facts is None:
        raise UsageError(
            f"a {type(feed).__name__} on a GPU cannot be read", hint="give it a __cuda_array_interface__, or feed torch.from_dlpack(it)"
        )
    shape, code = tuple(facts["shape"]), str(facts["typestr"])
    kind = dtype("bool" if code[1] == "b" else f"{CODES[code[1]]}{8 * int(code[2:])}")
    dense = [math.prod(shape[k + 1 :]) * int(code[2:]) for k in range(len(shape))]
    if facts.get("strides") not in (None, tuple(dense)):
        raise UsageError("a tensor on the GPU is not dense", hint="make it contiguous")
    place = feed.__dlpack_device__() if hasattr(feed, "__dlpack_device__") else (2, 0)
    return DeviceArray(feed, int(facts["data"][0]), shape, kind, int(place[1]))


def _torch_of(tensor: Any) -> Any:
    """The module torch, if the tensor is one of its own."""
    torch = sys.modules.get("torch")
    return torch if torch is not None and isinstance(tensor, torch.Tensor) else None


def _no_type(kind: DType) -> Any:
    raise UsageError(f"torch has no tensors of {kind}", hint="feed numpy arrays")
