// What becomes of sums: an element of the output each, or a part of a sum that a second kernel completes.
namespace lepton {

template <class T, int COUNT>
struct alignas(sizeof(T) * COUNT) __attribute__((may_alias)) Pack {
  T values[COUNT];
};

// Stores elements side by side; narrow ones are put together to words first, since the compiler would store four at a time.
template <class T, int COUNT>
__device__ __forceinline__ void put(T* to, const Pack<T, COUNT>& pack) {
  if constexpr (sizeof(T) < 4 && sizeof(pack) % 8 == 0) {
    constexpr int PER_WORD = 4 / sizeof(T);
    Pack<unsigned, COUNT / PER_WORD> words = {};
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      unsigned element = static_cast<unsigned>(pack.values[i]) & ((1u << 8 * sizeof(T)) - 1);  // narrow elements are integers in C
      words.values[i / PER_WORD] |= element << i % PER_WORD * 8 * sizeof(T);
    }
    *reinterpret_cast<Pack<unsigned, COUNT / PER_WORD>*>(to) = words;
  } else {
    *reinterpret_cast<Pack<T, COUNT>*>(to) = pack;
  }
}

// COUNT elements side by side, aligned to what they take, or to 16 bytes; narrow ones come in words.
template <int COUNT, class T>
__device__ __forceinline__ Pack<T, COUNT> taken(const T* from) {
  Pack<T, COUNT> pack;
  constexpr int BYTES = COUNT * sizeof(T), EACH = sizeof(T) < 4 ? 4 / sizeof(T) : 1;
  if constexpr (sizeof(T) < 4 && BYTES % 4 == 0) {
    constexpr int WORDS = BYTES / 4, TOGETHER = WORDS < 4 ? WORDS : 4;
#pragma unroll
    for (int first = 0; first < WORDS; first += TOGETHER) {
      Pack<unsigned, TOGETHER> words = *reinterpret_cast<const Pack<unsigned, TOGETHER>*>(from + first * EACH);
#pragma unroll
      for (int i = 0; i < TOGETHER * EACH; ++i)
        pack.values[first * EACH + i] = static_cast<T>(words.values[i / EACH] >> i % EACH * 8 * sizeof(T));  // narrow elements are integers in C
    }
  } else {
    constexpr int TOGETHER = BYTES <= 16 ? COUNT : 16 / sizeof(T);
#pragma unroll
    for (int first = 0; first < COUNT; first += TOGETHER) {
      Pack<T, TOGETHER> piece = *reinterpret_cast<const Pack<T, TOGETHER>*>(from + first);
#pragma unroll
      for (int i = 0; i < TOGETHER; ++i) pack.values[first + i] = piece.values[i];
    }
  }
  return pack;
}

// A function of one element as one of several side by side.
template <class One>
struct Each {
  const One& one;

  template <int COUNT, class Sum, class Out>
  __device__ __forceinline__ void operator()(int batch, int m, int n, const Sum (&sums)[COUNT], Out (&out)[COUNT]) const {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) out[i] = one(batch, m, n + i, sums[i]);
  }
};

// out[place(batch, m, n + i)] = element i of value(batch, m, n, sums, elements); consecutive n are consecutive in memory, and N a multiple of VECTOR, where VECTOR > 1.
template <class Out, int M, int N, int VECTOR, class Value, class Place>
struct Finished {
  static constexpr int COUNT = VECTOR > 4 ? VECTOR : 4;  // sums to take at once, best
  Out* out;
  int batch;
  const Value& value;
  const Place& place;

  template <int GIVEN, class Sum>
  __device__ __forceinline__ void operator()(int m, int n, const Sum (&sums)[GIVEN]) const {
    static_assert(GIVEN % VECTOR == 0 || VECTOR % GIVEN == 0);
    constexpr int WIDTH = VECTOR < GIVEN ? VECTOR : GIVEN;
    int row = m < M ? m : M - 1;  // what lies outside is computed and not stored: without branches, what rows have in common is read once
    Pack<Out, WIDTH> packs[GIVEN / WIDTH];
#pragma unroll
    for (int p = 0; p < GIVEN / WIDTH; ++p) {
      int column = n + p * WIDTH < N ? n + p * WIDTH : N - WIDTH;
      Sum own[WIDTH];
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) own[i] = sums[p * WIDTH + i];
      value(batch, row, column, own, packs[p].values);
    }
    if (m >= M) return;
#pragma unroll
    for (int p = 0; p < GIVEN / WIDTH; ++p)
      if (n + p * WIDTH < N) put(out + place(batch, m, n + p * WIDTH), packs[p]);
  }
};

// workspace[split][batch][m][n] = sum
template <class Sum, int M, int N, int VECTOR>
struct Unfinished {
  static constexpr int COUNT = 4;
  Sum* base;  // of this split and batch

  template <int GIVEN>
  __device__ __forceinline__ void operator()(int m, int n, const Sum (&sums)[GIVEN]) const {
    constexpr int WIDTH = VECTOR < GIVEN ? VECTOR : GIVEN;
    if (m >= M) return;
#pragma unroll
    for (int first = 0; first < GIVEN; first += WIDTH) {
      if (n + first >= N) break;
      Pack<Sum, WIDTH> pack;
#pragma unroll
      for (int i = 0; i < WIDTH; ++i) pack.values[i] = sums[first + i];
      put(base + (m * N + n + first), pack);  // one 32-bit index, which a result has room for: with a wider one the compiler stores element by element
    }
  }
};

// The second phase: adds the parts of each element, in order, and finishes it. One thread for VECTOR elements.
template <class Sum, int BATCH, int M, int N, int SPLITS, int VECTOR, class Store>
__device__ __forceinline__ void finish(const Sum* workspace, Store store, int batch) {
  int index = (blockIdx.x * blockDim.x + threadIdx.x) * VECTOR, m = index / N, n = index % N;
  if (m >= M) return;
  Sum sums[VECTOR] = {};
#pragma unroll 4
  for (int split = 0; split < SPLITS; ++split) {
    const Sum* part = workspace + (static_cast<long long>(split) * BATCH + batch) * (static_cast<long long>(M) * N) + index;
    Pack<Sum, VECTOR> pack = *reinterpret_cast<const Pack<Sum, VECTOR>*>(part);
#pragma unroll
    for (int i = 0; i < VECTOR; ++i) sums[i] += pack.values[i];
  }
  store(m, n, sums);
}

// Which tile a block computes: blocks that run together form squares, so that they share rows and columns in the L2 cache.
struct Position {
  int m, n;
};
template <int TILES_M, int TILES_N>
__device__ __forceinline__ Position position(int block) {
  constexpr int BAND = TILES_M < 8 ? TILES_M : 8;
  int band = block / (BAND * TILES_N), height = TILES_M - band * BAND < BAND ? TILES_M - band * BAND : BAND, rest = block % (BAND * TILES_N);
  return {band * BAND + rest % height, rest / height};
}

}  // namespace lepton
