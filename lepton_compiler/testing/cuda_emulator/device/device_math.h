// Functions that CUDA declares for device code without an include.
#pragma once

using std::isfinite;
using std::isinf;
using std::isnan;
using std::signbit;

template <class A, class B, class = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
std::common_type_t<A, B> max(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmax(T(a), T(b));
  return T(a) > T(b) ? T(a) : T(b);
}
template <class A, class B, class = std::enable_if_t<std::is_arithmetic_v<A> && std::is_arithmetic_v<B>>>
std::common_type_t<A, B> min(A a, B b) {
  using T = std::common_type_t<A, B>;
  if constexpr (std::is_floating_point_v<T>) return std::fmin(T(a), T(b));
  return T(a) < T(b) ? T(a) : T(b);
}
using std::abs;

inline float __int_as_float(int bits) { return emulator::float_of(static_cast<uint32_t>(bits)); }
inline float __uint_as_float(unsigned bits) { return emulator::float_of(bits); }
inline int __float_as_int(float value) { return static_cast<int>(emulator::bits_of(value)); }
inline unsigned __float_as_uint(float value) { return emulator::bits_of(value); }
inline long long __double_as_longlong(double value) { return __builtin_bit_cast(long long, value); }
inline double __longlong_as_double(long long bits) { return __builtin_bit_cast(double, bits); }

#define EMULATOR_UNARY(NAME, RESULT) \
  inline float NAME(float x) { return RESULT; }
EMULATOR_UNARY(__expf, expf(x))
EMULATOR_UNARY(__exp10f, powf(10.0f, x))
EMULATOR_UNARY(exp10f, powf(10.0f, x))
EMULATOR_UNARY(__logf, logf(x))
EMULATOR_UNARY(__log2f, log2f(x))
EMULATOR_UNARY(__log10f, log10f(x))
EMULATOR_UNARY(__sinf, sinf(x))
EMULATOR_UNARY(__cosf, cosf(x))
EMULATOR_UNARY(__tanf, tanf(x))
EMULATOR_UNARY(__tanhf, tanhf(x))
EMULATOR_UNARY(rsqrtf, 1.0f / sqrtf(x))
EMULATOR_UNARY(__frsqrt_rn, 1.0f / sqrtf(x))
EMULATOR_UNARY(__fsqrt_rn, sqrtf(x))
EMULATOR_UNARY(__frcp_rn, 1.0f / x)
EMULATOR_UNARY(__saturatef, x < 0.0f || x != x ? 0.0f : x > 1.0f ? 1.0f : x)
EMULATOR_UNARY(normcdff, 0.5f * erfcf(-x * 0.70710678118654752f))
#undef EMULATOR_UNARY
inline double rsqrt(double x) { return 1.0 / std::sqrt(x); }
inline float __fdividef(float a, float b) { return a / b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
inline float fdividef(float a, float b) { return a / b; }
inline float __powf(float a, float b) { return powf(a, b); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fmaf_rn(float a, float b, float c) { return fmaf(a, b, c); }
inline double __dadd_rn(double a, double b) { return a + b; }
inline double __dmul_rn(double a, double b) { return a * b; }
inline double __ddiv_rn(double a, double b) { return a / b; }
inline double __fma_rn(double a, double b, double c) { return fma(a, b, c); }

// Conversions of floats that do not fit saturate, and NaN gives 0, as the hardware does.
template <class To, class From>
To emulator_convert(From value) {
  if (value != value) return 0;
  if (value <= static_cast<From>(std::is_signed_v<To> ? -std::ldexp(1.0, sizeof(To) * 8 - 1) : 0.0)) return std::is_signed_v<To> ? To(1) << (sizeof(To) * 8 - 1) : 0;
  if (value >= static_cast<From>(std::ldexp(1.0, sizeof(To) * 8 - std::is_signed_v<To>))) return static_cast<To>(~(std::is_signed_v<To> ? To(1) << (sizeof(To) * 8 - 1) : To(0)));
  return static_cast<To>(value);
}
inline int __float2int_rn(float x) { return emulator_convert<int>(nearbyintf(x)); }
inline int __float2int_rz(float x) { return emulator_convert<int>(truncf(x)); }
inline int __float2int_rd(float x) { return emulator_convert<int>(floorf(x)); }
inline int __float2int_ru(float x) { return emulator_convert<int>(ceilf(x)); }
inline unsigned __float2uint_rn(float x) { return emulator_convert<unsigned>(nearbyintf(x)); }
inline unsigned __float2uint_rz(float x) { return emulator_convert<unsigned>(truncf(x)); }
inline long long __float2ll_rn(float x) { return emulator_convert<long long>(nearbyintf(x)); }
inline long long __float2ll_rz(float x) { return emulator_convert<long long>(truncf(x)); }
inline int __double2int_rn(double x) { return emulator_convert<int>(nearbyint(x)); }
inline float __int2float_rn(int x) { return static_cast<float>(x); }
inline float __uint2float_rn(unsigned x) { return static_cast<float>(x); }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __popcll(unsigned long long x) { return __builtin_popcountll(x); }
inline int __clz(int x) { return x ? __builtin_clz(static_cast<unsigned>(x)) : 32; }
inline int __clzll(long long x) { return x ? __builtin_clzll(static_cast<unsigned long long>(x)) : 64; }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline int __mulhi(int a, int b) { return static_cast<int>(static_cast<int64_t>(a) * b >> 32); }
inline unsigned __umulhi(unsigned a, unsigned b) { return static_cast<unsigned>(static_cast<uint64_t>(a) * b >> 32); }
inline long long __mul64hi(long long a, long long b) { return static_cast<long long>(static_cast<__int128>(a) * b >> 64); }
inline unsigned __funnelshift_r(unsigned low, unsigned high, unsigned shift) {
  return static_cast<unsigned>((static_cast<uint64_t>(high) << 32 | low) >> (shift & 31));
}
inline unsigned __byte_perm(unsigned a, unsigned b, unsigned selector) {
  uint64_t both = static_cast<uint64_t>(b) << 32 | a;
  unsigned result = 0;
  for (int i = 0; i < 4; ++i) result |= static_cast<unsigned>(both >> ((selector >> 4 * i & 7) * 8) & 0xFF) << 8 * i;
  return result;
}
inline int __dp4a(int a, int b, int c) {
  for (int i = 0; i < 4; ++i) c += static_cast<int8_t>(a >> 8 * i) * static_cast<int8_t>(b >> 8 * i);
  return c;
}
inline unsigned __dp4a(unsigned a, unsigned b, unsigned c) {
  for (int i = 0; i < 4; ++i) c += (a >> 8 * i & 0xFF) * (b >> 8 * i & 0xFF);
  return c;
}

template <class T>
T __ldg(const T* address) {
  return *address;
}
template <class T>
T __ldcs(const T* address) {
  return *address;
}
template <class T>
T __ldcg(const T* address) {
  return *address;
}
template <class T>
void __stcs(T* address, T value) {
  *address = value;
}
inline void __trap() { emulator::fault("traps"); }
inline void __nanosleep(unsigned) {}
inline long long clock64() { return 0; }
inline size_t __cvta_generic_to_shared(const void* address) { return reinterpret_cast<size_t>(address); }
#define __builtin_assume(x) ((void)0)
