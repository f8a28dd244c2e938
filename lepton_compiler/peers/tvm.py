"""TVM's own way from ONNX to code: its Relax importer and its default pipeline, untuned."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lepton_compiler.frontends.onnx.load import load_model
from lepton_compiler.peers.peer import Loaded, Peer
from lepton_compiler.target import parse_target


class Tvm(Peer):
    """`tvm`: `tvm.compile` of the imported model for this machine's instruction set, run in Relax's virtual machine."""

    name = "tvm"
    label = "TVM"
    modules = ("tvm",)
    package = "apache-tvm"
    install = "pip install 'apache-tvm~=0.27.0'"

    def _load(self, model: Path, inputs: Mapping[str, np.ndarray], threads: int) -> Loaded:
        tvm = importlib.import_module("tvm")
        importer = importlib.import_module("tvm.relax.frontend.onnx")
        machine = parse_target("native")
        proto = load_model(model)[0]
        module = importer.from_onnx(proto, shape_dict={name: list(array.shape) for name, array in inputs.items()})
        target = tvm.target.Target({"kind": "llvm", "mtriple": machine.triple, "mcpu": machine.cpu, "mattr": list(machine.features)})
        program = tvm.compile(module, target)
        tvm.get_global_func("runtime.config_threadpool")(1, threads)
        run = tvm.relax.VirtualMachine(program, tvm.cpu())["main"]
        arguments = [tvm.runtime.tensor(inputs[parameter.name]) for parameter in module["main"].params]
        result = run(*arguments)
        results = [result] if isinstance(result, tvm.runtime.Tensor) else list(result)
        outputs = {out.name: tensor.numpy() for out, tensor in zip(proto.graph.output, results, strict=True)}
        return Loaded(lambda: run(*arguments), outputs)
