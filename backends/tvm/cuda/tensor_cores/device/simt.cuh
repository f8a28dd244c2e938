// Products of tiles in fp32 on the ordinary cores: a warp is 8 x 4 lanes, a lane has TM x TN sums.
namespace lepton {

// A lane's place in a tile: what it reads lies whole rows and chunks further on, whose numbers have no bit in common with those of the first.
// All offsets are then the first one `xor` a constant, plus a constant.
template <class Tile>
struct Place {
  unsigned first;

  __device__ __forceinline__ Place(int row, int chunk) : first(kept(Tile::offset(row, chunk))) {}
  __device__ __forceinline__ Pack<float, 4> at(const char* tile, unsigned row, unsigned chunk) const {
    constexpr int ROW_BYTES = Tile::ROW_BYTES;
    unsigned offset = (first ^ (chunk ^ exchange<ROW_BYTES, Tile::EXCHANGE>(row)) * 16) + row * ROW_BYTES;
    return *reinterpret_cast<const Pack<float, 4>*>(tile + offset);
  }
};

// Four steps of the sum. COUNT rows of A or columns of B of a lane, by way of `index`: their numbers behind the first.
template <class Tile, int COUNT, class Index>
struct Quad {
  const char* tile;
  const Place<Tile>& place;
  int number;  // of the quad
  Index index;
  Pack<float, 4> loaded[Tile::ROWS_ALONG_I ? COUNT : 1];

  __device__ __forceinline__ Quad(const char* tile, const Place<Tile>& place, int number, Index index)
      : tile(tile), place(place), number(number), index(index) {}
  __device__ __forceinline__ Pack<float, 4> row(int i) const { return place.at(tile, index(i), number); }
  __device__ __forceinline__ void load() {
    if constexpr (Tile::ROWS_ALONG_I)
#pragma unroll
      for (int i = 0; i < COUNT; ++i) loaded[i] = row(i);
  }
  // The values at step k: from what is loaded, or from a row of the tile.
  __device__ __forceinline__ void values(float (&v)[COUNT], int k) const {
#pragma unroll
    for (int i = 0; i < COUNT; i += Tile::ROWS_ALONG_I ? 1 : 4) {
      if constexpr (Tile::ROWS_ALONG_I) {
        v[i] = loaded[i].values[k];
      } else {
        Pack<float, 4> four = place.at(tile, number * 4 + k, index(i) / 4);
#pragma unroll
        for (int e = 0; e < 4; ++e) v[i + e] = four.values[e];
      }
    }
  }
};

template <int BLOCK_M, int BLOCK_N, int TM, int TN, int STAGES, int DEPTH, class A, class B, class Store>
__device__ __forceinline__ void multiply_in_fp32(const A& a, const B& b, char* shared, int m, int n, int first, int end, const Store& store) {
  constexpr int WARP_M = TM * 8, WARP_N = TN * 4, ACROSS = BLOCK_N / WARP_N;
  constexpr int QUADS = DEPTH / 4, TOGETHER = TM * TN < 64 ? QUADS : 1;  // more in a row take registers that a second block needs
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, warp_m = warp / ACROSS * WARP_M, warp_n = warp % ACROSS * WARP_N;
  // Lanes i and i ^ 1 read the same rows, i and i ^ 2 the same columns: shared memory then gives two registers of a warp per clock (NVIDIA's developer
  // forum, "Unexpected shared memory bank conflict", of compute capability 7.0 to 7.5).
  int lane_m = lane / 2 % 8, lane_n = lane % 2 + lane / 16 * 2;
  // Rows that lie along k are taken eight apart: the lanes of half a warp then read eight neighbouring rows, which lie in different banks.
  int first_m = warp_m + (A::ROWS_ALONG_I ? lane_m : lane_m * 4), first_n = warp_n + lane_n * 4;
  auto row = [](int i) { return A::ROWS_ALONG_I ? i * 8 : i / 4 * 32 + i % 4; };
  auto column = [](int j) { return j / 4 * 16 + j % 4; };
  Place<A> place_a(A::ROWS_ALONG_I ? first_m : 0, A::ROWS_ALONG_I ? 0 : first_m / 4);
  Place<B> place_b(B::ROWS_ALONG_I ? first_n : 0, B::ROWS_ALONG_I ? 0 : first_n / 4);
  float sums[TM][TN] = {};
  pipeline<STAGES, DEPTH>(a, b, shared, first, end, [&](const char* tile_a, const char* tile_b) {
#pragma unroll TOGETHER
    for (int quad = 0; quad < QUADS; ++quad) {
      Quad<A, TM, decltype(row)> quad_a(tile_a, place_a, quad, row);
      Quad<B, TN, decltype(column)> quad_b(tile_b, place_b, quad, column);
      quad_a.load();
      if constexpr (A::ROWS_ALONG_I && B::ROWS_ALONG_I) {  // a column at a time takes few registers
#pragma unroll
        for (int j = 0; j < TN; ++j) {
          Pack<float, 4> column_j = quad_b.row(j);
#pragma unroll
          for (int k = 0; k < 4; ++k)
#pragma unroll
            for (int i = 0; i < TM; ++i) sums[i][j] = fmaf(quad_a.loaded[i].values[k], column_j.values[k], sums[i][j]);
        }
      } else {
        quad_b.load();
#pragma unroll
        for (int k = 0; k < 4; ++k) {
          float va[TM], vb[TN];
          quad_a.values(va, k);
          quad_b.values(vb, k);
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
      store(m + first_m + row(i), n + first_n + column(j), four);
    }
}

}  // namespace lepton
