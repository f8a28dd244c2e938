"""Models that the checks of the CUDA backend go over: the ONNX models of the zoo, and files that the command line names."""

from __future__ import annotations

import argparse
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

import lepton_compiler as lc
from bench.random_weights import with_random_weights
from lepton_compiler import zoo
from lepton_compiler.cli.options import dimension
from lepton_compiler.errors import UsageError
from lepton_compiler.feeds import feeds_from_recipes, random_feeds
from lepton_compiler.ir.graph import Graph

TARGET = "cuda:sm_80,sm_90"


@dataclass(frozen=True)
class Case:
    """One model, and what it must be told to compile.

    Attributes:
        name: its id in the list, or the name of its file.
        path: the file.
        inputs: shape by input name.
        recipes: how the inputs are filled, as the list says; random ones where it does not.
        dims: size by name of a dimension.
        bounds: largest size by name of a node.
    """

    name: str
    path: Path
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    recipes: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    dims: Mapping[str, int] = field(default_factory=dict)
    bounds: Mapping[str, int] = field(default_factory=dict)

    def options(self) -> list[str]:
        """The same as options of `leptonc`."""
        shapes = [f"--input={name}={'x'.join(map(str, shape))}" for name, shape in self.inputs.items()]
        return [*shapes, *(f"--dim={n}={s}" for n, s in self.dims.items()), *(f"--bound={n}={s}" for n, s in self.bounds.items())]

    def graph(self) -> Graph:
        """The model as imported."""
        return lc.import_model(self.path, inputs=self.inputs, dims=self.dims)

    def feeds(self, graph: Graph) -> dict[str, np.ndarray]:
        """An array for each input."""
        return feeds_from_recipes(self.recipes) if self.recipes else random_feeds(graph.inputs)

    def to_json(self) -> str:
        """Text that `from_json` reads."""
        return json.dumps(vars(self) | {"path": str(self.path)})

    @classmethod
    def from_json(cls, text: str) -> Case:
        """What `to_json` wrote."""
        facts = json.loads(text)
        shapes = {name: tuple(shape) for name, shape in facts["inputs"].items()}
        return cls(**facts | {"path": Path(facts["path"]), "inputs": shapes})


def add_case_options(parser: argparse.ArgumentParser) -> None:
    """Options that choose models and precisions."""
    parser.add_argument(
        "models", nargs="*", metavar="MODEL", help="parts of ids of the zoo, or files; all ONNX models of the zoo if absent"
    )
    parser.add_argument("--dim", action="append", type=dimension, default=[], metavar="NAME=N", help="size of a dimension, for files")
    parser.add_argument(
        "--bound", action="append", type=dimension, default=[], metavar="NODE=N", help="largest size of a result, for files"
    )
    parser.add_argument("--precision", action="append", choices=["fp32", "tf32", "fp16", "bf16"], default=[], help="default: fp32 and fp16")
    parser.add_argument("--output", type=Path, metavar="DIR", help="write results there (default: bench/results, if all models run)")
    parser.add_argument(
        "--resume", action="store_true", help="keep the rows that the file of results has, and do what is missing or failed"
    )


def cases(args: argparse.Namespace) -> list[Case]:
    """The models that the command line asks for.

    Raises:
        UsageError: a name that is neither a file nor part of an id.
        FetchError: a model of the zoo cannot be had.
    """
    files = [Path(name) for name in args.models if Path(name).is_file()]
    names = [name for name in args.models if not Path(name).is_file()]
    listed = [e for e in zoo.entries() if e.format == "onnx"]
    for name in names:
        if not any(name in e.id for e in listed):
            raise UsageError(f"'{name}' is neither a file nor part of a model's id", hint="lepton zoo list")
    chosen = [e for e in listed if any(name in e.id for name in names) or not args.models]
    paths = zoo.fetch_all(chosen)
    fetched = [Case(e.id, with_random_weights(path), e.shapes, e.inputs) for e, path in zip(chosen, paths, strict=True)]
    return fetched + [Case(path.name, path.resolve(), dims=dict(args.dim), bounds=dict(args.bound)) for path in files]


def precisions(args: argparse.Namespace) -> Sequence[str]:
    """Those asked for."""
    return args.precision or ("fp32", "fp16")


def kept(path: Path, key: Sequence[str], resume: bool) -> dict[tuple[str, ...], dict[str, Any]]:
    """Rows that an interrupted run left, by what identifies them; none unless they are to be kept."""
    if not resume or not path.is_file():
        return {}
    return {tuple(row[k] for k in key): row for row in json.loads(path.read_text(encoding="utf-8"))["rows"]}


def write(folder: Path, stem: str, facts: Mapping[str, Any], table: str) -> None:
    """The results as JSON, and as a table in Markdown."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{stem}.json").write_text(json.dumps(facts, indent=1) + "\n", encoding="utf-8")
    (folder / f"{stem}.md").write_text(table, encoding="utf-8")
