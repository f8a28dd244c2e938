// Barriers, shuffles and votes.
#pragma once

#define EMULATOR_LINE int line = __builtin_LINE()

inline void __syncthreads(EMULATOR_LINE) { emulator::block_barrier(line); }
inline int __syncthreads_count(int value, EMULATOR_LINE) { return emulator::block_reduce(value, 0, line); }
inline int __syncthreads_and(int value, EMULATOR_LINE) { return emulator::block_reduce(value, 1, line); }
inline int __syncthreads_or(int value, EMULATOR_LINE) { return emulator::block_reduce(value, 2, line); }
inline void __syncwarp(unsigned mask = 0xFFFFFFFFu, EMULATOR_LINE) { emulator::warp_collective(mask, nullptr, nullptr, "__syncwarp", line); }
inline void __threadfence() {}
inline void __threadfence_block() {}
inline void __threadfence_system() {}

namespace emulator {

template <class T>
T shuffled(unsigned mask, T value, int source, const char* name, int line) {
  Shuffle request = {&value, sizeof(T), source, false};
  warp_collective(mask, &request, shuffle, name, line);
  if (request.missing) fault("reads by %s (line %d) from lane %d, which does not take part", name, line, source);
  return value;
}

inline int lane_of_segment(int width) { return static_cast<int>(current()->lane) / width * width; }

}  // namespace emulator

template <class T>
T __shfl_sync(unsigned mask, T value, int lane, int width = 32, EMULATOR_LINE) {
  return emulator::shuffled(mask, value, emulator::lane_of_segment(width) + (lane & (width - 1)), "__shfl_sync", line);
}
template <class T>
T __shfl_xor_sync(unsigned mask, T value, int bits, int width = 32, EMULATOR_LINE) {
  int lane = static_cast<int>(emulator::current()->lane), source = lane ^ bits;
  bool outside = source / width > lane / width;
  return emulator::shuffled(mask, value, outside ? lane : source, "__shfl_xor_sync", line);
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_LINE) {
  int lane = static_cast<int>(emulator::current()->lane), source = lane + static_cast<int>(delta);
  return emulator::shuffled(mask, value, source / width == lane / width ? source : lane, "__shfl_down_sync", line);
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned delta, int width = 32, EMULATOR_LINE) {
  int lane = static_cast<int>(emulator::current()->lane), source = lane - static_cast<int>(delta);
  return emulator::shuffled(mask, value, source >= emulator::lane_of_segment(width) ? source : lane, "__shfl_up_sync", line);
}

inline unsigned __ballot_sync(unsigned mask, int value, EMULATOR_LINE) {
  emulator::Vote request = {value != 0, 0};
  emulator::warp_collective(mask, &request, emulator::vote, "__ballot_sync", line);
  return request.bits;
}
inline int __any_sync(unsigned mask, int value, EMULATOR_LINE) { return __ballot_sync(mask, value, line) != 0; }
inline int __all_sync(unsigned mask, int value, EMULATOR_LINE) { return __ballot_sync(mask, !value, line) == 0; }
inline unsigned __activemask() { return 0xFFFFFFFFu; }
