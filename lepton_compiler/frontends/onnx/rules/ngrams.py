"""TfIdfVectorizer: the n-grams, which ONNX has as attributes, become constants."""

from __future__ import annotations

from typing import Any

import numpy as np

from lepton_compiler.errors import ModelError, UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.ops.ngram import TfIdfVectorizer


def tf_idf_vectorizer(call: Call) -> Result:
    """TfIdfVectorizer of numbers."""
    if call.has("pool_strings"):
        raise UnsupportedError("TfIdfVectorizer of strings is not supported", hint="convert text to numbers outside the model")
    pool, indexes = (np.array(_required(call, name), np.int64) for name in ("pool_int64s", "ngram_indexes"))
    if len(indexes) and indexes.min() < 0:
        raise ModelError("ngram_indexes has a negative column")
    if len(np.unique(indexes)) != len(indexes):
        raise UnsupportedError(
            "two n-grams share a column of TfIdfVectorizer", hint="give each n-gram a column of its own, and add them up"
        )
    op = TfIdfVectorizer(
        mode=_required(call, "mode"),
        min_gram_length=_required(call, "min_gram_length"),
        max_gram_length=_required(call, "max_gram_length"),
        max_skip_count=_required(call, "max_skip_count"),
        ngram_counts=_required(call, "ngram_counts"),
        columns=int(indexes.max()) + 1 if len(indexes) else 0,
    )
    if any(len(np.unique(grams, axis=0)) != len(grams) for grams, _ in op.grams(pool)):
        raise ModelError("pool_int64s has an n-gram twice")
    weights = call.constant(np.array(call.attr("weights"), np.float32)) if call.attr("weights") else None
    return call.add(op, call.value(0), call.constant(pool), call.constant(indexes), weights)


def _required(call: Call, name: str) -> Any:
    value = call.attr(name)
    if value is None:
        raise ModelError(f"attribute '{name}' is missing")
    return value


RULES = {"TfIdfVectorizer": tf_idf_vectorizer}
