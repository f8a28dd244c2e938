"""One case as a file that can be carried: the artefact, what it is fed, what it should give."""

from __future__ import annotations

import io
import json
import lzma
import tarfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from bench.gpu.cases import Case

FILTERS = [{"id": lzma.FILTER_LZMA2, "preset": 6, "dict_size": 64 << 20}]
"""Far enough back to find the rows of a matrix again."""


@dataclass(frozen=True)
class Archive:
    """A case, compiled.

    Attributes:
        case: which one.
        stamp: of the compiler and the benchmark that made it.
        tolerance: largest difference that passes, relative to the range.
        reference: who computed `expected`.
        manifest: of the artefact.
        library: the shared library.
        feeds: by input; none where `patterned_input` makes it.
        expected: by output; of a net every `stride`-th element.
        stride: see there.
        span: by output, largest less smallest value of the whole.
        own: what the evaluator gives, where that is not quite the same: the reference rounds, too.
    """

    case: Case
    stamp: str
    tolerance: float
    reference: str
    manifest: Mapping[str, Any]
    library: bytes
    feeds: Mapping[str, np.ndarray]
    expected: Mapping[str, np.ndarray]
    stride: int = 1
    span: Mapping[str, float] | None = None
    own: Mapping[str, np.ndarray] = field(default_factory=dict)

    def write(self, path: Path) -> None:
        """Write the file; the same archive gives the same bytes."""
        facts = {
            "case": vars(self.case), "stamp": self.stamp, "tolerance": self.tolerance, "reference": self.reference, "stride": self.stride,
            "span": dict(self.span) if self.span is not None else None, "manifest": self.manifest,
        }  # fmt: skip
        members = {
            "facts.json": json.dumps(facts).encode(),
            "library.so": self.library,
            "feeds.npz": _packed(self.feeds),
            "expected.npz": _packed(self.expected),
            "own.npz": _packed(self.own),
        }
        write_members(path, members)

    @staticmethod
    def read(path: Path) -> Archive:
        """The inverse of `write`."""
        members = read_members(path)
        facts = json.loads(members["facts.json"])
        feeds, expected, own = (dict(np.load(io.BytesIO(members[f"{name}.npz"]))) for name in ("feeds", "expected", "own"))
        return Archive(
            Case(**facts["case"]), facts["stamp"], facts["tolerance"], facts["reference"], facts["manifest"], members["library.so"],
            feeds, expected, facts["stride"], facts["span"], own,
        )  # fmt: skip


def archives(folder: Path) -> list[Path]:
    """The archives in a folder and in those below it."""
    return sorted(folder.rglob("*.tar.xz"))


def write_members(path: Path, members: Mapping[str, bytes]) -> None:
    """Write a compressed archive of such contents by name, in this order; there is none before it is whole."""
    partial = path.with_suffix(".part")
    with lzma.open(partial, "wb", format=lzma.FORMAT_XZ, filters=FILTERS) as stream, tarfile.open(fileobj=stream, mode="w") as tar:
        for name, data in members.items():
            row = tarfile.TarInfo(name)
            row.size = len(data)
            tar.addfile(row, io.BytesIO(data))
    partial.replace(path)


def read_members(path: Path) -> dict[str, bytes]:
    """The inverse of `write_members`."""
    with lzma.open(path) as stream, tarfile.open(fileobj=stream) as tar:
        return {row.name: tar.extractfile(row).read() for row in tar}  # type: ignore[union-attr]


def facts_of(path: Path) -> dict[str, Any]:
    """The facts alone, which are at the beginning of the file."""
    with lzma.open(path) as stream, tarfile.open(fileobj=stream) as tar:
        first = tar.next()
        assert first is not None
        facts: dict[str, Any] = json.load(tar.extractfile(first))  # type: ignore[arg-type]
        return facts


def _packed(arrays: Mapping[str, np.ndarray]) -> bytes:
    stream = io.BytesIO()
    np.savez(stream, **arrays)  # type: ignore[arg-type]
    return stream.getvalue()
