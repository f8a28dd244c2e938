// Tiles whose elements are stored as integers of 8 or 4 bits, which lie along k in rows that are filled up to whole words.
namespace lepton {

enum class Number { f32, f16, bf16 };
template <Number NUMBER>
struct Stored {
  using T = unsigned short;
};
template <>
struct Stored<Number::f32> {
  using T = float;
};

// Element number i of a word of integers: put behind the leading bit of 2^23, which is then taken off.
template <int BITS, bool SIGNED>
__device__ __forceinline__ float number(unsigned word, int i) {
  constexpr unsigned TOP = BITS == 8 ? 0x80808080u : 0x88888888u;
  constexpr float BASE = 8388608.0f + (SIGNED ? 1 << (BITS - 1) : 0);
  unsigned codes = SIGNED ? word ^ TOP : word;
  unsigned bits = BITS == 8 ? __byte_perm(codes, 0x4B000000u, 0x7540u + i) : (codes >> i * 4 & 15u) | 0x4B000000u;
  return __uint_as_float(bits) - BASE;
}

// ROWS rows of ROW_WORDS words; GROUP neighbours share a scale, of which a row has SCALES, one after the other; with GROUP 0 there are none.
template <Number NUMBER, int BITS, bool SIGNED, int ROWS, long long ROW_WORDS, int GROUP, int SCALES>
struct Codes {
  using T = typename Stored<NUMBER>::T;
  static constexpr int PER_WORD = 32 / BITS, WORDS = PER_WORD * sizeof(T) / 4;
  const unsigned* words;
  const float* scales;

  __device__ __forceinline__ unsigned at(int row, int k, int end) const {
    return row < ROWS && k < end ? words[row * ROW_WORDS + k / PER_WORD] : 0;
  }
  __device__ __forceinline__ float scale(int row, int k, int end) const {
    if constexpr (GROUP == 0)
      return 1.0f;
    else
      return row < ROWS && k < end ? scales[row * static_cast<long long>(SCALES) + k / GROUP] : 0.0f;
  }
  // The numbers that a word stands for, as they lie in a tile.
  __device__ __forceinline__ void convert(unsigned (&numbers)[WORDS], unsigned word, float scale) const {
    float values[PER_WORD];
#pragma unroll
    for (int i = 0; i < PER_WORD; ++i) values[i] = GROUP == 0 ? number<BITS, SIGNED>(word, i) : number<BITS, SIGNED>(word, i) * scale;
#pragma unroll
    for (int i = 0; i < WORDS; ++i) {
      if constexpr (NUMBER == Number::f32) numbers[i] = __float_as_uint(values[i]);
      if constexpr (NUMBER == Number::f16) numbers[i] = pack_f16(values[2 * i], values[2 * i + 1]);
#if defined(LEPTON_EMULATED) || __CUDA_ARCH__ >= 800
      if constexpr (NUMBER == Number::bf16) numbers[i] = pack_bf16(values[2 * i], values[2 * i + 1]);
#endif
    }
  }
};

// As `Tile` with ALONG_K. Groups are multiples of a word, whose elements then share a scale.
template <class Source, int EXTENT, int DEPTH, int THREADS>
struct ConvertedTile {
  using Origin = Source;
  using T = typename Source::T;
  static constexpr int ROW_BYTES = DEPTH * sizeof(T), BYTES = EXTENT * ROW_BYTES, ACROSS = DEPTH / Source::PER_WORD, UNITS = EXTENT * ACROSS;
  static constexpr int COUNT = (UNITS + THREADS - 1) / THREADS, PIECE = Source::WORDS < 4 ? Source::WORDS : 4;
  static constexpr bool ROWS_ALONG_I = true, WIDE = false;
  static constexpr Exchange EXCHANGE = Exchange::ALONG_ROWS;
  struct Fetched {
    unsigned words[COUNT];
    float scales[COUNT];
  };

  Source source;
  int origin, thread;

  __device__ __forceinline__ ConvertedTile(const Source& source, int first, int thread) : source(source), origin(first), thread(thread) {}

  static __device__ __forceinline__ int offset(int row, int chunk) { return swizzled<ROW_BYTES, EXCHANGE>(row, chunk); }

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
      int unit = thread + c * THREADS, first = unit % ACROSS * Source::WORDS;
      if (UNITS % THREADS && unit >= UNITS) break;
      unsigned numbers[Source::WORDS];
      source.convert(numbers, fetched.words[c], fetched.scales[c]);
#pragma unroll
      for (int word = 0; word < Source::WORDS; word += PIECE) {
        Words<PIECE * 4> piece;
#pragma unroll
        for (int i = 0; i < PIECE; ++i) piece.words[i] = numbers[word + i];
        *reinterpret_cast<Words<PIECE * 4>*>(shared + offset(unit / ACROSS, (first + word) / 4) + (first + word) % 4 * 4) = piece;
      }
    }
  }

  __device__ __forceinline__ void load(char* shared, int first, int end) const { keep(shared, fetch(shared, first, end)); }
};

}  // namespace lepton
