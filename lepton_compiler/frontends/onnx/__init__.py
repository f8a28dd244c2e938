"""The ONNX frontend: `import_onnx` turns a model of any opset into a graph."""

from __future__ import annotations

from lepton_compiler.frontends.onnx.importer import import_onnx

__all__ = ["import_onnx"]
