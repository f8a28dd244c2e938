// Tiles of operands in shared memory, in chunks of 16 bytes. The rows of a tile are what is contiguous in global memory: along k, or along i.
namespace lepton {

template <int BYTES>
struct alignas(BYTES) __attribute__((may_alias)) Words {  // parts of tiles and of memory, whatever the type of their elements
  unsigned words[BYTES / 4];
};
using Chunk = Words<16>;

// How the chunks of a row are exchanged, by `xor` with a number: ALONG_ROWS, so that eight rows at the same chunk lie in different banks (ldmatrix);
// FOURS, so that 4 rows x 32 bytes do, of 32-bit elements that are contiguous along i (plain loads of fragments); NOT, where a warp reads a row at
// a time. The pattern repeats after eight rows.
enum class Exchange { NOT, ALONG_ROWS, FOURS };

template <int ROW_BYTES, Exchange EXCHANGE>
__device__ __forceinline__ constexpr unsigned exchange(unsigned row) {
  constexpr unsigned CHUNKS = ROW_BYTES / 16, TOGETHER = CHUNKS >= 8 ? 1 : 8 / CHUNKS;
  return EXCHANGE == Exchange::NOT ? 0 : EXCHANGE == Exchange::FOURS ? row % 4 * 2 & (CHUNKS - 1) : row / TOGETHER % 8 & (CHUNKS - 1);
}

// Byte offset of a chunk.
template <int ROW_BYTES, Exchange EXCHANGE>
__device__ __forceinline__ int swizzled(unsigned row, unsigned chunk) {
  return static_cast<int>(row * ROW_BYTES + (chunk ^ exchange<ROW_BYTES, EXCHANGE>(row)) * 16);
}

// Brings tiles of EXTENT x DEPTH elements of a source to shared memory. VECTOR elements are contiguous and aligned in global memory.
// FRAGMENTS: they are read as tensor cores want them, otherwise by lanes that have whole rows of the result.
template <class Source, int EXTENT, int DEPTH, bool ALONG_K, int VECTOR, int THREADS, bool FRAGMENTS = true>
struct Tile {
  using Origin = Source;
  using T = typename Source::T;
  static constexpr int PER_CHUNK = 16 / sizeof(T), PARTS = PER_CHUNK / VECTOR, PART_BYTES = VECTOR * sizeof(T);
  static constexpr int ROWS = ALONG_K ? EXTENT : DEPTH, ROW_BYTES = (ALONG_K ? DEPTH : EXTENT) * sizeof(T), CHUNKS = ROW_BYTES / 16;
  static constexpr bool ROWS_ALONG_I = ALONG_K;  // row number is i, what lies along a row is k
  static constexpr bool WIDE = !ALONG_K && sizeof(T) == 4;
  static constexpr Exchange EXCHANGE = !WIDE ? Exchange::ALONG_ROWS : FRAGMENTS ? Exchange::FOURS : Exchange::NOT;
  static constexpr int STEP = THREADS / CHUNKS, PASSES = (ROWS + STEP - 1) / STEP, BYTES = ROWS * ROW_BYTES;
  static_assert(THREADS % CHUNKS == 0, "a thread keeps its column of chunks");

  Source source;
  int row, chunk, origin, place;
  typename Source::Outer outers[Source::LINEAR ? 1 : ALONG_K ? PASSES : PARTS];

  __device__ __forceinline__ Tile(const Source& source, int first, int thread)
      : source(source), row(static_cast<unsigned>(thread) / CHUNKS), chunk(static_cast<unsigned>(thread) % CHUNKS), origin(first) {
    place = kept(offset(row, chunk));
    if constexpr (Source::LINEAR)
      this->source.base = kept(source.at(ALONG_K ? first + row : first + chunk * PER_CHUNK, ALONG_K ? chunk * PER_CHUNK : row));
    else
#pragma unroll
      for (int i = 0; i < (ALONG_K ? PASSES : PARTS); ++i)
        outers[i] = source.outer(first + (ALONG_K ? row + i * STEP : chunk * PER_CHUNK + i * VECTOR));
  }

  static __device__ __forceinline__ int offset(int row, int chunk) { return swizzled<ROW_BYTES, EXCHANGE>(row, chunk); }
  // Where this thread's chunk of a pass lies in the tile.
  __device__ __forceinline__ int placed(int pass) const {
    return STEP % 8 == 0 ? place + pass * STEP * ROW_BYTES : offset(row + pass * STEP, chunk);
  }

  // What a copy of four bytes or more cannot bring passes through registers, between `fetch` and `keep`: while it is on its way others are multiplied.
  static constexpr bool NARROW = PART_BYTES < 4;
  struct Fetched {
    T elements[NARROW ? PASSES : 1][NARROW ? PER_CHUNK : 1];
  };

  // The tile whose first k is `first`; from `end` on there are zeros.
  __device__ __forceinline__ Fetched fetch(char* shared, int first, int end) const {
    Fetched fetched;
    if constexpr (Source::LINEAR)
      fetch_linear(fetched, shared, first, end);
    else
      fetch_any(fetched, shared, first, end);
    return fetched;
  }
  __device__ __forceinline__ void keep(char* shared, const Fetched& fetched) const {
    if constexpr (NARROW)
#pragma unroll
      for (int pass = 0; pass < PASSES; ++pass) {
        if (ROWS % STEP && row + pass * STEP >= ROWS) break;
        union {
          T elements[PER_CHUNK];
          Chunk chunk;
        } together;
#pragma unroll
        for (int i = 0; i < PER_CHUNK; ++i) together.elements[i] = fetched.elements[pass][i];
        *reinterpret_cast<Chunk*>(shared + placed(pass)) = together.chunk;
      }
  }
  __device__ __forceinline__ void load(char* shared, int first, int end) const { keep(shared, fetch(shared, first, end)); }

  // All that a thread copies lies at constant distances from its first address, which is the source's here.
  __device__ __forceinline__ void fetch_linear(Fetched& fetched, char* shared, int first, int end) const {
    constexpr long long ALONG = ALONG_K ? Source::BETWEEN_K : Source::BETWEEN_I, ACROSS = ALONG_K ? Source::BETWEEN_I : Source::BETWEEN_K;
    const T* from = kept(source.base + Source::distance(first));
    int i = origin + (ALONG_K ? row : chunk * PER_CHUNK), k = first + (ALONG_K ? chunk * PER_CHUNK : row);
#pragma unroll
    for (int pass = 0; pass < PASSES; ++pass) {
      if (ROWS % STEP && row + pass * STEP >= ROWS) break;
      copy(
          fetched.elements[NARROW ? pass : 0], shared + placed(pass), [&](int part) { return from + (pass * STEP * ACROSS + part * VECTOR * ALONG); },
          [&](int part) {
            int along = part * VECTOR, across = pass * STEP;
            bool is_row = Source::COUNT % EXTENT == 0 || i + (ALONG_K ? across : along) < Source::COUNT;
            return is_row & (k + (ALONG_K ? along : across) < end);
          },
          [](int part) { return 0u; });
    }
  }

  __device__ __forceinline__ void fetch_any(Fetched& fetched, char* shared, int first, int end) const {
    typename Source::Inner inners[ALONG_K ? PARTS : 1];
    if constexpr (ALONG_K)
#pragma unroll
      for (int part = 0; part < PARTS; ++part) inners[part] = source.template inner<DEPTH>(first, chunk * PER_CHUNK + part * VECTOR, end);
#pragma unroll
    for (int pass = 0; pass < PASSES; ++pass) {
      int at = row + pass * STEP;
      if (ROWS % STEP && at >= ROWS) break;
      if constexpr (!ALONG_K) inners[0] = source.template inner<DEPTH>(first, at, end);
      auto outer = [&](int part) -> const typename Source::Outer& { return outers[ALONG_K ? pass : part]; };
      auto inner = [&](int part) -> const typename Source::Inner& { return inners[ALONG_K ? part : 0]; };
      copy(
          fetched.elements[NARROW ? pass : 0], shared + placed(pass), [&](int part) { return source.at(outer(part), inner(part)); },
          [&](int part) { return Source::valid(outer(part), inner(part)); },
          [&](int part) {
            if constexpr (Source::FILLED) return source.filler(inner(part));
            return 0u;
          });
    }
  }

  // Copies a chunk in parts, or reads its elements: of each part, where it lies, whether it is there, and what is there instead.
  template <int COUNT, class From, class Valid, class Filler>
  __device__ __forceinline__ void copy(T (&elements)[COUNT], char* to, From from, Valid valid, Filler filler) const {
    if constexpr (!NARROW) {
#pragma unroll
      for (int part = 0; part < PARTS; ++part) {
        const T* source = from(part);  // not looked at where nothing is copied: no branch is needed
        unsigned bytes = valid(part) ? PART_BYTES : 0;
        if constexpr (Source::FILLED)
          if (!bytes) {
            Words<PART_BYTES> words;
#pragma unroll
            for (int word = 0; word < PART_BYTES / 4; ++word) words.words[word] = filler(part);
            *reinterpret_cast<Words<PART_BYTES>*>(to + part * PART_BYTES) = words;
            continue;
          }
        if constexpr (PART_BYTES == 16)
          cp_async16(to, source, bytes);
        else if constexpr (PART_BYTES == 8)
          cp_async8(to + part * 8, source, bytes);
        else
          cp_async4(to + part * 4, source, bytes);
      }
    } else {
#pragma unroll
      for (int i = 0; i < PER_CHUNK; ++i) elements[i] = valid(i / VECTOR) ? from(i / VECTOR)[i % VECTOR] : static_cast<T>(filler(i / VECTOR));
    }
  }
};

// Tiles of memory that nothing writes while a session is open.
template <class Whole>
struct Constant : Whole {
  using Whole::Whole;
};

// Whether tiles are fetched while the kernel before this one runs.
template <class Tile>
constexpr bool EARLY = false;
#if defined(LEPTON_EMULATED) || __CUDA_ARCH__ >= 900
template <class Whole>
constexpr bool EARLY<Constant<Whole>> = true;
#endif

// Begins to fetch the first AHEAD tiles of [first, end) along k, each pair a group of copies; what is fetched early belongs to the first group.
// The kernel has waited for the one before it when this returns.
template <int AHEAD, int DEPTH, class A, class B>
__device__ __forceinline__ void begin(const A& a, const B& b, char* shared, int first, int end) {
  constexpr int STAGE = A::BYTES + B::BYTES;
  if constexpr (EARLY<A>)
#pragma unroll
    for (int s = 0; s < AHEAD; ++s)
      if (first + s * DEPTH < end) a.load(shared + s * STAGE, first + s * DEPTH, end);
  if constexpr (EARLY<B>)
#pragma unroll
    for (int s = 0; s < AHEAD; ++s)
      if (first + s * DEPTH < end) b.load(shared + s * STAGE + A::BYTES, first + s * DEPTH, end);
  lepton_after_previous();
#pragma unroll
  for (int s = 0; s < AHEAD; ++s) {
    if (first + s * DEPTH < end) {
      if constexpr (!EARLY<A>) a.load(shared + s * STAGE, first + s * DEPTH, end);
      if constexpr (!EARLY<B>) b.load(shared + s * STAGE + A::BYTES, first + s * DEPTH, end);
    }
    cp_async_commit();
  }
}

// Runs `multiply(stage)` over all tiles of [first, end) along k, with STAGES - 1 tiles under way.
template <int STAGES, int DEPTH, class A, class B, class Multiply>
__device__ __forceinline__ void pipeline(const A& a, const B& b, char* shared, int first, int end, Multiply multiply) {
  constexpr int STAGE = A::BYTES + B::BYTES;
  int tiles = (end - first + DEPTH - 1) / DEPTH;
  begin<STAGES - 1, DEPTH>(a, b, shared, first, end);
  char* reading = shared;
  char* writing = shared + (STAGES - 1) * STAGE;
  for (int t = 0; t < tiles; ++t) {
    cp_async_wait<STAGES - 2>();
    __syncthreads();
    int next = t + STAGES - 1;
    typename A::Fetched fetched_a;
    typename B::Fetched fetched_b;
    if (next < tiles) {
      fetched_a = a.fetch(writing, first + next * DEPTH, end);
      fetched_b = b.fetch(writing + A::BYTES, first + next * DEPTH, end);
    }
    cp_async_commit();
    multiply(reading, reading + A::BYTES);
    if (next < tiles) {  // what was fetched has come while others were multiplied
      a.keep(writing, fetched_a);
      b.keep(writing + A::BYTES, fetched_b);
    }
    reading = reading == shared + (STAGES - 1) * STAGE ? shared : reading + STAGE;
    writing = writing == shared + (STAGES - 1) * STAGE ? shared : writing + STAGE;
  }
  cp_async_wait<0>();
  __syncthreads();
}

}  // namespace lepton
