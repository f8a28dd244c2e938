// A barrier of the grid, for blocks that are sure to be there at the same time. The emulator has a function of the same name and meaning.
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

}  // namespace lepton
#endif
