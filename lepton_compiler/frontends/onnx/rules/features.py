"""The domain ai.onnx.ml: what is done to features before a model sees them, spelled out."""

from __future__ import annotations

import math

import numpy as np

from lepton_compiler import ops
from lepton_compiler.errors import ModelError, UnsupportedError
from lepton_compiler.frontends.onnx.call import Call, Result
from lepton_compiler.frontends.onnx.rules.elementwise import product, reshape_to
from lepton_compiler.frontends.onnx.rules.scores import as_float32
from lepton_compiler.ir.graph import Value
from lepton_compiler.ir.types import FLOAT32, INT32, INT64
from lepton_compiler.ops.binary import And, Div, Equal, Less, LessOrEqual, Mul, Or, Sub, Where
from lepton_compiler.ops.cast import Cast
from lepton_compiler.ops.indexing import Gather, Slice
from lepton_compiler.ops.rearrange import Concat, Pad
from lepton_compiler.ops.reduce import ArgMax, ReduceMax
from lepton_compiler.ops.shape import Unsqueeze
from lepton_compiler.ops.unary import IsNaN

TABLE_FACTOR = 4
"""A table over the whole range of integer keys may have this many times their number of entries."""


def array_feature_extractor(call: Call) -> Result:
    """Columns of the last axis; a vector gives a matrix of one row."""
    x, indices = call.value(0), call.value(1)
    count = product(indices.type.shape)
    y = call.add(Gather(axis=-1), x, reshape_to(call, indices, (count,)))
    return reshape_to(call, y, (1, count)) if x.type.rank == 1 else y


def binarizer(call: Call) -> Result:
    """1 where an element is above the threshold, else 0."""
    x = call.value(0)
    threshold = call.attr("threshold", 0.0)
    if x.type.dtype.is_integer:
        threshold = math.floor(threshold)
    return call.add(Cast(to=x.type.dtype), call.add(Less(), call.like(x, threshold), x))


def scaler(call: Call) -> Result:
    """(x - offset) * scale."""
    x = as_float32(call, call.value(0))
    for name, op in (("offset", Sub()), ("scale", Mul())):
        numbers = call.array(name)
        if numbers is not None:
            x = call.add(op, x, call.constant(_per_column(numbers, x, name)))
    return x


def _per_column(numbers: np.ndarray, x: Value, name: str) -> np.ndarray:
    """One number, or one for each column.

    Raises:
        ModelError: another count.
    """
    columns = x.type.shape[-1] if x.type.rank else 1
    if len(numbers) != 1 and isinstance(columns, int) and len(numbers) != columns:
        raise ModelError(f"attribute '{name}' has {len(numbers)} entries for {columns} columns")
    return numbers


def normalizer(call: Call) -> Result:
    """Each row over its maximum, or over its 1- or 2-norm; rows where that is zero stay."""
    x, norm = as_float32(call, call.value(0)), call.attr("norm", "MAX")
    names = {"MAX": "ReduceMax", "L1": "ReduceL1", "L2": "ReduceL2"}
    if norm not in names:
        raise ModelError(f"norm is '{norm}'; known are {', '.join(names)}")
    size = call.add(ops.get(names[norm])(axes=(-1,), keepdims=True), x)  # type: ignore[call-arg]
    none = call.add(Equal(), size, call.like(size, 0))
    return call.add(Div(), x, call.add(Where(), none, call.like(size, 1), size))


def imputer(call: Call) -> Result:
    """Other values for those that stand for missing ones."""
    x = call.value(0)
    kind = "floats" if x.type.dtype.is_float else "int64s"
    numbers = call.array(f"imputed_value_{kind}")
    if numbers is None or not len(numbers):
        raise ModelError(f"attribute 'imputed_value_{kind}' is missing")
    replaced = call.attr("replaced_value_float", 0.0) if x.type.dtype.is_float else call.attr("replaced_value_int64", 0)
    missing = call.add(IsNaN(), x) if math.isnan(replaced) else call.add(Equal(), x, call.like(x, replaced))
    return call.add(Where(), missing, call.constant(_per_column(numbers, x, f"imputed_value_{kind}").astype(x.type.dtype.numpy)), x)


def feature_vectorizer(call: Call) -> Result:
    """Columns side by side, of each operand as many as `inputdimensions` says."""
    widths = call.attr("inputdimensions", ())
    if len(widths) != len(call.inputs):
        raise ModelError(f"inputdimensions has {len(widths)} entries for {len(call.inputs)} operands")
    return call.add(Concat(axis=1), *(_of_width(call, call.value(i), width) for i, width in enumerate(widths)))


def _of_width(call: Call, x: Value, width: int) -> Value:
    """A matrix, or a vector as one row, with that many columns: cut, or filled with zeros."""
    x = as_float32(call, reshape_to(call, x, (1, *x.type.shape)) if x.type.rank == 1 else x)
    columns = x.type.shape[1]
    if x.type.rank != 2 or not isinstance(columns, int):
        raise UnsupportedError(f"FeatureVectorizer needs matrices of known width, not {x.type}")
    if columns > width:
        return call.add(Slice(starts=(0,), ends=(width,), axes=(1,), steps=(1,)), x)
    return call.add(Pad(pads=(0, 0, 0, width - columns)), x) if columns < width else x


def one_hot_encoder(call: Call) -> Result:
    """A new last axis with a one at the place of the category."""
    categories = call.array("cats_int64s")
    if categories is None or not len(categories):
        raise UnsupportedError("OneHotEncoder of text is not supported", hint="convert text to numbers outside the model")
    if not call.attr("zeros", 1):
        raise UnsupportedError("OneHotEncoder that fails on unknown categories (zeros=0) is not supported", hint="set zeros=1")
    x = call.value(0)
    x = x if x.type.dtype == INT64 else call.add(Cast(to=INT64), x)
    return call.add(Cast(to=FLOAT32), call.add(Equal(), call.add(Unsqueeze(axes=(-1,)), x), call.constant(categories)))


def label_encoder(call: Call) -> Result:
    """Other values for keys, by a table where the keys are close together, else by comparing with each."""
    x = call.value(0)
    keys, values, default = _mapping(call)
    if len(keys) != len(values):
        raise ModelError(f"{len(keys)} keys for {len(values)} values")
    order = np.arange(len(keys))[:: -1 if call.version >= 4 else 1]  # of equal keys the last counts, the first before version 4
    keys, first = np.unique(keys[order], return_index=True)
    values = values[order][first]
    if (keys.dtype.kind == "f") != x.type.dtype.is_float or not np.array_equal(keys.astype(x.type.dtype.numpy), keys, equal_nan=True):
        raise ModelError(f"the keys of LabelEncoder are {keys.dtype} and do not all fit {x.type.dtype}, the type of its operand")
    keys = keys.astype(x.type.dtype.numpy)
    if not len(keys):
        return call.add(Where(), call.add(Equal(), x, x), call.constant(default), call.constant(default))
    if x.type.dtype.is_integer and int(keys[-1]) - int(keys[0]) < TABLE_FACTOR * len(keys):
        return _from_table(call, x, keys, values, default)
    return _by_comparison(call, x, keys, values, default)


def _mapping(call: Call) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Keys, values, and the value of everything else."""
    keys = next((a for n in ("keys_tensor", "keys_int64s", "keys_floats") if (a := call.array(n)) is not None), None)
    values = next((a for n in ("values_tensor", "values_int64s", "values_floats") if (a := call.array(n)) is not None), None)
    if keys is None or values is None:
        raise UnsupportedError("LabelEncoder of text is not supported", hint="convert text to numbers outside the model")
    default = call.array("default_tensor") if call.has("default_tensor") else None
    if default is None:
        default = np.array(call.attr("default_float", -0.0) if values.dtype.kind == "f" else call.attr("default_int64", -1), values.dtype)
    return keys.reshape(-1), values.reshape(-1), default.reshape(())


def _from_table(call: Call, x: Value, keys: np.ndarray, values: np.ndarray, default: np.ndarray) -> Value:
    low, high = int(keys[0]), int(keys[-1])
    table = np.full(high - low + 2, default)
    table[keys.astype(np.int64) - low] = values
    x = x if x.type.dtype == INT64 else call.add(Cast(to=INT64), x)
    inside = call.add(And(), call.add(LessOrEqual(), call.like(x, low), x), call.add(LessOrEqual(), x, call.like(x, high)))
    place = call.add(Where(), inside, call.add(Sub(), x, call.like(x, low)), call.like(x, high - low + 1))
    return call.add(Gather(axis=0), call.constant(table), place)


def _by_comparison(call: Call, x: Value, keys: np.ndarray, values: np.ndarray, default: np.ndarray) -> Value:
    apart = call.add(Unsqueeze(axes=(-1,)), x)
    same = call.add(Equal(), apart, call.constant(keys))
    if x.type.dtype.is_float and np.isnan(keys).any():
        same = call.add(Or(), same, call.add(And(), call.add(IsNaN(), apart), call.constant(np.isnan(keys))))
    number = call.add(Cast(to=INT32), same)
    found = call.add(Gather(axis=0), call.constant(values), call.add(ArgMax(axis=-1, keepdims=False), number))
    hits = call.add(ReduceMax(axes=(-1,), keepdims=False), number)
    return call.add(Where(), call.add(Less(), call.like(hits, 0), hits), found, call.constant(default))


RULES = {
    "ArrayFeatureExtractor": array_feature_extractor,
    "Binarizer": binarizer,
    "Scaler": scaler,
    "Normalizer": normalizer,
    "Imputer": imputer,
    "FeatureVectorizer": feature_vectorizer,
    "OneHotEncoder": one_hot_encoder,
    "LabelEncoder": label_encoder,
}
