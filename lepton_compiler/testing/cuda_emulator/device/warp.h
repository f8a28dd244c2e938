// What lanes hand in to the collectives of a warp.
#pragma once
#include <cstring>
#include <type_traits>

#include "narrow.h"
#include "runtime.h"

namespace emulator {

enum class Kind { f16, bf16, tf32, s8, u8 };

inline float narrow_to_float(uint16_t bits, Kind kind) { return kind == Kind::bf16 ? bfloat_to_float(bits) : half_to_float(bits); }

inline float tf32(uint32_t bits) {
  bits &= 0xFFFFE000u;  // the hardware ignores the low 13 bits
  float value;
  std::memcpy(&value, &bits, 4);
  return value;
}

inline float added(float a, float b) { return a + b; }
inline int32_t added(int32_t a, int32_t b) { return static_cast<int32_t>(static_cast<uint32_t>(a) + static_cast<uint32_t>(b)); }  // wraps around

// Element number `k` of the packed registers of a row or column fragment.
template <class T>
T element(const uint32_t* registers, int k, Kind kind) {
  if constexpr (sizeof(T) == 4 && std::is_floating_point_v<T>) {
    if (kind == Kind::tf32) return tf32(registers[k]);
    return narrow_to_float(static_cast<uint16_t>(registers[k / 2] >> (k % 2 * 16)), kind);
  } else {
    uint8_t byte = static_cast<uint8_t>(registers[k / 4] >> (k % 4 * 8));
    return kind == Kind::u8 ? byte : static_cast<int8_t>(byte);
  }
}

struct MatrixProduct {
  void* d;
  const uint32_t *a, *b;
  Kind a_kind, b_kind;
};

// d[8][8] += a[8][16 bytes] * b[16 bytes][8] of integers, as sm_75 has it.
struct SmallProduct {
  int32_t* d;
  uint32_t a, b;
  Kind a_kind, b_kind;
};

struct MatrixLoad {
  const void* row;
  uint32_t* result;
  int count;
  bool transposed;
};

struct Shuffle {
  void* value;
  unsigned bytes;
  int source;
  bool missing;
};

struct Vote {
  bool value;
  unsigned bits;
};

void multiply_matrices(void** slots);
void multiply_small_matrices(void** slots);
void load_matrices(void** slots);
void shuffle(void** slots);
void vote(void** slots);

}  // namespace emulator
