"""Runs one kernel on numpy arrays."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np

from lepton_compiler.testing.cuda_emulator.build import cluster_of, compile_kernels, for_architecture, kernels_of

ALIGNMENT = 256
"""What the driver's allocations are aligned to, in bytes."""

MOST_OF_CLUSTER = 8
"""Blocks of a cluster that every GPU with clusters takes (CUDA C++ Programming Guide, "Thread Block Clusters")."""
ORDERED = "lepton_after_previous"
"""The function by which kernels wait for the one before them, in texts where they do."""

Extent = int | Sequence[int]
Argument = np.ndarray | np.generic | int | float | bytes | None


class DeviceFault(Exception):
    """The kernel did what a device faults at or leaves undefined: out of bounds, misaligned, a race, a barrier that not all threads reach,
    something that is used before it was waited for.
    """


@dataclass(frozen=True)
class Statistics:
    """Figures of a launch.

    Attributes:
        barriers: releases of `__syncthreads`, all blocks together.
        collectives: operations of whole warps: shuffles, `__syncwarp`, matrix loads and products.
        matrix_products: `mma` and `wgmma` instructions.
        matrix_loads: 8x8 matrices of 16-bit elements that `ldmatrix` loaded.
        matrix_load_conflicts: additional passes through shared memory that those loads took because rows lay in the same banks.
        grid_barriers: times that all blocks waited for each other.
        cluster_barriers: times that the blocks of a cluster did, all clusters together.
    """

    barriers: int
    collectives: int
    matrix_products: int
    matrix_loads: int
    matrix_load_conflicts: int
    grid_barriers: int
    cluster_barriers: int


class _Index(ctypes.Structure):
    _fields_ = [("x", ctypes.c_uint), ("y", ctypes.c_uint), ("z", ctypes.c_uint)]


class _Buffer(ctypes.Structure):
    _fields_ = [
        ("begin", ctypes.c_void_p),
        ("bytes", ctypes.c_size_t),
        ("constant", ctypes.c_int),
        ("name", ctypes.c_char_p),
        ("weight", ctypes.c_int),
    ]


class _Launch(ctypes.Structure):
    _fields_ = [
        ("grid", _Index),
        ("block", _Index),
        ("cluster", _Index),
        ("shared_bytes", ctypes.c_size_t),
        ("backwards", ctypes.c_int),
        ("races", ctypes.c_int),
        ("together", ctypes.c_int),
        ("buffer_count", ctypes.c_int),
        ("buffers", ctypes.POINTER(_Buffer)),
        ("ordered", ctypes.c_int),
    ]


class _Parameter(ctypes.Structure):
    _fields_ = [("bytes", ctypes.c_int), ("pointer", ctypes.c_int), ("constant", ctypes.c_int)]


class _Figures(ctypes.Structure):
    _fields_ = [(name, ctypes.c_uint64) for name in Statistics.__dataclass_fields__]


def run(
    kernel_text: str,
    name: str,
    grid: Extent,
    block: Extent,
    shared_bytes: int,
    args: Sequence[Argument],
    *,
    backwards: bool = False,
    races: bool = True,
    checks: bool = True,
    together: bool = False,
    architecture: str = "sm_80",
    weights: Collection[int] = (),
) -> Statistics:
    """Run `name<<<grid, block, shared_bytes>>>(args)`; arrays are changed in place.

    Args:
        kernel_text: CUDA C, what nvcc would get.
        grid, block: numbers of blocks and of threads per block, along x, or along (x, y, z).
        shared_bytes: dynamic shared memory.
        args: contiguous arrays for pointers, None for a null pointer, numbers and `bytes` (structures) by value. The same array given twice
            is the same memory.
        backwards: run blocks and threads from the last to the first.
        races: look for accesses of different threads to the same bytes, one of them a write, with no barrier in between.
        checks: look at every access at all. Without this a kernel runs several times as fast, only barriers, collectives, asynchronous copies
            and loads of matrices are still checked, and a kernel that goes astray may take the process with it.
        together: the launch is cooperative: all blocks are there at the same time and may wait for each other.
        architecture: whose instructions there are, and whether blocks can be clusters, as on `sm_90` and later.
        weights: positions of arrays that no kernel writes. Where the text has the function `lepton_after_previous`, every thread must call it, and
            before that may read these arrays and nothing else of the device's memory.

    Raises:
        DeviceFault: see there; the arrays hold what had been written.
        LeptonError: the text does not compile.
        TypeError: `args` do not fit the kernel's parameters.
        ValueError: the grid is no multiple of the kernel's cluster, or the cluster has more than eight blocks.
    """
    text = for_architecture(kernel_text, architecture)
    library = _load(compile_kernels(text, kernels_of(kernel_text) or (name,), checks))
    memory = _Memory()
    values = [memory.value(k, p, a) for k, (p, a) in enumerate(zip(_parameters(library, name, len(args)), args, strict=True))]
    pointers = (ctypes.c_void_p * max(1, len(values)))(*(ctypes.addressof(v) for v in values))
    buffers = memory.buffers(weights)
    cluster = cluster_of(text, name)
    if any(blocks % size for blocks, size in zip(_extent(grid), cluster, strict=True)) or math.prod(cluster) > MOST_OF_CLUSTER:
        raise ValueError(f"a grid of {grid} blocks in clusters of {cluster}")
    extents = _Index(*_extent(grid)), _Index(*_extent(block)), _Index(*cluster)
    launch = _Launch(*extents, shared_bytes, backwards, races and checks, together, len(buffers), buffers, ORDERED in kernel_text)
    entry = getattr(library, f"launch_{name}")
    entry.restype = ctypes.c_char_p
    figures = _Figures()
    problem = entry(ctypes.byref(launch), pointers, ctypes.byref(figures))
    memory.copy_back()
    if problem:
        raise DeviceFault(f"{name}: {problem.decode()}")
    return Statistics(*(int(getattr(figures, f)) for f in Statistics.__dataclass_fields__))


@cache
def _load(path: Path) -> ctypes.CDLL:
    return ctypes.CDLL(str(path))


def _parameters(library: ctypes.CDLL, name: str, given: int) -> list[_Parameter]:
    rows = (_Parameter * 64)()
    count = getattr(library, f"parameters_{name}")(rows)
    if count != given:
        raise TypeError(f"{name} has {count} parameters, {given} arguments were given")
    return list(rows[:count])


def _extent(size: Extent) -> tuple[int, ...]:
    sizes = (size,) if isinstance(size, int) else tuple(size)
    return sizes + (1,) * (3 - len(sizes))


class _Memory:
    """Copies of the arrays, aligned as the driver's allocations are, each followed by nothing that may be touched."""

    def __init__(self) -> None:
        self.arrays: dict[int, tuple[np.ndarray, np.ndarray, list[int], bool]] = {}

    def value(self, position: int, parameter: _Parameter, argument: Argument) -> Any:
        """The argument as ctypes has it."""
        if argument is None or isinstance(argument, np.ndarray):
            if not parameter.pointer:
                raise TypeError(f"argument {position} is an array, the parameter is no pointer")
            return ctypes.c_void_p(0 if argument is None else self._place(position, argument, bool(parameter.constant)))
        raw = argument if isinstance(argument, bytes) else np.asarray(argument).tobytes()
        if isinstance(argument, int | float) and len(raw) != parameter.bytes:
            raw = np.asarray(argument, {float: f"f{parameter.bytes}", int: f"i{parameter.bytes}"}.get(type(argument))).tobytes()
        if parameter.pointer or len(raw) != parameter.bytes:
            raise TypeError(f"argument {position} has {len(raw)} bytes, the parameter {parameter.bytes}")
        return (ctypes.c_char * len(raw)).from_buffer_copy(raw)

    def _place(self, position: int, array: np.ndarray, constant: bool) -> int:
        if not array.flags.c_contiguous:
            raise TypeError(f"argument {position} is not contiguous")
        key = array.ctypes.data
        if key not in self.arrays:
            raw = np.empty(array.nbytes + ALIGNMENT, np.uint8)
            start = -raw.ctypes.data % ALIGNMENT
            copy = raw[start : start + array.nbytes]
            copy[:] = array.reshape(-1).view(np.uint8)
            self.arrays[key] = (array, copy, [position], constant)
        else:
            array, copy, positions, was_constant = self.arrays[key]
            self.arrays[key] = (array, copy, [*positions, position], constant and was_constant)
        return self.arrays[key][1].ctypes.data

    def buffers(self, weights: Collection[int]) -> Any:
        """The memory as the launch is told of it."""
        rows = []
        for _, copy, positions, constant in self.arrays.values():
            name = f"argument {' and '.join(map(str, positions))}".encode()
            rows.append(_Buffer(copy.ctypes.data, copy.nbytes, constant, name, all(k in weights for k in positions)))
        return (_Buffer * len(rows))(*rows)

    def copy_back(self) -> None:
        """Bring what the kernel wrote into the caller's arrays."""
        for array, copy, _, constant in self.arrays.values():
            if not constant:
                array.reshape(-1).view(np.uint8)[:] = copy
