// The emulated twins of tensor_cores/device/clusters.cuh, where the same functions have a PTX body.
#pragma once

namespace lepton {

inline void cluster_arrive(int line = __builtin_LINE()) { emulator::cluster_arrive(line); }
inline void cluster_wait(int line = __builtin_LINE()) { emulator::cluster_wait(line); }
inline unsigned cluster_rank() { return emulator::cluster_rank(); }
template <class T>
Pack<T, 4> cluster_read(const T* own, unsigned rank, int line = __builtin_LINE()) {
  Pack<T, 4> four;
  emulator::read_in_cluster(&four, own, sizeof four, rank, line);
  return four;
}

}  // namespace lepton
