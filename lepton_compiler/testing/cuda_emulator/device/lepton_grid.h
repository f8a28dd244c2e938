// The emulated twin of recurrent/device/grid.cuh, where the same function waits on a counter in memory.
#pragma once

namespace lepton {

inline void meet(unsigned* counter, unsigned arrivals, int line = __builtin_LINE()) { emulator::grid_barrier(counter, arrivals, line); }

}  // namespace lepton
