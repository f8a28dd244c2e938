// Products of groups of four warps, as sm_90a has them: they run in the background until they are waited for.
#pragma once
#include "runtime.h"
#include "warp.h"

namespace emulator {

// d[64][columns] += a[64][32 bytes] * b[32 bytes][columns], a and b in shared memory where the descriptors say.
struct GroupProduct {
  void* d;
  int columns;
  uint64_t a, b;
  Kind a_kind, b_kind;
};

void group_fence();    // registers of sums are done with
void group_publish();  // what this thread wrote to shared memory may be read by products, after the next barrier
void group_product(const GroupProduct& product, int line);
void group_commit(int line);
void group_wait(unsigned groups_left, int line);

bool is_under_way(uintptr_t address, size_t bytes);  // whether these are sums of the running thread that have not been waited for
void forget_products();                              // of the thread's block, which begins
void end_products();                                 // of the running thread, which ends: there must be none

}  // namespace emulator
