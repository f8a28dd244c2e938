"""N-grams: how often given sequences of numbers occur in others."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from lepton_compiler.ir.op import Cost, Op, Types, require, traffic
from lepton_compiler.ir.types import FLOAT32, INT64, TensorType
from lepton_compiler.ops.broadcasting import may_equal

MODES = ("TF", "IDF", "TFIDF")


@dataclass(frozen=True)
class TfIdfVectorizer(Op):
    """Weights of the n-grams that occur in each row of `x` [C] or [N, C]: float32 [columns] or [N, columns].

    `pool` int64 holds the n-grams one after the other, single numbers first, then pairs, and so on; `indexes` int64 [n-grams] the
    column of each, no two the same; `weights` float32 [n-grams] (absent: ones). An n-gram occurs wherever its numbers follow each
    other at a distance of 1 to `max_skip_count` + 1.

    Attributes:
        mode: "TF" counts; "IDF" is the weight of what occurs at all; "TFIDF" the count times the weight.
        min_gram_length: shorter n-grams do not count.
        max_gram_length: longer n-grams do not count.
        max_skip_count: how many numbers may lie between two of an n-gram.
        ngram_counts: where in the pool the n-grams of one number begin, those of two, ...
        columns: the number of columns.
    """

    mode: str
    min_gram_length: int
    max_gram_length: int
    max_skip_count: int
    ngram_counts: tuple[int, ...]
    columns: int

    def infer(self, x: TensorType, pool: TensorType, indexes: TensorType, weights: TensorType | None = None) -> tuple[TensorType, ...]:  # noqa: D102
        require(self.mode in MODES, f"TfIdfVectorizer: mode '{self.mode}' must be one of {', '.join(MODES)}")
        require(
            1 <= self.min_gram_length <= self.max_gram_length,
            f"TfIdfVectorizer of lengths {self.min_gram_length} to {self.max_gram_length}",
        )
        require(self.max_skip_count >= 0 and self.columns >= 0, f"TfIdfVectorizer: {self} has a negative count")
        require(x.dtype.is_integer and x.rank in (1, 2), f"TfIdfVectorizer takes whole numbers [C] or [N, C], not {x}")
        require(pool.dtype == INT64 and pool.rank == 1, f"TfIdfVectorizer: the pool is {pool}, not an int64 vector")
        require(indexes.dtype == INT64 and indexes.rank == 1, f"TfIdfVectorizer: indexes are {indexes}, not an int64 vector")
        if isinstance(size := pool.shape[0], int):
            count = sum(end - start for _, start, end in self.spans(size))
            require(may_equal(indexes.shape[0], count), f"TfIdfVectorizer has {indexes.shape[0]} indexes for {count} n-grams")
        fits = weights is None or (weights.dtype == FLOAT32 and weights.rank == 1 and may_equal(weights.shape[0], indexes.shape[0]))
        require(fits, f"TfIdfVectorizer: weights {weights} must be a float32 vector as long as indexes {indexes}")
        return (TensorType(FLOAT32, (*x.shape[:-1], self.columns)),)

    def spans(self, pool: int) -> list[tuple[int, int, int]]:
        """For n-grams of 1, 2, ... numbers: where in a pool of that size they begin, and the numbers of the first and past the last.

        Raises:
            InferenceError: the pool cannot be cut like that.
        """
        ends = (*self.ngram_counts[1:], pool)
        found, first = [], 0
        for length, (start, end) in enumerate(zip(self.ngram_counts, ends, strict=True), 1):
            fits = 0 <= start <= end <= pool and (end - start) % length == 0
            require(fits, f"TfIdfVectorizer: ngram_counts {self.ngram_counts} do not cut a pool of {pool} into n-grams")
            count = (end - start) // length
            found.append((start, first, first + count))
            first += count
        return found

    def grams(self, pool: np.ndarray) -> Iterator[tuple[np.ndarray, int]]:
        """The n-grams of each length that counts, [count, length], and the number of the first of them."""
        for length, (start, first, last) in enumerate(self.spans(len(pool)), 1):
            if self.min_gram_length <= length <= self.max_gram_length and last > first:
                yield pool[start : start + (last - first) * length].reshape(-1, length), first

    def distances(self, length: int, size: int) -> range:
        """How far the numbers of an n-gram may be apart in a row of `size`; a single number is looked for once."""
        if length == 1:
            return range(1, 2 if size else 1)
        return range(1, min(self.max_skip_count + 1, (size - 1) // (length - 1)) + 1)

    def evaluate(self, x: Any, pool: Any, indexes: Any, weights: Any = None) -> tuple[np.ndarray, ...]:  # noqa: D102
        rows = np.atleast_2d(x).astype(np.int64)
        counts = np.zeros((len(rows), len(indexes)), np.float32)
        for grams, first in self.grams(pool):
            for distance in self.distances(grams.shape[1], rows.shape[1]):
                _count(rows, grams, distance, counts[:, first : first + len(grams)])
        if self.mode == "IDF":
            counts = np.minimum(counts, np.float32(1))
        if self.mode != "TF" and weights is not None:
            counts = counts * weights
        result = np.zeros((len(rows), self.columns), np.float32)
        result[:, indexes] = counts
        return (result.reshape(*x.shape[:-1], self.columns),)

    def cost(self, inputs: Types, outputs: Types) -> Cost:  # noqa: D102
        x, pool = inputs[0], inputs[1]
        assert x is not None and pool is not None
        return Cost(0, x.size * pool.size * (self.max_skip_count + 1), traffic(inputs, outputs))


def _count(rows: np.ndarray, grams: np.ndarray, distance: int, counts: np.ndarray) -> None:
    """Add to `counts` [rows, grams] how often each of `grams` [count, length] occurs in each row."""
    length = grams.shape[1]
    places = rows.shape[1] - (length - 1) * distance
    windows = np.stack([rows[:, k * distance : k * distance + places] for k in range(length)], axis=-1).reshape(-1, length)
    _, codes = np.unique(np.concatenate([grams, windows]), axis=0, return_inverse=True)
    number = np.full(codes.max() + 1, -1)
    number[codes[: len(grams)]] = np.arange(len(grams))
    found = number[codes[len(grams) :]]
    row = np.repeat(np.arange(len(rows)), places)
    np.add.at(counts, (row[found >= 0], found[found >= 0]), 1)
