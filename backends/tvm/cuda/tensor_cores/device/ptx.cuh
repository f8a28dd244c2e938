// Instructions that CUDA C has no words for. The emulator has functions of the same names and meaning.
#ifdef LEPTON_EMULATED
#include "lepton_ptx.h"
#else
namespace lepton {

__device__ __forceinline__ unsigned shared_address(const void* pointer) { return static_cast<unsigned>(__cvta_generic_to_shared(pointer)); }

// The same number or address, of which the compiler does not know where it comes from: it stays in its register, and is not worked out again where
// it is used, nor taken apart to be added up in another order.
__device__ __forceinline__ int kept(int number) {
  asm("" : "+r"(number));
  return number;
}
template <class T>
__device__ __forceinline__ const T* kept(const T* address) {  // of global memory
  size_t number = __cvta_generic_to_global(address);
  asm("" : "+l"(number));
  return static_cast<const T*>(__cvta_global_to_generic(number));
}

// Copy 16, 8 or 4 bytes to shared memory in the background; zeros instead where `valid` is 0.
#if __CUDA_ARCH__ >= 800
__device__ __forceinline__ void cp_async16(void* shared, const void* global, unsigned valid) {
  asm volatile("cp.async.cg.shared.global.L2::128B [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid) : "memory");
}
__device__ __forceinline__ void cp_async8(void* shared, const void* global, unsigned valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 8, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid) : "memory");
}
__device__ __forceinline__ void cp_async4(void* shared, const void* global, unsigned valid) {
  asm volatile("cp.async.ca.shared.global [%0], [%1], 4, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(valid) : "memory");
}
__device__ __forceinline__ void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
// Waits until at most GROUPS of this thread's groups are under way.
template <int GROUPS>
__device__ __forceinline__ void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(GROUPS) : "memory");
}
#else  // before sm_80 there is no background
template <int WORDS>
__device__ __forceinline__ void copy_now(void* shared, const void* global, unsigned valid) {
  struct __align__(4 * WORDS) Words {
    unsigned word[WORDS];
  } words = {};
  if (valid) words = *static_cast<const Words*>(global);
  *static_cast<Words*>(shared) = words;
}
__device__ __forceinline__ void cp_async16(void* shared, const void* global, unsigned valid) { copy_now<4>(shared, global, valid); }
__device__ __forceinline__ void cp_async8(void* shared, const void* global, unsigned valid) { copy_now<2>(shared, global, valid); }
__device__ __forceinline__ void cp_async4(void* shared, const void* global, unsigned valid) { copy_now<1>(shared, global, valid); }
__device__ __forceinline__ void cp_async_commit() {}
template <int GROUPS>
__device__ __forceinline__ void cp_async_wait() {}
#endif

// Four matrices of 8 x 8 16-bit elements: lane 8 i + r gives the address of row r of matrix i.
template <bool TRANSPOSED>
__device__ __forceinline__ void ldmatrix_x4(unsigned (&r)[4], const void* row) {
  if constexpr (TRANSPOSED)
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
  else
    asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
                 : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3]) : "r"(shared_address(row)) : "memory");
}

// d[16][8] += a[16][32 bytes] * b[32 bytes][8]
#define LEPTON_MMA(NAME, TYPE, CONSTRAINT, SHAPE)                                                                      \
  __device__ __forceinline__ void NAME(TYPE (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {          \
    asm volatile("mma.sync.aligned." SHAPE " {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, {%0, %1, %2, %3};"          \
                 : "+" CONSTRAINT(d[0]), "+" CONSTRAINT(d[1]), "+" CONSTRAINT(d[2]), "+" CONSTRAINT(d[3])              \
                 : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b[0]), "r"(b[1]));                                  \
  }
#if __CUDA_ARCH__ >= 800
LEPTON_MMA(mma_f16, float, "f", "m16n8k16.row.col.f32.f16.f16.f32")
LEPTON_MMA(mma_bf16, float, "f", "m16n8k16.row.col.f32.bf16.bf16.f32")
LEPTON_MMA(mma_tf32, float, "f", "m16n8k8.row.col.f32.tf32.tf32.f32")
LEPTON_MMA(mma_s8_s8, int, "r", "m16n8k32.row.col.s32.s8.s8.s32")
LEPTON_MMA(mma_u8_s8, int, "r", "m16n8k32.row.col.s32.u8.s8.s32")
LEPTON_MMA(mma_s8_u8, int, "r", "m16n8k32.row.col.s32.s8.u8.s32")
LEPTON_MMA(mma_u8_u8, int, "r", "m16n8k32.row.col.s32.u8.u8.s32")
#else  // half the depth, and only fp16 in this shape; integers in quarters: d[8][8] += a[8][16] * b[16][8]
#define LEPTON_QUARTERS
#define LEPTON_QUARTER(NAME, TYPES)                                                                                    \
  __device__ __forceinline__ void NAME##_quarter(int (&d)[2], unsigned a, unsigned b) {                                \
    asm volatile("mma.sync.aligned.m8n8k16.row.col.s32." TYPES ".s32 {%0, %1}, {%2}, {%3}, {%0, %1};"                  \
                 : "+r"(d[0]), "+r"(d[1]) : "r"(a), "r"(b));                                                           \
  }
LEPTON_QUARTER(mma_s8_s8, "s8.s8")
LEPTON_QUARTER(mma_u8_s8, "u8.s8")
LEPTON_QUARTER(mma_s8_u8, "s8.u8")
LEPTON_QUARTER(mma_u8_u8, "u8.u8")
#undef LEPTON_QUARTER
__device__ __forceinline__ void mma_f16(float (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {
#pragma unroll
  for (int half = 0; half < 2; ++half)
    asm volatile("mma.sync.aligned.m16n8k8.row.col.f32.f16.f16.f32 {%0, %1, %2, %3}, {%4, %5}, {%6}, {%0, %1, %2, %3};"
                 : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
                 : "r"(a[2 * half]), "r"(a[2 * half + 1]), "r"(b[half]));
}
#endif
#undef LEPTON_MMA

// Rounds to tf32, halves away from zero.
__device__ __forceinline__ unsigned to_tf32(float value) {
  unsigned result;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(result) : "f"(value));
  return result;
}

// 2^x by the instruction that exp2f stands on, without the three around it for results below 2^-126, which are 0 here (PTX ISA, "ex2", .ftz).
__device__ __forceinline__ float power_of_two(float x) {
  float result;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(result) : "f"(x));
  return result;
}

// Two floats rounded to 16 bits, the first in the low half.
__device__ __forceinline__ unsigned pack_f16(float low, float high) {
  unsigned result;
#if __CUDA_ARCH__ >= 800
  asm("cvt.rn.f16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
#else
  asm("{.reg .b16 l, h; cvt.rn.f16.f32 l, %2; cvt.rn.f16.f32 h, %1; mov.b32 %0, {l, h};}" : "=r"(result) : "f"(high), "f"(low));
#endif
  return result;
}
__device__ __forceinline__ unsigned pack_bf16(float low, float high) {
  unsigned result;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(result) : "f"(high), "f"(low));
  return result;
}

}  // namespace lepton
#endif

#ifdef LEPTON_QUARTERS
namespace lepton {

#define LEPTON_OF_QUARTERS(NAME)                                                                           \
  __device__ __forceinline__ void NAME(int (&d)[4], const unsigned (&a)[4], const unsigned (&b)[2]) {      \
    int upper[2] = {d[0], d[1]}, lower[2] = {d[2], d[3]};                                                  \
    NAME##_quarter(upper, a[0], b[0]);                                                                     \
    NAME##_quarter(lower, a[1], b[0]);                                                                     \
    NAME##_quarter(upper, a[2], b[1]);                                                                     \
    NAME##_quarter(lower, a[3], b[1]);                                                                     \
    d[0] = upper[0], d[1] = upper[1], d[2] = lower[0], d[3] = lower[1];                                    \
  }
LEPTON_OF_QUARTERS(mma_s8_s8)
LEPTON_OF_QUARTERS(mma_u8_s8)
LEPTON_OF_QUARTERS(mma_s8_u8)
LEPTON_OF_QUARTERS(mma_u8_u8)
#undef LEPTON_OF_QUARTERS

}  // namespace lepton
#endif
