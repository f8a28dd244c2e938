"""NVIDIA's driver, as far as measuring needs it: memory, modules, launches, recorded launches, events. `libcuda.so.1` and nothing else.

Artefacts talk to the driver themselves (`backends.tvm.cuda.package.driver`); this is for whoever times them, or single kernels of them.
"""

from __future__ import annotations

import contextlib
import ctypes
from collections.abc import Iterator, Sequence
from ctypes import POINTER, c_char_p, c_float, c_int, c_size_t, c_ubyte, c_uint, c_uint64, c_void_p
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lepton_compiler.errors import LeptonError, MissingDependency

if TYPE_CHECKING:
    import numpy as np

LIBRARY = "libcuda.so.1"
MAJOR, MINOR, L2_BYTES, MOST_SHARED = 75, 76, 38, 8
"""Attributes of a device, and of a function, by the driver's numbers."""
SHARED_PLAIN = 48 << 10
"""Bytes of dynamic shared memory that a function has without asking."""
NON_BLOCKING, THREAD_LOCAL, RELAXED = 1, 1, 2
HANDLE = POINTER(c_void_p)

PROTOTYPES: dict[str, tuple[Any, ...]] = {
    "cuInit": (c_uint,),
    "cuGetErrorString": (c_int, POINTER(c_char_p)),
    "cuDeviceGetCount": (POINTER(c_int),),
    "cuDeviceGet": (POINTER(c_int), c_int),
    "cuDeviceGetName": (c_char_p, c_int, c_int),
    "cuDeviceGetAttribute": (POINTER(c_int), c_int, c_int),
    "cuDevicePrimaryCtxRetain": (HANDLE, c_int),
    "cuDevicePrimaryCtxRelease_v2": (c_int,),
    "cuCtxPushCurrent_v2": (c_void_p,),
    "cuCtxPopCurrent_v2": (HANDLE,),
    "cuModuleLoadData": (HANDLE, c_char_p),
    "cuModuleUnload": (c_void_p,),
    "cuModuleGetFunction": (HANDLE, c_void_p, c_char_p),
    "cuFuncSetAttribute": (c_void_p, c_int, c_int),
    "cuMemGetInfo_v2": (POINTER(c_size_t), POINTER(c_size_t)),
    "cuMemAlloc_v2": (POINTER(c_uint64), c_size_t),
    "cuMemFree_v2": (c_uint64,),
    "cuMemcpyHtoDAsync_v2": (c_uint64, c_void_p, c_size_t, c_void_p),
    "cuMemcpyDtoHAsync_v2": (c_void_p, c_uint64, c_size_t, c_void_p),
    "cuMemcpyDtoDAsync_v2": (c_uint64, c_uint64, c_size_t, c_void_p),
    "cuMemsetD8Async": (c_uint64, c_ubyte, c_size_t, c_void_p),
    "cuStreamCreate": (HANDLE, c_uint),
    "cuStreamDestroy_v2": (c_void_p,),
    "cuStreamSynchronize": (c_void_p,),
    "cuStreamBeginCapture_v2": (c_void_p, c_int),
    "cuStreamEndCapture": (c_void_p, HANDLE),
    "cuThreadExchangeStreamCaptureMode": (POINTER(c_int),),
    "cuGraphInstantiateWithFlags": (HANDLE, c_void_p, c_uint64),
    "cuGraphLaunch": (c_void_p, c_void_p),
    "cuGraphExecDestroy": (c_void_p,),
    "cuGraphDestroy": (c_void_p,),
    "cuEventCreate": (HANDLE, c_uint),
    "cuEventDestroy_v2": (c_void_p,),
    "cuEventRecord": (c_void_p, c_void_p),
    "cuEventSynchronize": (c_void_p,),
    "cuEventElapsedTime": (POINTER(c_float), c_void_p, c_void_p),
    "cuLaunchKernel": (c_void_p, *(c_uint,) * 7, c_void_p, HANDLE, HANDLE),
    "cuLaunchCooperativeKernel": (c_void_p, *(c_uint,) * 7, c_void_p, HANDLE),
}


class CudaError(LeptonError):
    """The driver refused something, or what ran before failed."""


@dataclass(frozen=True)
class GpuFacts:
    """What the driver says of a GPU.

    Attributes:
        name: of the product.
        capability: compute capability, major and minor.
        l2_bytes: size of the level-2 cache.
    """

    name: str
    capability: tuple[int, int]
    l2_bytes: int

    @property
    def architecture(self) -> str:
        """As compilers call it."""
        return f"sm_{self.capability[0]}{self.capability[1]}"

    @property
    def identity(self) -> str:
        """What figures are kept by: name, architecture and cache."""
        return f"{self.name}, {self.architecture}, L2 {self.l2_bytes >> 10}K"


class Driver:
    """The library, its functions with their types.

    Raises:
        MissingDependency: there is no driver, or it is too old.
        LeptonError: it finds no GPU.
    """

    def __init__(self) -> None:
        try:
            self.library = ctypes.CDLL(LIBRARY)
        except OSError as error:
            raise MissingDependency(f"no driver of NVIDIA: {error}", hint="measuring needs a GPU and its driver on this machine") from error
        for name, types in PROTOTYPES.items():
            function = getattr(self.library, name, None)
            if function is None:
                raise MissingDependency(f"the driver is too old: it has no {name}", hint="install a newer driver")
            function.argtypes, function.restype = types, c_int
        if status := self.library.cuInit(0):
            raise LeptonError(
                f"no GPU: the driver says '{self.text(status)}' ({status})", hint="is one installed, and visible (CUDA_VISIBLE_DEVICES)?"
            )

    def text(self, status: int) -> str:
        """The driver's words for a status."""
        text = c_char_p()
        self.library.cuGetErrorString(status, ctypes.byref(text))
        return (text.value or b"unknown error").decode(errors="replace")

    def __call__(self, name: str, *arguments: Any) -> None:
        """Call a function.

        Raises:
            CudaError: it failed.
        """
        if status := getattr(self.library, name)(*arguments):
            raise CudaError(f"{name}: {self.text(status)} ({status})")

    def facts(self, ordinal: int = 0) -> GpuFacts:
        """What a GPU is; no context is made.

        Raises:
            LeptonError: there is no such GPU.
        """
        count, device, name = c_int(), c_int(), ctypes.create_string_buffer(256)
        self("cuDeviceGetCount", ctypes.byref(count))
        if not 0 <= ordinal < count.value:
            raise LeptonError(f"no GPU {ordinal}: there are {count.value}", hint="is one visible (CUDA_VISIBLE_DEVICES)?")
        self("cuDeviceGet", ctypes.byref(device), ordinal)
        self("cuDeviceGetName", name, len(name), device)
        values = []
        for attribute in (MAJOR, MINOR, L2_BYTES):
            values.append(c_int())
            self("cuDeviceGetAttribute", ctypes.byref(values[-1]), attribute, device)
        major, minor, l2 = (v.value for v in values)
        return GpuFacts(name.value.decode(errors="replace"), (major, minor), l2)


class DeviceSession:
    """The primary context of a GPU, current in this thread from here to `close`, and a stream.

    Raises:
        LeptonError: see `Driver`.
    """

    def __init__(self, ordinal: int = 0) -> None:
        self.driver = Driver()
        self.facts = self.driver.facts(ordinal)
        self.ordinal, context, stream = ordinal, c_void_p(), c_void_p()
        self.driver("cuDevicePrimaryCtxRetain", ctypes.byref(context), ordinal)
        self.driver("cuCtxPushCurrent_v2", context)
        self.driver("cuStreamCreate", ctypes.byref(stream), NON_BLOCKING)
        self.stream = int(stream.value or 0)

    def close(self) -> None:
        """Give the stream and the context back; what was allocated goes with the process."""
        self.driver("cuStreamDestroy_v2", self.stream)
        self.driver("cuCtxPopCurrent_v2", ctypes.byref(c_void_p()))
        self.driver("cuDevicePrimaryCtxRelease_v2", self.ordinal)

    # -- memory

    @property
    def free_bytes(self) -> int:
        """Of the device's memory."""
        free, total = c_size_t(), c_size_t()
        self.driver("cuMemGetInfo_v2", ctypes.byref(free), ctypes.byref(total))
        return free.value

    def allocate(self, size: int) -> int:
        """The address of so many bytes, at least one."""
        address = c_uint64()
        self.driver("cuMemAlloc_v2", ctypes.byref(address), max(1, size))
        return int(address.value)

    def free(self, address: int) -> None:
        """Give an allocation back."""
        self.driver("cuMemFree_v2", address)

    def upload(self, address: int, array: np.ndarray) -> None:
        """Copy a dense array to the device; waits."""
        if array.nbytes:
            self.driver("cuMemcpyHtoDAsync_v2", address, array.ctypes.data, array.nbytes, self.stream)
            self.synchronize()

    def download(self, array: np.ndarray, address: int) -> None:
        """Copy from the device into a dense array; waits."""
        if array.nbytes:
            self.driver("cuMemcpyDtoHAsync_v2", array.ctypes.data, address, array.nbytes, self.stream)
            self.synchronize()

    def fill(self, address: int, byte: int, size: int) -> None:
        """Set so many bytes, in the stream."""
        if size:
            self.driver("cuMemsetD8Async", address, byte, size, self.stream)

    # -- code

    def module(self, image: bytes) -> int:
        """Load a cubin, or PTX that ends with a zero."""
        module = c_void_p()
        self.driver("cuModuleLoadData", ctypes.byref(module), image)
        return int(module.value or 0)

    def unload(self, module: int) -> None:
        """Give a module back."""
        self.driver("cuModuleUnload", module)

    def function(self, module: int, name: str, shared_bytes: int = 0) -> int:
        """A `__global__` function that is to have so much dynamic shared memory."""
        function = c_void_p()
        self.driver("cuModuleGetFunction", ctypes.byref(function), module, name.encode())
        if shared_bytes > SHARED_PLAIN:
            self.driver("cuFuncSetAttribute", function, MOST_SHARED, shared_bytes)
        return int(function.value or 0)

    def launch(
        self, function: int, grid: Sequence[int], block: Sequence[int], shared_bytes: int, pointers: Sequence[int], together: bool = False
    ) -> None:
        """Start a kernel whose parameters are pointers, in the stream; `together` if its blocks wait for each other."""
        values = [c_uint64(p) for p in pointers]
        places = (c_void_p * max(1, len(values)))(*(ctypes.addressof(v) for v in values))
        if together:
            self.driver("cuLaunchCooperativeKernel", function, *grid, *block, shared_bytes, self.stream, places)
        else:
            self.driver("cuLaunchKernel", function, *grid, *block, shared_bytes, self.stream, places, None)

    def synchronize(self) -> None:
        """Wait for the stream.

        Raises:
            CudaError: something in it failed.
        """
        self.driver("cuStreamSynchronize", self.stream)

    # -- recording and time

    @contextlib.contextmanager
    def recording(self) -> Iterator[list[int]]:
        """What is put into the stream inside is recorded, not run; afterwards the list has the graph, for `replay`."""
        found: list[int] = []
        graph, executable = c_void_p(), c_void_p()
        self.driver("cuStreamBeginCapture_v2", self.stream, THREAD_LOCAL)
        try:
            yield found
        finally:
            self.driver("cuStreamEndCapture", self.stream, ctypes.byref(graph))
        self.driver("cuGraphInstantiateWithFlags", ctypes.byref(executable), graph, 0)
        self.driver("cuGraphDestroy", graph)
        found.append(int(executable.value or 0))

    def replay(self, graph: int) -> None:
        """Run a recording, in the stream."""
        self.driver("cuGraphLaunch", graph, self.stream)

    def forget(self, graph: int) -> None:
        """Give a recording back."""
        self.driver("cuGraphExecDestroy", graph)

    def event(self) -> int:
        """A mark for `record`."""
        event = c_void_p()
        self.driver("cuEventCreate", ctypes.byref(event), 0)
        return int(event.value or 0)

    def record(self, event: int, stream: int | None = None) -> None:
        """Let an event mark what a stream has come to: this session's stream, or another one."""
        self.driver("cuEventRecord", event, self.stream if stream is None else stream)

    def seconds(self, begin: int, end: int) -> float:
        """Time between two events by the device's clock; waits for the second one."""
        milliseconds = c_float()
        self.driver("cuEventSynchronize", end)
        self.driver("cuEventElapsedTime", ctypes.byref(milliseconds), begin, end)
        return float(milliseconds.value) / 1e3
