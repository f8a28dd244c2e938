// A barrier of the grid, for blocks that are sure to be there at the same time. The emulator has functions of the same names and meaning.
#ifdef LEPTON_EMULATED
#include "lepton_grid.h"
#else
namespace lepton {

// Called by one thread of each block, between two __syncthreads: waits until `arrivals` calls were made since `counter` was zero. What the blocks
// wrote before, all of them read afterwards. The count says who is there and nothing else: no result depends on the order of arrival.
__device__ __forceinline__ void meet(unsigned* counter, unsigned arrivals) {
  unsigned seen;
  __threadfence();
  asm volatile("red.release.gpu.global.add.u32 [%0], 1;" ::"l"(counter) : "memory");
  do asm volatile("ld.acquire.gpu.global.u32 %0, [%1];" : "=r"(seen) : "l"(counter) : "memory");
  while (seen < arrivals);
  __threadfence();
}

// What another block wrote before the barrier, from the level-2 cache. Never taken from before it: `__ldcg` may be, as the compiler is not told that
// it reads memory.
__device__ __forceinline__ float fetch(const float* from) {
  float value;
  asm volatile("ld.global.cg.f32 %0, [%1];" : "=f"(value) : "l"(from) : "memory");
  return value;
}
__device__ __forceinline__ float4 fetch(const float4* from) {
  float4 value;
  asm volatile("ld.global.cg.v4.f32 {%0, %1, %2, %3}, [%4];" : "=f"(value.x), "=f"(value.y), "=f"(value.z), "=f"(value.w) : "l"(from) : "memory");
  return value;
}

}  // namespace lepton
#endif
