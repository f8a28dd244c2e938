"""N-grams as comparisons of every window with every n-gram."""

from __future__ import annotations

from collections.abc import Sequence
from functools import reduce

import numpy as np

from lepton_compiler.errors import UnsupportedError
from lepton_compiler.ir.dim import Dim
from lepton_compiler.ir.graph import Node, Value
from lepton_compiler.ir.types import FLOAT32, INT64
from lepton_compiler.ops.builder import Builder
from lepton_compiler.ops.decompose import as_type, decomposition
from lepton_compiler.ops.ngram import TfIdfVectorizer


@decomposition(TfIdfVectorizer)
def _(build: Builder, node: Node) -> Sequence[Value]:
    op = node.op
    assert isinstance(op, TfIdfVectorizer)
    x, pool, indexes, weights = (*node.inputs, None)[:4]
    assert x is not None and pool is not None and indexes is not None
    size = x.type.shape[-1]
    if not isinstance(size, int) or pool.tensor is None or indexes.tensor is None:
        hint = "bind the dimension, and make the n-grams constants"
        raise UnsupportedError("the length of the rows and the n-grams must be known to lower this", where=node.describe(), hint=hint)
    batch: tuple[Dim, ...] = x.type.shape[:-1] or (1,)
    rows = as_type(build, build.Reshape(x, shape=(*batch, size)), INT64)
    source, count = np.zeros(op.columns, np.int64), 1
    parts = [build.Expand(build.constant(np.zeros((1, 1), np.float32)), shape=(*batch, 1))]
    for grams, first in op.grams(pool.numpy()):
        source[indexes.numpy()[first : first + len(grams)]] = np.arange(count, count + len(grams))
        parts.append(_weighted(build, op, _occurrences(build, op, rows, size, grams), weights, first))
        count += len(grams)
    columns = build.Gather(build.Concat(*parts, axis=1), build.constant(source), axis=1)
    return [build.Reshape(columns, shape=node.output.type.shape)]


def _occurrences(build: Builder, op: TfIdfVectorizer, rows: Value, size: int, grams: np.ndarray) -> Value:
    """How often each of `grams` [count, length] occurs in each row: float32 [N, count]."""
    length = grams.shape[1]
    parts = []
    for distance in op.distances(length, size):
        places = size - (length - 1) * distance
        same = []
        for k in range(length):
            window = build.Slice(rows, starts=(k * distance,), ends=(k * distance + places,), axes=(1,), steps=(1,))
            same.append(build.Equal(build.Unsqueeze(window, axes=(2,)), build.constant(grams[:, k].reshape(1, 1, -1))))
        parts.append(build.ReduceSum(build.Cast(reduce(build.And, same), to=FLOAT32), axes=(1,), keepdims=False))
    if not parts:
        return build.Expand(build.constant(np.zeros((1, 1), np.float32)), shape=(rows.type.shape[0], len(grams)))
    return reduce(build.Add, parts)


def _weighted(build: Builder, op: TfIdfVectorizer, counts: Value, weights: Value | None, first: int) -> Value:
    """What the mode makes of the counts of the n-grams from number `first` on."""
    if op.mode == "IDF":
        counts = build.Min(counts, build.constant(np.array(1, np.float32)))
    if op.mode == "TF" or weights is None:
        return counts
    end = first + int(counts.type.shape[1])  # type: ignore[arg-type]
    return build.Mul(counts, build.Slice(weights, starts=(first,), ends=(end,), axes=(0,), steps=(1,)))
