// Products of tiles in fp32 on the ordinary cores: a warp is 8 x 4 lanes, a lane has TM x TN sums.
namespace lepton {

// COUNT values at one k: from quads along k that are loaded, or from rows along i.
template <class Tile, int COUNT, class Index>
__device__ __forceinline__ void values(float (&v)[COUNT], const Pack<float, 4> (&quads)[COUNT], const char* shared, Index index, int k) {
#pragma unroll
  for (int i = 0; i < COUNT; i += Tile::ROWS_ALONG_I ? 1 : 4) {
    if constexpr (Tile::ROWS_ALONG_I) {
      v[i] = quads[i].values[k % 4];
    } else {
      Pack<float, 4> four = *reinterpret_cast<const Pack<float, 4>*>(shared + Tile::offset(k, index(i) / 4));
#pragma unroll
      for (int e = 0; e < 4; ++e) v[i + e] = four.values[e];
    }
  }
}

template <int BLOCK_M, int BLOCK_N, int TM, int TN, int STAGES, int DEPTH, class A, class B, class Store>
__device__ __forceinline__ void multiply_in_fp32(const A& a, const B& b, char* shared, int m, int n, int first, int end, const Store& store) {
  constexpr int WARP_M = TM * 8, WARP_N = TN * 4, ACROSS = BLOCK_N / WARP_N;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_m = warp / ACROSS * WARP_M, warp_n = warp % ACROSS * WARP_N;
  int lane_m = lane % 8, lane_n = lane / 8;
  // Rows that lie along k are taken eight apart: the lanes of a quarter of a warp then read eight neighbouring rows, which lie in different banks.
  auto row = [&](int i) { return warp_m + (A::ROWS_ALONG_I ? lane_m + i * 8 : lane_m * 4 + i / 4 * 32 + i % 4); };
  auto column = [&](int j) { return warp_n + lane_n * 4 + j / 4 * 16 + j % 4; };
  float sums[TM][TN] = {};
  pipeline<STAGES, DEPTH>(a, b, shared, first, end, [&](const char* tile_a, const char* tile_b) {
#pragma unroll 1  // 256 multiplications are enough in a row; more take registers that a second block needs
    for (int quad = 0; quad < DEPTH / 4; ++quad) {
      Pack<float, 4> qa[TM], qb[TN];
      if constexpr (A::ROWS_ALONG_I)
#pragma unroll
        for (int i = 0; i < TM; ++i) qa[i] = *reinterpret_cast<const Pack<float, 4>*>(tile_a + A::offset(row(i), quad));
      if constexpr (A::ROWS_ALONG_I && B::ROWS_ALONG_I) {  // a column at a time takes few registers
#pragma unroll
        for (int j = 0; j < TN; ++j) {
          Pack<float, 4> column_j = *reinterpret_cast<const Pack<float, 4>*>(tile_b + B::offset(column(j), quad));
#pragma unroll
          for (int i = 0; i < TM; ++i)
#pragma unroll
            for (int k = 0; k < 4; ++k) sums[i][j] = fmaf(qa[i].values[k], column_j.values[k], sums[i][j]);
        }
      } else {
        if constexpr (B::ROWS_ALONG_I)
#pragma unroll
          for (int j = 0; j < TN; ++j) qb[j] = *reinterpret_cast<const Pack<float, 4>*>(tile_b + B::offset(column(j), quad));
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          float va[TM], vb[TN];
          values<A, TM>(va, qa, tile_a, row, quad * 4 + k);
          values<B, TN>(vb, qb, tile_b, column, quad * 4 + k);
#pragma unroll
          for (int i = 0; i < TM; ++i)
#pragma unroll
            for (int j = 0; j < TN; ++j) sums[i][j] = fmaf(va[i], vb[j], sums[i][j]);
        }
      }
    }
  });
#pragma unroll
  for (int i = 0; i < TM; ++i)
#pragma unroll
    for (int j = 0; j < TN; j += 4) {
      float four[4] = {sums[i][j], sums[i][j + 1], sums[i][j + 2], sums[i][j + 3]};
      store(m + row(i), n + column(j), four);
    }
}

}  // namespace lepton
