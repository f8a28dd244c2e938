"""Element types and tensor types."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Literal

from lepton_compiler.errors import LeptonError
from lepton_compiler.ir.dim import Dim, parse_dim

if TYPE_CHECKING:
    import numpy as np

Kind = Literal["bool", "int", "uint", "float", "complex"]


@dataclass(frozen=True)
class DType:
    """An element type: `name` as numpy or ml_dtypes spells it, width in bits, and kind."""

    name: str
    bits: int
    kind: Kind

    @cached_property
    def numpy(self) -> np.dtype:
        """The numpy dtype, from ml_dtypes for the low-precision types."""
        import ml_dtypes
        import numpy

        return numpy.dtype(getattr(ml_dtypes, self.name)) if hasattr(ml_dtypes, self.name) else numpy.dtype(self.name)

    @property
    def is_float(self) -> bool:
        """Whether this is a real floating-point type."""
        return self.kind == "float"

    @property
    def is_integer(self) -> bool:
        """Whether this is a signed or unsigned integer type (bool is not)."""
        return self.kind in ("int", "uint")

    def __repr__(self) -> str:
        return self.name


def _table() -> dict[str, DType]:
    rows: list[DType] = [DType("bool", 8, "bool")]
    rows += [DType(f"{k}{b}", b, k) for k in ("int", "uint") for b in (2, 4, 8, 16, 32, 64)]
    rows += [DType(n, b, "float") for n, b in (("float16", 16), ("bfloat16", 16), ("float32", 32), ("float64", 64), ("float4_e2m1fn", 4))]
    rows += [DType(f"float8_{n}", 8, "float") for n in ("e4m3fn", "e4m3fnuz", "e5m2", "e5m2fnuz", "e8m0fnu")]
    rows += [DType("complex64", 64, "complex"), DType("complex128", 128, "complex")]
    return {row.name: row for row in rows}


DTYPES = _table()
BOOL, INT8, UINT8, INT32, INT64 = (DTYPES[n] for n in ("bool", "int8", "uint8", "int32", "int64"))
FLOAT16, FLOAT32, FLOAT64 = (DTYPES[n] for n in ("float16", "float32", "float64"))


def dtype(spec: str | DType | np.dtype | type) -> DType:
    """The `DType` of a name, a numpy dtype or a numpy scalar type.

    Raises:
        LeptonError: no such element type (strings and objects have none).
    """
    if isinstance(spec, DType):
        return spec
    import numpy

    name = spec if isinstance(spec, str) else numpy.dtype(spec).name
    if name not in DTYPES:
        raise LeptonError(f"no element type '{name}'", hint=f"known: {', '.join(DTYPES)}")
    return DTYPES[name]


@dataclass(frozen=True)
class TensorType:
    """Element type and shape; dimensions are integers or symbolic expressions."""

    dtype: DType
    shape: tuple[Dim, ...]

    @property
    def rank(self) -> int:
        """Number of dimensions."""
        return len(self.shape)

    @property
    def is_static(self) -> bool:
        """Whether every dimension is a number."""
        return all(isinstance(d, int) for d in self.shape)

    @property
    def static_shape(self) -> tuple[int, ...]:
        """The shape, where every dimension is a number.

        Raises:
            LeptonError: a dimension is symbolic.
        """
        if not self.is_static:
            raise LeptonError(f"{self} has unbound dimensions", hint="bind them with inputs=, --input or --dim")
        return tuple(int(d) for d in self.shape if isinstance(d, int))

    @property
    def size(self) -> int:
        """Number of elements of a static type."""
        count = 1
        for d in self.static_shape:
            count *= d
        return count

    @property
    def nbytes(self) -> int:
        """Bytes of a static type in memory, at least one byte per element."""
        return self.size * max(1, self.dtype.bits // 8)

    def __repr__(self) -> str:
        return f"{self.dtype}[{','.join(map(str, self.shape))}]"


def tensor_type(spec: str) -> TensorType:
    """Parse `float32[1,3,h,w//2]`."""
    name, _, dims = spec.rstrip("]").partition("[")
    return TensorType(dtype(name), tuple(parse_dim(d) for d in _split(dims)))


def _split(text: str) -> Iterable[str]:
    """Split at the commas outside parentheses."""
    depth, start = 0, 0
    for i, char in enumerate(text):
        depth += (char == "(") - (char == ")")
        if char == "," and depth == 0:
            yield text[start:i]
            start = i + 1
    if text[start:].strip():
        yield text[start:]
