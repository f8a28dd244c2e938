"""A machine with a GPU that is none: a stand-in for the driver, whose kernels run in the emulator.

The stand-in has the name of the driver's library, so it must be loaded before that, and stays for the rest of the process: use it in processes of
their own where there is a real driver.
"""

from __future__ import annotations

import ctypes
import functools
import tempfile
import weakref
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import numpy as np

from lepton_compiler.gpus import GPUS
from lepton_compiler.testing.cuda_emulator import DeviceFault, cluster_of, for_architecture, kernels_of, run
from lepton_compiler.toolchain import find_toolchain

SONAME = "libcuda.so.1"
FOUR_GIGABYTES = 1 << 32
NVCC = Path(__file__).with_name("nvcc")
"""A stand-in for the compiler, to be named by `$LEPTON_NVCC` where the machine code is not looked at."""
_LAUNCH = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_char_p, ctypes.POINTER(ctypes.c_uint), ctypes.POINTER(ctypes.c_uint64), ctypes.c_int)


class FakeGpu:
    """The stand-in, and the emulator behind it.

    Attributes:
        faults: what kernels did wrong, in words.
        launched: names of the functions that ran, in order.
        checks: whether the emulator looks at every access, which takes several times as long.
        architecture: that the code which it runs was compiled for.
    """

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.launched: list[str] = []
        self.checks = True
        self.library = _library()
        self._kernels: dict[str, tuple[str, tuple[int, ...] | None]] = {}
        self._callback = _LAUNCH(self._launch)
        self.configure()

    def configure(
        self,
        devices: int = 1,
        capability: tuple[int, int] = (8, 0),
        memory: int = FOUR_GIGABYTES,
        processors: int = 108,
        version: int = 13000,
        architecture: str = "",
    ) -> None:
        """Be so many GPUs of a compute capability, with so many bytes and multiprocessors each, whose kernels this object runs from now on.

        Args:
            version: of the driver, as a release of CUDA: 12030 is that of 12.3. A library asks for it once.
            architecture: that the code which runs was compiled for; by default the GPU's own.
        """
        self.library.fake_on_launch(self._callback)
        own = [gpu.architecture for gpu in GPUS.values() if gpu.capability == capability]
        self.architecture = architecture or (own[0] if own else translated(capability))
        self.library.fake_configure(devices, *capability, processors, ctypes.c_size_t(memory), version)

    def know(self, text: str, manifest: Mapping[str, Any]) -> None:
        """Be able to run the kernels of an artefact, of which this is the CUDA C."""
        for row in manifest["code"]:
            for launch in row["launches"]:
                sizes = tuple(row["parameters"][k] for k in launch["arguments"])
                self._kernels[launch["symbol"]] = text, sizes
                self._tell(launch["symbol"], text, len(sizes))

    def know_text(self, text: str) -> None:
        """Be able to run the kernels of some CUDA C, whose parameters are pointers to whole allocations."""
        for symbol in kernels_of(text):
            self._kernels.setdefault(symbol, (text, None))
            self._tell(symbol, text, len(_formals(text, symbol)))

    def _tell(self, symbol: str, text: str, arguments: int) -> None:
        """Let the driver know a kernel, and its cluster where it has one."""
        self.library.fake_kernel(symbol.encode(), arguments, *cluster_of(for_architecture(text, "sm_90"), symbol))

    def emulate(self, which: Literal["nothing", "launches", "everything"]) -> None:
        """Run all launches in the emulator, or those that are not replayed, or none; the others only take their time."""
        self.library.fake_emulate(("nothing", "launches", "everything").index(which))

    def cost(self, symbol: str, seconds: float) -> None:
        """Let a kernel take so long by the device's clock, 10 microseconds otherwise; it cannot be started where that is negative."""
        self.library.fake_cost(symbol.encode(), ctypes.c_double(seconds))

    def count(self, function: str) -> int:
        """How often a function of the driver was called."""
        return int(self.library.fake_count(function.encode()))

    def forget(self) -> None:
        """Count from zero again."""
        self.library.fake_forget()
        self.faults, self.launched = [], []

    @property
    def used(self) -> int:
        """Bytes of the device that are allocated."""
        return int(self.library.fake_used())

    def _launch(self, name: bytes, extents: Any, arguments: Any, count: int) -> int:
        symbol = name.decode()
        self.launched.append(symbol)
        text, known = self._kernels[symbol]
        sizes = known or [int(self.library.fake_room(ctypes.c_uint64(arguments[k]))) for k in range(count)]
        arrays: dict[int, np.ndarray] = {}
        for k in range(count):
            size = max(sizes[k], arrays[arguments[k]].nbytes if arguments[k] in arrays else 0)
            arrays[arguments[k]] = np.ctypeslib.as_array((ctypes.c_uint8 * max(1, size)).from_address(arguments[k]))
        try:
            given = [arrays[arguments[k]] for k in range(count)]
            shape = tuple(extents[0:3]), tuple(extents[3:6]), extents[6]
            weights = [k for k in range(count) if self.library.fake_is_constant(ctypes.c_uint64(arguments[k]), ctypes.c_size_t(sizes[k]))]
            how: dict[str, Any] = {
                "checks": self.checks,
                "together": bool(extents[7]),
                "weights": weights,
                "architecture": self.architecture,
            }
            run(text, symbol, *shape, given, **how)
            for k, formal in enumerate(_formals(text, symbol)):
                if not formal.startswith("const "):
                    self.library.fake_written(ctypes.c_uint64(arguments[k]), ctypes.c_size_t(sizes[k]))
        except DeviceFault as fault:
            self.faults.append(str(fault))
            return 1
        except Exception as error:  # an exception must not cross C
            self.faults.append(f"{type(error).__name__}: {error}")
            return 1
        return 0


def translated(capability: tuple[int, int]) -> str:
    """The newest architecture whose PTX runs on a GPU of none."""
    return max((gpu for gpu in GPUS.values() if gpu.capability <= capability), key=lambda gpu: gpu.capability).name


@functools.cache
def _formals(text: str, symbol: str) -> tuple[str, ...]:
    """The parameters of a kernel, as they are declared."""
    formals = text.partition(f" {symbol}(")[2].partition(")")[0]
    return tuple(f.strip() for f in formals.split(",")) if formals.strip() else ()


@functools.cache
def _library() -> ctypes.CDLL:
    """The stand-in, compiled and loaded."""
    folder = tempfile.TemporaryDirectory(prefix="lepton-")
    path = Path(folder.name)
    tools = find_toolchain()
    (path / "driver.c").write_text((Path(__file__).parent / "driver.c").read_text())
    flags = ["-std=c11", "-D_GNU_SOURCE", "-O1", "-w", "-shared", f"-Wl,-soname,{SONAME}"]
    tools.run(path, [*tools.compiler, *tools.flags, *flags, "driver.c", "-o", SONAME])
    library = ctypes.CDLL(str(path / SONAME))
    weakref.finalize(library, folder.cleanup)
    library.fake_used.restype = library.fake_room.restype = ctypes.c_size_t
    return library
