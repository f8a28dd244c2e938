"""Tensors of a GPU as feeds and results, on the stand-in for the driver: borrowed by DLPack, given back once, made where none of a library can be."""

from __future__ import annotations

import contextlib
import ctypes
import gc
import sys
import types
from typing import Any

import numpy as np
import pytest

import lepton_compiler as lc
from lepton_compiler.backends.tvm.cuda.compilers import Image
from lepton_compiler.backends.tvm.cuda.package import build
from lepton_compiler.cuda_driver import DeviceSession
from lepton_compiler.errors import LeptonError, UsageError
from lepton_compiler.ir.text import parse_graph
from lepton_compiler.runtime.device_arrays import is_on_device
from lepton_compiler.runtime.device_tensor import DeviceTensor, finish
from lepton_compiler.runtime.dlpack import NAMES, Lent, Managed, Versioned, _pointer

TINY = """\
graph @net(%x: float32[3,4], %z: float32[4]) {
  %a = Mul()(%x, %z) : float32[3,4]
  %y = Softmax(axis=1)(%a) : float32[3,4]
  return %y
}
"""
X, Z = np.arange(12, dtype=np.float32).reshape(3, 4) / 7, np.array([1, 2, 3, 4], np.float32)
Y = lc.evaluate(parse_graph(TINY), {"x": X, "z": Z})["y"]


def on_stand_in(array: np.ndarray) -> np.ndarray:
    """A copy in the stand-in's memory, which is the host's."""
    tensor = DeviceTensor((max(array.nbytes, 1) + 64,), lc.ir.types.dtype("uint8"), 0)
    buffer: Any = (ctypes.c_uint8 * max(array.nbytes, 1)).from_address(tensor.address)
    buffer.tensor = tensor
    found = np.ctypeslib.as_array(buffer)[: array.nbytes].view(array.dtype).reshape(array.shape)
    found[...] = array
    return found


class Foreign:
    """A tensor of another library on a GPU: numpy's capsule, which says that it is there."""

    def __init__(self, array: np.ndarray, device: int = 0, new: bool = True, claimed: int | None = None) -> None:
        self.array, self.device, self.new, self.streams = array, device, new, list[int]()
        self.claimed = device if claimed is None else claimed

    def __dlpack_device__(self) -> tuple[int, int]:
        return 2, self.device

    def __dlpack__(self, *, stream: int, **how: Any) -> Any:
        if how and not self.new:
            raise TypeError("unexpected keyword argument 'max_version'")
        self.streams.append(stream)
        layout: Any = Versioned if self.new else Managed
        capsule = self.array.__dlpack__(max_version=how.get("max_version"))
        tensor = layout.from_address(_pointer(id(capsule), NAMES[layout][0])).tensor
        tensor.device.kind, tensor.device.number = 2, self.claimed
        return capsule


@pytest.fixture
def model(make):
    return make(parse_graph(TINY))


@pytest.mark.parametrize("new", [True, False])
def test_tensors_of_any_library_are_borrowed_and_given_back(model, gpu, new):
    model.run({"x": X, "z": Z})
    used, array = gpu.used, on_stand_in(X)
    x, before = Foreign(array, new=new), sys.getrefcount(array)
    assert is_on_device(x) and not is_on_device(X)
    gpu.forget()
    y = model.run({"x": x, "z": on_stand_in_feed(Z)})["y"]
    assert isinstance(y, DeviceTensor) and y.shape == (3, 4) and y.dtype == np.float32 and repr(y) == "DeviceTensor(float32[3, 4] on GPU 0)"
    assert x.streams == [1] and sys.getrefcount(array) == before
    assert gpu.count("cuMemcpyHtoDAsync_v2") == gpu.count("cuMemcpyDtoHAsync_v2") == 0 and gpu.count("cuStreamSynchronize") == 1
    assert np.allclose(y.numpy(), Y, rtol=1e-5) and np.allclose(np.asarray(y, np.float64), Y, rtol=1e-5)
    del y, x, array
    gc.collect()
    assert gpu.used == used and not gpu.faults


def on_stand_in_feed(array: np.ndarray) -> Foreign:
    return Foreign(on_stand_in(array))


def test_results_are_lent_and_live_as_long_as_whoever_took_them(model, gpu):
    model.run({"x": X, "z": Z})
    used = gpu.used
    y = model.run({"x": on_stand_in_feed(X), "z": Z})["y"]
    for version, stream in ((None, None), ((1, 1), 1), ((1, 0), 77), ((2, 0), -1)):
        lent = Lent(y.__dlpack__(stream=stream, max_version=version))
        assert (lent.address, lent.shape, lent.device, lent.dense) == (y.address, (3, 4), (2, 0), True)
        lent.close()
    facts = y.__cuda_array_interface__
    assert facts["data"] == (y.address, False) and facts["typestr"] == "<f4" and facts["shape"] == (3, 4)
    again = model.run({"x": y, "z": Z})["y"]
    assert np.allclose(again.numpy(), lc.evaluate(parse_graph(TINY), {"x": Y, "z": Z})["y"], rtol=1e-5)
    lent = Lent(y.__dlpack__())
    del y, again
    gc.collect()
    assert gpu.used == used + X.nbytes
    lent.close()
    assert gpu.used == used
    bfloat16 = DeviceTensor((4,), lc.ir.types.dtype("bfloat16"), 0)
    assert not hasattr(bfloat16, "__cuda_array_interface__") and Lent(bfloat16.__dlpack__()).dtype.name == "bfloat16"
    for how in ({"copy": True}, {"dl_device": (1, 0)}):
        with pytest.raises(BufferError, match="lent where it lies"):
            bfloat16.__dlpack__(**how)
    with pytest.raises(ValueError, match="copied"):
        np.asarray(bfloat16, copy=False)
    assert DeviceTensor((0, 3), lc.ir.types.dtype("float32"), 0).numpy().shape == (0, 3)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x: Foreign(x.T.copy().T), "a Foreign on the GPU is not dense"),
        (lambda x: Foreign(x[:2].copy()), r"input 'x' is float32\[3, 4\], the feed is float32\[2, 4\]"),
        (lambda x: Foreign(x.astype(np.float64)), "the feed is float64"),
        (lambda x: Foreign(x.copy(), device=1), "the feeds are on 2 GPUs"),
        (lambda x: Foreign(x.astype(np.dtype(">f4"))), "a Foreign on a GPU is not lent"),
    ],
)
def test_what_cannot_be_fed_is_told_of_and_given_back(model, gpu, change, message):
    x, z = change(X), on_stand_in_feed(Z)
    before = sys.getrefcount(x.array), sys.getrefcount(z.array)
    with pytest.raises(UsageError, match=message):
        model.run({"z": z, "x": x})
    gc.collect()
    assert (sys.getrefcount(x.array), sys.getrefcount(z.array)) == before


def test_machines_that_are_not_there_are_told_of(model, gpu):
    with pytest.raises(UsageError, match=r"a feed is on GPU 3, of which there are 1"):
        model.run({"x": Foreign(X, device=3), "z": Z})

    class Scattered:
        def __dlpack_device__(self):
            raise BufferError("it is on several devices")

    with pytest.raises(UsageError, match="a Scattered does not say where it lies: it is on several devices"):
        model.run({"x": Scattered(), "z": Z})
    gpu.configure(memory=0)
    with pytest.raises(LeptonError, match="out of memory"):
        DeviceTensor((4,), lc.ir.types.dtype("float32"), 0)
    gpu.configure()


def test_a_run_that_fails_gives_back_what_it_borrowed(model, gpu):
    x, z = on_stand_in_feed(X), on_stand_in_feed(Z)
    before = sys.getrefcount(x.array)
    model.library.close()
    gpu.configure(capability=(7, 5))
    with pytest.raises(LeptonError, match="is sm_75"):
        model.run({"x": x, "z": z})
    gpu.configure()
    gc.collect()
    after = sys.getrefcount(x.array)
    assert after == before


class Interface:
    """A tensor with a `__cuda_array_interface__` and nothing else."""

    def __init__(self, array: np.ndarray, **facts: Any) -> None:
        self.array = array
        self.__cuda_array_interface__ = {
            "shape": array.shape, "typestr": array.dtype.str, "data": (array.ctypes.data, False), "version": 3, **facts
        }  # fmt: skip


def test_the_interface_of_arrays_tells_the_stream(model, gpu):
    model.run({"x": X, "z": Z})
    session = DeviceSession()
    gpu.forget()
    for stream in (None, 1, session.stream):
        y = model.run({"x": Interface(on_stand_in(X), stream=stream, strides=(16, 4)), "z": on_stand_in_feed(Z)})["y"]
        assert isinstance(y, DeviceTensor) and np.allclose(y.numpy(), Y, rtol=1e-5)
    session.close()
    for facts, message in (
        ({"strides": (4, 12)}, "not dense"),
        ({"mask": X}, "not dense"),
        ({"typestr": "|V2"}, r"elements '\|V2' of a Interface"),
        ({"typestr": ">f4"}, "elements '>f4'"),
    ):
        with pytest.raises(UsageError, match=message):
            model.run({"x": Interface(X, **facts), "z": Z})


def test_results_beside_tensors_of_cupy_are_its_own_in_its_stream(model, gpu, monkeypatch):
    model.run({"x": X, "z": Z})
    session = DeviceSession()

    class ndarray(Interface):
        device = types.SimpleNamespace(id=0)

        def __init__(self, array: np.ndarray) -> None:
            super().__init__(array, stream=session.stream)
            self.data = types.SimpleNamespace(ptr=array.ctypes.data)

        def __dlpack_device__(self) -> tuple[int, int]:
            return 2, 0

    cupy: Any = types.ModuleType("cupy")
    cupy.ndarray, cupy.empty = ndarray, lambda shape, dtype: ndarray(on_stand_in(np.zeros(shape, dtype)))
    cupy.cuda = types.SimpleNamespace(Device=lambda number: contextlib.nullcontext())
    monkeypatch.setitem(sys.modules, "cupy", cupy)
    z = on_stand_in_feed(Z)
    gpu.forget()
    y = model.run({"z": on_stand_in(Z), "x": ndarray(on_stand_in(X))})["y"]
    assert isinstance(y, ndarray) and np.allclose(y.array, Y, rtol=1e-5) and gpu.count("cuStreamSynchronize") == 0
    y = model.run({"z": z, "x": ndarray(on_stand_in(X))})["y"]
    assert isinstance(y, ndarray) and z.streams == [session.stream] and gpu.count("cuStreamSynchronize") == 1
    session.close()


def test_results_whose_size_data_decides_are_as_large_as_they_are(make, gpu):
    graph = parse_graph("graph @n(%x: float32[3,4]) {\n  %y = NonZero()(%x) : int64[2,?n]\n  return %y\n}\n")
    x = X - X[1, 1]
    y = make(graph).run({"x": on_stand_in_feed(x)})["y"]
    assert isinstance(y, DeviceTensor) and (y.numpy() == np.stack(np.nonzero(x))).all()


def test_models_with_open_dimensions_take_them_too(gpu, monkeypatch):
    def images(text, gpus, cache, jobs):
        gpu.know_text(text)
        return [Image(g, False, b"code") for g in gpus], "none"

    monkeypatch.setattr(build, "compile_images", images)
    gpu.configure()
    graph = parse_graph(TINY.replace("[3,4]", "[n,4]"))
    model = lc.compile(graph, target="cuda:sm_80")
    x = on_stand_in_feed(X)
    before = sys.getrefcount(x.array)
    y = model.run({"x": x, "z": Z})["y"]
    assert isinstance(y, DeviceTensor) and np.allclose(y.numpy(), Y, rtol=1e-5)
    after = sys.getrefcount(x.array)
    assert after == before


def test_waiting_tells_of_failures(gpu):
    gpu.configure()
    finish(0, 0)
    session = DeviceSession()
    with session.recording(), pytest.raises(LeptonError, match="cuStreamSynchronize"):
        finish(0, session.stream)
    session.close()
