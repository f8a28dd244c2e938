// Tiles of float32 whose elements are stored as integers of 8 or 4 bits, which lie along k in rows that are filled up to whole words.
namespace lepton {

// Element number i of a word of integers.
template <int BITS, bool SIGNED>
__device__ __forceinline__ int code(unsigned word, int i) {
  if constexpr (SIGNED) return static_cast<int>(word << (32 - BITS - i * BITS)) >> (32 - BITS);
  return word >> i * BITS & ((1 << BITS) - 1);
}

// ROWS rows of ROW_WORDS words; GROUP neighbours share a scale, of which a row has SCALES, one after the other; with GROUP 0 there are none.
template <int BITS, bool SIGNED, int ROWS, long long ROW_WORDS, int GROUP, int SCALES>
struct Codes {
  static constexpr int PER_WORD = 32 / BITS;
  const unsigned* words;
  const float* scales;

  __device__ __forceinline__ unsigned at(int row, int k, int end) const {
    return row < ROWS && k < end ? words[row * ROW_WORDS + k / PER_WORD] : 0;
  }
  __device__ __forceinline__ float scale(int row, int k, int end) const {
    if constexpr (GROUP == 0) return 1.0f;
    return row < ROWS && k < end ? scales[row * static_cast<long long>(SCALES) + k / GROUP] : 0.0f;
  }
  __device__ __forceinline__ float value(unsigned word, int i, float scale) const {
    float number = static_cast<float>(code<BITS, SIGNED>(word, i));
    return GROUP == 0 ? number : number * scale;
  }
};

// As `Tile` of floats with ALONG_K. Groups are multiples of a word, whose elements then share a scale.
template <class Source, int EXTENT, int DEPTH, int THREADS>
struct ConvertedTile {
  using Origin = Source;
  using T = float;
  static constexpr int ROW_BYTES = DEPTH * 4, BYTES = EXTENT * ROW_BYTES, ACROSS = DEPTH / Source::PER_WORD, UNITS = EXTENT * ACROSS;
  static constexpr int COUNT = (UNITS + THREADS - 1) / THREADS;
  static constexpr bool ROWS_ALONG_I = true, WIDE = false;
  struct Fetched {
    unsigned words[COUNT];
    float scales[COUNT];
  };

  Source source;
  int origin, thread;

  __device__ __forceinline__ ConvertedTile(const Source& source, int first, int thread) : source(source), origin(first), thread(thread) {}

  static __device__ __forceinline__ int offset(int row, int chunk) { return swizzled<ROW_BYTES, WIDE>(row, chunk); }

  __device__ __forceinline__ Fetched fetch(char*, int first, int end) const {
    Fetched fetched;
#pragma unroll
    for (int c = 0; c < COUNT; ++c) {
      int unit = thread + c * THREADS, row = origin + unit / ACROSS, k = first + unit % ACROSS * Source::PER_WORD;
      fetched.words[c] = source.at(row, k, end);
      fetched.scales[c] = source.scale(row, k, end);
    }
    return fetched;
  }

  __device__ __forceinline__ void keep(char* shared, const Fetched& fetched) const {
#pragma unroll
    for (int c = 0; c < COUNT; ++c) {
      int unit = thread + c * THREADS;
      if (UNITS % THREADS && unit >= UNITS) break;
#pragma unroll
      for (int quad = 0; quad < Source::PER_WORD / 4; ++quad) {
        Chunk chunk;
#pragma unroll
        for (int e = 0; e < 4; ++e) chunk.words[e] = __float_as_uint(source.value(fetched.words[c], quad * 4 + e, fetched.scales[c]));
        *reinterpret_cast<Chunk*>(shared + offset(unit / ACROSS, unit % ACROSS * (Source::PER_WORD / 4) + quad)) = chunk;
      }
    }
  }

  __device__ __forceinline__ void load(char* shared, int first, int end) const { keep(shared, fetch(shared, first, end)); }
};

}  // namespace lepton
