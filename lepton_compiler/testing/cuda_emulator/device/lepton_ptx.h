// The emulated twins of tensor_cores/device/ptx.cuh, where the same functions have a PTX body.
#pragma once

namespace lepton {

template <class T>
T kept(T value) {
  return value;
}

inline void cp_async16(void* shared, const void* global, unsigned valid, int line = __builtin_LINE()) {
  emulator::copy_async(shared, global, 16, valid, line);
}
inline void cp_async8(void* shared, const void* global, unsigned valid, int line = __builtin_LINE()) {
  emulator::copy_async(shared, global, 8, valid, line);
}
inline void cp_async4(void* shared, const void* global, unsigned valid, int line = __builtin_LINE()) {
  emulator::copy_async(shared, global, 4, valid, line);
}
inline void cp_async_commit() { emulator::copy_async_commit(); }
template <int GROUPS>
void cp_async_wait() {
  emulator::copy_async_wait(GROUPS);
}

template <bool TRANSPOSED>
void ldmatrix_x4(unsigned (&result)[4], const void* row, int line = __builtin_LINE()) {
  emulator::check(row, 16, emulator::Access::read);
  emulator::MatrixLoad request = {row, result, 4, TRANSPOSED};
  emulator::warp_collective(0xFFFFFFFFu, &request, emulator::load_matrices, "ldmatrix", line);
}

template <emulator::Kind A, emulator::Kind B, class T>
void emulated_mma(T (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line) {
  emulator::MatrixProduct request = {d, a, b, A, B};
  emulator::warp_collective(0xFFFFFFFFu, &request, emulator::multiply_matrices, "mma", line);
}

#define LEPTON_EMULATED_MMA(NAME, TYPE, A, B)                                                                             \
  inline void NAME(TYPE (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2], int line = __builtin_LINE()) {           \
    emulated_mma<emulator::Kind::A, emulator::Kind::B>(d, a, b, line);                                                    \
  }
LEPTON_EMULATED_MMA(mma_f16, float, f16, f16)
LEPTON_EMULATED_MMA(mma_bf16, float, bf16, bf16)
LEPTON_EMULATED_MMA(mma_tf32, float, tf32, tf32)
#ifndef LEPTON_EMULATED_SM_75
LEPTON_EMULATED_MMA(mma_s8_s8, int, s8, s8)
LEPTON_EMULATED_MMA(mma_u8_s8, int, u8, s8)
LEPTON_EMULATED_MMA(mma_s8_u8, int, s8, u8)
LEPTON_EMULATED_MMA(mma_u8_u8, int, u8, u8)
#else  // what sm_75 has in their place, where the text asks for it
#define LEPTON_QUARTERS
#define LEPTON_EMULATED_QUARTER(NAME, A, B)                                                                               \
  inline void NAME(int (&d)[2], unsigned a, unsigned b, int line = __builtin_LINE()) {                                    \
    emulator::SmallProduct request = {d, a, b, emulator::Kind::A, emulator::Kind::B};                                     \
    emulator::warp_collective(0xFFFFFFFFu, &request, emulator::multiply_small_matrices, "mma", line);                     \
  }
LEPTON_EMULATED_QUARTER(mma_s8_s8_quarter, s8, s8)
LEPTON_EMULATED_QUARTER(mma_u8_s8_quarter, u8, s8)
LEPTON_EMULATED_QUARTER(mma_s8_u8_quarter, s8, u8)
LEPTON_EMULATED_QUARTER(mma_u8_u8_quarter, u8, u8)
#undef LEPTON_EMULATED_QUARTER
#endif
#undef LEPTON_EMULATED_MMA

// Rounds to the nearest tf32, halves away from zero, as cvt.rna does.
inline unsigned to_tf32(float value) {
  unsigned bits = emulator::bits_of(value);
  return (bits & 0x7F800000u) == 0x7F800000u ? bits : (bits + 0x1000u) & 0xFFFFE000u;
}

// Small results are 0.
inline float power_of_two(float x) {
  float result = exp2f(x);
  return result < 1.17549435e-38f ? 0.0f : result;
}

inline unsigned pack_f16(float low, float high) { return emulator::float_to_half(low) | static_cast<unsigned>(emulator::float_to_half(high)) << 16; }
inline unsigned pack_bf16(float low, float high) { return emulator::float_to_bfloat(low) | static_cast<unsigned>(emulator::float_to_bfloat(high)) << 16; }

// Kernels for sm_90a, where the text asks for them.
#ifdef LEPTON_EMULATED_SM_90A
#define LEPTON_WARPGROUPS 1

inline void wgmma_publish() { emulator::group_publish(); }
inline void wgmma_fence() { emulator::group_fence(); }
inline void wgmma_commit(int line = __builtin_LINE()) { emulator::group_commit(line); }
template <int GROUPS>
void wgmma_wait(int line = __builtin_LINE()) {
  emulator::group_wait(GROUPS, line);
}
template <class Sums>
void wgmma_finished(Sums&) {}
inline unsigned long long wgmma_descriptor(const void* tile) {
  size_t offset = static_cast<size_t>(static_cast<const char*>(tile) - static_cast<const char*>(emulator::dynamic_shared()));
  return (offset & 0x3FFFF) >> 4 | 1ULL << 16 | 64ULL << 32 | 1ULL << 62;
}

template <auto KIND, class Sum, int COLUMNS>
void wgmma(Sum (&d)[COLUMNS][4], unsigned long long a, unsigned long long b, int line = __builtin_LINE()) {
  using emulator::Kind;
  constexpr Kind KINDS[][2] = {{Kind::f16, Kind::f16}, {Kind::bf16, Kind::bf16}, {Kind::tf32, Kind::tf32}, {Kind::s8, Kind::s8},
                               {Kind::u8, Kind::s8},   {Kind::s8, Kind::u8},     {Kind::u8, Kind::u8}};
  emulator::group_product({&d[0][0], COLUMNS * 8, a, b, KINDS[static_cast<int>(KIND)][0], KINDS[static_cast<int>(KIND)][1]}, line);
}
#endif

}  // namespace lepton
