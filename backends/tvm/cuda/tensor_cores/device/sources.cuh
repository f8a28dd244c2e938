// Where the elements of an operand lie in global memory: element (i, k), i along the rows of A or the columns of B, k along the sum.
// A source tells of a place on one axis (`Outer`, of i) once, of a place on the other (`Inner`, of k) for each tile, and of both together with
// as few instructions as may be: they are what each copy costs.
namespace lepton {

// A matrix with constant strides.
template <class Element, class Offset, int EXTENT, long long STRIDE_I, long long STRIDE_K>
struct Strided {
  using T = Element;
  static constexpr bool LINEAR = true, FILLED = false;  // a step is as far everywhere: one address serves all that a thread copies of a tile
  static constexpr int COUNT = EXTENT;
  static constexpr long long BETWEEN_I = STRIDE_I, BETWEEN_K = STRIDE_K;
  struct Outer {};
  const T* base;

  static __device__ __forceinline__ Offset distance(int k) { return static_cast<Offset>(k) * static_cast<Offset>(STRIDE_K); }
  __device__ __forceinline__ const T* at(int i, int k) const { return base + (static_cast<Offset>(i) * static_cast<Offset>(STRIDE_I) + distance(k)); }
  static __device__ __forceinline__ bool valid(int i, int k, int end) { return (i < EXTENT) & (k < end); }
};

// The windows of a convolution as rows of a matrix: i counts output pixels (image, row, column), k the taps with their channels:
// (row, column, channel) where channels come last in memory, (channel, row, column) where they come first.
// G: constants batch, height, width, channels, out_height, out_width, kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h,
// dilation_w, and the strides of memory image, row, column, channel; channels_first; filled: outside the image are the bytes of `fill`, else zeros.
template <class Element, class Offset, class G>
struct Windows {
  using T = Element;
  static constexpr bool LINEAR = false, FILLED = G::filled;
  static constexpr int PIXELS = G::out_height * G::out_width;
  static constexpr bool INSIDE = G::pad_top == 0 && G::pad_left == 0 &&
                                 (G::out_height - 1) * G::stride_h + (G::kernel_h - 1) * G::dilation_h < G::height &&
                                 (G::out_width - 1) * G::stride_w + (G::kernel_w - 1) * G::dilation_w < G::width;  // no window leaves the image
  static constexpr int ROW = 16;  // number of the bit of the first row of taps; columns have those before it, but for the last, which no window has
  static constexpr bool MASKED = INSIDE || (G::kernel_w < ROW && G::kernel_h <= 32 - ROW);
  static constexpr unsigned NEVER = 1u << (ROW - 1);
  struct Outer {
    Offset offset;
    unsigned inside;  // bits of the rows and columns of taps that lie in the image; none where there is no window
    int y, x;         // instead, where a word has too few bits: of the first tap, far outside where there is no window
  };
  struct Inner {
    const T* from;
    unsigned needed;  // the bits of a tap; `NEVER` behind the end of the sum
    int y, x;
    bool valid;
  };
  const T* base;
  unsigned fill;

  __device__ __forceinline__ Outer outer(int i) const {
    unsigned pixel = static_cast<unsigned>(i) % PIXELS, image = static_cast<unsigned>(i) / PIXELS;
    int y = static_cast<int>(pixel / G::out_width) * G::stride_h - G::pad_top, x = static_cast<int>(pixel % G::out_width) * G::stride_w - G::pad_left;
    bool valid = i < G::batch * PIXELS;
    Offset offset = static_cast<Offset>(image) * static_cast<Offset>(G::image) + y * static_cast<Offset>(G::row) + x * static_cast<Offset>(G::column);
    if constexpr (INSIDE) return {offset, valid, 0, 0};
    if constexpr (!MASKED) return {offset, 0, valid ? y : -(1 << 30), x};
    unsigned inside = 0;
#pragma unroll
    for (int tap = 0; tap < G::kernel_w; ++tap)
      if (static_cast<unsigned>(x + tap * G::dilation_w) < static_cast<unsigned>(G::width)) inside |= 1u << tap % ROW;
#pragma unroll
    for (int tap = 0; tap < G::kernel_h; ++tap)
      if (static_cast<unsigned>(y + tap * G::dilation_h) < static_cast<unsigned>(G::height)) inside |= 1u << (ROW + tap % ROW);
    return {offset, valid ? inside : 0, 0, 0};
  }
  // Of k = first + within, where tiles are DEPTH deep: if that divides the channels, a whole tile has one tap, which all threads work out together.
  template <int DEPTH>
  __device__ __forceinline__ Inner inner(int first, int within, int end) const {
    unsigned k = first + within, channel, tap;
    if constexpr (G::channels_first)
      channel = k / (G::kernel_h * G::kernel_w), tap = k % (G::kernel_h * G::kernel_w);
    else if constexpr (G::channels % DEPTH == 0)
      channel = static_cast<unsigned>(first) % G::channels + within, tap = static_cast<unsigned>(first) / G::channels;
    else
      channel = k % G::channels, tap = k / G::channels;
    unsigned row = tap / G::kernel_w, column = tap % G::kernel_w;
    int y = static_cast<int>(row) * G::dilation_h, x = static_cast<int>(column) * G::dilation_w;
    bool valid = static_cast<int>(k) < end;
    Offset offset = y * static_cast<Offset>(G::row) + x * static_cast<Offset>(G::column) + static_cast<Offset>(channel) * static_cast<Offset>(G::channel);
    unsigned needed = INSIDE ? 1u : 1u << column % ROW | 1u << (ROW + row % ROW);
    return {kept(base + offset), valid ? needed : NEVER, y, x, valid};
  }
  static __device__ __forceinline__ bool valid(const Outer& o, const Inner& k) {
    if constexpr (MASKED) return (k.needed & ~o.inside) == 0;
    return k.valid & (static_cast<unsigned>(o.y + k.y) < static_cast<unsigned>(G::height)) &
           (static_cast<unsigned>(o.x + k.x) < static_cast<unsigned>(G::width));  // no short cut, no branch
  }
  __device__ __forceinline__ const T* at(const Outer& o, const Inner& k) const { return k.from + o.offset; }
  __device__ __forceinline__ unsigned filler(const Inner& k) const { return k.valid ? fill : 0; }  // behind the end of the sum there are zeros
};

}  // namespace lepton
