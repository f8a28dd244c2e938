"""What the caller says about inputs and dimensions, and the names that symbolic dimensions get."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx

from lepton_compiler.errors import ModelError, UnsupportedError, UsageError
from lepton_compiler.frontends.onnx.weights import element_type
from lepton_compiler.ir.dim import Dim, SymDim, symbol
from lepton_compiler.ir.tensor import Tensor
from lepton_compiler.ir.types import TensorType

RANK_LIMIT = 64


class Binding:
    """Shapes, constants and sizes from the caller.

    Args:
        inputs: by input name, a shape, a `TensorType` (anything with `shape` and no values), or an array.
        dims: sizes by dimension name.
    """

    def __init__(self, inputs: Mapping[str, Any], dims: Mapping[str, int]) -> None:
        self.inputs = {str(name): value for name, value in inputs.items()}
        self.sizes: dict[str, Dim] = dict(dims)
        self._unused = set(dims)
        self._symbols: dict[str, str] = {}

    def frees(self, name: str) -> bool:
        """Whether the caller overrides an input that has an initialiser."""
        return name in self.inputs

    def check_names(self, names: Sequence[str], formals: Sequence[onnx.ValueInfoProto]) -> None:
        """Refuse bindings of inputs that the model does not have; learn the sizes that shapes give to dimensions.

        Raises:
            UsageError: an unknown input name, or two bindings that contradict each other.
        """
        unknown = [name for name in self.inputs if name not in names]
        if unknown:
            raise UsageError(f"the model has no input {', '.join(map(repr, unknown))}", hint=f"its inputs are {', '.join(names)}")
        for formal in formals:
            if formal.name in self.inputs and formal.type.HasField("tensor_type") and formal.type.tensor_type.HasField("shape"):
                self._learn(formal.name, formal.type.tensor_type.shape.dim)

    def check_dims(self) -> None:
        """Refuse sizes of dimensions that no input has.

        Raises:
            UsageError: an unknown dimension name.
        """
        known = {*self._symbols, *self._symbols.values()}
        unknown = sorted(name for name in self._unused if name not in known)
        if unknown:
            raise UsageError(
                f"the model has no dimension {', '.join(map(repr, unknown))}",
                hint=f"its dimensions are {', '.join(sorted(self._symbols)) or 'all fixed'}",
            )

    def resolve(self, formal: onnx.ValueInfoProto) -> TensorType | Tensor:
        """The type of a graph input, or the constant that the caller gives for it.

        Raises:
            UnsupportedError: sequences, optionals, maps, strings.
            ModelError: a type without shape that the caller does not bind either.
            UsageError: the caller's binding does not fit.
        """
        kind = formal.type.WhichOneof("value")
        if kind != "tensor_type":
            raise UnsupportedError(f"{(kind or 'untyped').removesuffix('_type')} values are not supported, only tensors")
        proto = formal.type.tensor_type
        element, given = element_type(proto.elem_type), self.inputs.get(formal.name)
        if given is not None and not _is_shape(given) and not isinstance(given, TensorType):
            array = np.asarray(given)
            if array.dtype != element.numpy:
                if not isinstance(given, np.ndarray) and np.can_cast(array.dtype, element.numpy, "same_kind"):
                    array = array.astype(element.numpy)
                else:
                    raise UsageError(f"the model wants {element}, the given constant is {array.dtype}")
            self._fit(formal, tuple(array.shape))
            return Tensor(array)
        if isinstance(given, TensorType) and given.dtype != element:
            raise UsageError(f"the model wants {element}, not {given.dtype}")
        if given is None and not proto.HasField("shape"):
            raise ModelError("its shape is not given", hint=f"bind it: --input {formal.name}=1x3x224x224 or inputs=")
        shape = self._shape(formal, None if given is None else tuple(getattr(given, "shape", given)))
        return TensorType(element, shape)

    def dimension(self, text: str, fallback: str) -> Dim:
        """The dimension called `text` in the model: a number if bound, else a symbol whose name is an identifier."""
        if not re.search(r"\w", text):
            text = fallback
        if text not in self._symbols:
            name = re.sub(r"\W", "_", text, flags=re.ASCII)
            name = name if name[0].isalpha() or name[0] == "_" else f"_{name}"
            while name in self._symbols.values():
                name += "_"
            self._symbols[text] = name
        name = self._symbols[text]
        return self.sizes.get(text, self.sizes.get(name, symbol(name)))

    def _shape(self, formal: onnx.ValueInfoProto, given: tuple[Any, ...] | None) -> tuple[Dim, ...]:
        proto = formal.type.tensor_type
        if not proto.HasField("shape"):
            return tuple(_given_dim(d, f"{formal.name}_{i}", self) for i, d in enumerate(given or ()))
        if len(proto.shape.dim) > RANK_LIMIT:
            raise ModelError(f"rank {len(proto.shape.dim)} is more than {RANK_LIMIT}")
        if given is not None:
            self._fit(formal, given)
        declared = [self._declared(formal.name, axis, dim) for axis, dim in enumerate(proto.shape.dim)]
        if given is None:
            return tuple(declared)
        return tuple(
            d if isinstance(d, int) else _given_dim(g, f"{formal.name}_{i}", self, d)
            for i, (d, g) in enumerate(zip(declared, given, strict=True))
        )

    def _declared(self, name: str, axis: int, dim: Any) -> Dim:
        fallback = f"{name}_{axis}"
        if dim.WhichOneof("value") == "dim_value" and dim.dim_value >= 0:
            return int(dim.dim_value)
        return self.dimension(dim.dim_param if dim.dim_param and dim.WhichOneof("value") == "dim_param" else "", fallback)

    def _fit(self, formal: onnx.ValueInfoProto, given: Sequence[Any]) -> None:
        proto = formal.type.tensor_type
        if not proto.HasField("shape"):
            return
        declared = [d.dim_value if d.WhichOneof("value") == "dim_value" and d.dim_value >= 0 else None for d in proto.shape.dim]
        fits = len(declared) == len(given) and all(
            d is None or not isinstance(g, int) or d == g for d, g in zip(declared, given, strict=True)
        )
        if not fits:
            shown = ", ".join(str(d if d is not None else p.dim_param or "?") for d, p in zip(declared, proto.shape.dim, strict=True))
            raise UsageError(f"the model declares shape [{shown}], which {list(given)} does not fit")

    def _learn(self, name: str, dims: Sequence[Any]) -> None:
        """Sizes of named dimensions from the shape that the caller gives for one input."""
        given = self.inputs[name]
        shape = tuple(given) if _is_shape(given) else tuple(getattr(given, "shape", ()))
        for dim, size in zip(dims, shape, strict=False):
            text = dim.dim_param
            if dim.WhichOneof("value") != "dim_param" or not re.search(r"\w", text) or not isinstance(size, (int, np.integer)):
                continue
            if self.sizes.setdefault(text, int(size)) != size:
                raise UsageError(f"dimension '{text}' is bound to {self.sizes[text]} and to {size}", where=f"input '{name}'")


def _is_shape(given: Any) -> bool:
    return isinstance(given, (tuple, list)) and all(d is None or isinstance(d, (int, np.integer, str, SymDim)) for d in given)


def _given_dim(given: Any, fallback: str, binding: Binding, declared: Dim | None = None) -> Dim:
    if isinstance(given, (int, np.integer)):
        if given < 0:
            return declared if declared is not None else binding.dimension("", fallback)
        return int(given)
    if isinstance(given, SymDim):
        return given
    if isinstance(given, str):
        return binding.dimension(given, fallback)
    return declared if declared is not None else binding.dimension("", fallback)
