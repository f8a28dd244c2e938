// Tiles of operands in shared memory, in chunks of 16 bytes. The rows of a tile are what is contiguous in global memory: along k, or along i.
namespace lepton {

template <int BYTES>
struct alignas(BYTES) Words {
  unsigned words[BYTES / 4];
};
using Chunk = Words<16>;

// Byte offset of a chunk. Chunks of a row are exchanged so that eight rows at the same chunk lie in different banks (ldmatrix), and so do
// 4 rows x 32 bytes of 32-bit elements that are contiguous along i (plain loads of fragments).
template <int ROW_BYTES, bool WIDE>
__device__ __forceinline__ int swizzled(int row, int chunk) {
  constexpr int CHUNKS = ROW_BYTES / 16;
  if constexpr (WIDE)
    chunk ^= row % 4 * 2 & (CHUNKS - 1);
  else if constexpr (CHUNKS >= 8)
    chunk ^= row % 8;
  else
    chunk ^= row / (8 / CHUNKS) & (CHUNKS - 1);
  return row * ROW_BYTES + chunk * 16;
}

// Brings tiles of EXTENT x DEPTH elements of a source to shared memory. VECTOR elements are contiguous and aligned in global memory.
template <class Source, int EXTENT, int DEPTH, bool ALONG_K, int VECTOR, int THREADS>
struct Tile {
  using Origin = Source;
  using T = typename Source::T;
  static constexpr int PER_CHUNK = 16 / sizeof(T), PARTS = PER_CHUNK / VECTOR, PART_BYTES = VECTOR * sizeof(T);
  static constexpr int ROWS = ALONG_K ? EXTENT : DEPTH, ROW_BYTES = (ALONG_K ? DEPTH : EXTENT) * sizeof(T), CHUNKS = ROW_BYTES / 16;
  static constexpr bool ROWS_ALONG_I = ALONG_K;  // row number is i, what lies along a row is k
  static constexpr bool WIDE = !ALONG_K && sizeof(T) == 4;
  static constexpr int STEP = THREADS / CHUNKS, PASSES = (ROWS + STEP - 1) / STEP, BYTES = ROWS * ROW_BYTES;
  static_assert(THREADS % CHUNKS == 0, "a thread keeps its column of chunks");

  Source source;
  int row, chunk;
  typename Source::Outer outers[ALONG_K ? PASSES : PARTS];

  __device__ __forceinline__ Tile(const Source& source, int first, int thread) : source(source), row(thread / CHUNKS), chunk(thread % CHUNKS) {
#pragma unroll
    for (int i = 0; i < (ALONG_K ? PASSES : PARTS); ++i)
      outers[i] = source.outer(first + (ALONG_K ? row + i * STEP : chunk * PER_CHUNK + i * VECTOR));
  }

  static __device__ __forceinline__ int offset(int row, int chunk) { return swizzled<ROW_BYTES, WIDE>(row, chunk); }

  // The tile whose first k is `first`; from `end` on there are zeros.
  __device__ __forceinline__ void load(char* shared, int first, int end) const {
    typename Source::Inner inners[ALONG_K ? PARTS : 1];
    if constexpr (ALONG_K)
#pragma unroll
      for (int part = 0; part < PARTS; ++part) inners[part] = source.inner(first + chunk * PER_CHUNK + part * VECTOR, end);
#pragma unroll
    for (int pass = 0; pass < PASSES; ++pass) {
      int at = row + pass * STEP;
      if (ROWS % STEP && at >= ROWS) break;
      if constexpr (!ALONG_K) inners[0] = source.inner(first + at, end);
      if constexpr (ALONG_K)
        copy(shared + offset(at, chunk), [&](int part) { return outers[pass]; }, [&](int part) { return inners[part]; });
      else
        copy(shared + offset(at, chunk), [&](int part) { return outers[part]; }, [&](int part) { return inners[0]; });
    }
  }

  // Tiles that are changed on their way pass through registers, between `fetch` and `keep`; these do not.
  struct Fetched {};
  __device__ __forceinline__ Fetched fetch(char* shared, int first, int end) const {
    load(shared, first, end);
    return {};
  }
  __device__ __forceinline__ void keep(char*, const Fetched&) const {}

  template <class O, class I>
  __device__ __forceinline__ void copy(char* to, O outer, I inner) const {
    if constexpr (PART_BYTES >= 4) {
#pragma unroll
      for (int part = 0; part < PARTS; ++part) {
        bool valid = Source::valid(outer(part), inner(part));
        const T* from = source.at(outer(part), inner(part));  // not looked at where nothing is copied: no branch is needed
        unsigned bytes = valid ? PART_BYTES : 0;
        if constexpr (Source::FILLED)
          if (!valid) {
            Words<PART_BYTES> filler;
#pragma unroll
            for (int word = 0; word < PART_BYTES / 4; ++word) filler.words[word] = source.filler(inner(part));
            *reinterpret_cast<Words<PART_BYTES>*>(to + part * PART_BYTES) = filler;
            continue;
          }
        if constexpr (PART_BYTES == 16)
          cp_async16(to, from, bytes);
        else if constexpr (PART_BYTES == 8)
          cp_async8(to + part * 8, from, bytes);
        else
          cp_async4(to + part * 4, from, bytes);
      }
    } else {
      union {
        T elements[PER_CHUNK];
        Chunk chunk;
      } together;
      constexpr int PER_PART = VECTOR;
#pragma unroll
      for (int i = 0; i < PER_CHUNK; ++i) {
        bool valid = Source::valid(outer(i / PER_PART), inner(i / PER_PART));
        const T* from = source.at(outer(i / PER_PART), inner(i / PER_PART)) + i % PER_PART;
        T outside = 0;
        if constexpr (Source::FILLED) outside = static_cast<T>(source.filler(inner(i / PER_PART)));
        together.elements[i] = valid ? *from : outside;
      }
      *reinterpret_cast<Chunk*>(to) = together.chunk;
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
