// Products of tiles on tensor cores. All element types share one layout in bytes: a step along k is 32 bytes, a fragment of A 16 rows of
// them in four registers, one of B 8 columns in two.
namespace lepton {

enum class Arithmetic { f16, bf16, tf32, s8_s8, u8_s8, s8_u8, u8_u8 };

template <Arithmetic KIND, class Sum>
__device__ __forceinline__ void mma(Sum (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
  if constexpr (KIND == Arithmetic::f16) mma_f16(d, a, b);
#if defined(LEPTON_EMULATED) || __CUDA_ARCH__ >= 800
  if constexpr (KIND == Arithmetic::bf16) mma_bf16(d, a, b);
  if constexpr (KIND == Arithmetic::tf32) mma_tf32(d, a, b);
#else
  static_assert(KIND != Arithmetic::bf16 && KIND != Arithmetic::tf32, "before sm_80 tensor cores multiply fp16 and 8-bit integers alone");
#endif
  if constexpr (KIND == Arithmetic::s8_s8) mma_s8_s8(d, a, b);
  if constexpr (KIND == Arithmetic::u8_s8) mma_u8_s8(d, a, b);
  if constexpr (KIND == Arithmetic::s8_u8) mma_s8_u8(d, a, b);
  if constexpr (KIND == Arithmetic::u8_u8) mma_u8_u8(d, a, b);
}

// Sixteen rows (i) x one step of a tile: registers {rows 0-7, first 16 bytes}, {rows 8-15, first}, {0-7, second}, {8-15, second}, or with the
// middle two exchanged, as two fragments of B want them (PAIRS).
template <class Tile, bool PAIRS, bool ROUND>
__device__ __forceinline__ void fragment(unsigned (&r)[4], const char* shared, int first, int step, int lane) {
  int eight = lane % 8, matrix = lane / 8;
  int i_part = PAIRS ? matrix / 2 : matrix % 2, k_part = PAIRS ? matrix % 2 : matrix / 2;
  if constexpr (!Tile::WIDE && Tile::ROWS_ALONG_I) {
    ldmatrix_x4<false>(r, shared + Tile::offset(first + i_part * 8 + eight, step * 2 + k_part));
  } else if constexpr (!Tile::WIDE) {
    ldmatrix_x4<true>(r, shared + Tile::offset(step * 16 + k_part * 8 + eight, first / 8 + i_part));
  } else {
    int i = first + lane / 4, k = step * 8 + lane % 4;
#pragma unroll
    for (int part = 0; part < 4; ++part) {
      int row = i + (PAIRS ? part / 2 : part % 2) * 8, depth = k + (PAIRS ? part % 2 : part / 2) * 4;
      r[part] = *reinterpret_cast<const unsigned*>(shared + Tile::offset(depth, row / 4) + row % 4 * 4);
    }
  }
#if defined(LEPTON_EMULATED) || __CUDA_ARCH__ >= 800
  if constexpr (ROUND)
#pragma unroll
    for (int part = 0; part < 4; ++part) r[part] = to_tf32(__uint_as_float(r[part]));
#endif
}

// Hands the sums of a warp to `store`, in fragments as `mma` leaves them, from row m and column n on. Sixteen rows at a time pass through
// shared memory, so that a lane has whole vectors of a row.
template <int ROWS, int COLUMNS, class Sum, class Store>
__device__ __forceinline__ void drain(const Sum (&sums)[ROWS][COLUMNS][4], char* shared, int m, int n, int warp, int lane, const Store& store) {
  constexpr int WIDTH = COLUMNS * 8 + 8, VECTOR = COLUMNS >= 4 ? Store::COUNT : 4, PER_ROW = COLUMNS * 8 / VECTOR;
  constexpr int AT_ONCE = 32 / PER_ROW < 1 ? 1 : 32 / PER_ROW < 16 ? 32 / PER_ROW : 16, ACROSS = PER_ROW < 32 ? PER_ROW : 32;
  Sum* staging = reinterpret_cast<Sum*>(shared) + warp * 16 * WIDTH;
#pragma unroll
  for (int i = 0; i < ROWS; ++i) {
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half)
        *reinterpret_cast<Pack<Sum, 2>*>(staging + (lane / 4 + half * 8) * WIDTH + j * 8 + lane % 4 * 2) = {sums[i][j][half * 2], sums[i][j][half * 2 + 1]};
    __syncwarp();
#pragma unroll
    for (int row = 0; row < 16; row += AT_ONCE) {
      Sum values[VECTOR];
      int at = row + lane / ACROSS;
      if (AT_ONCE * ACROSS < 32 && lane >= AT_ONCE * ACROSS) break;
#pragma unroll
      for (int first = 0; first < PER_ROW; first += ACROSS) {
        int column = (first + lane % ACROSS) * VECTOR;
        if (PER_ROW % ACROSS && first + lane % ACROSS >= PER_ROW) break;
#pragma unroll
        for (int v = 0; v < VECTOR; v += 4) {
          Pack<Sum, 4> four = *reinterpret_cast<const Pack<Sum, 4>*>(staging + at * WIDTH + column + v);
#pragma unroll
          for (int e = 0; e < 4; ++e) values[v + e] = four.values[e];
        }
        store(m + i * 16 + at, n + column, values);
      }
    }
    __syncwarp();
  }
}

// Zero points of rows of A and columns of B that a product of integers takes off, each times the sum of the other operand: a(m), b(n).
template <bool HAS_A, bool HAS_B, class ZeroA, class ZeroB>
struct Zeros {
  static constexpr bool OF_A = HAS_A, OF_B = HAS_B;
  const ZeroA& a;
  const ZeroB& b;
};
struct NoZeros {
  static constexpr bool OF_A = false, OF_B = false;
};

// Takes zero points off the sums of a warp, which begin at row m and column n; sums of A's rows and B's columns lie as products with ones do.
template <int ROWS, int COLUMNS, class ZeroPoints>
__device__ __forceinline__ void take_off(int (&sums)[ROWS][COLUMNS][4], const int (&rows)[ROWS][4], const int (&columns)[COLUMNS][4],
                                         const ZeroPoints& zeros, int m, int n, int lane) {
#pragma unroll
  for (int i = 0; i < ROWS; ++i)
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j)
#pragma unroll
      for (int e = 0; e < 4; ++e) {
        unsigned sum = sums[i][j][e];  // unsigned numbers wrap around
        if constexpr (ZeroPoints::OF_A) sum -= static_cast<unsigned>(zeros.a(m + i * 16 + lane / 4 + e / 2 * 8)) * static_cast<unsigned>(columns[j][e]);
        if constexpr (ZeroPoints::OF_B) sum -= static_cast<unsigned>(zeros.b(n + j * 8 + lane % 4 * 2 + e % 2)) * static_cast<unsigned>(rows[i][e]);
        sums[i][j][e] = static_cast<int>(sum);
      }
}

// One block's tile of the product, computed by warps of WARP_M x WARP_N; the sums of [first, end) go to `store(m, n, sums)`.
template <Arithmetic KIND, class Sum, int BLOCK_M, int BLOCK_N, int WARP_M, int WARP_N, int STEPS, int STAGES, int DEPTH, class A, class B, class Store,
          class ZeroPoints = NoZeros>
__device__ __forceinline__ void multiply_on_tensor_cores(const A& a, const B& b, char* shared, int m, int n, int first, int end, const Store& store,
                                                         const ZeroPoints& zeros = {}) {
  constexpr int ROWS = WARP_M / 16, COLUMNS = WARP_N / 8, ACROSS = BLOCK_N / WARP_N;
  constexpr bool ROUND = KIND == Arithmetic::tf32;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_m = warp / ACROSS * WARP_M, warp_n = warp % ACROSS * WARP_N;
  Sum sums[ROWS][COLUMNS][4] = {}, row_sums[ROWS][4] = {}, column_sums[COLUMNS][4] = {};
  constexpr unsigned ONES = 0x01010101;
  pipeline<STAGES, DEPTH>(a, b, shared, first, end, [&](const char* tile_a, const char* tile_b) {
    unsigned fa[2][ROWS][4], fb[2][COLUMNS / 2][4];
    auto fetch = [&](int step) {
#pragma unroll
      for (int i = 0; i < ROWS; ++i) fragment<A, false, ROUND>(fa[step % 2][i], tile_a, warp_m + i * 16, step, lane);
#pragma unroll
      for (int j = 0; j < COLUMNS / 2; ++j) fragment<B, true, ROUND>(fb[step % 2][j], tile_b, warp_n + j * 16, step, lane);
    };
    fetch(0);
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      if (step + 1 < STEPS) fetch(step + 1);
#pragma unroll
      for (int i = 0; i < ROWS; ++i)
#pragma unroll
        for (int j = 0; j < COLUMNS; ++j) {
          unsigned pair[2] = {fb[step % 2][j / 2][j % 2 * 2], fb[step % 2][j / 2][j % 2 * 2 + 1]};
          mma<KIND>(sums[i][j], fa[step % 2][i], pair);
          if constexpr (ZeroPoints::OF_A)
            if (i == 0) mma<KIND>(column_sums[j], {ONES, ONES, ONES, ONES}, pair);
        }
      if constexpr (ZeroPoints::OF_B)
#pragma unroll
        for (int i = 0; i < ROWS; ++i) mma<KIND>(row_sums[i], fa[step % 2][i], {ONES, ONES});
    }
  });
  if constexpr (ZeroPoints::OF_A || ZeroPoints::OF_B) take_off(sums, row_sums, column_sums, zeros, m + warp_m, n + warp_n, lane);
  drain<ROWS, COLUMNS>(sums, shared, m + warp_m, n + warp_n, warp, lane, store);
}

}  // namespace lepton
