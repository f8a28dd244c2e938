// __half and __nv_bfloat16: storage is 16 bits, arithmetic is float's, rounded after each operation.
#pragma once
#include "narrow.h"

namespace emulator {

template <float (*Widen)(uint16_t), uint16_t (*Round)(float)>
struct __align__(2) Narrow {
  uint16_t __x;
  Narrow() = default;
  template <class T, class = std::enable_if_t<std::is_arithmetic_v<T>>>
  Narrow(T value) : __x(Round(static_cast<float>(value))) {}
  operator float() const { return Widen(__x); }
  template <class T, class = std::enable_if_t<std::is_arithmetic_v<T> && !std::is_same_v<T, float>>>
  explicit operator T() const {
    return static_cast<T>(Widen(__x));
  }
  friend Narrow operator+(Narrow a, Narrow b) { return float(a) + float(b); }
  friend Narrow operator-(Narrow a, Narrow b) { return float(a) - float(b); }
  friend Narrow operator*(Narrow a, Narrow b) { return float(a) * float(b); }
  friend Narrow operator/(Narrow a, Narrow b) { return float(a) / float(b); }
  friend Narrow operator-(Narrow a) { return -float(a); }
  Narrow& operator+=(Narrow b) { return *this = *this + b; }
  Narrow& operator-=(Narrow b) { return *this = *this - b; }
  Narrow& operator*=(Narrow b) { return *this = *this * b; }
  Narrow& operator/=(Narrow b) { return *this = *this / b; }
  friend bool operator==(Narrow a, Narrow b) { return float(a) == float(b); }
  friend bool operator!=(Narrow a, Narrow b) { return float(a) != float(b); }
  friend bool operator<(Narrow a, Narrow b) { return float(a) < float(b); }
  friend bool operator>(Narrow a, Narrow b) { return float(a) > float(b); }
  friend bool operator<=(Narrow a, Narrow b) { return float(a) <= float(b); }
  friend bool operator>=(Narrow a, Narrow b) { return float(a) >= float(b); }
};

template <class T>
struct __align__(4) Pair {
  T x, y;
  Pair() = default;
  Pair(T x, T y) : x(x), y(y) {}
  friend Pair operator+(Pair a, Pair b) { return {a.x + b.x, a.y + b.y}; }
  friend Pair operator-(Pair a, Pair b) { return {a.x - b.x, a.y - b.y}; }
  friend Pair operator*(Pair a, Pair b) { return {a.x * b.x, a.y * b.y}; }
  friend Pair operator/(Pair a, Pair b) { return {a.x / b.x, a.y / b.y}; }
};

}  // namespace emulator

#define EMULATOR_NARROW(TYPE, PAIR)                                                                          \
  inline TYPE __hadd(TYPE a, TYPE b) { return a + b; }                                                       \
  inline TYPE __hsub(TYPE a, TYPE b) { return a - b; }                                                       \
  inline TYPE __hmul(TYPE a, TYPE b) { return a * b; }                                                       \
  inline TYPE __hdiv(TYPE a, TYPE b) { return a / b; }                                                       \
  inline TYPE __hfma(TYPE a, TYPE b, TYPE c) { return TYPE(fmaf(a, b, c)); }                                 \
  inline TYPE __hneg(TYPE a) { return -a; }                                                                  \
  inline TYPE __habs(TYPE a) { return TYPE(fabsf(a)); }                                                      \
  inline TYPE __hmax(TYPE a, TYPE b) { return TYPE(fmaxf(a, b)); }                                           \
  inline TYPE __hmin(TYPE a, TYPE b) { return TYPE(fminf(a, b)); }                                           \
  inline bool __heq(TYPE a, TYPE b) { return a == b; }                                                       \
  inline bool __hne(TYPE a, TYPE b) { return a != b; }                                                       \
  inline bool __hgt(TYPE a, TYPE b) { return a > b; }                                                        \
  inline bool __hlt(TYPE a, TYPE b) { return a < b; }                                                        \
  inline bool __hge(TYPE a, TYPE b) { return a >= b; }                                                       \
  inline bool __hle(TYPE a, TYPE b) { return a <= b; }                                                       \
  inline bool __hisnan(TYPE a) { return a != a; }                                                            \
  inline bool __hisinf(TYPE a) { return std::isinf(float(a)); }                                              \
  inline PAIR __hadd2(PAIR a, PAIR b) { return a + b; }                                                      \
  inline PAIR __hsub2(PAIR a, PAIR b) { return a - b; }                                                      \
  inline PAIR __hmul2(PAIR a, PAIR b) { return a * b; }                                                      \
  inline PAIR __hfma2(PAIR a, PAIR b, PAIR c) { return {__hfma(a.x, b.x, c.x), __hfma(a.y, b.y, c.y)}; }     \
  inline PAIR __hmax2(PAIR a, PAIR b) { return {__hmax(a.x, b.x), __hmax(a.y, b.y)}; }                       \
  inline PAIR __hmin2(PAIR a, PAIR b) { return {__hmin(a.x, b.x), __hmin(a.y, b.y)}; }                       \
  EMULATOR_NARROW_UNARY(TYPE, hexp, expf)                                                                    \
  EMULATOR_NARROW_UNARY(TYPE, hexp2, exp2f)                                                                  \
  EMULATOR_NARROW_UNARY(TYPE, hlog, logf)                                                                    \
  EMULATOR_NARROW_UNARY(TYPE, hlog2, log2f)                                                                  \
  EMULATOR_NARROW_UNARY(TYPE, hlog10, log10f)                                                                \
  EMULATOR_NARROW_UNARY(TYPE, hsqrt, sqrtf)                                                                  \
  EMULATOR_NARROW_UNARY(TYPE, hrsqrt, rsqrtf)                                                                \
  EMULATOR_NARROW_UNARY(TYPE, hsin, sinf)                                                                    \
  EMULATOR_NARROW_UNARY(TYPE, hcos, cosf)                                                                    \
  EMULATOR_NARROW_UNARY(TYPE, htanh, tanhf)                                                                  \
  EMULATOR_NARROW_UNARY(TYPE, hfloor, floorf)                                                                \
  EMULATOR_NARROW_UNARY(TYPE, hceil, ceilf)                                                                  \
  EMULATOR_NARROW_UNARY(TYPE, htrunc, truncf)                                                                \
  EMULATOR_NARROW_UNARY(TYPE, hrint, nearbyintf)                                                             \
  EMULATOR_NARROW_UNARY(TYPE, hrcp, __frcp_rn)
#define EMULATOR_NARROW_UNARY(TYPE, NAME, FUNCTION) \
  inline TYPE NAME(TYPE a) { return TYPE(FUNCTION(float(a))); }
