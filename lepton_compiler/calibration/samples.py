"""Where samples come from: folders, files, functions, iterables. They are read one at a time, and checked against the model's inputs."""

from __future__ import annotations

import importlib
import os
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from lepton_compiler.calibration.images import IMAGE_SUFFIXES, Preprocessing, read_image
from lepton_compiler.errors import LeptonError, UsageError
from lepton_compiler.ir.graph import Value
from lepton_compiler.ops.evaluator import as_array

CHUNK = 16
"""Samples that are fed at once where one array holds many and the model leaves the size of its first axis open."""
Feeds = dict[str, np.ndarray]


class FromFile(dict[str, Any]):
    """A sample that was read from the file called `name`."""

    name = ""


@dataclass(frozen=True)
class Samples:
    """Feeds for a model, which can be gone through again and again.

    Attributes:
        source: makes an iterator of unchecked samples.
        inputs: the model's inputs.
        limit: samples that are used at most.
        what: how messages name the data.
    """

    source: Callable[[], Iterator[Mapping[str, Any]]]
    inputs: tuple[Value, ...]
    limit: int
    what: str

    def __iter__(self) -> Iterator[Feeds]:
        return islice(self._checked(), self.limit)

    def take(self, count: int) -> list[Feeds]:
        """The first `count` samples, or as many as there are."""
        return list(islice(iter(self), count))

    def _checked(self) -> Iterator[Feeds]:
        empty = True
        for number, sample in enumerate(self.source()):
            empty = False
            name = f", {sample.name}" if isinstance(sample, FromFile) else ""
            yield from _split(self._arrays(sample, f"sample {number + 1} of {self.what}{name}"), self.inputs)
        if empty:
            raise UsageError(f"{self.what} holds no sample")

    def _arrays(self, sample: Mapping[str, Any], where: str) -> Feeds:
        """The sample as arrays of the inputs' types.

        Raises:
            UsageError: all that does not fit, at once.
        """
        if not isinstance(sample, Mapping):
            raise UsageError(f"{where} is a {type(sample).__name__}, not a dict of arrays by input name")
        known = {v.name: v for v in self.inputs}
        problems = [f"no input '{n}'; the model has {', '.join(known)}" for n in sample if n not in known]
        problems += [f"input '{n}' is missing" for n in known if n not in sample]
        arrays: Feeds = {}
        for name in known:
            if name in sample:
                array = as_array(sample[name], known[name].type.dtype.numpy)
                arrays[name] = _typed(array, known[name])
                problems += _misfits(arrays[name], known[name])
        if problems:
            raise UsageError(f"{where}: {'; '.join(problems)}", hint="give each sample as arrays by input name, as the model takes them")
        return arrays


def _typed(array: np.ndarray, value: Value) -> np.ndarray:
    """float64 as float32, and integers as the model's integers, which numpy makes without being asked."""
    wanted = value.type.dtype
    if (array.dtype == np.float64 and wanted.is_float) or (array.dtype.kind in "iu" and wanted.is_integer):
        return array.astype(wanted.numpy)
    return array


def _misfits(array: np.ndarray, value: Value) -> list[str]:
    if array.dtype != value.type.dtype.numpy:
        return [f"input '{value.name}' is {value.type.dtype}, not {array.dtype}"]
    if array.ndim not in (value.type.rank, value.type.rank + 1):
        return [f"input '{value.name}' is {value.type}, the sample has shape {array.shape}"]
    shape = array.shape[array.ndim - value.type.rank :]
    stacked = array.ndim == value.type.rank and value.type.rank > 0
    for axis, (dim, size) in enumerate(zip(value.type.shape, shape, strict=True)):
        many = axis == 0 and stacked and isinstance(dim, int) and dim and size % dim == 0
        if isinstance(dim, int) and dim != size and not many:
            return [f"input '{value.name}' is {value.type}, the sample has shape {array.shape}"]
    if array.dtype.kind == "f" and not (finite := np.isfinite(array)).all():
        where = ", ".join(map(str, np.unravel_index(int(np.argmin(finite)), array.shape)))
        return [
            f"input '{value.name}' holds NaN or infinity: {array.size - int(finite.sum())} of {array.size} elements, the first at [{where}]"
        ]
    return []


def _split(arrays: Feeds, inputs: Sequence[Value]) -> Iterator[Feeds]:
    """The samples that one set of arrays holds: along an axis more than the model has, or along its first axis."""
    if not arrays:
        yield {}
        return
    if all(a.ndim == v.type.rank + 1 for v, a in zip(inputs, arrays.values(), strict=True)):
        for k in range(min(len(a) for a in arrays.values())):
            yield {name: a[k] for name, a in arrays.items()}
        return
    sizes = {}
    for value in inputs:
        array = arrays[value.name]
        first = value.type.shape[0] if value.type.rank else 1
        step = first if isinstance(first, int) else CHUNK
        if array.ndim and step and len(array) > step:
            sizes[value.name] = step
    count = max((-(-len(arrays[n]) // step) for n, step in sizes.items()), default=1)
    for k in range(count):
        yield {n: a[k * sizes[n] : (k + 1) * sizes[n]] if n in sizes else a for n, a in arrays.items()}


def open_samples(source: Any, inputs: Sequence[Value], limit: int = 512) -> Samples:
    """Samples from whatever the user gave.

    Args:
        source: a folder of `.npz` files (one array per input), of `.npy` files or of images (for models with one input); one `.npz` or
            `.npy` file; `FOLDER{mean=...,std=...}` for images with preprocessing, see `images.Preprocessing`; `module:function` that
            gives an iterable of dicts; such a function; a dict of arrays; an iterable of dicts.
        inputs: the model's inputs.
        limit: samples that are used at most.

    Raises:
        UsageError: nothing of these, or it cannot be read. Samples that do not fit the model are found when they are read.
    """
    inputs = tuple(inputs)
    if isinstance(source, Samples):
        return source
    if isinstance(source, Mapping):
        return Samples(lambda: iter([source]), inputs, limit, "the calibration data")
    if isinstance(source, (str, os.PathLike)):
        return _from_text(os.fspath(source), inputs, limit)
    if callable(source):
        return Samples(lambda: _called(source, "the calibration function"), inputs, limit, "the calibration data")
    if not isinstance(source, Iterable):
        raise UsageError(f"cannot calibrate with a {type(source).__name__}", hint="give a path, or an iterable of dicts of arrays")
    if isinstance(source, Iterator):
        kept = list(islice(source, limit))  # it can be gone through once only
        return Samples(lambda: iter(kept), inputs, limit, "the calibration data")
    return Samples(lambda: iter(source), inputs, limit, "the calibration data")


def _from_text(text: str, inputs: tuple[Value, ...], limit: int) -> Samples:
    path, brace, options = text.partition("{")
    if Path(path).is_dir():
        files = sorted(p for p in Path(path).iterdir() if p.suffix.lower() in (".npy", ".npz", *IMAGE_SUFFIXES))
        if not files:
            raise UsageError(f"'{path}' holds no .npy, .npz or image files")
        steps = Preprocessing.parse(options.rstrip("}") if brace else "")
        return Samples(lambda: (_named(file, inputs, steps) for file in files), inputs, limit, f"'{path}'")
    if Path(path).suffix.lower() in (".npy", ".npz"):
        return Samples(lambda: iter([_read(Path(path), inputs, Preprocessing())]), inputs, limit, f"'{path}'")
    module, colon, function = text.partition(":")
    if colon and all(part.isidentifier() for part in (*module.split("."), function)):
        found = load_function(text)
        return Samples(lambda: _called(found, f"'{text}'"), inputs, limit, f"'{text}'")
    if Path(path).exists():
        raise UsageError(f"'{path}' is no calibration data", hint="give a folder, an .npz or .npy file, or module:function")
    raise UsageError(f"no such calibration data: '{path}'", hint="give a folder, an .npz or .npy file, or module:function")


def load_function(text: str) -> Callable[..., Any]:
    """The function `module:function`; modules in the current folder are found too.

    Raises:
        UsageError: there is none.
    """
    module, _, name = text.partition(":")
    here = os.getcwd()
    sys.path.insert(0, here)
    try:
        found = getattr(importlib.import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"cannot load '{text}': {error}", hint="write module:function; modules of this folder are found") from error
    finally:
        sys.path.remove(here)
    if not callable(found):
        raise UsageError(f"'{text}' is not a function")
    return found  # type: ignore[no-any-return]


def _called(function: Callable[..., Any], what: str) -> Iterator[Mapping[str, Any]]:
    try:
        return iter(function())
    except LeptonError:
        raise
    except Exception as error:
        raise UsageError(f"{what} failed: {type(error).__name__}: {error}", hint="it must give an iterable of dicts of arrays") from error


def _named(file: Path, inputs: tuple[Value, ...], steps: Preprocessing) -> FromFile:
    sample = FromFile(_read(file, inputs, steps))
    sample.name = file.name
    return sample


def _read(file: Path, inputs: tuple[Value, ...], steps: Preprocessing) -> Mapping[str, Any]:
    if file.suffix.lower() != ".npz" and len(inputs) != 1:
        raise UsageError(f"'{file}' holds one array, the model has {len(inputs)} inputs", hint="write .npz files with an array per input")
    if file.suffix.lower() in IMAGE_SUFFIXES:
        return {inputs[0].name: read_image(file, inputs[0].type, steps)}
    try:
        loaded = np.load(file, allow_pickle=False)
        if file.suffix.lower() == ".npy":
            return {inputs[0].name: loaded}
        with loaded:
            return {key: loaded[key] for key in loaded.files}
    except (OSError, ValueError, EOFError, KeyError, AttributeError, zlib.error, zipfile.BadZipFile) as error:
        raise UsageError(f"cannot read '{file}': {error}", hint="write it with numpy.save or numpy.savez") from error
