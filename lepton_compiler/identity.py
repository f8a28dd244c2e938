"""What an artefact is called, where it goes, and what it was made from."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import lepton_compiler
from lepton_compiler import __version__
from lepton_compiler.backend import Emit
from lepton_compiler.errors import UsageError
from lepton_compiler.ir.graph import Graph
from lepton_compiler.ir.text import print_graph

FOLDER_KINDS: tuple[Emit, ...] = ("lib", "static", "obj", "c", "tir", "asm")
"""Kinds of output for which OUT is a folder; for the others it is a file."""

SUFFIX = {"onnx": ".lepton.onnx", "ir": ".lir"}
C_WORDS = frozenset(
    "auto bool break case char const continue default do double else enum extern false float for goto if inline int long register restrict "
    "return short signed sizeof static struct switch true typedef union unsigned void volatile while main class namespace template".split()
)


def default_out(source: Any, name: str | None, emit: Emit) -> Path:
    """Where the output goes unless the user says: named after the model, in the current folder."""
    name = name or default_name(source)
    return Path(name if emit in FOLDER_KINDS else name + SUFFIX.get(emit, f".{emit}"))


def default_name(source: Any) -> str:
    """A C identifier from the name of a model."""
    stem = Path(source).stem if isinstance(source, (str, os.PathLike)) else getattr(source, "name", "") or "model"
    name = re.sub(r"\W", "_", stem, flags=re.ASCII) or "model"
    return f"m_{name}" if name[0].isdigit() else f"{name}_" if name in C_WORDS else name


def check_name(name: str) -> str:
    """`name`, if it can prefix C symbols.

    Raises:
        UsageError: it is no C identifier.
    """
    if not re.fullmatch(r"[A-Za-z]\w*", name, re.ASCII) or name in C_WORDS:
        raise UsageError(f"'{name}' is not a C identifier", hint="letters, digits and underscores, a letter first, no word of C")
    return name


def manifest_bytes(manifest: Mapping[str, Any]) -> bytes:
    """A manifest as the bytes of its file: the same for equal manifests."""
    return (json.dumps(manifest, indent=2, sort_keys=True) + "\n").encode()


def weights_bytes(graph: Graph) -> int:
    """Bytes of all distinct constants, nested graphs included."""
    tensors = {id(v.tensor): v.type.nbytes for g in graph.graphs() for v in g.constants}
    return sum(tensors.values())


def compiler_files() -> list[str]:
    """The modules of this compiler, its texts for GPUs, and a module of TVM's: when any of them is newer than an artefact, that may not be what it would be now."""
    root = Path(lepton_compiler.__file__).resolve().parent
    modules = sorted(
        str(Path(folder, name)) for folder, _, names in os.walk(root, followlinks=True) for name in names if name.endswith((".py", ".cuh"))
    )
    tvm = importlib.util.find_spec("tvm")
    return [*modules, *([tvm.origin] if tvm and tvm.origin else [])]


def identify(name: str, options: Mapping[str, Any], graph: Graph, source: Any) -> dict[str, Any]:
    """What an artefact was made from; equal identities give equal bytes. Neither times nor paths are in it.

    Args:
        name: of the artefact.
        options: JSON values of everything that was asked for.
        graph: as imported.
        source: what it was imported from; the hash of a file goes in too.
    """
    weights: dict[str, Any] = {}
    text = print_graph(graph, weights)
    identity: dict[str, Any] = {"name": name, "lepton_version": __version__, **options}
    identity["graph_sha256"] = hashlib.sha256("".join([text, *sorted(t.digest for t in weights.values())]).encode()).hexdigest()
    identity["options_sha256"] = hashlib.sha256(json.dumps(options, sort_keys=True).encode()).hexdigest()
    if isinstance(source, (str, os.PathLike)):
        with open(source, "rb") as file:
            identity["model_sha256"] = hashlib.file_digest(file, "sha256").hexdigest()
    return identity
