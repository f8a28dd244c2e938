"""From a path, bytes or a protobuf to a `ModelProto` whose outline is sound."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import onnx
from google.protobuf.message import DecodeError  # type: ignore[import-untyped]  # protobuf ships no types

from lepton_compiler.errors import ModelError

OLDEST_OPSET = 1
FIRST_IR_WITH_OPSETS = 3
"""Models of older IR versions do not say which opset they use: it is opset 1."""

NESTING_LIMIT = 30
"""Deepest nesting of graphs in graphs; the protobuf parser gives up at about the same depth."""

PROTOBUF_LIMIT = 2**31 - 1


def load_model(source: os.PathLike[str] | str | bytes | onnx.ModelProto) -> tuple[onnx.ModelProto, Path | None]:
    """The model, and the folder that its external data is relative to (None unless read from a file).

    Raises:
        ModelError: the file cannot be read, is not an ONNX model, or lacks a graph, an output or an opset.
    """
    if isinstance(source, onnx.ModelProto):
        model, folder = source, None
    elif isinstance(source, bytes):
        model, folder = _parse(source, "model"), None
    elif isinstance(source, (str, os.PathLike)):
        path = Path(source)
        model, folder = _parse(_read(path), str(path)), path.parent
    else:
        raise ModelError(f"cannot import an ONNX model from {type(source).__name__}", hint="give a path, bytes or a ModelProto")
    _check_outline(model)
    return _with_opset(model), folder


def opset_versions(imports: Iterator[onnx.OperatorSetIdProto] | list[onnx.OperatorSetIdProto]) -> dict[str, int]:
    """Domain to version; the default domain is the empty string."""
    return {("" if entry.domain == "ai.onnx" else entry.domain): int(entry.version) for entry in imports}


def _read(path: Path) -> bytes:
    try:
        if not path.is_file():
            raise ModelError("no such file" if not path.exists() else "not a regular file", where=str(path))
        if path.stat().st_size > PROTOBUF_LIMIT:
            raise ModelError("larger than 2 GiB, which protobuf cannot hold", where=str(path), hint="save the model with external data")
        return path.read_bytes()
    except OSError as error:
        raise ModelError(f"cannot be read: {error.strerror}", where=str(path)) from error
    except ValueError as error:
        raise ModelError(f"not a valid path: {error}", where=repr(str(path))) from error


def _parse(data: bytes, where: str) -> onnx.ModelProto:
    model = onnx.ModelProto()
    try:
        model.ParseFromString(data)
    except (DecodeError, RecursionError) as error:
        raise ModelError(
            "not an ONNX model, or a damaged one: it cannot be parsed", where=where, hint="check that the file is complete"
        ) from error
    return model


def _check_outline(model: onnx.ModelProto) -> None:
    if not model.HasField("graph"):
        raise ModelError("not an ONNX model: it has no graph")
    if not model.graph.output:
        raise ModelError("the model has no outputs")
    if not model.opset_import and model.ir_version >= FIRST_IR_WITH_OPSETS:
        raise ModelError("the model does not say which opset it uses", hint="set opset_import")
    version = opset_versions(list(model.opset_import)).get("")
    newest = onnx.defs.onnx_opset_version()
    if version is not None and not OLDEST_OPSET <= version <= newest:
        hint = "the file is damaged" if version < OLDEST_OPSET else "install a newer onnx package"
        raise ModelError(f"the model uses opset {version}; known are {OLDEST_OPSET} to {newest}", hint=hint)
    _check_depth(model.graph)
    _check_text(model)


def _with_opset(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model, with the opset that its IR version implies where it names none."""
    if model.opset_import:
        return model
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    copy.opset_import.append(onnx.helper.make_opsetid("", 1))
    return copy


def _check_depth(graph: onnx.GraphProto) -> None:
    level = [graph]
    for _ in range(NESTING_LIMIT):
        level = [inner for g in level for n in g.node for inner in _inner(n)]
        if not level:
            return
    raise ModelError(f"graphs are nested more than {NESTING_LIMIT} deep")


def _inner(node: onnx.NodeProto) -> Iterator[onnx.GraphProto]:
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _check_text(model: onnx.ModelProto) -> None:
    """Refuse names that are not text: protobuf hands those out as bytes."""
    pending: list[onnx.GraphProto | onnx.FunctionProto] = [model.graph, *model.functions]
    for graph in pending:
        texts = [graph.name]
        for node in graph.node:
            texts += [node.name, node.op_type, node.domain, *node.input, *node.output, *(a.name for a in node.attribute)]
            pending += _inner(node)
        if isinstance(graph, onnx.GraphProto):
            texts += [t.name for t in graph.initializer] + [t.values.name for t in graph.sparse_initializer]
            for value in [*graph.input, *graph.output]:
                texts += [value.name, *(d.dim_param for d in value.type.tensor_type.shape.dim)]
        if any(isinstance(text, bytes) for text in texts):
            raise ModelError("a name in the model is not valid UTF-8: the file is damaged")
