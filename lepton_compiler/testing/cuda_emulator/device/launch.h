// How Python starts a kernel. The structures are mirrored in launch.py.
#pragma once
#include "runtime.h"

namespace emulator {

struct Buffer {
  void* begin;
  size_t bytes;
  int constant;
  const char* name;
  int weight;  // may be read before the kernel waited for the one before it
};

struct Launch {
  Index grid, block, cluster;  // cluster: blocks that are there at the same time, 1 x 1 x 1 where the kernel has none
  size_t shared_bytes;
  int backwards, races, together, buffer_count;  // together: blocks may wait for each other; count -1: what may be touched is not known
  const Buffer* buffers;
  int ordered;  // every thread must wait for the kernel before this one, before it uses memory
};

struct Parameter {
  int bytes, pointer, constant;
};

using Call = void (*)(void** arguments);

// Runs the grid. Returns what went wrong, or an empty text.
const char* launch(const Launch& launch, Call call, void** arguments, Statistics* result);

}  // namespace emulator
