// Regions that a kernel may touch, and who touched them last.
#pragma once
#include <string>
#include <vector>

#include "runtime.h"

namespace emulator {

// When a thread does something. Of barriers that blocks have in common it counts those that it has arrived at, and those that it has passed; only
// blocks of one `group` have such barriers: the grid, or a cluster.
struct Moment {
  uint32_t block, block_epoch, warp_epoch, group, arrived, passed;
  uint32_t published;  // how often the thread made its writes known to products of groups of warps
  uint16_t thread, warp;
};

// The last write and the last read of some bytes.
struct Cell {
  Moment write, read;
  bool is_written, is_read, atomic, many_threads, many_warps, many_blocks, many_groups;
};

struct Region {
  uintptr_t begin, end, unit;  // bytes of a cell: four, or as few as were touched at once
  bool constant, shared, weight;
  uint32_t block;  // whose shared memory it is
  std::string name;
  std::vector<Cell> cells;
  std::vector<uint16_t> readers;  // products under way that read these 16 bytes of shared memory
};

void add_region(const void* begin, size_t bytes, bool constant, bool shared, std::string name, bool races, uint32_t block = 0, bool weight = false);
void clear_regions(bool others_too);  // whether memory outside the regions may be touched, unchecked
void forget_shared();
void own_shared(uint32_t block);  // from now on the shared memory of this block is the one that may be touched
bool touched_beside(uint32_t block, uint32_t block_epoch, uint16_t thread);  // memory of the grid, since that barrier of the block
void set_stack(uintptr_t begin, uintptr_t end);
void set_moment(const Moment& moment);
void set_early(bool early);  // whether the thread may use no memory but weights yet
void set_published(const uint32_t* counts);  // of the threads of the block that runs, at its last barrier

// Of products of groups of warps: a read by all of their threads, of what was published; and whether bytes must stay what they are.
void read_by_group(const void* address, size_t bytes);
void keep_from_writes(const void* address, bool keep);

}  // namespace emulator
