// softmax(Q K^T) V without the matrix of scores: tiles of keys pass by, each rescales what was summed before (FlashAttention, Dao et al. 2022).
namespace lepton {

constexpr float LOG2_E = 1.4426950408889634f;

__device__ __forceinline__ float no_score() { return __int_as_float(0xff800000); }

// What a query gets that sees no key: NaN, as the softmax of nothing but minus infinity; zeros; or zeros even where a score is NaN.
enum class Empty { nan, zeros, never_nan };

// Scores are what a function makes of products, or products times a positive number, by which only differences are multiplied then.
template <class Function>
struct Scores {
  static constexpr bool PLAIN = false;
  const Function& function;
  static constexpr float unit = LOG2_E;  // what a difference is multiplied by to be one of powers of two

  __device__ __forceinline__ float operator()(int query, int key, float product) const { return function(query, key, product); }
};
struct ScaledProducts {
  static constexpr bool PLAIN = true;
  float unit;

  __device__ __forceinline__ float operator()(int, int, float product) const { return product; }
};

// What a row of scores needs to know of the tiles before: its largest score, what all are compared with (that, if there is one) and the sum of
// exponentials.
struct Running {
  float largest, total, base;

  // Takes the largest score of a new tile; returns the factor for all sums so far.
  template <class Score>
  __device__ __forceinline__ float rise(float tile_largest, const Score& score) {
    float before = largest;
    largest = fmaxf(largest, tile_largest);
    base = largest == no_score() ? 0.0f : largest;
    float factor = power_of_two((before - base) * score.unit);
    total *= factor;
    return factor;
  }
  // Scores of any size are subtracted before they are multiplied, so that nothing overflows; products of operands are not that large.
  template <class Score>
  __device__ __forceinline__ float weight(float x, const Score& score) {
    float w = power_of_two(Score::PLAIN ? fmaf(x, score.unit, -(base * score.unit)) : (x - base) * score.unit);
    total += w;
    return w;
  }
  template <Empty EMPTY>
  __device__ __forceinline__ float finished(float sum) const {
    if constexpr (EMPTY == Empty::zeros)
      if (total == 0.0f) return 0.0f;
    if constexpr (EMPTY == Empty::never_nan)
      if (!(total > 0.0f)) return 0.0f;
    return sum * (1.0f / total);
  }
};

// The tiles of keys that QUERIES queries see, two of them in shared memory. AHEAD: a query sees keys up to its own number plus that.
// Either all warps of a block see the same tiles (SPLITS is 1), or there are SPLITS warps, which take turns and have their own memory each.
template <int SPLITS, int QUERIES, int BLOCK_KEYS, int KEYS, int DEPTH, bool CAUSAL, int AHEAD, class K, class V, class Attend>
__device__ __forceinline__ void over_keys(const typename K::Origin& k, const typename V::Origin& v, char* shared, int first, Attend attend) {
  constexpr int STAGE = K::BYTES + V::BYTES;
  int turn = SPLITS > 1 ? threadIdx.x / 32 : 0, thread = SPLITS > 1 ? threadIdx.x % 32 : threadIdx.x;
  int end = CAUSAL && first + QUERIES + AHEAD < KEYS ? first + QUERIES + AHEAD : KEYS;
  int tiles = end > 0 ? (end + BLOCK_KEYS - 1) / BLOCK_KEYS : 0;
  auto barrier = [] {
    if constexpr (SPLITS > 1)
      __syncwarp();
    else
      __syncthreads();
  };
  auto stage_of = [&](int tile) { return shared + (turn * 2 + tile / SPLITS % 2) * STAGE; };
  auto fetch = [&](int tile) {
    char* stage = stage_of(tile);
    if (tile < tiles) {
      K(k, tile * BLOCK_KEYS, thread).load(stage, 0, DEPTH);
      V(v, 0, thread).load(stage + K::BYTES, tile * BLOCK_KEYS, KEYS);
    }
    cp_async_commit();
  };
  fetch(turn);
  if constexpr (SPLITS > 1) {  // the queries, which all warps brought
    cp_async_wait<0>();
    __syncthreads();
  }
  for (int tile = turn; tile < tiles; tile += SPLITS) {
    fetch(tile + SPLITS);
    cp_async_wait<1>();
    barrier();
    const char* stage = stage_of(tile);
    attend(stage, stage + K::BYTES, tile * BLOCK_KEYS);
    barrier();
  }
}

// Adds up what SPLITS warps have of the same sums, in order; the first warp has the result. `row_of(i)`: which of the rows sum number i is of.
template <int SPLITS, int ROWS, int COUNT, class Score, class RowOf>
__device__ __forceinline__ void merge(char* shared, Running (&rows)[ROWS], float* sums, int warp, int lane, const Score& score, RowOf row_of) {
  constexpr int EACH = COUNT + 2 * ROWS;
  float* all = reinterpret_cast<float*>(shared) + lane;
  __syncthreads();
#pragma unroll
  for (int i = 0; i < COUNT; ++i) all[(warp * EACH + i) * 32] = sums[i];
#pragma unroll
  for (int r = 0; r < ROWS; ++r) {
    all[(warp * EACH + COUNT + r) * 32] = rows[r].largest;
    all[(warp * EACH + COUNT + ROWS + r) * 32] = rows[r].total;
  }
  __syncthreads();
  if (warp) return;
#pragma unroll 1
  for (int other = 1; other < SPLITS; ++other) {
    const float* from = all + other * EACH * 32;
    float mine[ROWS], its[ROWS];
#pragma unroll
    for (int r = 0; r < ROWS; ++r) {
      float largest = from[(COUNT + r) * 32];
      mine[r] = rows[r].rise(largest, score);
      its[r] = largest == no_score() ? 0.0f : power_of_two((largest - rows[r].largest) * score.unit);
      rows[r].total += from[(COUNT + ROWS + r) * 32] * its[r];
    }
#pragma unroll
    for (int i = 0; i < COUNT; ++i) sums[i] = sums[i] * mine[row_of(i)] + from[i * 32] * its[row_of(i)];
  }
}

// Whether a query sees a key. Queries behind the last one see what others see: nothing becomes of them.
template <int BLOCK_KEYS, int KEYS, bool CAUSAL, int AHEAD>
__device__ __forceinline__ bool sees(int query, int key) {
  return (KEYS % BLOCK_KEYS == 0 || key < KEYS) && (!CAUSAL || key <= query + AHEAD);
}

// A warp has PARTS x 16 queries, or SPLITS warps have the same. HEAD and WIDTH: sizes of a key and of a value, rounded up to those of tiles; DEPTH: of
// a key as it is. `score(query, key, product)` is asked for those that exist and are seen.
template <Arithmetic KIND, int PARTS, int WARPS, int SPLITS, int BLOCK_KEYS, int HEAD, int WIDTH, int DEPTH, int QUERIES, int KEYS, bool CAUSAL, int AHEAD, Empty EMPTY, class Q,
          class K, class V, class Score, class Store>
__device__ __forceinline__ void attend_on_tensor_cores(const typename Q::Origin& q, const typename K::Origin& k, const typename V::Origin& v,
                                                       char* shared, int first, const Score& score, const Store& store) {
  constexpr int STEPS = HEAD / 16, TILES = BLOCK_KEYS / 8, COLUMNS = WIDTH / 8, ROWS = PARTS * 16;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, own = SPLITS > 1 ? 0 : warp * ROWS, query = first + own + lane / 4, pair = lane % 4 * 2;
  float sums[PARTS][COLUMNS][4] = {};
  Running rows[PARTS * 2];
#pragma unroll
  for (int r = 0; r < PARTS * 2; ++r) rows[r] = {no_score(), 0.0f, 0.0f};
  Q(q, first, threadIdx.x).load(shared, 0, DEPTH);
  over_keys<SPLITS, WARPS / SPLITS * ROWS, BLOCK_KEYS, KEYS, DEPTH, CAUSAL, AHEAD, K, V>(k, v, shared + Q::BYTES, first, [&](const char* keys, const char* values, int at) {
    float s[PARTS][TILES][4] = {};
#pragma unroll
    for (int step = 0; step < STEPS; ++step) {
      unsigned fq[PARTS][4];
#pragma unroll
      for (int part = 0; part < PARTS; ++part) fragment<Q, false, false>(fq[part], shared, own + part * 16, step, lane);
#pragma unroll
      for (int j = 0; j < TILES / 2; ++j) {
        unsigned fk[4];
        fragment<K, true, false>(fk, keys, j * 16, step, lane);
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
          mma<KIND>(s[part][2 * j], fq[part], {fk[0], fk[1]});
          mma<KIND>(s[part][2 * j + 1], fq[part], {fk[2], fk[3]});
        }
      }
    }
#pragma unroll
    for (int r = 0; r < PARTS * 2; ++r) {
      constexpr int LAST = QUERIES - 1;
      int part = r / 2, half = r % 2, row = query + r * 8, known = row < LAST ? row : LAST;
      float largest = no_score();
#pragma unroll
      for (int j = 0; j < TILES; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) {
          int key = at + j * 8 + pair + e;
          float& x = s[part][j][half * 2 + e];
          x = sees<BLOCK_KEYS, KEYS, CAUSAL, AHEAD>(row, key) ? score(known, key, x) : no_score();
          largest = fmaxf(largest, x);
        }
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 2));
      float factor = rows[r].rise(largest, score);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) sums[part][c][half * 2] *= factor, sums[part][c][half * 2 + 1] *= factor;
#pragma unroll
      for (int j = 0; j < TILES; ++j)
#pragma unroll
        for (int e = 0; e < 2; ++e) s[part][j][half * 2 + e] = rows[r].weight(s[part][j][half * 2 + e], score);
    }
#pragma unroll
    for (int step = 0; step < BLOCK_KEYS / 16; ++step) {
      unsigned weights[PARTS][4];
#pragma unroll
      for (int part = 0; part < PARTS; ++part)
#pragma unroll
        for (int r = 0; r < 4; ++r) {
          const float(&four)[4] = s[part][2 * step + r / 2];
          if constexpr (KIND == Arithmetic::f16)
            weights[part][r] = pack_f16(four[r % 2 * 2], four[r % 2 * 2 + 1]);
          else
            weights[part][r] = pack_bf16(four[r % 2 * 2], four[r % 2 * 2 + 1]);
        }
#pragma unroll
      for (int c = 0; c < COLUMNS / 2; ++c) {
        unsigned fv[4];
        fragment<V, true, false>(fv, values, c * 16, step, lane);
#pragma unroll
        for (int part = 0; part < PARTS; ++part) {
          mma<KIND>(sums[part][2 * c], weights[part], {fv[0], fv[1]});
          mma<KIND>(sums[part][2 * c + 1], weights[part], {fv[2], fv[3]});
        }
      }
    }
  });
#pragma unroll
  for (int r = 0; r < PARTS * 2; ++r) {
    rows[r].total += __shfl_xor_sync(0xffffffffu, rows[r].total, 1);
    rows[r].total += __shfl_xor_sync(0xffffffffu, rows[r].total, 2);
  }
  if constexpr (SPLITS > 1) {
    constexpr int COUNT = COLUMNS * 4;
    merge<SPLITS, PARTS * 2, PARTS * COUNT>(shared, rows, &sums[0][0][0], warp, lane, score, [](int i) { return i / COUNT * 2 + i % 4 / 2; });
    if (warp) return;
  }
#pragma unroll
  for (int r = 0; r < PARTS * 2; ++r) {
#pragma unroll
    for (int c = 0; c < COLUMNS; ++c) {
      const float(&four)[4] = sums[r / 2][c];
      float two[2] = {rows[r].template finished<EMPTY>(four[r % 2 * 2]), rows[r].template finished<EMPTY>(four[r % 2 * 2 + 1])};
      store(query + r * 8, c * 8 + pair, two);
    }
  }
}

// The same in fp32 on the ordinary cores: a warp has TM x 8 queries, a lane TM of them and a quarter of the keys and of the columns.
template <int TM, int WARPS, int SPLITS, int BLOCK_KEYS, int HEAD, int WIDTH, int DEPTH, int QUERIES, int KEYS, bool CAUSAL, int AHEAD, Empty EMPTY, class Q, class K, class V, class Score,
          class Store>
__device__ __forceinline__ void attend_in_fp32(const typename Q::Origin& q, const typename K::Origin& k, const typename V::Origin& v, char* shared,
                                               int first, const Score& score, const Store& store) {
  constexpr int TN = BLOCK_KEYS / 4, COLUMNS = WIDTH / 4, PITCH = BLOCK_KEYS + 4;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, lane_m = lane / 2 % 8, lane_n = lane % 2 + lane / 16 * 2, own = SPLITS > 1 ? 0 : warp * TM * 8;
  // As in `multiply_in_fp32`: lanes i and i ^ 1 read the same rows, i and i ^ 2 the same columns.
  float* weights = reinterpret_cast<float*>(shared + Q::BYTES + 2 * SPLITS * (K::BYTES + V::BYTES)) + warp * TM * 8 * PITCH;
  auto row = [&](int i) { return lane_m + i * 8; };
  auto column = [&](int j) { return lane_n * 4 + j / 4 * 16 + j % 4; };
  Place<Q> query_at(own + lane_m, 0);
  Place<K> key_at(lane_n * 4, 0);
  Place<V> value_at(0, lane_n);
  float sums[TM][COLUMNS] = {};
  Running rows[TM];
#pragma unroll
  for (int i = 0; i < TM; ++i) rows[i] = {no_score(), 0.0f, 0.0f};
  Q(q, first, threadIdx.x).load(shared, 0, DEPTH);
  over_keys<SPLITS, WARPS / SPLITS * TM * 8, BLOCK_KEYS, KEYS, DEPTH, CAUSAL, AHEAD, K, V>(k, v, shared + Q::BYTES, first, [&](const char* keys, const char* values, int at) {
    float s[TM][TN] = {};
#pragma unroll 4
    for (int quad = 0; quad < HEAD / 4; ++quad) {
      Pack<float, 4> qa[TM];
#pragma unroll
      for (int i = 0; i < TM; ++i) qa[i] = query_at.at(shared, i * 8, quad);
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        Pack<float, 4> kb = key_at.at(keys, j / 4 * 16 + j % 4, quad);
#pragma unroll
        for (int i = 0; i < TM; ++i)
#pragma unroll
          for (int e = 0; e < 4; ++e) s[i][j] = fmaf(qa[i].values[e], kb.values[e], s[i][j]);
      }
    }
#pragma unroll
    for (int i = 0; i < TM; ++i) {
      constexpr int LAST = QUERIES - 1;
      int query = first + own + row(i), known = query < LAST ? query : LAST;
      float largest = no_score();
#pragma unroll
      for (int j = 0; j < TN; ++j) {
        int key = at + column(j);
        s[i][j] = sees<BLOCK_KEYS, KEYS, CAUSAL, AHEAD>(query, key) ? score(known, key, s[i][j]) : no_score();
        largest = fmaxf(largest, s[i][j]);
      }
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 1));
      largest = fmaxf(largest, __shfl_xor_sync(0xffffffffu, largest, 16));
      float factor = rows[i].rise(largest, score);
#pragma unroll
      for (int c = 0; c < COLUMNS; ++c) sums[i][c] *= factor;
#pragma unroll
      for (int j = 0; j < TN; j += 4) {
        Pack<float, 4> four;
#pragma unroll
        for (int e = 0; e < 4; ++e) four.values[e] = rows[i].weight(s[i][j + e], score);
        *reinterpret_cast<Pack<float, 4>*>(weights + row(i) * PITCH + column(j)) = four;
      }
    }
    __syncwarp();
#pragma unroll 2
    for (int quad = 0; quad < BLOCK_KEYS / 4; ++quad) {
      Pack<float, 4> wa[TM];
#pragma unroll
      for (int i = 0; i < TM; ++i) wa[i] = *reinterpret_cast<const Pack<float, 4>*>(weights + row(i) * PITCH + quad * 4);
#pragma unroll
      for (int e = 0; e < 4; ++e)
#pragma unroll
        for (int c = 0; c < COLUMNS; c += 4) {
          Pack<float, 4> vb = value_at.at(values, quad * 4 + e, c / 4 * 4);
#pragma unroll
          for (int i = 0; i < TM; ++i)
#pragma unroll
            for (int f = 0; f < 4; ++f) sums[i][c + f] = fmaf(wa[i].values[e], vb.values[f], sums[i][c + f]);
        }
    }
  });
#pragma unroll
  for (int i = 0; i < TM; ++i) {
    rows[i].total += __shfl_xor_sync(0xffffffffu, rows[i].total, 1);
    rows[i].total += __shfl_xor_sync(0xffffffffu, rows[i].total, 16);
  }
  if constexpr (SPLITS > 1) {
    merge<SPLITS, TM, TM * COLUMNS>(shared, rows, &sums[0][0], warp, lane, score, [](int i) { return i / COLUMNS; });
    if (warp) return;
  }
#pragma unroll
  for (int i = 0; i < TM; ++i) {
#pragma unroll
    for (int c = 0; c < COLUMNS; c += 4) {
      float four[4];
#pragma unroll
      for (int f = 0; f < 4; ++f) four[f] = rows[i].template finished<EMPTY>(sums[i][c + f]);
      store(first + own + row(i), column(c), four);
    }
  }
}

}  // namespace lepton
