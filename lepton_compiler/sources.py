"""What the user may hand over as a model, and which frontend reads it."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from lepton_compiler.errors import ModelError, UnsupportedError, UsageError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.tensor import FileTensor

SUFFIXES = {
    ".onnx": "onnx",
    ".lir": "lir",
    ".tflite": "tflite",
    ".pt": "torch",
    ".pt2": "torch",
    ".pth": "torch",
    ".safetensors": "weights",
    ".h5": "keras",
    ".keras": "keras",
    ".pb": "tensorflow",
}
"""File name suffix to kind of model; a file with another suffix is told by its first bytes."""

NOT_YET = {
    "torch": ("PyTorch models are not supported yet", "export it: torch.onnx.export(model, args, 'model.onnx')"),
    "tflite": ("TFLite models are not supported yet", "use the ONNX model that it was made from"),
    "weights": ("this file holds weights without a model", "give the ONNX file"),
    "keras": ("Keras models are not supported", "export to ONNX first"),
    "tensorflow": ("TensorFlow models are not supported", "export to ONNX first"),
}

MAGIC: list[tuple[Callable[[bytes], bool], str]] = [
    (lambda head: head[4:8] == b"TFL3", "tflite"),
    (lambda head: head[:4] == b"PK\x03\x04", "torch"),
    (lambda head: head[:8] == b"\x89HDF\r\n\x1a\n", "keras"),
]


def read_model(source: Any, inputs: Mapping[str, Any] | None = None, dims: Mapping[str, int] | None = None) -> Graph:
    """Import a model.

    Args:
        source: a path (`.onnx`, `.lir`), the bytes of an ONNX file, an `onnx.ModelProto`, or a `Graph`.
        inputs: by input name, the shape (binds symbolic dimensions), a `TensorType`, or an array (the input becomes that constant).
        dims: sizes of symbolic dimensions, by name.

    Returns:
        A graph of the caller's own: a `Graph` that was given is copied, sharing constants.

    Raises:
        ModelError: the model is malformed.
        UnsupportedError: a kind of model, or operators, that lepton does not have.
        UsageError: `inputs` or `dims` do not fit the model.
    """
    kind = kind_of(source)
    if kind in NOT_YET:
        message, hint = NOT_YET[kind]
        raise UnsupportedError(message, where=_shown(source), hint=hint)
    if kind == "onnx":
        from lepton_compiler.frontends.onnx.importer import import_onnx

        return import_onnx(source, inputs=inputs, dims=dims)
    graph = source if isinstance(source, Graph) else _read_text(source)
    return bind(graph, inputs or {}, dims or {})


def kind_of(source: Any) -> str:
    """`onnx`, `lir`, `graph`, or a key of `NOT_YET`.

    Raises:
        ModelError: no such file.
        UsageError: an object that is no model at all.
    """
    if isinstance(source, Graph):
        return "graph"
    if isinstance(source, (str, os.PathLike)):
        path = Path(source)
        if kind := SUFFIXES.get(path.suffix.lower()):
            return kind
        return _kind_of_bytes(_head(path))
    if isinstance(source, (bytes, bytearray, memoryview)):
        return _kind_of_bytes(bytes(source[:16]))
    ancestors = {f"{c.__module__.split('.')[0]}.{c.__name__}" for c in type(source).__mro__}
    if any(name.startswith("torch.") for name in ancestors):
        return "torch"
    if "ModelProto" in type(source).__name__:
        return "onnx"
    raise UsageError(f"cannot import a model from {type(source).__name__}", hint="give a path, bytes, an onnx.ModelProto or a Graph")


def is_onnx(source: Any) -> bool:
    """Whether the source can be handed to ONNX Runtime."""
    return kind_of(source) == "onnx"


def onnx_bytes_or_path(source: Any) -> bytes | os.PathLike[str]:
    """The source as ONNX Runtime takes it; a path stays one, so that external data is found."""
    if isinstance(source, (str, os.PathLike)):
        return Path(source)
    return bytes(source) if isinstance(source, (bytes, bytearray, memoryview)) else bytes(source.SerializeToString())


def bind(graph: Graph, inputs: Mapping[str, Any], dims: Mapping[str, int]) -> Graph:
    """A copy of `graph` with symbolic dimensions bound, by name or by the shapes of inputs.

    Raises:
        UsageError: a name or a shape that does not fit.
    """
    sizes: dict[str, Any] = dict(dims)
    known = {v.name: v for v in graph.inputs}
    for name, given in inputs.items():
        if name not in known:
            raise UsageError(f"the model has no input '{name}'", hint=f"its inputs are {', '.join(known)}")
        shape = tuple(getattr(given, "shape", given))
        if len(shape) != known[name].type.rank:
            raise UsageError(f"input '{name}' is {known[name].type}, which {list(shape)} does not fit")
        for dim, size in zip(known[name].type.shape, shape, strict=True):
            if isinstance(dim, int) and dim != size:
                raise UsageError(f"input '{name}' is {known[name].type}, which {list(shape)} does not fit")
            if repr(dim) in graph.free_symbols and sizes.setdefault(repr(dim), size) != size:
                raise UsageError(f"dimension '{dim!r}' is bound to {sizes[repr(dim)]} and to {size}", where=f"input '{name}'")
    if unknown := sorted(set(sizes) - graph.free_symbols):
        raise UsageError(
            f"the model has no dimension '{unknown[0]}'", hint=f"its dimensions are {', '.join(sorted(graph.free_symbols)) or 'all fixed'}"
        )
    return graph.copy(sizes)


def files_of(source: Any, graph: Graph) -> list[str]:
    """The files that a graph came from: the model, then files of external weights, for dependency files."""
    if not isinstance(source, (str, os.PathLike)):
        return []
    external = {str(v.tensor.path) for g in graph.graphs() for v in g.constants if isinstance(v.tensor, FileTensor)}
    return [os.fspath(source), *sorted(external)]


def _read_text(source: str | os.PathLike[str]) -> Graph:
    from lepton_compiler.ir.text import read_lir

    return read_lir(source)


def _head(path: Path) -> bytes:
    try:
        with open(path, "rb") as file:
            return file.read(16)
    except (OSError, ValueError) as error:
        reason = (error.strerror if isinstance(error, OSError) else None) or str(error)
        raise ModelError(f"cannot be read: {reason}", where=str(path)) from error


def _kind_of_bytes(head: bytes) -> str:
    return next((kind for fits, kind in MAGIC if fits(head)), "lir" if head.startswith((b"graph ", b"# ")) else "onnx")


def _shown(source: Any) -> str:
    return str(source) if isinstance(source, (str, os.PathLike)) else type(source).__name__
