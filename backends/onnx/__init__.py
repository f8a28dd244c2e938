"""The ONNX backend: `emit_onnx` writes a graph as a model of opset 13 or newer."""

from __future__ import annotations

from lepton_compiler.backends.onnx.emitter import emit_onnx

__all__ = ["emit_onnx"]
