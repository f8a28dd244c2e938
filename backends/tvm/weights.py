"""The weights of an artefact in one block: each tensor once, in the arrangement that kernels read it in."""

from __future__ import annotations

from typing import BinaryIO

import numpy as np

from lepton_compiler.analysis.memory import ALIGNMENT
from lepton_compiler.backends.tvm.packing import PACKINGS
from lepton_compiler.ir.tensor import Tensor

Key = tuple[str, str, tuple[int, ...]]


class WeightStore:
    """Tensors at aligned offsets, in order of first use; equal ones are stored once, whoever asks for them."""

    def __init__(self) -> None:
        self._arrays: list[tuple[int, np.ndarray]] = []
        self._offsets: dict[Key, int] = {}
        self._end = 0

    def place(self, tensor: Tensor, function: str = "", arguments: tuple[int, ...] = ()) -> int:
        """The offset of a tensor, rearranged by a packing function if one is named."""
        key = (tensor.digest, function, arguments)
        if key not in self._offsets:
            array = PACKINGS[function](tensor.numpy(), *arguments) if function else tensor.numpy()
            self._offsets[key] = self._end
            self._arrays.append((self._end, np.ascontiguousarray(array)))
            self._end += -(-array.nbytes // ALIGNMENT) * ALIGNMENT
        return self._offsets[key]

    @property
    def nbytes(self) -> int:
        """Size of the block: never zero, and readable a cache line past the start of the last tensor."""
        last, array = self._arrays[-1] if self._arrays else (0, np.zeros(0, np.uint8))
        return last + max(array.nbytes, 64)

    @property
    def arrays(self) -> tuple[tuple[int, np.ndarray], ...]:
        """The tensors with their offsets."""
        return tuple(self._arrays)

    def write(self, file: BinaryIO) -> None:
        """Write the block: all tensors at their offsets, zeros between them."""
        position = 0
        for offset, array in self._arrays:
            file.write(bytes(offset - position))
            file.write(array.reshape(-1).view(np.uint8).data)
            position = offset + array.nbytes
        file.write(bytes(self.nbytes - position))
