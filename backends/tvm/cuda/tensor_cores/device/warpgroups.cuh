// Products of tiles on the tensor cores of sm_90a: a group of four warps multiplies 64 rows, both operands straight out of shared memory.
// Tiles lie along k in rows of 128 bytes, whose exchange of chunks is the one that the instruction calls the 128-byte swizzle.
#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define LEPTON_WARPGROUPS 1
namespace lepton {

// Makes what this thread wrote to shared memory visible to wgmma.
__device__ __forceinline__ void wgmma_publish() { asm volatile("fence.proxy.async;" ::: "memory"); }
__device__ __forceinline__ void wgmma_fence() { asm volatile("wgmma.fence.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_commit() { asm volatile("wgmma.commit_group.sync.aligned;" ::: "memory"); }
__device__ __forceinline__ void wgmma_wait() { asm volatile("wgmma.wait_group.sync.aligned 0;" ::: "memory"); }

// Describes a tile: its address, 1024 bytes from eight rows to the next, 128-byte swizzle (PTX ISA, "Matrix descriptor"), all in units of 16 bytes.
__device__ __forceinline__ unsigned long long wgmma_descriptor(const void* tile) {
  return (shared_address(tile) & 0x3FFFF) >> 4 | 1ULL << 16 | 64ULL << 32 | 1ULL << 62;
}

// @WGMMA@

}  // namespace lepton
#endif

#ifdef LEPTON_WARPGROUPS
namespace lepton {

// As `multiply_on_tensor_cores`; a warp ends up with 16 rows and all columns.
template <Arithmetic KIND, class Sum, int BLOCK_M, int BLOCK_N, int STAGES, int DEPTH, class A, class B, class Store>
__device__ __forceinline__ void multiply_on_warpgroups(const A& a, const B& b, char* shared, int m, int n, int first, int end, const Store& store) {
  static_assert(A::ROWS_ALONG_I && B::ROWS_ALONG_I && A::ROW_BYTES == 128 && B::ROW_BYTES == 128);
  constexpr int STAGE = A::BYTES + B::BYTES, COLUMNS = BLOCK_N / 8;
  int lane = threadIdx.x % 32, warp = threadIdx.x / 32, tiles = (end - first + DEPTH - 1) / DEPTH;
  Sum sums[1][COLUMNS][4] = {};
  auto load = [&](int tile) {
    char* stage = shared + tile % STAGES * STAGE;
    if (tile < tiles) {
      a.load(stage, first + tile * DEPTH, end);
      b.load(stage + A::BYTES, first + tile * DEPTH, end);
    }
    cp_async_commit();
  };
  begin<STAGES - 1, DEPTH>(a, b, shared, first, end);
  for (int tile = 0; tile < tiles; ++tile) {
    cp_async_wait<STAGES - 2>();
    wgmma_publish();
    __syncthreads();
    const char* stage = shared + tile % STAGES * STAGE;
    unsigned long long rows = wgmma_descriptor(stage + warp / 4 * 64 * 128), columns = wgmma_descriptor(stage + A::BYTES);
    wgmma_fence();
#pragma unroll
    for (int step = 0; step < 4; ++step) wgmma<KIND>(sums[0], rows + step * 2, columns + step * 2);
    wgmma_commit();
    load(tile + STAGES - 1);  // beside the products
    wgmma_wait();
  }
  cp_async_wait<0>();
  __syncthreads();
  drain<1, COLUMNS>(sums, shared, m + warp * 16, n, warp, lane, store);
}

}  // namespace lepton
#endif
