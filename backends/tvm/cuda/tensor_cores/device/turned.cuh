// Tiles of bytes that are neighbours along i in global memory, aligned to words: they are turned on the way, four by four, so that in shared
// memory they lie along k as tensor cores want them.
namespace lepton {

// rows[k] holds elements i of bytes; columns[i] then holds elements k.
__device__ __forceinline__ void turn(unsigned (&columns)[4], const unsigned (&rows)[4]) {
  unsigned low[2], high[2];
#pragma unroll
  for (int pair = 0; pair < 2; ++pair) {
    low[pair] = __byte_perm(rows[2 * pair], rows[2 * pair + 1], 0x5140);
    high[pair] = __byte_perm(rows[2 * pair], rows[2 * pair + 1], 0x7362);
  }
  columns[0] = __byte_perm(low[0], low[1], 0x5410);
  columns[1] = __byte_perm(low[0], low[1], 0x7632);
  columns[2] = __byte_perm(high[0], high[1], 0x5410);
  columns[3] = __byte_perm(high[0], high[1], 0x7632);
}

// As `Tile` with ALONG_K. A thread turns 4 i x 16 k at a time; neighbouring threads read neighbouring words.
template <class Source, int EXTENT, int DEPTH, int THREADS>
struct TurnedTile {
  using Origin = Source;
  using T = typename Source::T;
  static constexpr int ROW_BYTES = DEPTH, BYTES = EXTENT * ROW_BYTES, ACROSS = EXTENT / 4, UNITS = ACROSS * (ROW_BYTES / 16);
  static constexpr int COUNT = (UNITS + THREADS - 1) / THREADS;
  static constexpr bool ROWS_ALONG_I = true, WIDE = false;
  static constexpr Exchange EXCHANGE = Exchange::ALONG_ROWS;
  static_assert(sizeof(T) == 1 && !Source::FILLED);
  struct Fetched {
    unsigned rows[COUNT][16];
  };

  Source source;
  int origin, thread;

  __device__ __forceinline__ TurnedTile(const Source& source, int first, int thread) : source(source), origin(first), thread(thread) {}

  static __device__ __forceinline__ int offset(int row, int chunk) { return swizzled<ROW_BYTES, EXCHANGE>(row, chunk); }

  __device__ __forceinline__ Fetched fetch(char*, int first, int end) const {
    Fetched fetched = {};
#pragma unroll
    for (int c = 0; c < COUNT; ++c) {
      int unit = thread + c * THREADS;
      if (UNITS % THREADS && unit >= UNITS) break;
      int i = origin + unit % ACROSS * 4, row = unit / ACROSS * 16;
      const T* from = source.at(i, row) + source.distance(first);
#pragma unroll
      for (int k = 0; k < 16; ++k)
        if (Source::valid(i, first + row + k, end)) fetched.rows[c][k] = *reinterpret_cast<const unsigned*>(from + k * Source::BETWEEN_K);
    }
    return fetched;
  }

  __device__ __forceinline__ void keep(char* shared, const Fetched& fetched) const {
#pragma unroll
    for (int c = 0; c < COUNT; ++c) {
      int unit = thread + c * THREADS;
      if (UNITS % THREADS && unit >= UNITS) break;
      Chunk chunks[4];
#pragma unroll
      for (int word = 0; word < 4; ++word) {
        unsigned rows[4], columns[4];
#pragma unroll
        for (int k = 0; k < 4; ++k) rows[k] = fetched.rows[c][word * 4 + k];
        turn(columns, rows);
#pragma unroll
        for (int e = 0; e < 4; ++e) chunks[e].words[word] = columns[e];
      }
#pragma unroll
      for (int e = 0; e < 4; ++e) *reinterpret_cast<Chunk*>(shared + offset(unit % ACROSS * 4 + e, unit / ACROSS)) = chunks[e];
    }
  }

  __device__ __forceinline__ void load(char* shared, int first, int end) const { keep(shared, fetch(shared, first, end)); }
};

}  // namespace lepton
