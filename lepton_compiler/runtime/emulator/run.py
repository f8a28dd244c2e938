"""One artefact in an emulator: where its data lies in memory, how it is called, what comes out."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.types import dtype
from lepton_compiler.runtime.emulator.machine import Call, Machine, Stats
from lepton_compiler.runtime.library import ARENA_ALIGNMENT, STATUS
from lepton_compiler.target import Target

GARBAGE = 0xCD
"""What the arena holds before the first run."""


class Emulation:
    """A loaded artefact.

    Args:
        machine: what runs it.
        manifest: what `NAME.json` says.
        target: the machine it was built for.
    """

    def __init__(self, machine: Machine, manifest: Mapping[str, Any], target: Target) -> None:
        self.machine, self.manifest, self.target = machine, manifest, target
        self._arena = b""

    def reset(self) -> None:
        """Let a stateful model begin anew at the next run."""
        self._arena = b""

    def run(self, feeds: Sequence[np.ndarray], count: bool = True) -> tuple[dict[str, np.ndarray], Stats]:
        """Run once.

        Args:
            feeds: dense arrays in the order of the manifest.
            count: whether to count instructions, which takes most of the time.

        Raises:
            LeptonError: the code failed: a bad address, an unknown instruction, or an error of its own.
        """
        rows = self.manifest["outputs"]
        outputs = [np.zeros(row["shape"], dtype(row["dtype"]).numpy) for row in rows]
        stateful, begun = bool(self.manifest.get("states")), bool(self._arena)
        arena = self._arena or bytes([GARBAGE]) * max(self.manifest["arena_bytes"], ARENA_ALIGNMENT)
        blocks = [a.tobytes() for a in feeds] + [a.tobytes() for a in outputs] + [arena]
        ranks = [len(row["shape"]) for row in rows if "dynamic" in row]
        places, end = self._places(blocks, self.machine.heap)
        inputs = self._struct(places[: len(feeds)], self._sizes(feeds))
        results = self._struct(places[len(feeds) : -1], [0] * sum(ranks))
        (at_inputs, at_results), end = self._places([inputs, results], end)
        memory = bytearray(end - self.machine.heap)
        for place, data in zip([*places, at_inputs, at_results], [*blocks, inputs, results], strict=True):
            memory[place - self.machine.heap : place - self.machine.heap + len(data)] = data
        reset = [Call("reset", (places[-1],))] if stateful and not begun else []
        done = self.machine.run(bytes(memory), [*reset, Call("run", (at_inputs, at_results, places[-1]))], count)
        if done.status:
            reason = STATUS.get(done.status, "an unknown error")
            raise LeptonError(f"{self.manifest['name']}_{done.function} returned {done.status}: {reason}")

        def read(place: int, size: int) -> bytes:
            return done.memory[place - self.machine.heap : place - self.machine.heap + size]

        self._arena = read(places[-1], len(arena)) if stateful else b""
        shapes = self._shapes(read(at_results, len(results)), ranks)
        found = {}
        for row, array, place in zip(rows, outputs, places[len(feeds) : -1], strict=True):
            whole = np.frombuffer(read(place, array.nbytes), array.dtype).reshape(array.shape)
            shape = next(shapes) if "dynamic" in row else array.shape
            found[row["name"]] = whole.reshape(-1)[: math.prod(shape)].reshape(shape).copy()
        return found, done.stats

    def _sizes(self, feeds: Sequence[np.ndarray]) -> Sequence[int]:
        """The values of the dimension members of the input struct."""
        variants = self.manifest.get("sizes", {}).get("variants", [])
        shapes = [list(a.shape) for a in feeds]
        return next((v["sizes"] for v in variants if v["inputs"] == shapes), [])

    def _shapes(self, results: bytes, ranks: Sequence[int]) -> Iterator[tuple[int, ...]]:
        numbers = iter(np.frombuffer(results[len(results) - 8 * sum(ranks) :], np.int64).tolist())
        return iter([tuple(next(numbers) for _ in range(rank)) for rank in ranks])

    def _struct(self, pointers: Sequence[int], sizes: Sequence[int]) -> bytes:
        """Pointers, then 64-bit numbers, which are aligned."""
        width = self.target.pointer_bits // 8
        data = b"".join(p.to_bytes(width, "little") for p in (pointers or [self.machine.heap]))
        data += bytes(-len(data) % 8) if sizes else b""
        return data + b"".join(n.to_bytes(8, "little", signed=True) for n in sizes)

    def _places(self, blocks: Sequence[bytes], at: int) -> tuple[list[int], int]:
        """Aligned addresses for some blocks, one after another, and the end."""
        places = []
        for data in blocks:
            places.append(at)
            at += -(-max(len(data), 1) // ARENA_ALIGNMENT) * ARENA_ALIGNMENT
        return places, at
