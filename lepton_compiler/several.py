"""Models compiled for several sizes of a dimension at once: `--dim seq=16,32,64`."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Union

from lepton_compiler.errors import UsageError

Dims = Mapping[str, Union[int, Sequence[int]]]
"""What the user says of dimensions: a size, or the sizes to choose from at run time."""

LIMIT = 64
"""Most choices that one artefact holds."""


@dataclass(frozen=True)
class Choices:
    """The dimensions of which several sizes are wanted, and every choice of all of them."""

    dimensions: tuple[str, ...]
    sizes: tuple[tuple[int, ...], ...]
    fixed: Mapping[str, int]

    @staticmethod
    def of(dims: Dims) -> Choices:
        """Take apart what the user says.

        Raises:
            UsageError: no size at all, one that is no size, or more choices than `LIMIT`.
        """
        listed = {name: tuple(dict.fromkeys(given)) for name, given in dims.items() if not isinstance(given, int)}
        for name, given in listed.items():
            if not given or any(not isinstance(n, int) or n < 0 for n in given):
                raise UsageError(f"dimension '{name}' is given the sizes {list(given)}", hint="list numbers that are not negative")
        sizes = tuple(itertools.product(*(sorted(given) for given in listed.values())))
        if len(sizes) > LIMIT:
            raise UsageError(f"{len(sizes)} choices of sizes are too many for one artefact", hint=f"list at most {LIMIT}")
        return Choices(tuple(listed), sizes, {name: given for name, given in dims.items() if isinstance(given, int)})

    def bound(self, chosen: Sequence[int]) -> dict[str, int]:
        """The sizes of all dimensions for one choice."""
        return {**self.fixed, **dict(zip(self.dimensions, chosen, strict=True))}
