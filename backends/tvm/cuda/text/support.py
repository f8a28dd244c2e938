"""Functions in CUDA C that printed kernels call: the device's own where it has them, else those of portable C."""

from __future__ import annotations

from collections.abc import Callable

from lepton_compiler.backends.tvm.c99.support import C_TYPES, PREFIX, Support
from lepton_compiler.backends.tvm.nearest import NEAREST_LIMIT

INLINE = "static __device__ __forceinline__"
NATIVE = frozenset(
    f"{name}{suffix}"
    for name in (
        "acos acosh asin asinh atan atanh ceil cos cosh erf exp exp2 expm1 fabs floor fmod log log1p log2 log10 pow rint round sin sinh sqrt tan tanh trunc"
    ).split()
    for suffix in ("", "f")
)
"""Functions of one or two numbers that the compiler for the device knows."""

FROM_HALF = f"""\
{INLINE} float lepton_from_half(uint16_t half) {{
#if defined(__CUDA_ARCH__) && !defined(LEPTON_EMULATED)
  float x;
  asm("cvt.f32.f16 %0, %1;" : "=f"(x) : "h"(half));
  return x;
#else
  const uint32_t sign = (uint32_t)(half & 0x8000u) << 16, exponent = half >> 10 & 31u, fraction = half & 0x3FFu;
  union {{ float number; uint32_t bits; }} value;
  if (exponent == 0) {{
    value.number = (float)fraction * 5.9604644775390625e-8f;
    value.bits |= sign;
  }} else {{
    value.bits = sign | (exponent == 31u ? 0x7F800000u : (exponent + 112u) << 23) | fraction << 13;
  }}
  return value.number;
#endif
}}
"""

TO_HALF = f"""\
{INLINE} uint16_t lepton_to_half(float x) {{ /* to nearest, ties to even */
#if defined(__CUDA_ARCH__) && !defined(LEPTON_EMULATED)
  uint16_t half;
  asm("cvt.rn.f16.f32 %0, %1;" : "=h"(half) : "f"(x));
  return half;
#else
  union {{ float number; uint32_t bits; }} value;
  value.number = x;
  const uint32_t sign = value.bits >> 16 & 0x8000u, size = value.bits & 0x7FFFFFFFu;
  if (size > 0x7F800000u) return (uint16_t)0x7FFFu;
  if (size >= 0x477FF000u) return (uint16_t)(sign | 0x7C00u);
  if (size < 0x38800000u) {{
    value.bits = size;
    value.number += 0.5f;
    return (uint16_t)(sign | (value.bits - 0x3F000000u));
  }}
  const uint32_t lost = size & 0x1FFFu, unit = size >> 13;
  return (uint16_t)(sign | (unit + (lost > 0x1000u || (lost == 0x1000u && (unit & 1u))) - (112u << 10)));
#endif
}}
"""

TO_BFLOAT = f"""\
{INLINE} uint16_t lepton_to_bfloat(float x) {{ /* to nearest, ties to even; the instruction is there from sm_80 on: PTX ISA, "cvt" */
#if defined(__CUDA_ARCH__) && !defined(LEPTON_EMULATED) && __CUDA_ARCH__ >= 800
  uint16_t code;
  asm("cvt.rn.bf16.f32 %0, %1;" : "=h"(code) : "f"(x));
  return code;
#else
  union {{ float number; uint32_t bits; }} value;
  value.number = x;
  if (x != x) return (uint16_t)((value.bits >> 16 & 0x8000u) | 0x7FC0u);
  return (uint16_t)((value.bits + 0x7FFFu + (value.bits >> 16 & 1u)) >> 16);
#endif
}}
"""

WIDE_TO_HALF = f"""\
{INLINE} uint16_t lepton_wide_to_half(double x) {{ /* to nearest, ties to even */
#if defined(__CUDA_ARCH__) && !defined(LEPTON_EMULATED)
  uint16_t half;
  asm("cvt.rn.f16.f64 %0, %1;" : "=h"(half) : "d"(x));
  return half;
#else
  union {{ float number; uint32_t bits; }} odd; /* rounded to odd, so that rounding again gives what a single rounding does */
  odd.number = (float)x;
  const double back = (double)odd.number;
  if (x == x && back != x) {{
    if (back < 0.0 ? back < x : back > x) --odd.bits;
    odd.bits |= 1u;
  }}
  return lepton_to_half(odd.number);
#endif
}}
"""

SATURATED = f"""\
{INLINE} int32_t lepton_saturated(float x, int32_t zero, int32_t low, int32_t high) {{
  const float bounded = x != x ? 0.0f : fminf(fmaxf(x, (float)(low - zero)), (float)(high - zero));
  return (int32_t)rintf(bounded) + zero;
}}
"""

FENCE = f"""\
{INLINE} TYPE lepton_rounded_TYPE(TYPE x) {{ /* x is rounded here: no operation is fused with the one that made it */
#if defined(__CUDA_ARCH__) && !defined(LEPTON_EMULATED)
  asm("" : "+REGISTER"(x));
#endif
  return x;
}}
"""

NEAREST = f"""\
{INLINE} int32_t lepton_nearest_KIND(TYPE x) {{ /* ties to even; NaN gives 0 */
  return x != x ? 0 : (int32_t)rint(fmin(fmax((TYPE)x, (TYPE)-{NEAREST_LIMIT}), (TYPE){NEAREST_LIMIT}));
}}
"""

CHUNKS = {"from_half": FROM_HALF, "to_half": TO_HALF, "to_bfloat": TO_BFLOAT, "wide_to_half": WIDE_TO_HALF, "saturated": SATURATED}
CHUNKS |= {f"nearest_{kind}": NEAREST.replace("KIND", kind).replace("TYPE", c) for kind, c in (("float32", "float"), ("float64", "double"))}


class DeviceSupport(Support):
    """The chunks that some text needs, as functions for the device."""

    def known(self, name: str) -> str:
        """The name of a function; its chunk comes along where the device has none of that name.

        Raises:
            KeyError: there is none.
        """
        if name in NATIVE:
            return name
        if name == "wide_to_half":
            self.known("to_half")
        if name in CHUNKS:
            return self._add(PREFIX + name, CHUNKS[name])
        return super().known(name)

    def function(self, name: str, write: Callable[[Support], str]) -> str:
        """A function that `write` gives the text of, unless it is there already."""
        return super().function(name, lambda support: on_device(write(support)))

    def fence(self, kind: str) -> str:
        """A function that gives its operand, rounded."""
        c = C_TYPES[kind]
        return self._add(f"lepton_rounded_{c}", FENCE.replace("TYPE", c).replace("REGISTER", "d" if kind == "float64" else "f"))

    def shuffle(self, kind: str) -> str:
        """A function that gives the value of the lane `mask` away from this one."""
        c = C_TYPES[kind]
        carried = c if kind in ("float32", "float64", "int32", "uint32") else "long long" if kind in ("int64", "uint64") else "int"
        body = f"return ({c})__shfl_xor_sync(0xffffffffu, ({carried})x, mask);"
        return self._add(f"lepton_shuffle_{kind}", f"{INLINE} {c} lepton_shuffle_{kind}({c} x, int mask) {{ {body} }}\n")

    def _add(self, name: str, text: str) -> str:
        return super()._add(name, on_device(text))


def on_device(text: str) -> str:
    """A function of portable C as one for the device."""
    return text.replace("static inline", INLINE)
