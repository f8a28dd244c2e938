// All steps of a recurrent layer in one kernel. The weights of the hidden state stay in registers and shared memory from the first step to the
// last. A group of PARTS blocks computes ROWS rows of the batch in one direction; each block has UNITS of the hidden units, each unit SLICES
// neighbouring lanes, which share the sums over the state: lane `slice` has every SLICES-th chunk of four elements.
namespace lepton {

enum class Cell { rnn, gru, gru_linear, lstm };

// L: constants CELL, TIME, BATCH, DIRECTIONS, HIDDEN; PARTS, UNITS, SLICES, ROWS, TILE (rows at a time, at most SLICES), THREADS, CHUNKS (of a lane),
// HELD (of these, in registers); BATCH_FIRST, BACKWARD, LENGTHS, BIAS, INITIAL_H, INITIAL_C, PEEPHOLES, INPUT_FORGET: whether; SCALES: whether the weights
// are 8-bit integers with scales, SCALES_OF_ROWS: for each row, and the state is rounded; CONSTANT: whether weights and what comes with them are
// constants, which are read before the kernel before is done; the types Length and Weight; the activations f, g and h of
// a direction. Null is what is not there.
template <class L>
struct Layer {
  static constexpr int GATES = L::CELL == Cell::rnn ? 1 : L::CELL == Cell::lstm ? 4 : 3;
  static constexpr int WIDTH = L::CHUNKS * 4 * L::SLICES;  // of a row of the state in shared memory: zeros after its end
  static constexpr int ROWS = (L::ROWS + L::TILE - 1) / L::TILE * L::TILE;
  static constexpr int GROUPS = (L::BATCH + L::ROWS - 1) / L::ROWS;
  static constexpr bool ALONE = L::PARTS == 1, RESETS_FIRST = L::CELL == Cell::gru;
  static constexpr int STATES = (ALONE ? 2 : 1) + RESETS_FIRST;
  static constexpr int IN_SHARED = (L::CHUNKS - L::HELD) * GATES;
  static constexpr int REGISTERS = L::HELD > 0 ? L::HELD : 1;
  static constexpr int KEPT = RESETS_FIRST || L::CELL == Cell::lstm ? 2 : 1;
  using Held = float4[REGISTERS][GATES];
  using Weight = typename L::Weight;

  const float* gates;
  const Weight* r;
  const float* bias;
  const typename L::Length* lengths;
  const float *initial_h, *initial_c, *peepholes, *scales;
  float *y, *last_h, *last_c, *exchange;
  unsigned* counter;

  float* room;  // states, weights, what each unit keeps
  int direction, first, own, slice, unit, met;
  bool live;
  float biases[GATES], peeps[3], scale[GATES], state_scale;

  __device__ __forceinline__ float* state(int which) const { return room + which * ROWS * WIDTH; }
  __device__ __forceinline__ float4* weights() const { return reinterpret_cast<float4*>(room + STATES * ROWS * WIDTH); }
  // The hidden state of this unit; the cell of an LSTM, or the update gate of a GRU between its products.
  __device__ __forceinline__ float& kept(int which, int row) const {
    return room[STATES * ROWS * WIDTH + IN_SHARED * 4 * L::THREADS + (which * ROWS + row) * L::UNITS + own];
  }
  __device__ __forceinline__ bool owns(int row) const { return live && slice < L::TILE && row < L::ROWS && first + row < L::BATCH; }
  __device__ __forceinline__ int place(int row) const {  // of this unit in the initial and last states
    const int batch = first + row;
    return (L::BATCH_FIRST ? batch * L::DIRECTIONS + direction : direction * L::BATCH + batch) * L::HIDDEN + unit;
  }
  __device__ __forceinline__ float* exchanged(int which, int row) const {
    return exchange + ((which * L::DIRECTIONS + direction) * L::BATCH + first + row) * L::HIDDEN;
  }
  __device__ __forceinline__ int length(int row) const {
    if constexpr (L::LENGTHS) {
      const long long given = static_cast<long long>(lengths[first + row]);
      return given < L::TIME ? static_cast<int>(given) : L::TIME;
    }
    return L::TIME;
  }
  // Index along time of a step; past the end of a sequence, that of a result that is zero.
  __device__ __forceinline__ int moment(int t, int end) const {
    return (L::BACKWARD || direction == 1) && t < end ? end - 1 - t : t;
  }
  __device__ __forceinline__ int row_at(int at, int row) const {  // of a result; of the gates, with 1 in place of the direction
    const int batch = first + row;
    return L::BATCH_FIRST ? batch * L::TIME + at : at * L::BATCH + batch;
  }

  __device__ __forceinline__ float4 weight(int gate, int chunk) const {
    const int k = 4 * (chunk * L::SLICES + slice);
    const Weight* const row = r + ((direction * GATES + gate) * L::HIDDEN + unit) * L::HIDDEN + k;
    float4 w = {0.0f, 0.0f, 0.0f, 0.0f};
    if (!live) return w;
    if constexpr (L::HIDDEN % 4 == 0 && sizeof(Weight) == 4) {
      if (k < L::HIDDEN) w = *reinterpret_cast<const float4*>(row);
    } else {
      if (k < L::HIDDEN) w.x = static_cast<float>(row[0]);
      if (k + 1 < L::HIDDEN) w.y = static_cast<float>(row[1]);
      if (k + 2 < L::HIDDEN) w.z = static_cast<float>(row[2]);
      if (k + 3 < L::HIDDEN) w.w = static_cast<float>(row[3]);
    }
    return w;
  }

  __device__ __forceinline__ void load_weights(Held& held) {
#pragma unroll
    for (int j = 0; j < L::HELD; ++j)
#pragma unroll
      for (int gate = 0; gate < GATES; ++gate) held[j][gate] = weight(gate, j);
    for (int j = L::HELD; j < L::CHUNKS; ++j)
#pragma unroll
      for (int gate = 0; gate < GATES; ++gate) weights()[((j - L::HELD) * GATES + gate) * L::THREADS + threadIdx.x] = weight(gate, j);
#pragma unroll
    for (int gate = 0; gate < GATES; ++gate)
      biases[gate] = L::BIAS && live ? bias[(direction * GATES + gate) * L::HIDDEN + unit] : 0.0f;
    if constexpr (L::SCALES)
#pragma unroll
      for (int gate = 0; gate < GATES; ++gate)
        scale[gate] = !live ? 0.0f : scales[L::SCALES_OF_ROWS ? (direction * GATES + gate) * L::HIDDEN + unit : direction];
#pragma unroll
    for (int k = 0; k < 3; ++k) peeps[k] = L::PEEPHOLES && live ? peepholes[(direction * 3 + k) * L::HIDDEN + unit] : 0.0f;
  }

  // The states before the first step: all that this block multiplies, and what its own units keep.
  __device__ __forceinline__ void load_states() {
    for (int k = threadIdx.x; k < STATES * ROWS * WIDTH; k += L::THREADS) {
      const int row = k / WIDTH, column = k % WIDTH, batch = first + row;
      const bool there = L::INITIAL_H && row < L::ROWS && batch < L::BATCH && column < L::HIDDEN;
      room[k] = there ? initial_h[place(row) - unit + column] : 0.0f;
    }
    for (int row = slice; row < ROWS; row += L::TILE) {
      if (!owns(row)) continue;
      kept(0, row) = L::INITIAL_H ? initial_h[place(row)] : 0.0f;
      if constexpr (L::CELL == Cell::lstm) kept(1, row) = L::INITIAL_C ? initial_c[place(row)] : 0.0f;
    }
  }

  // What the input adds to the gates of this unit.
  __device__ __forceinline__ void load_gates(int t, int row, float (&x)[GATES]) const {
#pragma unroll
    for (int gate = 0; gate < GATES; ++gate) x[gate] = 0.0f;
    if (!owns(row) || t >= L::TIME) return;
    const float* const from = gates + (row_at(moment(t, length(row)), row) * L::DIRECTIONS + direction) * GATES * L::HIDDEN + unit;
#pragma unroll
    for (int gate = 0; gate < GATES; ++gate) x[gate] = from[gate * L::HIDDEN];
  }

  template <int COUNT>
  static __device__ __forceinline__ void accumulate(float (&sum)[L::TILE][COUNT], int gate, const float4& w, const float4 (&h)[L::TILE]) {
#pragma unroll
    for (int row = 0; row < L::TILE; ++row) {
      sum[row][gate] += w.x * h[row].x;
      sum[row][gate] += w.y * h[row].y;
      sum[row][gate] += w.z * h[row].z;
      sum[row][gate] += w.w * h[row].w;
    }
  }

  // products[k] = weights of gate FIRST + k times the row `first row + slice` of a state, in the lane that owns it.
  template <int FIRST, int COUNT>
  __device__ __forceinline__ void multiply(const float* rows, const Held& held, float (&products)[COUNT]) const {
    float sum[L::TILE][COUNT] = {};
    float4 h[L::TILE];
#pragma unroll
    for (int j = 0; j < L::HELD; ++j) {
      load_rows(rows, j, h);
#pragma unroll
      for (int gate = 0; gate < COUNT; ++gate) accumulate(sum, gate, held[j][FIRST + gate], h);
    }
#pragma unroll 2
    for (int j = L::HELD; j < L::CHUNKS; ++j) {
      load_rows(rows, j, h);
#pragma unroll
      for (int gate = 0; gate < COUNT; ++gate)
        accumulate(sum, gate, weights()[((j - L::HELD) * GATES + FIRST + gate) * L::THREADS + threadIdx.x], h);
    }
#pragma unroll
    for (int row = 0; row < L::TILE; ++row)
#pragma unroll
      for (int gate = 0; gate < COUNT; ++gate) {
        float total = sum[row][gate];
#pragma unroll
        for (int away = L::SLICES / 2; away > 0; away /= 2) total += __shfl_xor_sync(0xffffffffu, total, away);
        if (row == 0 || row == slice) products[gate] = L::SCALES ? total * (state_scale * scale[FIRST + gate]) : total;
      }
  }

  __device__ __forceinline__ void load_rows(const float* rows, int chunk, float4 (&h)[L::TILE]) const {
#pragma unroll
    for (int row = 0; row < L::TILE; ++row)
      h[row] = *reinterpret_cast<const float4*>(rows + row * WIDTH + 4 * (chunk * L::SLICES + slice));
  }

  // Replaces the state by what 8-bit codes make of it, whole numbers, and keeps their scale. The range is that of all rows, and holds 0, so that what
  // is behind the end of a row counts for nothing. The sums of products with 8-bit weights are then exact.
  __device__ __forceinline__ void round_state(int which) {
    float* const rows = state(which);
    float* const extremes = &kept(KEPT, 0) - own;
    constexpr int WARPS = L::THREADS / 32;
    float low = 0.0f, high = 0.0f;
    for (int k = threadIdx.x; k < ROWS * WIDTH; k += L::THREADS) low = fminf(low, rows[k]), high = fmaxf(high, rows[k]);
#pragma unroll
    for (int away = 16; away > 0; away /= 2) {
      low = fminf(low, __shfl_xor_sync(0xffffffffu, low, away));
      high = fmaxf(high, __shfl_xor_sync(0xffffffffu, high, away));
    }
    if (threadIdx.x % 32 == 0) extremes[threadIdx.x / 32] = low, extremes[32 + threadIdx.x / 32] = high;
    __syncthreads();
    for (int warp = 0; warp < WARPS; ++warp) low = fminf(low, extremes[warp]), high = fmaxf(high, extremes[32 + warp]);
    state_scale = (low != high ? high - low : 1.0f) / 255.0f;
    const float zero = rintf(fminf(fmaxf(-low / state_scale, 0.0f), 255.0f));
    for (int k = threadIdx.x; k < ROWS * WIDTH; k += L::THREADS)
      rows[k] = fminf(fmaxf(rintf(rows[k] / state_scale) + zero, 0.0f), 255.0f) - zero;
    __syncthreads();
  }

  // All blocks go on when what each of them wrote to `exchange` can be read; brings it to shared memory.
  __device__ __forceinline__ void exchange_states(int from, int to) {
    met += L::DIRECTIONS * GROUPS * L::PARTS;
    __syncthreads();
    if (threadIdx.x == 0) meet(counter, met);
    __syncthreads();
    const int rows = L::BATCH - first < L::ROWS ? L::BATCH - first : L::ROWS;
    constexpr int VECTOR = L::HIDDEN % 4 == 0 ? 4 : 1;
    for (int k = threadIdx.x; k < rows * (L::HIDDEN / VECTOR); k += L::THREADS) {
      const int row = k / (L::HIDDEN / VECTOR), column = k % (L::HIDDEN / VECTOR) * VECTOR;
      if constexpr (VECTOR == 4)
        *reinterpret_cast<float4*>(state(to) + row * WIDTH + column) = fetch(reinterpret_cast<const float4*>(exchanged(from, row) + column));
      else
        state(to)[row * WIDTH + column] = fetch(exchanged(from, row) + column);
    }
    __syncthreads();
  }

  // The new hidden state of this unit from the gates of a step. `x` is what the input adds, `s` the products with the state.
  __device__ __forceinline__ float step_rnn(const float (&x)[GATES], const float (&s)[GATES]) const {
    return L::f(direction, x[0] + s[0] + biases[0]);
  }
  __device__ __forceinline__ float step_lstm(const float (&x)[GATES], const float (&s)[GATES], int row, float& cell) const {
    float i = x[0] + s[0] + biases[0], o = x[1] + s[1] + biases[1], forget = x[2] + s[2] + biases[2];
    const float old = kept(1, row);
    if constexpr (L::PEEPHOLES) i += peeps[0] * old, forget += peeps[2] * old;
    i = L::f(direction, i);
    forget = L::INPUT_FORGET ? 1.0f - i : L::f(direction, forget);
    cell = forget * old + i * L::g(direction, x[3] + s[3] + biases[3]);
    if constexpr (L::PEEPHOLES) o += peeps[1] * cell;
    return L::f(direction, o) * L::h(direction, cell);
  }
  __device__ __forceinline__ float step_gru(float update, float candidate, int row) const {
    return (1.0f - update) * L::g(direction, candidate) + update * kept(0, row);
  }

  // Stores the new states of a row, unless its sequence is over: then the old ones go on.
  __device__ __forceinline__ void store(int t, int row, float h, float cell) {
    const int end = length(row);
    const bool active = t < end;
    y[((L::BATCH_FIRST ? row_at(moment(t, end), row) * L::DIRECTIONS + direction
                       : (moment(t, end) * L::DIRECTIONS + direction) * L::BATCH + first + row)) * L::HIDDEN + unit] = active ? h : 0.0f;
    if (active) {
      kept(0, row) = h;
      if constexpr (L::CELL == Cell::lstm) kept(1, row) = cell;
    }
    if constexpr (ALONE)
      state((t + 1) % 2)[row * WIDTH + unit] = active ? h : kept(0, row);
    else if (t + 1 < L::TIME)
      exchanged((t + 1) % 2, row)[unit] = active ? h : kept(0, row);
  }

  // A step of one product.
  __device__ __forceinline__ void step(int t, const Held& held, float (&ahead)[GATES]) {
    const float* const now = state(ALONE ? t % 2 : 0);
    for (int row = 0; row < ROWS; row += L::TILE) {
      float x[GATES], s[GATES], cell = 0.0f, h;
      if (row == 0) {
#pragma unroll
        for (int gate = 0; gate < GATES; ++gate) x[gate] = ahead[gate];
        load_gates(t + 1, slice, ahead);
      } else {
        load_gates(t, row + slice, x);
      }
      multiply<0, GATES>(now + row * WIDTH, held, s);
      if (!owns(row + slice)) continue;
      if constexpr (L::CELL == Cell::rnn) h = step_rnn(x, s);
      if constexpr (L::CELL == Cell::lstm) h = step_lstm(x, s, row + slice, cell);
      if constexpr (L::CELL == Cell::gru_linear) {
        const float update = L::f(direction, x[0] + s[0] + biases[0]), reset = L::f(direction, x[1] + s[1] + biases[1]);
        h = step_gru(update, x[2] + reset * (s[2] + biases[2]), row + slice);
      }
      store(t, row + slice, h, cell);
    }
  }

  // A step of a GRU whose last product needs the reset gates of all units.
  __device__ __forceinline__ void step_of_two(int t, const Held& held) {
    constexpr int SCALED = STATES - 1;
    const float* const now = state(ALONE ? t % 2 : 0);
    for (int row = 0; row < ROWS; row += L::TILE) {
      float x[GATES], s[2];
      load_gates(t, row + slice, x);
      multiply<0, 2>(now + row * WIDTH, held, s);
      if (!owns(row + slice)) continue;
      kept(1, row + slice) = L::f(direction, x[0] + s[0] + biases[0]);
      const float scaled = L::f(direction, x[1] + s[1] + biases[1]) * kept(0, row + slice);
      if constexpr (ALONE)
        state(SCALED)[(row + slice) * WIDTH + unit] = scaled;
      else
        exchanged(2, row + slice)[unit] = scaled;
    }
    if constexpr (ALONE)
      __syncthreads();
    else
      exchange_states(2, SCALED);
    for (int row = 0; row < ROWS; row += L::TILE) {
      float x[GATES], s[1];
      load_gates(t, row + slice, x);
      multiply<2, 1>(state(SCALED) + row * WIDTH, held, s);
      if (owns(row + slice)) store(t, row + slice, step_gru(kept(1, row + slice), x[2] + s[0] + biases[2], row + slice), 0.0f);
    }
  }

  __device__ __forceinline__ void run(char* shared) {
    const int group = blockIdx.x / L::PARTS, part = blockIdx.x % L::PARTS;
    room = reinterpret_cast<float*>(shared);
    direction = group / GROUPS, first = group % GROUPS * L::ROWS, met = 0;
    own = threadIdx.x / L::SLICES, slice = threadIdx.x % L::SLICES, unit = part * L::UNITS + own;
    live = own < L::UNITS && unit < L::HIDDEN;
    Held held;
    float ahead[GATES];
    if constexpr (L::CONSTANT) load_weights(held);
    lepton_after_previous();
    if constexpr (!L::CONSTANT) load_weights(held);
    load_states();
    if constexpr (!RESETS_FIRST) load_gates(0, slice, ahead);
    __syncthreads();
    for (int t = 0; t < L::TIME; ++t) {
      if (!ALONE && t > 0) exchange_states(t % 2, 0);
      if constexpr (L::SCALES) round_state(ALONE ? t % 2 : 0);
      if constexpr (RESETS_FIRST)
        step_of_two(t, held);
      else
        step(t, held, ahead);
      if constexpr (ALONE) __syncthreads();
    }
    for (int row = slice; row < ROWS; row += L::TILE) {
      if (!owns(row)) continue;
      last_h[place(row)] = kept(0, row);
      if constexpr (L::CELL == Cell::lstm) last_c[place(row)] = kept(1, row);
    }
  }
};

}  // namespace lepton
