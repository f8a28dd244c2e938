"""IREE: imported to MLIR by its own tool, compiled for this CPU, run by its runtime."""

from __future__ import annotations

import importlib
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from lepton_compiler.frontends.onnx.load import load_model
from lepton_compiler.peers.peer import Loaded, Peer, PeerError
from lepton_compiler.sources import read_model

OPSET = 17
"""The importer wants this opset at least."""

TIMEOUT = 600
"""Seconds that the importer may take."""

COMPILE_FLAGS = ["--iree-llvmcpu-target-cpu=host", "--iree-opt-level=O3"]


class Iree(Peer):
    """`iree`: `llvm-cpu` for the host, `-O3`; in the calling thread, or in a pool whose size is that of its first use in a process."""

    name = "iree"
    label = "IREE"
    modules = ("iree.compiler", "iree.runtime")
    package = "iree-base-compiler"
    install = "pip install iree-base-compiler iree-base-runtime"

    def _load(self, model: Path, inputs: Mapping[str, np.ndarray], threads: int) -> Loaded:
        runtime = importlib.import_module("iree.runtime")
        proto = _with_shapes(model, inputs)
        config = runtime.Config(device=_device(runtime, threads))
        context = runtime.SystemContext(config=config)
        module = runtime.VmModule.copy_buffer(context.instance, _compiled(proto))
        context.add_vm_module(module)
        entry = next(n for n in module.function_names if not n.endswith("$async") and not n.startswith("__"))
        run = getattr(context.modules, module.name)[entry]
        constant = {tensor.name for tensor in proto.graph.initializer}
        names = [i.name for i in proto.graph.input if i.name not in constant]
        arguments = [runtime.asdevicearray(config.device, inputs[name]) for name in names]

        def call() -> list[Any]:
            result = run(*arguments)
            return [array.to_host() for array in (result if isinstance(result, (list, tuple)) else [result])]

        outputs = {out.name: array for out, array in zip(proto.graph.output, call(), strict=True)}
        return Loaded(call, outputs)


def _with_shapes(model: Path, inputs: Mapping[str, np.ndarray]) -> Any:
    """The model with the shapes that its inputs and outputs have for these inputs, and none in between: the importer infers them again."""
    proto = load_model(model)[0]
    known = {v.name for v in proto.graph.input}
    shapes = {name: array.shape for name, array in inputs.items() if name in known}
    bound = read_model(model, shapes).outputs
    for value in proto.graph.input:
        if value.name in shapes:
            _set_shape(value.type.tensor_type.shape, shapes[value.name])
    for value, known_value in zip(proto.graph.output, bound, strict=True):
        _set_shape(value.type.tensor_type.shape, known_value.type.static_shape)
    del proto.graph.value_info[:]
    return proto


def _set_shape(proto: Any, shape: Sequence[int]) -> None:
    del proto.dim[:]
    proto.SetInParent()
    for size in shape:
        proto.dim.add().dim_value = size


def _compiled(proto: Any) -> bytes:
    """IREE's bytecode module for the model.

    Raises:
        PeerError: the importer failed.
    """
    compiler = importlib.import_module("iree.compiler")
    with tempfile.TemporaryDirectory(prefix="lepton-") as folder:
        source, text = Path(folder) / "model.onnx", Path(folder) / "model.mlir"
        source.write_bytes(proto.SerializeToString())
        command = [sys.executable, "-m", "iree.compiler.tools.import_onnx", str(source), "-o", str(text), "--opset-version", str(OPSET)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=TIMEOUT)
        if done.returncode:
            last = (done.stderr.strip().splitlines() or ["no message"])[-1]
            raise PeerError(f"iree cannot import the model: {last}", hint="leave it out of --against")
        return bytes(compiler.compile_file(str(text), input_type="onnx", target_backends=["llvm-cpu"], extra_args=COMPILE_FLAGS))


_pool: list[int] = []
"""How many threads the pool of this process has, once there is one."""


def _device(runtime: Any, threads: int) -> Any:
    """A device that runs in the calling thread, or in the pool.

    Raises:
        PeerError: there is a pool of another size.
    """
    if threads == 1:
        return runtime.get_device("local-sync")
    if _pool and _pool[0] != threads:
        raise PeerError(f"iree has a pool of {_pool[0]} threads in this process already", hint="measure one number of threads per run")
    if not _pool:
        runtime.flags.parse_flags(f"--task_topology_max_group_count={threads}")
        _pool.append(threads)
    return runtime.get_device("local-task")
