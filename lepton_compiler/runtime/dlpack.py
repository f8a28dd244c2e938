"""DLPack, by which libraries lend each other tensors: capsules taken and given, in the layouts of `dlpack.h` 0.8 (`dltensor`) and 1.x.

The protocol around them is that of DLPack's "Python Specification" and of `__dlpack__` in the array API standard.
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from ctypes import (
    CFUNCTYPE,
    POINTER,
    PYFUNCTYPE,
    c_char_p,
    c_int,
    c_int32,
    c_int64,
    c_uint8,
    c_uint16,
    c_uint32,
    c_uint64,
    c_void_p,
    py_object,
)
from typing import Any

from lepton_compiler.errors import LeptonError, UsageError
from lepton_compiler.ir.types import DTYPES, DType

VERSION = (1, 1)
"""Of `dlpack.h`: another major number has another layout."""
LEGACY_STREAM = 1
"""How the array API standard calls CUDA's default stream, whose handle is zero."""


class _Version(ctypes.Structure):
    _fields_ = (("major", c_uint32), ("minor", c_uint32))


class _Device(ctypes.Structure):
    _fields_ = (("kind", c_int32), ("number", c_int32))


class _Type(ctypes.Structure):
    _fields_ = (("code", c_uint8), ("bits", c_uint8), ("lanes", c_uint16))


class _Tensor(ctypes.Structure):
    """`DLTensor`; strides are in elements, or NULL if the tensor is dense."""

    _fields_ = (
        ("data", c_void_p),
        ("device", _Device),
        ("ndim", c_int32),
        ("type", _Type),
        ("shape", POINTER(c_int64)),
        ("strides", POINTER(c_int64)),
        ("byte_offset", c_uint64),
    )


class Managed(ctypes.Structure):
    """`DLManagedTensor`, of capsules called `dltensor`."""

    _fields_ = (("tensor", _Tensor), ("context", c_void_p), ("deleter", c_void_p))


class Versioned(ctypes.Structure):
    """`DLManagedTensorVersioned`, of capsules called `dltensor_versioned`. What is before `tensor` stays where it is in all versions."""

    _fields_ = (("version", _Version), ("context", c_void_p), ("deleter", c_void_p), ("flags", c_uint64), ("tensor", _Tensor))


Layout = type[Managed] | type[Versioned]
NAMES: dict[Layout, tuple[bytes, bytes]] = {
    Managed: (b"dltensor", b"used_dltensor"),
    Versioned: (b"dltensor_versioned", b"used_dltensor_versioned"),
}
"""What a capsule is called before and after it is taken. Capsules point into these, which must stay."""
FRESH = tuple(name for name, _ in NAMES.values())
KINDS = {"int": 0, "uint": 1, "float": 2, "complex": 5, "bool": 6}
NARROW = {"bfloat16": 4, "float8_e4m3fn": 10, "float8_e4m3fnuz": 11, "float8_e5m2": 12, "float8_e5m2fnuz": 13, "float8_e8m0fnu": 14}
CODES = {(NARROW.get(t.name, KINDS[t.kind]), t.bits): t for t in DTYPES.values() if t.bits % 8 == 0}
"""Types by their code (`DLDataTypeCode`) and bits."""
NUMBERS = {t.name: key for key, t in CODES.items()}

_is_valid = PYFUNCTYPE(c_int, c_void_p, c_char_p)(("PyCapsule_IsValid", ctypes.pythonapi))
_pointer = PYFUNCTYPE(c_void_p, c_void_p, c_char_p)(("PyCapsule_GetPointer", ctypes.pythonapi))
_rename = PYFUNCTYPE(c_int, c_void_p, c_char_p)(("PyCapsule_SetName", ctypes.pythonapi))
_make = PYFUNCTYPE(py_object, c_void_p, c_char_p, c_void_p)(("PyCapsule_New", ctypes.pythonapi))


class Lent:
    """A tensor that another library lends, until `close`.

    Attributes:
        address: of the first element.
        shape, dtype: as everywhere.
        device: kind and number, as `__dlpack_device__` tells.
        dense: whether neighbours in the last dimension, and so on, are neighbours in memory.

    Args:
        capsule: what `__dlpack__` gave; it is used up.

    Raises:
        UsageError: it is none, or of a version or an element type that is not known.
    """

    def __init__(self, capsule: Any) -> None:
        layout = next((kind for kind, (name, _) in NAMES.items() if _is_valid(id(capsule), name)), None)
        if layout is None:
            raise UsageError(f"__dlpack__ gave a {type(capsule).__name__} that is no tensor, or one that was used", hint="feed it anew")
        name, used = NAMES[layout]
        self._managed: Any = layout.from_address(_pointer(id(capsule), name))
        _rename(id(capsule), used)
        try:
            self._read()
        except UsageError:
            self.close()
            raise

    def _read(self) -> None:
        if isinstance(self._managed, Versioned) and self._managed.version.major != VERSION[0]:
            raise UsageError(f"DLPack {self._managed.version.major}.x is not known here", hint="feed tensors of torch or cupy")
        tensor = self._managed.tensor
        kind, rank = tensor.type, tensor.ndim
        if kind.lanes != 1 or (kind.code, kind.bits) not in CODES:
            raise UsageError(f"DLPack's type with code {kind.code}, {kind.bits} bits and {kind.lanes} lanes is not known here")
        self.dtype = CODES[kind.code, kind.bits]
        self.shape = tuple(tensor.shape[:rank]) if rank else ()
        self.address = (tensor.data or 0) + tensor.byte_offset
        self.device = int(tensor.device.kind), int(tensor.device.number)
        self.dense = not rank or not tensor.strides or is_dense(self.shape, tensor.strides[:rank])

    def close(self) -> None:
        """Tell the lender that the tensor is no longer used."""
        managed, self._managed = self._managed, None
        if managed is not None and managed.deleter:
            CFUNCTYPE(None, c_void_p)(managed.deleter)(ctypes.addressof(managed))


def is_dense(shape: Sequence[int], strides: Sequence[int]) -> bool:
    """Whether strides, in elements, are those of a dense tensor; of dimensions of one element, and without elements, any are."""
    wanted = [math.prod(shape[k + 1 :]) for k in range(len(shape))]
    return 0 in shape or all(size == 1 or found == step for size, found, step in zip(shape, strides, wanted, strict=True))


def borrow(lender: Any, stream: int) -> Lent:
    """Borrow a tensor.

    Args:
        lender: it has `__dlpack__`.
        stream: handle of the CUDA stream in which it will be read; the lender sees to it that what writes the tensor comes first there.

    Raises:
        UsageError: the lender refuses, or its tensor is of a kind that is not known.
    """
    told = {"stream": stream or LEGACY_STREAM}
    ways: list[dict[str, Any]] = [{**told, "max_version": VERSION}, told]  # the second one for lenders of before DLPack 1.0
    if not stream:
        ways.append({})  # means the default stream, too; TensorFlow takes no other
    refusal = Exception()
    for way in ways:
        try:
            return Lent(lender.__dlpack__(**way))
        except (TypeError, NotImplementedError) as error:  # of an argument
            refusal = error
        except LeptonError:
            raise
        except Exception as error:  # whatever another library fails with
            refusal = error
            break
    raise UsageError(f"a {type(lender).__name__} on a GPU is not lent: {refusal}", hint="feed a tensor of torch or cupy") from refusal


_given: dict[int, tuple[Any, ...]] = {}
"""By the address of a struct that was given away, what it stands on."""


def lend(owner: object, address: int, shape: Sequence[int], kind: DType, device: tuple[int, int], versioned: bool) -> Any:
    """A capsule with a dense tensor, whose owner is kept until whoever takes it is done with it.

    Raises:
        BufferError: DLPack has no such element type.
    """
    if kind.name not in NUMBERS:
        raise BufferError(f"DLPack has no tensors of {kind}")
    rank, size = len(shape), math.prod(shape)
    strides = [math.prod(shape[k + 1 :]) for k in range(rank)]
    dims, steps = ((c_int64 * max(1, rank))(*values) for values in (shape, strides))
    tensor = _Tensor(address if size else None, _Device(*device), rank, _Type(*NUMBERS[kind.name], 1), dims, steps, 0)
    deleter = ctypes.cast(_DELETER, c_void_p).value
    managed = Versioned(_Version(*VERSION), None, deleter, 0, tensor) if versioned else Managed(tensor, None, deleter)
    place = ctypes.addressof(managed)
    _given[place] = managed, dims, steps, owner
    return _make(place, NAMES[type(managed)][0], ctypes.cast(_DESTRUCTOR, c_void_p).value)


def _returned(place: int, _given: dict[int, tuple[Any, ...]] = _given) -> None:
    """What whoever took a tensor calls when done with it, from any thread."""
    _given.pop(place, None)


def _collected(capsule: int, _names: Sequence[bytes] = FRESH, _returned: Any = _returned) -> None:
    """What Python calls when a capsule goes; one that nobody took still has its first name."""
    for name in _names:
        if _is_valid(capsule, name):
            _returned(_pointer(capsule, name))


_DELETER, _DESTRUCTOR = CFUNCTYPE(None, c_void_p)(_returned), CFUNCTYPE(None, c_void_p)(_collected)
for _kept in (_DELETER, _DESTRUCTOR):  # other libraries may call them after this module is gone
    ctypes.pythonapi.Py_IncRef(py_object(_kept))
