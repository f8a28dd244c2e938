// Included before every kernel text: what CUDA C has and C++ has not.
#pragma once
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <type_traits>
#include <utility>

#include "launch.h"
#include "runtime.h"
#include "warp.h"
#include "warpgroup.h"

#define LEPTON_EMULATED 1
#define __CUDA_ARCH__ 800
#define __CUDACC_VER_MAJOR__ 13
#define __CUDACC_VER_MINOR__ 0

#define __global__
#define __device__
#define __host__
#define __constant__
#define __managed__
#define __grid_constant__
#define __shared__ static __attribute__((section("lepton_shared")))
#define __launch_bounds__(...)
#define __maxnreg__(...)
#define __cluster_dims__(...)
#define __align__(n) __attribute__((aligned(n)))
#define alignas(n) __attribute__((aligned(n)))
#define __forceinline__ inline __attribute__((always_inline))
#define __noinline__ __attribute__((noinline))

#include "vector_types.h"

struct dim3 {
  unsigned x, y, z;
  constexpr dim3(unsigned x = 1, unsigned y = 1, unsigned z = 1) : x(x), y(y), z(z) {}
};

#define threadIdx (::emulator::current()->thread)
#define blockIdx (::emulator::current()->block)
#define blockDim (::emulator::current()->block_size)
#define gridDim (::emulator::current()->grid_size)
constexpr int warpSize = 32;

#include "barriers.h"
#include "device_math.h"
#include "atomics.h"

namespace emulator {

// Calls a kernel with its arguments behind pointers, as the driver does, and tells its parameters.
template <auto Kernel>
struct Entry;
template <class... A, void (*Kernel)(A...)>
struct Entry<Kernel> {
  template <size_t... I>
  __attribute__((no_sanitize("thread"))) static void unpack(void** arguments, std::integer_sequence<size_t, I...>) {
    void (*volatile kernel)(A...) = Kernel;  // not inlined: it is checked, this is not
    kernel(*static_cast<std::remove_const_t<A>*>(arguments[I])...);
  }
  static constexpr int count = sizeof...(A);
  static void call(void** arguments) { unpack(arguments, std::index_sequence_for<A...>()); }
  static int parameters(Parameter* list) {
    int i = 0;
    ((list[i++] = {static_cast<int>(sizeof(A)), std::is_pointer_v<A>, std::is_const_v<std::remove_pointer_t<A>>}), ...);
    return i;
  }
};

}  // namespace emulator

// What Python, or a driver made for tests, calls. `emulate_NAME` knows no extents of arguments: it checks shared memory alone.
#define EMULATOR_ENTRY(NAME)                                                                                                  \
  extern "C" const char* launch_##NAME(const emulator::Launch* launch, void** arguments, emulator::Statistics* result) {      \
    return emulator::launch(*launch, emulator::Entry<&NAME>::call, arguments, result);                                        \
  }                                                                                                                           \
  extern "C" int parameters_##NAME(emulator::Parameter* list) { return emulator::Entry<&NAME>::parameters(list); }            \
  extern "C" const int emulated_arguments_##NAME = emulator::Entry<&NAME>::count;                                             \
  extern "C" const char* emulate_##NAME(const unsigned grid[3], const unsigned block[3], unsigned shared, void** arguments) { \
    emulator::Statistics unused;                                                                                              \
    emulator::Launch launch = {{grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, {1, 1, 1}, shared, 0, 1, 0, -1, nullptr}; \
    return emulator::launch(launch, emulator::Entry<&NAME>::call, arguments, &unused);                                        \
  }
