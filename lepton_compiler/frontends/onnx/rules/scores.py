"""What classifiers and regressors of the domain ai.onnx.ml do with their scores: transforms, and the label of the best."""

from __future__ import annotations

import math

import numpy as np

from lepton_compiler.errors import ModelError, UnsupportedError
from lepton_compiler.frontends.onnx.call import Call
from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import FLOAT32
from lepton_compiler.ops.binary import Add, Div, Less, Mul, Sub, Where
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.indexing import Gather
from lepton_compiler.ops.normalize import Softmax
from lepton_compiler.ops.rearrange import Concat
from lepton_compiler.ops.reduce import ArgMax, ReduceMax, ReduceSum
from lepton_compiler.ops.shape import Squeeze
from lepton_compiler.ops.unary import Abs, Exp, Log, Neg, Sigmoid, Sign, Sqrt

TRANSFORMS = ("NONE", "SOFTMAX", "LOGISTIC", "SOFTMAX_ZERO", "PROBIT")
ZERO = 1e-7
"""Scores no larger than this count as zero for SOFTMAX_ZERO."""


def as_float32(call: Call, x: Value) -> Value:
    """Numbers of any type as float32, which these operators compute in."""
    return x if x.type.dtype == FLOAT32 else call.add(Cast(to=FLOAT32), x)


def transform_of(call: Call) -> str:
    """The attribute `post_transform`.

    Raises:
        ModelError: no such transform.
    """
    name = call.attr("post_transform", "NONE")
    if isinstance(name, int) and 0 <= name < len(TRANSFORMS):
        name = TRANSFORMS[name]
    if name not in TRANSFORMS:
        raise ModelError(f"post_transform is '{name}'; known are {', '.join(TRANSFORMS)}")
    return str(name)


def transformed(call: Call, scores: Value, name: str) -> Value:
    """Scores [N, E] after a transform.

    Raises:
        UnsupportedError: a transform of a single score, about which runtimes disagree.
    """
    if scores.type.shape[-1] == 1 and name not in ("NONE", "PROBIT"):
        hint = "leave it out, and add a Sigmoid to the model if you mean it"
        raise UnsupportedError(f"post_transform {name} of a single score is not supported: runtimes disagree whether it applies", hint=hint)
    match name:
        case "SOFTMAX":
            return call.add(Softmax(axis=-1), scores)
        case "LOGISTIC":
            return call.add(Sigmoid(), scores)
        case "SOFTMAX_ZERO":
            return _softmax_zero(call, scores)
        case "PROBIT":
            return _probit(call, scores)
    return scores


def _softmax_zero(call: Call, scores: Value) -> Value:
    """Softmax of the scores that are not zero; those stay as they are."""
    largest = call.add(ReduceMax(axes=(-1,), keepdims=True), scores)
    small = call.add(Less(), call.add(Abs(), scores), call.like(scores, ZERO))
    shrunk = call.add(Mul(), scores, call.add(Exp(), call.add(Neg(), largest)))
    parts = call.add(Where(), small, shrunk, call.add(Exp(), call.add(Sub(), scores, largest)))
    return call.add(Div(), parts, call.add(ReduceSum(axes=(-1,), keepdims=True), parts))


def _probit(call: Call, scores: Value) -> Value:
    """The inverse of the normal distribution, by Winitzki's approximation of erf (2008): runtimes use it, so results agree."""
    a = 0.147
    centred = call.add(Sub(), call.add(Mul(), scores, call.like(scores, 2)), call.like(scores, 1))
    log = call.add(Log(), call.add(Mul(), call.add(Sub(), call.like(scores, 1), centred), call.add(Add(), call.like(scores, 1), centred)))
    half = call.add(Add(), call.add(Mul(), log, call.like(scores, 0.5)), call.like(scores, 2 / (math.pi * a)))
    square = call.add(Sub(), call.add(Mul(), half, half), call.add(Mul(), log, call.like(scores, 1 / a)))
    root = call.add(Sqrt(), call.add(Sub(), call.add(Sqrt(), square), half))
    return call.add(Mul(), call.add(Mul(), call.add(Sign(), centred), root), call.like(scores, math.sqrt(2)))


def class_labels(call: Call, *names: str) -> np.ndarray:
    """The labels of the classes; numbers from zero on where they are text that the model does not use.

    Raises:
        ModelError: there are none.
        UnsupportedError: the model uses labels that are text.
    """
    for name in names:
        if (labels := call.array(name)) is not None and len(labels):
            return labels.astype(np.int64)
    texts = call.attr("classlabels_strings", ())
    if not texts:
        raise ModelError("the labels of the classes are missing")
    if call.wants(0):
        hint = "train with numbers as labels, or use the scores only"
        raise UnsupportedError("class labels that are text are not supported", hint=hint)
    return np.arange(len(texts))


def best_label(call: Call, scores: Value, labels: np.ndarray) -> Value:
    """The label of the largest score in each row of [N, E]."""
    best = call.add(ArgMax(axis=-1, keepdims=False), scores)
    if np.array_equal(labels, np.arange(len(labels))):
        return best
    return call.add(Gather(axis=0), call.constant(labels), best)


def label_above(call: Call, score: Value, threshold: float, labels: np.ndarray) -> Value:
    """The second of two labels where a score [N, 1] is above the threshold, else the first."""
    above = call.add(Less(), call.like(score, threshold), score)
    chosen = call.add(Where(), above, call.constant(labels[1]), call.constant(labels[0]))
    return call.add(Squeeze(axes=(-1,)), chosen)


def both(call: Call, first: Value, second: Value) -> Value:
    """Scores [N, 1] of two classes side by side."""
    return call.add(Concat(axis=-1), first, second)
