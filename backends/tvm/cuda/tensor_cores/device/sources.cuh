// Where the elements of an operand lie in global memory: element (i, k), i along the rows of A or the columns of B, k along the sum.
// A source splits the address into a part that depends on i (`Outer`) and one that depends on k (`Inner`), each computed once and reused.
namespace lepton {

// A matrix with constant strides.
template <class Element, class Offset, int EXTENT, long long STRIDE_I, long long STRIDE_K>
struct Strided {
  using T = Element;
  struct Outer {
    Offset offset;
    bool valid;
  };
  using Inner = Outer;
  const T* base;

  __device__ __forceinline__ Outer outer(int i) const { return {static_cast<Offset>(i * static_cast<Offset>(STRIDE_I)), i < EXTENT}; }
  __device__ __forceinline__ Inner inner(int k, int end) const { return {static_cast<Offset>(k * static_cast<Offset>(STRIDE_K)), k < end}; }
  static __device__ __forceinline__ bool valid(const Outer& o, const Inner& k) { return o.valid & k.valid; }
  __device__ __forceinline__ const T* at(const Outer& o, const Inner& k) const { return base + (o.offset + k.offset); }
  static constexpr bool FILLED = false;
};

// The windows of a convolution as rows of a matrix: i counts output pixels (image, row, column), k the taps with their channels:
// (row, column, channel) where channels come last in memory, (channel, row, column) where they come first.
// G: constants batch, height, width, channels, out_height, out_width, kernel_h, kernel_w, stride_h, stride_w, pad_top, pad_left, dilation_h,
// dilation_w, and the strides of memory image, row, column, channel; channels_first; filled: outside the image are the bytes of `fill`, else zeros.
template <class Element, class Offset, class G>
struct Windows {
  using T = Element;
  struct Outer {
    Offset offset;
    int y, x;
    bool valid;
  };
  struct Inner {
    Offset offset;
    int y, x;
    bool valid;
  };
  const T* base;
  unsigned fill;

  __device__ __forceinline__ Outer outer(int i) const {
    constexpr int PIXELS = G::out_height * G::out_width;
    int image = i / PIXELS, pixel = i % PIXELS;
    int y = pixel / G::out_width * G::stride_h - G::pad_top, x = pixel % G::out_width * G::stride_w - G::pad_left;
    return {static_cast<Offset>(image) * static_cast<Offset>(G::image) + y * static_cast<Offset>(G::row) + x * static_cast<Offset>(G::column), y, x,
            i < G::batch * PIXELS};
  }
  __device__ __forceinline__ Inner inner(int k, int end) const {
    int channel, tap;
    if constexpr (G::channels_first)
      channel = k / (G::kernel_h * G::kernel_w), tap = k % (G::kernel_h * G::kernel_w);
    else
      channel = k % G::channels, tap = k / G::channels;
    int y = tap / G::kernel_w * G::dilation_h, x = tap % G::kernel_w * G::dilation_w;
    return {y * static_cast<Offset>(G::row) + x * static_cast<Offset>(G::column) + channel * static_cast<Offset>(G::channel), y, x, k < end};
  }
  static __device__ __forceinline__ bool valid(const Outer& o, const Inner& k) {
    return o.valid & k.valid & (static_cast<unsigned>(o.y + k.y) < static_cast<unsigned>(G::height)) &
           (static_cast<unsigned>(o.x + k.x) < static_cast<unsigned>(G::width));  // no short cut, no branch
  }
  __device__ __forceinline__ const T* at(const Outer& o, const Inner& k) const { return base + (o.offset + k.offset); }
  static constexpr bool FILLED = G::filled;
  __device__ __forceinline__ unsigned filler(const Inner& k) const { return k.valid ? fill : 0; }  // behind the end of the sum there are zeros
};

}  // namespace lepton
