// What the emulated device offers to kernels: who am I, barriers, collectives of a warp, checked memory.
#pragma once
#include <cstddef>
#include <cstdint>

namespace emulator {

struct Index {
  unsigned x, y, z;
};

// What a device thread can ask about itself.
struct Thread {
  Index thread, block, block_size, grid_size;
  unsigned linear, lane, warp;
};

// The work of a collective, done once when its last lane arrives: `slots[lane]` is what each lane handed in, null where it does not take part.
using Collective = void (*)(void** slots);

const Thread* current() __attribute__((const));
void* dynamic_shared();
void block_barrier(int line);
int block_reduce(int value, int kind, int line);
void after_previous();  // see lepton_order.h
void grid_barrier(unsigned* counter, unsigned arrivals, int line);  // of one thread of each block; see lepton_grid.h
void cluster_arrive(int line);
void cluster_wait(int line);
unsigned cluster_rank();
void read_in_cluster(void* to, const void* own, size_t bytes, unsigned rank, int line);  // from the same place in another block's shared memory
void warp_collective(unsigned mask, void* slot, Collective work, const char* name, int line);
void group_collective(void* slot, Collective work, const char* name, int line);  // of four warps, all of their lanes

// Throws the launch away: the kernel did something that a device faults at, or leaves undefined.
[[noreturn]] void fault(const char* format, ...) __attribute__((format(printf, 1, 2)));

enum class Access { read, write, atomic };
void check(const void* address, size_t bytes, Access access);

// Copies that are under way until they are waited for.
void copy_async(void* shared, const void* global, unsigned bytes, unsigned valid, int line);
void copy_async_commit();
void copy_async_wait(unsigned groups_left);

// Figures of a launch.
struct Statistics {
  uint64_t barriers, collectives, matrix_products, matrix_loads, matrix_load_conflicts, grid_barriers, cluster_barriers;
};
Statistics& statistics();

}  // namespace emulator
