"""OpenVINO's CPU plug-in, set up for the latency of one request in float32."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from lepton_compiler.frontends.onnx.load import load_model
from lepton_compiler.peers.peer import Loaded, Peer


class OpenVino(Peer):
    """`openvino`: one stream of N threads, latency hint, float32 arithmetic (no bfloat16), static shapes."""

    name = "openvino"
    label = "OpenVINO"
    modules = ("openvino",)
    package = "openvino"
    install = "pip install openvino"

    def _load(self, model: Path, inputs: Mapping[str, np.ndarray], threads: int) -> Loaded:
        openvino = importlib.import_module("openvino")
        core = openvino.Core()
        network = core.read_model(str(model))
        given = {}
        for port in network.inputs:
            name = next(name for name in port.get_names() if name in inputs)
            given[name] = inputs[name]
        network.reshape({name: openvino.PartialShape(list(array.shape)) for name, array in given.items()})
        settings = {
            "INFERENCE_NUM_THREADS": threads,
            "NUM_STREAMS": 1,
            "PERFORMANCE_HINT": "LATENCY",
            "INFERENCE_PRECISION_HINT": "f32",
        }
        compiled = core.compile_model(network, "CPU", settings)
        request = compiled.create_infer_request()
        for name, array in given.items():
            request.set_tensor(name, openvino.Tensor(array, shared_memory=array.ndim > 0))
        request.infer(share_outputs=True)
        names = [out.name for out in load_model(model)[0].graph.output]  # ports bear other names where nodes were moved
        outputs = {name: request.get_tensor(port).data.copy() for name, port in zip(names, compiled.outputs, strict=True)}
        return Loaded(lambda: request.infer(share_outputs=True), outputs)
