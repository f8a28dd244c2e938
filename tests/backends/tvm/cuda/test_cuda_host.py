"""The host's side of an artefact for a GPU, on a stand-in for the driver: what it asks the driver for, and what it says where that fails."""

from __future__ import annotations

import ctypes
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
from lepton_compiler.runtime.gpu import GpuLibrary

TINY = """\
graph @net(%x: float32[3,4]) {
  %w = const float32[4] (1.0, 2.0, 3.0, 4.0)
  %a = Mul()(%x, %w) : float32[3,4]
  %s = Softmax(axis=1)(%a) : float32[3,4]
  %y = ReduceSum(axes=(0,),keepdims=False)(%s) : float32[4]
  return %y
}
"""
X = np.arange(12, dtype=np.float32).reshape(3, 4) / 7


@pytest.fixture
def model(make):
    return make(parse_graph(TINY))


def test_a_session_loads_once_and_replays_what_it_recorded(model, gpu):
    first, second = model.run({"x": X})["y"], model.run({"x": X + 1})["y"]
    assert np.allclose(first, lc.evaluate(parse_graph(TINY), {"x": X})["y"], rtol=1e-5)
    assert np.allclose(second, lc.evaluate(parse_graph(TINY), {"x": X + 1})["y"], rtol=1e-5)
    launches = model.manifest["launches"]
    assert {
        name: gpu.count(name) for name in ("cuModuleLoadData", "cuMemAlloc_v2", "cuStreamEndCapture", "cuGraphLaunch", "cuLaunchKernel")
    } == {
        "cuModuleLoadData": 1,
        "cuMemAlloc_v2": 2,  # arena and weights together, and room for copies of what the host has
        "cuStreamEndCapture": 1,
        "cuGraphLaunch": 2,
        "cuLaunchKernel": launches,
    }
    assert len(gpu.launched) == 2 * launches


def test_everything_is_given_back(make, gpu):
    before = gpu.used
    model = make(parse_graph(TINY))
    model.run({"x": X})
    assert gpu.used > before
    model.library.close()
    assert gpu.used == before
    assert model.run({"x": X})["y"].shape == (4,)


class OnDevice:
    """A tensor on the stand-in, whose memory is the host's."""

    def __init__(self, gpu, array, offset=0):
        self.address = ctypes.c_uint64()
        gpu.library.cuCtxPushCurrent_v2.argtypes = [ctypes.c_void_p]
        context = ctypes.c_void_p()
        gpu.library.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0)
        gpu.library.cuCtxPushCurrent_v2(context)
        assert gpu.library.cuMemAlloc_v2(ctypes.byref(self.address), ctypes.c_size_t(array.nbytes + 64)) == 0
        gpu.library.cuCtxPopCurrent_v2(ctypes.byref(context))
        self.place = self.address.value + offset
        ctypes.memmove(self.place, array.ctypes.data, array.nbytes)
        self.__cuda_array_interface__ = {"shape": array.shape, "typestr": array.dtype.str, "data": (self.place, False), "version": 3}
        self.array = np.ctypeslib.as_array((ctypes.c_uint8 * array.nbytes).from_address(self.place)).view(array.dtype).reshape(array.shape)


@pytest.mark.parametrize(("offset", "copies"), [(0, 0), (4, 1)])
def test_tensors_of_the_device_are_used_where_they_are_if_aligned(model, gpu, offset, copies):
    model.run({"x": X})
    gpu.forget()
    x = OnDevice(gpu, X, offset)
    assert is_on_device(x)
    result = model.run({"x": x})["y"]
    assert gpu.count("cuMemcpyHtoDAsync_v2") == gpu.count("cuMemcpyDtoHAsync_v2") == 0
    assert gpu.count("cuMemcpyDtoDAsync_v2") == copies
    assert np.allclose(result.numpy(), lc.evaluate(parse_graph(TINY), {"x": X})["y"], rtol=1e-5)


def test_wrong_shapes_on_the_device_are_usage_errors(model, gpu):
    with pytest.raises(UsageError, match="input 'x' is float32"):
        model.run({"x": OnDevice(gpu, X[:2])})


def test_what_has_new_addresses_each_time_is_recorded_when_these_come_again(model, gpu):
    model.run({"x": X})
    session, expected = DeviceSession(), lc.evaluate(parse_graph(TINY), {"x": X})["y"]
    x, places = session.allocate(X.nbytes), [session.allocate(16) for _ in range(8)]
    session.upload(x, X)
    gpu.forget()
    recorded = []
    for number in (0, 1, 2, 0, 3, 4, 5, 3, 3, 2, 1):  # the run before has one of the four places
        session.fill(places[number], 0, 16)
        model.library.call([x], [X.shape], [places[number]], 0, session.stream, waits=True)
        recorded.append((gpu.count("cuStreamEndCapture"), gpu.count("cuGraphLaunch")))
        found = np.empty(4, np.float32)
        session.download(found, places[number])
        assert np.allclose(found, expected, rtol=1e-5)
    assert recorded == [(1, 1), (2, 2), (3, 3), (3, 4), (3, 4), (3, 4), (3, 4), (4, 5), (4, 6), (4, 7), (4, 8)]
    session.close()


def test_a_stream_that_is_captured_gets_the_launches(model, gpu):
    model.run({"x": X})
    session, library = DeviceSession(), model.library
    places = session.allocate(X.nbytes), session.allocate(16)
    session.upload(places[0], X)
    gpu.forget()
    with session.recording() as graph:
        for _ in range(2):
            library.call([places[0]], [X.shape], [places[1]], 0, session.stream, waits=False)
    assert not gpu.launched and gpu.count("cuGraphLaunch") == 0
    session.replay(graph[0])
    found = np.empty(4, np.float32)
    session.download(found, places[1])
    assert np.allclose(found, lc.evaluate(parse_graph(TINY), {"x": X})["y"], rtol=1e-5)
    assert len(gpu.launched) == 2 * model.manifest["launches"]
    session.close()


@pytest.mark.parametrize("known", [True, False])
def test_loops_are_recorded_unless_data_decides_their_length(agrees, gpu, known):
    import onnx
    from onnx import TensorProto as T
    from onnx import helper as h

    body = h.make_graph(
        [h.make_node("Add", ["v", "v"], ["w"]), h.make_node("Identity", ["c"], ["d"])],
        "body",
        [h.make_tensor_value_info(n, t, s) for n, t, s in (("i", T.INT64, []), ("c", T.BOOL, []), ("v", T.FLOAT, [4]))],
        [h.make_tensor_value_info(n, t, s) for n, t, s in (("d", T.BOOL, []), ("w", T.FLOAT, [4]))],
    )
    graph = h.make_graph(
        [h.make_node("Loop", ["n", "", "x"], ["y"], body=body)],
        "net",
        [*([] if known else [h.make_tensor_value_info("n", T.INT64, [])]), h.make_tensor_value_info("x", T.FLOAT, [4])],
        [h.make_tensor_value_info("y", T.FLOAT, [4])],
        [onnx.numpy_helper.from_array(np.array(3), "n")] if known else [],
    )
    model = onnx.helper.make_model(graph, opset_imports=[h.make_opsetid("", 17)])
    compiled = agrees(lc.import_model(model), {"x": X[0]} | ({} if known else {"n": np.array(3)}))
    assert compiled.manifest["recorded"] == known and gpu.count("cuGraphLaunch") == known


def test_bad_machines_are_told_of_in_a_line(model, gpu):
    cases: list[tuple[dict[str, Any], str]] = [
        ({"devices": 0}, "no GPU"),
        ({"capability": (7, 5)}, "'Emulated GPU' is sm_75; the artefact has code for sm_80"),
        ({"capability": (9, 0)}, "code for sm_80"),
        ({"memory": 256}, "arena and weights take"),
    ]
    code = next(data for name, data in model.artifact.files.items() if name.endswith(".so"))
    for machine, message in cases:
        gpu.configure(**machine)
        library = GpuLibrary.from_bytes(code, model.manifest)
        with pytest.raises(LeptonError, match=message) as caught:
            library.run({"x": X})
        assert "\n" not in caught.value.diagnostics[0].message and caught.value.diagnostics[0].hint
    gpu.configure()


def test_a_driver_older_than_the_compiler_is_told_of(gpu, monkeypatch):
    monkeypatch.setattr(build, "compile_images", lambda text, gpus, *rest: ([Image(g, False, b"too new") for g in gpus], "none"))
    gpu.configure()
    with pytest.raises(LeptonError, match=r"the driver is too old for what compiled the kernels: an error \(222\)") as caught:
        lc.compile(parse_graph(TINY), target="cuda:sm_80").run({"x": X})
    assert "580 or newer" in caught.value.diagnostics[0].hint


def test_artefacts_are_the_same_bytes_twice(make):
    first, second = (make(parse_graph(TINY)).artifact for _ in range(2))
    assert first.files == second.files and first.manifest == second.manifest
