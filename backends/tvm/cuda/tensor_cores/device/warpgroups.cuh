// Products of tiles on the tensor cores of sm_90a: a group of four warps multiplies 64 rows, both operands straight out of shared memory, in the
// background (PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions"). Tiles lie along k in rows of 128 bytes, whose
// exchange of chunks is the one that the instruction calls the 128-byte swizzle.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LEPTON_WARPGROUPS 1
namespace lepton {

// Makes what this thread wrote to shared memory, and what it has waited for, visible to wgmma, which reads by the async proxy.
__device__ __forceinline__ void wgmma_publish() { asm volatile("fence.proxy.async.shared::cta;" ::: "memory"); }
// Before the first wgmma, and after registers of sums were touched.
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
// Waits until at most GROUPS of the groups that were committed are under way.
template <int GROUPS>
__device__ __forceinline__ void wgmma_wait() {
  asm volatile("wgmma.wait_group.sync.aligned %0;" ::"n"(GROUPS) : "memory");
}
// Nothing that reads the sums is moved before this, which is written after the last wait.
template <int ROWS, int COLUMNS>
__device__ __forceinline__ void wgmma_finished(float (&sums)[ROWS][1][COLUMNS][4]) {
#pragma unroll
  for (int i = 0; i < ROWS * COLUMNS * 4; ++i) asm volatile("" : "+f"(sums[i / (COLUMNS * 4)][0][i / 4 % COLUMNS][i % 4])::"memory");
}
template <int ROWS, int COLUMNS>
__device__ __forceinline__ void wgmma_finished(int (&sums)[ROWS][1][COLUMNS][4]) {
#pragma unroll
  for (int i = 0; i < ROWS * COLUMNS * 4; ++i) asm volatile("" : "+r"(sums[i / (COLUMNS * 4)][0][i / 4 % COLUMNS][i % 4])::"memory");
}

// Describes a tile (PTX ISA, "Matrix Descriptor Format"), in units of 16 bytes: bits 0-13 its address, 16-29 what 128-byte swizzle along k has no use
// for, 32-45 the 1024 bytes from eight rows to the next; 49-51 are zero where the address of the tile is a multiple of 1024; 62-63 name the swizzle.
// A step of 32 bytes along k moves the address within the first row, whose exchange is worked out from the bits of the whole address.
__device__ __forceinline__ unsigned long long wgmma_descriptor(const void* tile) {
  return (shared_address(tile) & 0x3FFFF) >> 4 | 1ULL << 16 | 64ULL << 32 | 1ULL << 62;
}

// @WGMMA@

}  // namespace lepton
#endif

#ifdef LEPTON_WARPGROUPS
namespace lepton {

// As `multiply_on_tensor_cores`; GROUPS groups of warps have BLOCK_M / GROUPS rows and all columns each.
//
// Loads run STAGES - 2 tiles ahead, and the products of one tile are under way when those of the next are begun. At barrier number t
// - tile t is there: each thread has waited for its copies of it (all but the STAGES - 3 latest groups are done, and tile t + 1 is the oldest that
//   may be under way), has published them, and then came to the barrier; what passed through registers was written even before the wait for t - 1;
// - nothing reads tile t - 2 any more: each warp has waited, before it came here, until only the products of t - 1 were under way.
// So after it the products of t may read their stage, and tile t + STAGES - 2 may be written where tile t - 2 was.
template <Arithmetic KIND, class Sum, int BLOCK_M, int BLOCK_N, int GROUPS, int STAGES, int DEPTH, class A, class B, class Store>
__device__ __forceinline__ void multiply_on_warpgroups(const A& a, const B& b, char* shared, int m, int n, int first, int end, const Store& store) {
  static_assert(A::ROWS_ALONG_I && B::ROWS_ALONG_I && A::ROW_BYTES == 128 && B::ROW_BYTES == 128 && STAGES >= 3);
  constexpr int STAGE = A::BYTES + B::BYTES, COLUMNS = BLOCK_N / 8, ROWS = BLOCK_M / 64 / GROUPS, AHEAD = STAGES - 2, SLICE = 64 * 128;
  static_assert(A::BYTES % 1024 == 0 && B::BYTES % 1024 == 0 && BLOCK_M == ROWS * GROUPS * 64);
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, group = __shfl_sync(0xffffffffu, warp / 4, 0);  // the same in all lanes, also for the compiler
  int tiles = (end - first + DEPTH - 1) / DEPTH, reading = 0, writing = AHEAD * STAGE;
  Sum sums[ROWS][1][COLUMNS][4] = {};
  begin<AHEAD, DEPTH>(a, b, shared, first, end);
#pragma unroll 1
  for (int tile = 0; tile < tiles; ++tile) {
    cp_async_wait<AHEAD - 1>();
    wgmma_publish();
    __syncthreads();
    unsigned long long rows = wgmma_descriptor(shared + reading + group * ROWS * SLICE), columns = wgmma_descriptor(shared + reading + A::BYTES);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step)
#pragma unroll
      for (int i = 0; i < ROWS; ++i) wgmma<KIND>(sums[i][0], rows + i * (SLICE / 16) + step * 2, columns + step * 2);
    wgmma_commit();
    int next = tile + AHEAD;
    typename A::Fetched fetched_a;
    typename B::Fetched fetched_b;
    if (next < tiles) {  // beside the products of this tile and the one before
      fetched_a = a.fetch(shared + writing, first + next * DEPTH, end);
      fetched_b = b.fetch(shared + writing + A::BYTES, first + next * DEPTH, end);
    }
    cp_async_commit();
    wgmma_wait<1>();
    if (next < tiles) {
      a.keep(shared + writing, fetched_a);
      b.keep(shared + writing + A::BYTES, fetched_b);
    }
    reading = reading == (STAGES - 1) * STAGE ? 0 : reading + STAGE;
    writing = writing == (STAGES - 1) * STAGE ? 0 : writing + STAGE;
  }
  wgmma_wait<0>();
  wgmma_finished(sums);
  __syncthreads();  // the rows on their way out take the place of the tiles
#pragma unroll
  for (int i = 0; i < ROWS; ++i) drain<1, COLUMNS>(sums[i], shared, m + (group * ROWS + i) * 64 + warp % 4 * 16, n, warp, lane, store);
}

}  // namespace lepton
#endif
