"""Capsules of DLPack, with numpy on the other side."""

from __future__ import annotations

import ctypes
import gc
import sys
import weakref
from typing import Any

import numpy as np
import pytest

from lepton_compiler.errors import UsageError
from lepton_compiler.ir.types import dtype
from lepton_compiler.runtime.dlpack import NAMES, Lent, Managed, Versioned, _pointer, borrow, is_dense, lend

ARRAYS = [
    np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    np.arange(3, dtype=np.int8),
    np.array([True, False]),
    np.array(5, np.uint64),
    np.zeros((0, 3), np.float16),
    np.ones((2, 1), np.complex64),
    np.arange(24, dtype=np.int64).reshape(4, 6)[1:3],
]
CPU = (1, 0)


def version_of(layout: Any) -> tuple[int, int] | None:
    return (1, 0) if layout is Versioned else None


@pytest.mark.parametrize("layout", [Managed, Versioned])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype.name}{a.shape}")
def test_what_numpy_lends_is_read_and_given_back_once(array, layout):
    before = sys.getrefcount(array)
    capsule = array.__dlpack__(max_version=version_of(layout))
    lent = Lent(capsule)
    assert lent.shape == array.shape and lent.dtype == dtype(array.dtype) and lent.device == CPU and lent.dense
    assert array.size == 0 or lent.address == array.ctypes.data
    assert sys.getrefcount(array) == before + 1
    with pytest.raises(UsageError, match="one that was used"):
        Lent(capsule)
    lent.close()
    lent.close()
    del capsule
    assert sys.getrefcount(array) == before


@pytest.mark.parametrize("view", [np.s_[:, ::2], np.s_[::-1], np.s_[:, 1:]])
def test_strides_tell_whether_a_tensor_is_dense(view):
    array = np.arange(24, dtype=np.float32).reshape(4, 6)
    lent = Lent(array[view].__dlpack__())
    assert not lent.dense and lent.address == array[view].ctypes.data
    lent.close()
    assert is_dense((1, 3), (77, 1)) and is_dense((0, 3), (1, 1)) and is_dense((), ()) and not is_dense((2, 3), (1, 2))


def changed(capsule: Any, layout: Any, change: Any) -> Any:
    """A capsule of numpy's whose struct is not quite what numpy wrote."""
    change(layout.from_address(_pointer(id(capsule), NAMES[layout][0])))
    return capsule


@pytest.mark.parametrize(
    ("layout", "change", "message"),
    [
        (Versioned, lambda m: setattr(m.version, "major", 2), r"DLPack 2\.x is not known"),
        (Versioned, lambda m: setattr(m.tensor.type, "lanes", 4), "4 lanes"),
        (Managed, lambda m: setattr(m.tensor.type, "code", 3), "code 3, 32 bits"),
        (Managed, lambda m: setattr(m.tensor.type, "bits", 24), "24 bits"),
    ],
)
def test_what_is_not_known_is_refused_and_given_back(layout, change, message):
    array = np.zeros(3, np.float32)
    before = sys.getrefcount(array)
    with pytest.raises(UsageError, match=message):
        Lent(changed(array.__dlpack__(max_version=version_of(layout)), layout, change))
    assert sys.getrefcount(array) == before
    with pytest.raises(UsageError, match="a str that is no tensor"):
        Lent("no capsule")


def test_a_struct_without_strides_is_dense_and_its_offset_counts():
    array = np.arange(6, dtype=np.float32)

    def moved(managed):
        managed.tensor.strides, managed.tensor.byte_offset = None, 4

    lent = Lent(changed(array.__dlpack__(), Managed, moved))
    assert lent.dense and lent.address == array.ctypes.data + 4
    lent.close()


class Owner:
    """Somebody's memory, as an object that can be watched, which numpy takes by DLPack."""

    def __init__(self, array: np.ndarray, versioned: bool) -> None:
        self.array, self.versioned = array, versioned

    def __dlpack_device__(self):
        return CPU

    def __dlpack__(self, **how):
        return lend(self, self.array.ctypes.data, self.array.shape, dtype(self.array.dtype), CPU, self.versioned)


@pytest.mark.parametrize("versioned", [False, True])
@pytest.mark.parametrize("array", ARRAYS, ids=lambda a: f"{a.dtype.name}{a.shape}")
def test_numpy_reads_what_is_lent_and_its_owner_lives_as_long(array, versioned):
    owner = Owner(np.array(array, order="C"), versioned)
    watched = weakref.ref(owner)
    taken = np.from_dlpack(owner)
    assert taken.dtype == array.dtype and taken.shape == array.shape and (taken == array).all()
    del owner
    gc.collect()
    assert watched() is not None and (taken == array).all()
    del taken
    assert watched() is None


def test_a_capsule_that_nobody_takes_gives_back_what_it_has():
    owner = Owner(np.zeros(3, np.float32), True)
    before = sys.getrefcount(owner)
    capsule = owner.__dlpack__()
    assert sys.getrefcount(owner) == before + 1
    del capsule
    assert sys.getrefcount(owner) == before

    def fails():
        kept = owner.__dlpack__()
        raise KeyError(type(kept).__name__)

    with pytest.raises(KeyError, match="PyCapsule"):
        fails()
    gc.collect()
    assert sys.getrefcount(owner) == before


def test_narrow_floats_go_through():
    for name in ("bfloat16", "float8_e4m3fn"):
        lent = Lent(lend(None, 4096, (2, 3), dtype(name), (2, 1), True))
        assert lent.dtype == dtype(name) and lent.shape == (2, 3) and lent.address == 4096 and lent.device == (2, 1) and lent.dense
        lent.close()
    with pytest.raises(BufferError, match="no tensors of int4"):
        lend(None, 4096, (2,), dtype("int4"), (2, 0), True)


class Lender:
    """One of before DLPack 1.0, or one that fails."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error, self.asked = error, list[dict[str, Any]]()

    def __dlpack__(self, stream=None):
        self.asked.append({"stream": stream})
        if self.error:
            raise self.error
        return np.zeros(3, np.float32).__dlpack__()


class Streamless:
    """One that knows no streams."""

    def __dlpack__(self, stream=None):
        if stream is not None:
            raise NotImplementedError("stream")
        return np.zeros(3, np.float32).__dlpack__()


def test_lenders_are_told_the_stream_and_may_be_old_or_fail():
    old = Lender()
    borrow(old, 0).close()
    borrow(old, 0x7F00).close()
    assert [asked["stream"] for asked in old.asked] == [1, 0x7F00]
    borrow(Streamless(), 0).close()
    with pytest.raises(UsageError, match="a Streamless on a GPU is not lent: stream"):
        borrow(Streamless(), 0x7F00)
    with pytest.raises(UsageError, match="a Lender on a GPU is not lent: two devices"):
        borrow(Lender(BufferError("two devices")), 0)


def test_layouts_are_those_of_the_header():
    """Sizes and places that a C compiler gives `dlpack.h` on machines with 64 bits."""
    assert (ctypes.sizeof(Managed), Managed.context.offset, Managed.deleter.offset) == (64, 48, 56)
    assert (ctypes.sizeof(Versioned), Versioned.deleter.offset, Versioned.flags.offset, Versioned.tensor.offset) == (80, 16, 24, 32)


@pytest.mark.parametrize("versioned", [False, True])
def test_torch_reads_what_is_lent_and_lends(versioned):
    torch = pytest.importorskip("torch")
    owner = Owner(np.arange(6, dtype=np.int32).reshape(2, 3), versioned)
    watched, taken = weakref.ref(owner), torch.from_dlpack(owner)
    del owner
    assert taken.tolist() == [[0, 1, 2], [3, 4, 5]] and watched() is not None
    del taken
    assert watched() is None
    narrow = torch.arange(6, dtype=torch.bfloat16).reshape(2, 3)
    for tensor in (narrow, narrow.T):
        lent = Lent(tensor.__dlpack__(max_version=(1, 0) if versioned else None))
        assert lent.dtype.name == "bfloat16" and lent.address == narrow.data_ptr() and lent.dense == tensor.is_contiguous()
        lent.close()
