// Collectives of a warp that move and multiply matrices: the layouts are those of the PTX ISA, "Matrix fragments for mma".
#include "warp.h"

#include <cmath>
#include <cstring>

namespace emulator {

namespace {

constexpr int WARP = 32;

// d[16][8] = a[16][K] * b[K][8] + c, K * element size = 32 bytes: register r of lane l holds four bytes of row l / 4 (+ 8), column group l % 4.
template <class T>
void multiply(MatrixProduct** lanes) {
  constexpr int MAX_K = 32;
  Kind ka = lanes[0]->a_kind, kb = lanes[0]->b_kind;
  int per_register = ka == Kind::tf32 ? 1 : ka == Kind::s8 || ka == Kind::u8 ? 4 : 2, depth = per_register * 8;
  T a[16][MAX_K], b[8][MAX_K];
  for (int lane = 0; lane < WARP; ++lane) {
    int group = lane / 4, column = lane % 4 * per_register;
    for (int r = 0; r < 4; ++r)
      for (int k = 0; k < per_register; ++k) a[group + r % 2 * 8][column + r / 2 * per_register * 4 + k] = element<T>(lanes[lane]->a + r, k, ka);
    for (int r = 0; r < 2; ++r)
      for (int k = 0; k < per_register; ++k) b[group][column + r * per_register * 4 + k] = element<T>(lanes[lane]->b + r, k, kb);
  }
  for (int lane = 0; lane < WARP; ++lane) {
    T* d = static_cast<T*>(lanes[lane]->d);
    for (int r = 0; r < 4; ++r) {
      int row = lane / 4 + r / 2 * 8, column = lane % 4 * 2 + r % 2;
      T sum = 0;
      for (int k = 0; k < depth; ++k) sum += a[row][k] * b[column][k];
      d[r] = added(d[r], sum);
    }
  }
}

}  // namespace

void multiply_matrices(void** slots) {
  MatrixProduct** lanes = reinterpret_cast<MatrixProduct**>(slots);
  ++statistics().matrix_products;
  if (lanes[0]->a_kind == Kind::s8 || lanes[0]->a_kind == Kind::u8)
    multiply<int32_t>(lanes);
  else
    multiply<float>(lanes);
}

// Lane l holds four bytes of row l / 4 of A and of column l / 4 of B, both from 4 (l % 4) on, and the sums of columns 2 (l % 4), + 1 of row l / 4.
void multiply_small_matrices(void** slots) {
  SmallProduct** lanes = reinterpret_cast<SmallProduct**>(slots);
  ++statistics().matrix_products;
  int32_t a[8][16], b[8][16];
  for (int lane = 0; lane < WARP; ++lane)
    for (int k = 0; k < 4; ++k) {
      a[lane / 4][lane % 4 * 4 + k] = element<int32_t>(&lanes[lane]->a, k, lanes[0]->a_kind);
      b[lane / 4][lane % 4 * 4 + k] = element<int32_t>(&lanes[lane]->b, k, lanes[0]->b_kind);
    }
  for (int lane = 0; lane < WARP; ++lane)
    for (int r = 0; r < 2; ++r) {
      int32_t sum = 0;
      for (int k = 0; k < 16; ++k) sum += a[lane / 4][k] * b[lane % 4 * 2 + r][k];
      lanes[lane]->d[r] = added(lanes[lane]->d[r], sum);
    }
}

// Matrix number i has its eight row addresses in lanes 8 i to 8 i + 7; lane l gets the elements 2 (l % 4), + 1 of row l / 4, or of column l / 4.
void load_matrices(void** slots) {
  MatrixLoad** lanes = reinterpret_cast<MatrixLoad**>(slots);
  int count = lanes[0]->count;
  for (int i = 0; i < count; ++i) {
    uint16_t rows[8][8];
    unsigned banks = 0;
    for (int r = 0; r < 8; ++r) {
      std::memcpy(rows[r], lanes[8 * i + r]->row, 16);
      banks |= 1u << (reinterpret_cast<uintptr_t>(lanes[8 * i + r]->row) / 16 % 8);
    }
    ++statistics().matrix_loads;
    statistics().matrix_load_conflicts += static_cast<uint64_t>(8 - __builtin_popcount(banks));
    for (int lane = 0; lane < WARP; ++lane) {
      int group = lane / 4, pair = lane % 4 * 2;
      uint32_t low = lanes[0]->transposed ? rows[pair][group] : rows[group][pair];
      uint32_t high = lanes[0]->transposed ? rows[pair + 1][group] : rows[group][pair + 1];
      lanes[lane]->result[i] = low | high << 16;
    }
  }
}

void shuffle(void** slots) {
  char before[WARP][8];
  for (int lane = 0; lane < WARP; ++lane)
    if (slots[lane]) std::memcpy(before[lane], static_cast<Shuffle*>(slots[lane])->value, static_cast<Shuffle*>(slots[lane])->bytes);
  for (int lane = 0; lane < WARP; ++lane) {
    Shuffle* s = static_cast<Shuffle*>(slots[lane]);
    if (!s || s->source == lane) continue;
    s->missing = !slots[s->source];
    if (!s->missing) std::memcpy(s->value, before[s->source], s->bytes);
  }
}

void vote(void** slots) {
  unsigned bits = 0;
  for (int lane = 0; lane < WARP; ++lane)
    if (slots[lane] && static_cast<Vote*>(slots[lane])->value) bits |= 1u << lane;
  for (int lane = 0; lane < WARP; ++lane)
    if (slots[lane]) static_cast<Vote*>(slots[lane])->bits = bits;
}

}  // namespace emulator
