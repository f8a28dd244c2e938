// Regions that a kernel may touch, and who touched them last.
#pragma once
#include <string>
#include <vector>

#include "runtime.h"

namespace emulator {

struct Moment {
  uint32_t block, block_epoch, warp_epoch;
  uint16_t thread, warp;
};

// Four bytes: the last write and the last read of them. `bytes` says which of the four. No time yet: bytes is 0.
struct Cell {
  Moment write, read;
  uint8_t write_bytes, read_bytes;
  bool atomic, many_threads, many_warps, many_blocks;
};

struct Region {
  uintptr_t begin, end;
  bool constant, shared;
  std::string name;
  std::vector<Cell> cells;
};

void add_region(const void* begin, size_t bytes, bool constant, bool shared, std::string name, bool races);
void clear_regions(bool others_too);  // whether memory outside the regions may be touched, unchecked
void forget_shared();
void set_stack(uintptr_t begin, uintptr_t end);
void set_moment(const Moment& moment);

}  // namespace emulator
