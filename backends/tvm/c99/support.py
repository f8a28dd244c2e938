"""Functions in C99 that printed kernels call. They need no C library; each is a chunk of text without empty lines, written where it is used.

They are exact, as IEEE 754 and two's complement define them. Conversions to a narrower signed integer wrap, as every compiler does it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from lepton_compiler.backends.tvm.nearest import NEAREST_LIMIT
from lepton_compiler.backends.tvm.package import libm

C_TYPES = {
    "float32": "float",
    "float64": "double",
    "float16": "uint16_t",
    "bool": "bool",
    **{f"{kind}{bits}": f"{kind}{bits}_t" for kind in ("int", "uint") for bits in (8, 16, 32, 64)},
}
"""C's type for an element; float16 is its bits, and is only converted, never computed with."""

PREFIX = "lepton_"
UNIONS = {
    "f": "typedef union { float number; uint32_t bits; } single;\n",
    "d": "typedef union { double number; uint64_t bits; } twice;\n",
}

_SQRT_F = """\
static float lepton_sqrtf(float x) { /* digit by digit, rounded to nearest: half way cannot be met */
  single value;
  uint64_t rest, root = 0, digit = (uint64_t)1 << 48;
  uint32_t fraction;
  int32_t exponent;
  if (!(x > 0.0f)) return x == 0.0f ? x : (x - x) / (x - x);
  value.number = x;
  if (value.bits >= 0x7F800000u) return x;
  fraction = value.bits & 0x7FFFFFu;
  exponent = (int32_t)(value.bits >> 23);
  if (exponent == 0) for (exponent = 1; fraction < 0x800000u; --exponent) fraction <<= 1;
  fraction |= 0x800000u;
  exponent -= 127;
  if (exponent & 1) fraction <<= 1, --exponent;
  for (rest = (uint64_t)fraction << 25; digit != 0; digit >>= 2) {
    if (rest >= root + digit) rest -= root + digit, root = (root >> 1) + digit;
    else root >>= 1;
  }
  value.bits = ((uint32_t)(exponent / 2 + 127) << 23) + ((uint32_t)(root + 1) >> 1) - 0x800000u;
  return value.number;
}
"""

_SQRT_D = """\
static double lepton_sqrt(double x) { /* digit by digit, rounded to nearest: half way cannot be met */
  twice value;
  uint64_t rest = 0, root = 0, fraction;
  int32_t exponent, k;
  if (!(x > 0.0)) return x == 0.0 ? x : (x - x) / (x - x);
  value.number = x;
  if (value.bits >= (uint64_t)0x7FF << 52) return x;
  fraction = value.bits & (((uint64_t)1 << 52) - 1);
  exponent = (int32_t)(value.bits >> 52);
  if (exponent == 0) for (exponent = 1; fraction >> 52 == 0; --exponent) fraction <<= 1;
  fraction |= (uint64_t)1 << 52;
  exponent -= 1023;
  if (exponent & 1) fraction <<= 1, --exponent;
  for (k = 53; k >= 0; --k) {
    rest = rest << 2 | (k >= 27 ? fraction >> (2 * k - 54) & 3 : 0);
    root <<= 1;
    if (rest > root << 1) rest -= root << 1 | 1, root |= 1;
  }
  value.bits = ((uint64_t)(exponent / 2 + 1023) << 52) + ((root + 1) >> 1) - ((uint64_t)1 << 52);
  return value.number;
}
"""

_NEAREST_F = f"""\
static inline int32_t lepton_nearest_float32(float x) {{ /* ties to even; NaN gives 0 */
  if (x > -4194304.0f && x < 4194304.0f) return (int32_t)((x + 12582912.0f) - 12582912.0f);
  if (x != x) return 0;
  if (x >= {NEAREST_LIMIT}.0f) return {NEAREST_LIMIT};
  if (x <= -{NEAREST_LIMIT}.0f) return -{NEAREST_LIMIT};
  return (int32_t)lepton_rintf(x);
}}
"""

_NEAREST_D = f"""\
static inline int32_t lepton_nearest_float64(double x) {{ /* ties to even; NaN gives 0 */
  if (x != x) return 0;
  if (x >= {NEAREST_LIMIT}.0) return {NEAREST_LIMIT};
  if (x <= -{NEAREST_LIMIT}.0) return -{NEAREST_LIMIT};
  return (int32_t)((x + 6755399441055744.0) - 6755399441055744.0);
}}
"""

_SATURATED = """\
static inline int32_t lepton_saturated(float x, int32_t zero, int32_t low, int32_t high) { /* bounds of 16 bits; NaN gives zero */
  if (x != x) return zero;
  if (x < (float)(low - zero)) return low;
  if (x > (float)(high - zero)) return high;
  return (int32_t)((x + 12582912.0f) - 12582912.0f) + zero;
}
"""

_FROM_HALF = """\
static inline float lepton_from_half(uint16_t half) {
  const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 31u, fraction = half & 0x3FFu;
  single value;
  if (exponent == 0) {
    value.number = (float)fraction * 5.9604644775390625e-8f;
    value.bits |= sign;
  } else {
    value.bits = sign | (exponent == 31u ? 0x7F800000u : (exponent + 112u) << 23) | fraction << 13;
  }
  return value.number;
}
"""

_TO_HALF = """\
static inline uint16_t lepton_to_half(float x) { /* to nearest, ties to even */
  single value;
  uint32_t sign, size, lost, unit;
  value.number = x;
  sign = value.bits >> 16 & 0x8000u;
  size = value.bits & 0x7FFFFFFFu;
  if (size > 0x7F800000u) return (uint16_t)(sign | 0x7E00u | (size >> 13 & 0x3FFu));
  if (size >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u);
  if (size < 0x38800000u) {
    value.bits = size;
    value.number += 0.5f;
    return (uint16_t)(sign | (value.bits - 0x3F000000u));
  }
  unit = size >> 13;
  lost = size & 0x1FFFu;
  unit += lost > 0x1000u || (lost == 0x1000u && (unit & 1u));
  return (uint16_t)(sign | (unit - (112u << 10)));
}
"""

_FABS = """\
static inline TYPE lepton_NAME(TYPE x) {
  UNION value;
  value.number = x;
  value.bits &= ~((UINT)1 << WIDTH);
  return value.number;
}
"""

CHUNKS: dict[str, tuple[tuple[str, ...], str]] = {
    "f": ((), UNIONS["f"]),
    "d": ((), UNIONS["d"]),
    "whole_f": (("f",), libm.rounding("f")),
    "whole_d": (("d",), libm.rounding("d")),
    "sqrtf": (("f",), _SQRT_F),
    "sqrt": (("d",), _SQRT_D),
    "nearest_float32": (("rintf",), _NEAREST_F),
    "nearest_float64": ((), _NEAREST_D),
    "saturated": ((), _SATURATED),
    "from_half": (("f",), _FROM_HALF),
    "to_half": (("f",), _TO_HALF),
    "fabsf": (
        ("f",),
        _FABS.replace("TYPE", "float")
        .replace("NAME", "fabsf")
        .replace("UNION", "single")
        .replace("UINT", "uint32_t")
        .replace("WIDTH", "31"),
    ),
    "fabs": (
        ("d",),
        _FABS.replace("TYPE", "double")
        .replace("NAME", "fabs")
        .replace("UNION", "twice")
        .replace("UINT", "uint64_t")
        .replace("WIDTH", "63"),
    ),
}
"""Each function's chunk, and the chunks that it needs."""


def _library() -> dict[str, tuple[tuple[str, ...], str]]:
    """The functions of `libm` with our prefix: two models in one program, and its C library, keep out of each other's way."""
    found = {}
    for name, text in libm.FUNCTIONS.items():
        if not name.startswith("__"):
            needs = tuple(chunk for chunk in ("whole_f", "whole_d") if f"{chunk}(" in text)
            found[name] = (needs, re.sub(rf"\b{name}\(", f"{PREFIX}{name}(", text.replace("WEAK", "static inline", 1)))
    return found


CHUNKS |= _library()


class Support:
    """The chunks that some text needs, those that others need first."""

    def __init__(self) -> None:
        self.chunks: dict[str, str] = {}

    def known(self, name: str) -> str:
        """The C name of a function of the table; its chunk comes along.

        Raises:
            KeyError: there is none.
        """
        needs, text = CHUNKS[name]
        for other in needs:
            self.known(other)
        return self._add(PREFIX + name, text)

    def bits(self, source: str, target: str) -> str:
        """A function that reads the bits of one type as another."""
        name, a, b = f"{PREFIX}{target}_of_{source}", C_TYPES[source], C_TYPES[target]
        body = f"union {{ {a} from; {b} to; }} value;\n  value.from = x;\n  return value.to;"
        return self._add(name, f"static inline {b} {name}({a} x) {{\n  {body}\n}}\n")

    def two(self, name: str, kind: str, body: str) -> str:
        """A function of two numbers `a` and `b` of one type."""
        full, c = f"{PREFIX}{name}_{kind}", C_TYPES[kind]
        return self._add(full, f"static inline {c} {full}({c} a, {c} b) {{ return {body}; }}\n")

    def is_nan(self, kind: str) -> str:
        """A function that tells NaN."""
        name = f"{PREFIX}isnan_{kind}"
        return self._add(name, f"static inline bool {name}({C_TYPES[kind]} x) {{ return x != x; }}\n")

    def function(self, name: str, write: Callable[[Support], str]) -> str:
        """A function that `write` gives the text of, unless it is there already."""
        if name not in self.chunks:
            text = write(self)
            self.chunks[name] = text
        return name

    def text(self, more: Sequence[str]) -> str:
        """All chunks and `more`, with empty lines between them."""
        return "\n".join([*self.chunks.values(), *more])

    def _add(self, name: str, text: str) -> str:
        self.chunks.setdefault(name, text)
        return name
