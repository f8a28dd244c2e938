"""Products of 8-bit integers on cores without vectors: how the weights lie in flash.

The DSP extension multiplies two pairs of 16-bit numbers and adds both products (`SMLAD`). `SXTB16` makes such pairs of the bytes 0 and 2,
or 1 and 3, of a word. So four neighbouring bytes of the weights, which are four neighbouring numbers of a run (see `integer_product`), are
one word, and words of the output channels that are computed together lie side by side.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[Any]

GROUP = 4
"""Numbers in a word."""


WORDS, FLIPPED = 1, 2
"""Forms of packed weights: int32 words, and unsigned bytes, larger by 128 than the signed ones. Else they stay bytes."""


def pack_micro_conv(w: Array, block: int, taps: int, form: int) -> Array:
    """`[OC, IC, KH, KW]` or `[OC, IC, KW]` to `[ceil(OC / block), KH * taps * groups, block (, 4)]`: int32 words, or bytes."""
    image = w[:, :, None, :] if w.ndim == 3 else w
    moved = image.transpose(0, 2, 3, 1)
    return _pack(moved.reshape(moved.shape[0], moved.shape[1] * taps, -1), block, form)


def pack_micro_matmul(w: Array, block: int, form: int) -> Array:
    """`[K, N]` to `[ceil(N / block), groups, block (, 4)]`: int32 words, or bytes."""
    return _pack(w.T[:, None, :], block, form)


def pack_micro_depthwise(w: Array, form: int) -> Array:
    """`[C, 1, KH, KW]` or `[C, 1, KW]` to `[ceil(C / 4), KH * KW (, 4)]`: the same tap of four channels side by side."""
    taps = w.reshape(w.shape[0], -1)
    filled = np.pad(taps, ((0, -len(taps) % GROUP), (0, 0)))
    split = filled.reshape(-1, GROUP, taps.shape[1]).transpose(0, 2, 1)
    return _formed(np.ascontiguousarray(split), form)


def _pack(runs: Array, block: int, form: int) -> Array:
    outputs, rows, run = runs.shape
    filled = np.zeros((outputs + -outputs % block, rows, run + -run % GROUP), runs.dtype)
    filled[:outputs, :, :run] = runs
    split = filled.reshape(len(filled) // block, block, rows * filled.shape[2] // GROUP, GROUP)
    return _formed(np.ascontiguousarray(split.transpose(0, 2, 1, 3)), form)


def _formed(packed: Array, form: int) -> Array:
    if form == FLIPPED:
        return packed.view(np.uint8) ^ np.uint8(128)
    return packed.view("<i4")[..., 0] if form == WORDS else packed
