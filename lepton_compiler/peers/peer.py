"""What a peer is: a name, whether it is installed, and a way to load an ONNX model for a number of threads."""

from __future__ import annotations

import contextlib
import importlib.util
import sys
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from lepton_compiler.errors import LeptonError, MissingDependency


class PeerError(LeptonError):
    """A peer cannot load or run the model."""


@dataclass(frozen=True)
class Loaded:
    """A model that a peer has loaded, bound to its inputs.

    Attributes:
        call: runs the model once on the inputs that it was loaded with; inputs stay where they are, as do outputs where the peer can.
        outputs: of a first run, by name.
    """

    call: Callable[[], Any]
    outputs: Mapping[str, np.ndarray]

    def __call__(self) -> Any:
        """Run once."""
        return self.call()


class Peer(ABC):
    """A runtime or compiler for ONNX models on the CPU.

    Class attributes: `name`, as `--against` takes it; `label`, as tables show it; `modules` that must be importable; `package`, the
    distribution whose version counts; `install`, the command that installs it.
    """

    name: ClassVar[str]
    label: ClassVar[str]
    modules: ClassVar[tuple[str, ...]]
    package: ClassVar[str]
    install: ClassVar[str]

    def available(self) -> bool:
        """Whether everything that it needs is installed."""
        return all(_importable(module) for module in self.modules)

    def require(self) -> None:
        """Say how to install it if it is not.

        Raises:
            MissingDependency: it is not.
        """
        if not self.available():
            raise MissingDependency(f"{self.name} is not installed", hint=self.install)

    @property
    def version(self) -> str:
        """Of the installed package."""
        return version(self.package)

    def load(self, model: Path, inputs: Mapping[str, np.ndarray], threads: int) -> Loaded:
        """Load a model, bind it to inputs, and run it once.

        Args:
            model: an ONNX file.
            inputs: by name; those that the model does not have are left out. They must not be changed afterwards.
            threads: that one run may use.

        Raises:
            MissingDependency: the peer is not installed.
            PeerError: it cannot load or run the model.
        """
        self.require()
        try:
            with contextlib.redirect_stdout(sys.stderr):  # some talk while they load; stdout belongs to the command's result
                return self._load(model, inputs, threads)
        except (LeptonError, MemoryError):
            raise
        except Exception as error:  # peers fail with exceptions of many kinds; all mean that there is nothing to measure
            lines = str(error).strip().splitlines() or [type(error).__name__]
            raise PeerError(
                f"{self.name} cannot run the model: {type(error).__name__}: {lines[-1] if len(lines[0]) < 8 else lines[0]}",
                where=model.name,
                hint="leave it out of --against",
            ) from error

    @abstractmethod
    def _load(self, model: Path, inputs: Mapping[str, np.ndarray], threads: int) -> Loaded:
        """`load` without the checks; any exception means that the model cannot be measured."""


def _importable(module: str) -> bool:
    try:
        return importlib.util.find_spec(module) is not None
    except ModuleNotFoundError:  # the package that should hold it
        return False
