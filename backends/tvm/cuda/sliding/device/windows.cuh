// Sliding windows over images with channels last: depthwise convolutions and pools. A thread has VECTOR neighbouring channels of COLUMNS x ROWS
// neighbouring pixels of the result; every vector of the image under their windows is loaded once.
#ifndef LEPTON_WINDOWS
#define LEPTON_WINDOWS
namespace lepton::sliding {

enum class Stored { f32, f16, bf16, s8, u8, s32 };
enum class Taken { products, sum, maximum };  // what becomes of the elements under a window

// BYTES of memory, a power of two up to 16.
template <int BYTES>
struct Raw {
  static constexpr int WORDS = (BYTES + 3) / 4;
  unsigned words[WORDS];

  __device__ __forceinline__ void fill(unsigned word) {
#pragma unroll
    for (int i = 0; i < WORDS; ++i) words[i] = word;
  }
  __device__ __forceinline__ void load(const void* from) {
    if constexpr (BYTES == 1) {
      words[0] = *static_cast<const unsigned char*>(from);
    } else if constexpr (BYTES == 2) {
      words[0] = *static_cast<const unsigned short*>(from);
    } else {
      struct alignas(BYTES) Words {
        unsigned word[WORDS];
      } all = *static_cast<const Words*>(from);
#pragma unroll
      for (int i = 0; i < WORDS; ++i) words[i] = all.word[i];
    }
  }
};

__device__ __forceinline__ float as_number(unsigned bits) {
  union {
    unsigned bits;
    float number;
  } value;
  value.bits = bits;
  return value.number;
}

// The floats that the two halves of a word stand for.
__device__ __forceinline__ void halves(unsigned word, float& low, float& high) {
#if defined(__CUDA_ARCH__) && !defined(LEPTON_EMULATED)
  asm("{.reg .b16 l, h; mov.b32 {l, h}, %2; cvt.f32.f16 %0, l; cvt.f32.f16 %1, h;}" : "=f"(low), "=f"(high) : "r"(word));
#else
  float* to[2] = {&low, &high};
  for (int i = 0; i < 2; ++i) {
    unsigned half = word >> 16 * i & 0xFFFFu, exponent = half >> 10 & 31u, fraction = half & 0x3FFu, sign = (half & 0x8000u) << 16;
    float size = exponent == 0 ? static_cast<float>(fraction) * 5.9604644775390625e-8f
                               : as_number((exponent == 31u ? 0x7F800000u : (exponent + 112u) << 23) | fraction << 13);
    *to[i] = sign ? -size : size;
  }
#endif
}

// Byte I of a word, with its sign.
template <int I>
__device__ __forceinline__ int signed_byte(unsigned word) {
#if defined(__CUDA_ARCH__) && !defined(LEPTON_EMULATED)
  int result;  // the sign is repeated where the selector's bit 3 is set: PTX ISA, "prmt"
  asm("prmt.b32 %0, %1, 0, %2;" : "=r"(result) : "r"(word), "n"(0x8880 + 0x1111 * I));
  return result;
#else
  return static_cast<signed char>(word >> 8 * I);
#endif
}

// Elements as the numbers that are summed or compared.
template <Stored STORED, class Sum, int COUNT, int WORDS>
__device__ __forceinline__ void decode(const unsigned (&words)[WORDS], Sum (&numbers)[COUNT]) {
  if constexpr (STORED == Stored::f32) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) numbers[i] = as_number(words[i]);
  } else if constexpr (STORED == Stored::s32) {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) numbers[i] = static_cast<int>(words[i]);
  } else if constexpr (STORED == Stored::f16 || STORED == Stored::bf16) {
#pragma unroll
    for (int i = 0; i < COUNT; i += 2) {
      float low, high;
      if constexpr (STORED == Stored::f16) {
        halves(words[i / 2], low, high);
      } else {
        low = as_number(words[i / 2] << 16);
        high = as_number(words[i / 2] & 0xFFFF0000u);
      }
      numbers[i] = low;
      if (i + 1 < COUNT) numbers[i + 1] = high;
    }
  } else {
#pragma unroll
    for (int i = 0; i < COUNT; ++i) {
      if constexpr (STORED == Stored::u8) {
        numbers[i] = static_cast<int>(words[i / 4] >> i % 4 * 8 & 0xFFu);
      } else {
        unsigned word = words[i / 4];
        numbers[i] = i % 4 == 0   ? signed_byte<0>(word)
                     : i % 4 == 1 ? signed_byte<1>(word)
                     : i % 4 == 2 ? signed_byte<2>(word)
                                  : signed_byte<3>(word);
      }
    }
  }
}

// COUNT elements that are stored at once. Narrow ones are put together to words first, since the compiler would store four at a time.
template <class T, int COUNT>
struct Neighbours {
  static constexpr bool IN_WORDS = sizeof(T) < 4 && sizeof(T) * COUNT % 4 == 0;
  static constexpr int PER_WORD = IN_WORDS ? 4 / sizeof(T) : 1;
  struct alignas(sizeof(T) * COUNT) Elements {
    T element[COUNT];
  } elements;
  struct alignas(IN_WORDS ? sizeof(T) * COUNT : sizeof(unsigned)) Words {
    unsigned word[COUNT / PER_WORD];
  } words = {};

  __device__ __forceinline__ void set(int i, T element) {
    if constexpr (IN_WORDS)
      words.word[i / PER_WORD] |= (static_cast<unsigned>(element) & ((1u << 8 * sizeof(T)) - 1)) << i % PER_WORD * 8 * sizeof(T);
    else
      elements.element[i] = element;
  }
  __device__ __forceinline__ void store(T* to) const {
    if constexpr (IN_WORDS)
      *reinterpret_cast<Words*>(to) = words;
    else
      *reinterpret_cast<Elements*>(to) = elements;
  }
};

// The greatest power of two that divides a number and is no greater than MOST.
__host__ __device__ constexpr int piece(int number, int most) { return (number & -number) < most ? (number & -number) : most; }

// The larger one of two; NaN wins (".NaN" of sm_80: PTX ISA, "max").
__device__ __forceinline__ int larger(int a, int b) { return a > b ? a : b; }
__device__ __forceinline__ float larger(float a, float b) {
#if defined(__CUDA_ARCH__) && !defined(LEPTON_EMULATED) && __CUDA_ARCH__ >= 800
  float result;
  asm("max.NaN.f32 %0, %1, %2;" : "=f"(result) : "f"(a), "f"(b));
  return result;
#else
  return a > b || a != a ? a : b;
#endif
}

template <Taken TAKEN, class Sum>
__device__ __forceinline__ Sum start() {
  if constexpr (TAKEN != Taken::maximum)
    return 0;
  else if constexpr (sizeof(Sum) == sizeof(float) && static_cast<Sum>(0.5f) != 0)
    return as_number(0xFF800000u);
  else
    return -2147483647 - 1;
}

// Reads what a thread has, and keeps the results of its pixels. W is a struct of constants, which `sliding/kernel.py` writes.
template <class W>
struct Windows {
  using Sum = typename W::Sum;
  using Element = typename W::Element;
  static constexpr int OUTS = W::VECTOR * W::MULTIPLIER, BYTES = W::VECTOR * static_cast<int>(sizeof(Element));
  static constexpr int HIGH = (W::ROWS - 1) * W::STRIDE_Y + (W::KERNEL_Y - 1) * W::DILATION_Y + 1;   // rows under the windows of a thread
  static constexpr int WIDE = (W::COLUMNS - 1) * W::STRIDE_X + (W::KERNEL_X - 1) * W::DILATION_X + 1;  // columns

  Sum sums[W::ROWS][W::COLUMNS][OUTS];
  int image, top, left, channel;  // of the first pixel of the result, and the first channel of the image

  __device__ __forceinline__ Windows() {
    constexpr int CHANNELS = (W::CHANNELS / W::VECTOR + W::LANES - 1) / W::LANES, ACROSS = (W::GROUPS_X + W::ACROSS - 1) / W::ACROSS;
    int block = blockIdx.x;
    channel = (block % CHANNELS * W::LANES + threadIdx.x) * W::VECTOR;
    block /= CHANNELS;
    left = (block % ACROSS * W::ACROSS + threadIdx.y) * W::COLUMNS;
    top = (block / ACROSS * W::DOWN + threadIdx.z) * W::ROWS;
    image = blockIdx.y;
#pragma unroll
    for (int i = 0; i < W::ROWS * W::COLUMNS * OUTS; ++i) sums[i / (W::COLUMNS * OUTS)][i / OUTS % W::COLUMNS][i % OUTS] = start<W::TAKEN, Sum>();
  }

  // Whether the thread has work; blocks may reach over the edges of the result.
  __device__ __forceinline__ bool works() const {
    return (W::CHANNELS / W::VECTOR % W::LANES == 0 || channel < W::CHANNELS) && (W::GROUPS_X % W::ACROSS == 0 || left < W::OUT_WIDTH) &&
           (W::GROUPS_Y % W::DOWN == 0 || top < W::OUT_HEIGHT);
  }

  // Whether some window has a tap that is so far from the first one's start, by which the windows of a thread begin.
  __host__ __device__ static constexpr bool is_read(int at, int windows, int stride, int taps, int dilation) {
    for (int w = 0; w < windows; ++w)
      for (int t = 0; t < taps; ++t)
        if (w * stride + t * dilation == at) return true;
    return false;
  }
  // Whether an element so far from there is outside of the image for one of the threads.
  __host__ __device__ static constexpr bool is_open(int at, int groups, int step, int pad, int size) { return at < pad || (groups - 1) * step - pad + at >= size; }

  static constexpr bool OPEN_Y = W::PAD_Y > 0 || is_open(HIGH - 1, W::GROUPS_Y, W::ROWS * W::STRIDE_Y, W::PAD_Y, W::HEIGHT);

  // One row of the image: all vectors of it, then what they add to the sums. `taps(y, column, numbers)` is called for each column.
  template <bool OPEN, class Taps>
  __device__ __forceinline__ void row(const Element* pixels, int y, unsigned fill, Taps taps) const {
    constexpr int STEP_X = W::COLUMNS * W::STRIDE_X;
    int x = left * W::STRIDE_X - W::PAD_X;
    const Element* first = pixels + ((image * W::HEIGHT + y) * W::WIDTH + x) * W::CHANNELS + channel;
    bool there = !OPEN || static_cast<unsigned>(y) < static_cast<unsigned>(W::HEIGHT);
    Raw<BYTES> raw[WIDE];
#pragma unroll
    for (int j = 0; j < WIDE; ++j) {
      if (!is_read(j, W::COLUMNS, W::STRIDE_X, W::KERNEL_X, W::DILATION_X)) continue;
      bool open = is_open(j, W::GROUPS_X, STEP_X, W::PAD_X, W::WIDTH);
      bool inside = there && (!open || static_cast<unsigned>(x + j) < static_cast<unsigned>(W::WIDTH));
      if (OPEN || open) raw[j].fill(fill);
      if (inside) raw[j].load(first + j * W::CHANNELS);
    }
#pragma unroll
    for (int j = 0; j < WIDE; ++j) {
      if (!is_read(j, W::COLUMNS, W::STRIDE_X, W::KERNEL_X, W::DILATION_X)) continue;
      Sum numbers[W::VECTOR];
      decode<W::STORED>(raw[j].words, numbers);
      taps(j, numbers);
    }
  }

  // Adds a vector of the image at column `j` to the sums of a row of the result: `weights[tap]` are those of one row of the kernel.
  template <class Weights>
  __device__ __forceinline__ void add(Sum (&to)[W::COLUMNS][OUTS], int j, const Sum (&numbers)[W::VECTOR], const Weights& weights) {
#pragma unroll
    for (int p = 0; p < W::COLUMNS; ++p)
#pragma unroll
      for (int t = 0; t < W::KERNEL_X; ++t)
        if (p * W::STRIDE_X + t * W::DILATION_X == j)
#pragma unroll
          for (int o = 0; o < OUTS; ++o) {
            Sum number = numbers[o / W::MULTIPLIER];
            if constexpr (W::TAKEN == Taken::products)
              to[p][o] += number * weights[t][o];
            else if constexpr (W::TAKEN == Taken::sum)
              to[p][o] += number;
            else
              to[p][o] = larger(to[p][o], number);
          }
  }

  // All rows that the thread reads, one after the other in the text.
  template <class Weights>
  __device__ __forceinline__ void unrolled(const Element* pixels, unsigned fill, const Weights& weights) {
#pragma unroll
    for (int r = 0; r < HIGH; ++r) {
      if (!is_read(r, W::ROWS, W::STRIDE_Y, W::KERNEL_Y, W::DILATION_Y)) continue;
      int y = top * W::STRIDE_Y - W::PAD_Y + r;
      auto taps = [&](int j, const Sum(&numbers)[W::VECTOR]) {
#pragma unroll
        for (int q = 0; q < W::ROWS; ++q)
#pragma unroll
          for (int t = 0; t < W::KERNEL_Y; ++t)
            if (q * W::STRIDE_Y + t * W::DILATION_Y == r) add(sums[q], j, numbers, weights[t]);
      };
      if (is_open(r, W::GROUPS_Y, W::ROWS * W::STRIDE_Y, W::PAD_Y, W::HEIGHT))
        row<true>(pixels, y, fill, taps);
      else
        row<false>(pixels, y, fill, taps);
    }
  }

  // What becomes of the sums: `value(image, pixel, channel, sum)` is stored at `place(image, pixel, channel)`.
  template <class Out, class Value, class Place>
  __device__ __forceinline__ void finish(Out* out, Value value, Place place) const {
    constexpr int COUNT = piece(OUTS, 16 / static_cast<int>(sizeof(Out)));
#pragma unroll
    for (int q = 0; q < W::ROWS; ++q)
#pragma unroll
      for (int p = 0; p < W::COLUMNS; ++p) {
        int y = top + q, x = left + p;
        bool inside = (W::OUT_HEIGHT % W::ROWS == 0 || y < W::OUT_HEIGHT) && (W::OUT_WIDTH % W::COLUMNS == 0 || x < W::OUT_WIDTH);
        int pixel = inside ? y * W::OUT_WIDTH + x : 0;  // what lies outside is computed and not stored: without branches, what pixels share is read once
#pragma unroll
        for (int first = 0; first < OUTS; first += COUNT) {
          Neighbours<Out, COUNT> results;
#pragma unroll
          for (int i = 0; i < COUNT; ++i)
            results.set(i, value(image, pixel, channel * W::MULTIPLIER + first + i, sums[q][p][first + i]));
          if (inside) results.store(out + place(image, pixel, channel * W::MULTIPLIER + first));
        }
      }
  }
};

// Weights [taps][channels of the result], in the type of the sums.
template <class W, class Zero>
__device__ __forceinline__ void load_weights(typename W::Sum (&to)[W::KERNEL_X][W::VECTOR * W::MULTIPLIER], const typename W::Sum* from,
                                             Zero zero) {
  constexpr int OUTS = W::VECTOR * W::MULTIPLIER, COUNT = piece(OUTS, 4);
#pragma unroll
  for (int t = 0; t < W::KERNEL_X; ++t)
#pragma unroll
    for (int first = 0; first < OUTS; first += COUNT) {
      Raw<4 * COUNT> raw;
      raw.load(from + t * W::CHANNELS * W::MULTIPLIER + first);
      typename W::Sum numbers[COUNT];
      decode<sizeof(typename W::Sum) == sizeof(float) && static_cast<typename W::Sum>(0.5f) != 0 ? Stored::f32 : Stored::s32>(raw.words, numbers);
#pragma unroll
      for (int i = 0; i < COUNT; ++i) to[t][first + i] = numbers[i] - zero(first + i);
    }
}

// Sums of products: a convolution of each channel by itself. `zero(channel)` is what weights have to be less.
template <class W, class Zero, class Value, class Place, class Out>
__device__ __forceinline__ void convolve(const typename W::Element* pixels, const typename W::Sum* weights, unsigned fill,
                                         Zero zero, Out* out, Value value, Place place) {
  Windows<W> windows;
  if (!windows.works()) return;
  constexpr int OUTS = W::VECTOR * W::MULTIPLIER, TAPS = W::KERNEL_X * W::CHANNELS * W::MULTIPLIER;
  int channel = windows.channel * W::MULTIPLIER;
  auto less = [&](int i) { return zero(channel + i); };
  if constexpr (W::HELD) {
    typename W::Sum held[W::KERNEL_Y][W::KERNEL_X][OUTS];
#pragma unroll
    for (int t = 0; t < W::KERNEL_Y; ++t) load_weights<W>(held[t], weights + t * TAPS + channel, less);
    windows.unrolled(pixels, fill, held);
  } else {
    static_assert(W::ROWS == 1);
#pragma unroll (W::UNROLL)
    for (int t = 0; t < W::KERNEL_Y; ++t) {
      typename W::Sum held[W::KERNEL_X][OUTS];
      load_weights<W>(held, weights + t * TAPS + channel, less);
      int y = windows.top * W::STRIDE_Y - W::PAD_Y + t * W::DILATION_Y;
      auto taps = [&](int j, const typename W::Sum(&numbers)[W::VECTOR]) { windows.add(windows.sums[0], j, numbers, held); };
      windows.template row<Windows<W>::OPEN_Y>(pixels, y, fill, taps);
    }
  }
  windows.finish(out, value, place);
}

// Sums, or the largest element, of windows.
template <class W, class Value, class Place, class Out>
__device__ __forceinline__ void pool(const typename W::Element* pixels, unsigned fill, Out* out, Value value, Place place) {
  Windows<W> windows;
  if (!windows.works()) return;
  if constexpr (W::HELD) {
    int none[W::KERNEL_Y] = {};
    windows.unrolled(pixels, fill, none);
  } else {
    static_assert(W::ROWS == 1);
#pragma unroll (W::UNROLL)
    for (int t = 0; t < W::KERNEL_Y; ++t) {
      int y = windows.top * W::STRIDE_Y - W::PAD_Y + t * W::DILATION_Y;
      auto taps = [&](int j, const typename W::Sum(&numbers)[W::VECTOR]) { windows.add(windows.sums[0], j, numbers, 0); };
      windows.template row<Windows<W>::OPEN_Y>(pixels, y, fill, taps);
    }
  }
  windows.finish(out, value, place);
}

}  // namespace lepton::sliding
#endif
