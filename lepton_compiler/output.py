"""Writing results: everything is made in a staging folder beside its destination, then moved there whole."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

from lepton_compiler.errors import LeptonError, UsageError


class WriteError(LeptonError):
    """The output cannot be written: no permission, no space, a folder in the place of a file."""


@contextlib.contextmanager
def staging(out: Path) -> Iterator[Path]:
    """A temporary folder on the file system of `out`, removed afterwards whatever happens.

    Raises:
        WriteError: the folder that shall hold `out` cannot be written to.
    """
    parent = out.absolute().parent
    while not parent.exists() and parent != parent.parent:
        parent = parent.parent
    try:
        folder = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=parent))
    except OSError as error:
        raise WriteError(f"cannot write there: {error.strerror}", where=str(out), hint="choose another place with -o") from error
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def write_files(folder: Path, files: Mapping[str, bytes]) -> None:
    """Write files, given by paths relative to `folder`.

    Raises:
        WriteError: no space, no permission.
    """
    try:
        for name, data in files.items():
            path = folder / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(data)
    except OSError as error:
        raise WriteError(f"cannot be written: {error.strerror}", where=str(folder)) from error


def replace_file(path: Path, data: bytes) -> None:
    """Write a file atomically: whoever reads it sees the old content or the new one.

    Raises:
        WriteError: no space, no permission, a folder in its place.
    """
    with staging(path) as staged:
        write_files(staged, {path.name: data})
        try:
            _replace(staged / path.name, path)
        except OSError as error:
            raise WriteError(f"cannot be written: {error.strerror}", where=str(path)) from error


def publish_folder(staged: Path, out: Path) -> None:
    """Move all files below `staged` into the folder `out`, each one atomically; other files in `out` stay.

    Raises:
        UsageError: `out` is a file.
        WriteError: the operating system refuses.
    """
    if out.exists() and not out.is_dir():
        raise UsageError("is a file, and this kind of output is a folder", where=str(out), hint="choose another place with -o")
    try:
        for path in sorted(p for p in staged.rglob("*") if p.is_file()):
            _replace(path, out / path.relative_to(staged))
    except OSError as error:
        raise WriteError(f"cannot be written: {error.strerror}", where=str(out)) from error


def publish_files(staged: Path, out: Path) -> None:
    """Move the file `staged / out.name`, and the files beside it that it refers to, to where `out` is; the main file comes last.

    Raises:
        UsageError: `out` is a folder.
        WriteError: the operating system refuses.
    """
    if out.is_dir():
        raise UsageError("is a folder, and this kind of output is a file", where=str(out), hint=f"say -o {out / staged.name}")
    try:
        for path in sorted((p for p in staged.iterdir() if p.is_file()), key=lambda p: (p.name == out.name, p.name)):
            _replace(path, out.parent / path.name)
    except OSError as error:
        raise WriteError(f"cannot be written: {error.strerror}", where=str(out)) from error


def depfile_text(target: str, sources: list[str]) -> str:
    """One rule in Make's syntax: `target` depends on `sources`; each source also gets an empty rule, so that deleting it is no error."""
    first, *rest = [_escaped(s) for s in dict.fromkeys(sources)] or [""]
    rules = "".join(f"\n{s}:\n" for s in [first, *rest] if s)
    return f"{_escaped(target)}: {' '.join([first, *rest])}\n{rules}"


def _replace(path: Path, destination: Path) -> None:
    destination.parent.mkdir(parents=True, exist_ok=True)
    os.replace(path, destination)


def _escaped(path: str) -> str:
    return path.replace("$", "$$").replace("#", "\\#").replace(" ", "\\ ")
