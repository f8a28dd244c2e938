// What lanes hand in to the collectives of a warp.
#pragma once
#include <type_traits>

#include "narrow.h"
#include "runtime.h"

namespace emulator {

enum class Kind { f16, bf16, tf32, s8, u8 };

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

// d[64][columns] += a[64][16] * b[16][columns], a and b in shared memory where the descriptors say.
struct GroupProduct {
  float* d;
  int columns;
  uint64_t a, b;
  Kind kind;
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
void multiply_in_group(void** slots);
void shuffle(void** slots);
void vote(void** slots);

}  // namespace emulator
