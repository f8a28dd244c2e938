"""Tools for tests: inputs, comparisons and ONNX's conformance cases."""
