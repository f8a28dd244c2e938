from __future__ import annotations

import ml_dtypes
import numpy as np
import pytest

from lepton_compiler.errors import LeptonError
from lepton_compiler.testing.cuda_emulator import DeviceFault, available, cluster_of, kernels_of, run

pytestmark = pytest.mark.skipif(bool(available()), reason=available())

KERNELS = """
#include <cuda_fp16.h>
#include <cuda_bf16.h>
#define N 100

extern "C" __global__ void __launch_bounds__(32) scale(const float* __restrict__ x, float* __restrict__ y, float factor, int n) {
  int i = blockIdx.x * blockDim.x + threadIdx.x;
  if (i < n) y[i] = x[i] * factor;
}

extern "C" __global__ void careless(const float* x, float* y) { y[blockIdx.x * 32 + threadIdx.x] = x[blockIdx.x * 32 + threadIdx.x]; }

extern "C" __global__ void vectors(const float* x, float* y) {
  *(float4*)(y + threadIdx.x * 4) = *(const float4*)(x + 1 + threadIdx.x * 4);
}

extern "C" __global__ void writes_input(const float* x) { *(float*)x = 1.0f; }

extern "C" __global__ void block_sum(const float* x, float* y) {
  extern __shared__ __align__(16) float buffer[];
  __shared__ float total;
  int t = threadIdx.x;
  buffer[t] = x[blockIdx.x * 64 + t];
  __syncthreads();
  for (int step = 32; step; step /= 2) {
    if (t < step) buffer[t] += buffer[t + step];
    __syncthreads();
  }
  if (t == 0) total = buffer[0];
  __syncthreads();
  y[blockIdx.x * 64 + t] = total;
}

extern "C" __global__ void racy_sum(const float* x, float* y) {
  __shared__ float buffer[64];
  int t = threadIdx.x;
  buffer[t] = x[t];
  y[t] = buffer[63 - t];
}

extern "C" __global__ void racy_blocks(float* y) { y[threadIdx.x] = blockIdx.x; }

extern "C" __global__ void lonely_barrier(float* y) {
  if (threadIdx.x < 32) __syncthreads();
  y[threadIdx.x] = 1.0f;
}

extern "C" __global__ void warp_sum(const float* x, float* y, int* votes) {
  float v = x[threadIdx.x];
  for (int step = 16; step; step /= 2) v += __shfl_xor_sync(0xffffffff, v, step);
  y[threadIdx.x] = v;
  votes[threadIdx.x] = __ballot_sync(0xffffffff, threadIdx.x % 2) + __shfl_down_sync(0xffffffff, (int)threadIdx.x, 8, 16);
}

extern "C" __global__ void half_of_a_warp(float* y) {
  if (threadIdx.x < 16) y[threadIdx.x] = __shfl_sync(0xffffffff, 1.0f, 0);
}

extern "C" __global__ void narrow(const half* x, const __nv_bfloat16* b, half* y, __nv_bfloat16* c) {
  int t = threadIdx.x;
  y[t] = x[t] * x[t] + __float2half(0.1f);
  c[t] = __float2bfloat16(__bfloat162float(b[t]) / 3.0f);
}

extern "C" __global__ void halves_in_place(half* x, int shift) { x[threadIdx.x] = x[(threadIdx.x + shift) % 32] + x[threadIdx.x]; }

extern "C" __global__ void count(int* bins, const int* x) { atomicAdd(&bins[x[blockIdx.x * 32 + threadIdx.x]], 1); }
"""

TOGETHER = """
#include "lepton_grid.h"

// Each block hands its number on to the next one, `rounds` times.
extern "C" __global__ void rotate(int* ring, int* result, unsigned* counter, int rounds, int sync) {
  extern __shared__ __align__(16) char room[];
  __shared__ int own;
  int* copy = (int*)room;
  if (threadIdx.x == 0) own = blockIdx.x;
  __syncthreads();
  for (int round = 0; round < rounds; ++round) {
    int* now = ring + round % 2 * gridDim.x;
    if (threadIdx.x == 33) now[(blockIdx.x + 1) % gridDim.x] = own;
    if (sync) __syncthreads();
    if (threadIdx.x == 0) lepton::meet(counter, (round + 1) * gridDim.x);
    __syncthreads();
    copy[threadIdx.x] = now[blockIdx.x];
    __syncthreads();
    if (threadIdx.x == 0) own = copy[63];
    __syncthreads();
  }
  if (threadIdx.x == 0) result[blockIdx.x] = own;
}

extern "C" __global__ void some_leave(unsigned* counter) {
  if (blockIdx.x == 1) return;
  lepton::meet(counter, gridDim.x);
}

extern "C" __global__ void all_meet_late(float* x, unsigned* counter) {
  x[(blockIdx.x + 1) % gridDim.x] = 1.0f;
  x[blockIdx.x] += 1.0f;
  lepton::meet(counter, gridDim.x);
}
"""

CLUSTERS = """
namespace lepton {
template <class T, int COUNT>
struct alignas(sizeof(T) * COUNT) Pack { T values[COUNT]; };
}
#include "lepton_clusters.h"

// Each thread takes a number of the block that comes after its own in a cluster of three. `plan` says what is done, in order: w writes numbers, r reads,
// a arrives and p passes a barrier of the cluster, s waits for the block, l leaves, if in the first block; x reads beyond the cluster.
extern "C" __global__ void __cluster_dims__(1, 3, 1) __launch_bounds__(32) pass_on(int* y, const char* plan) {
  extern __shared__ __align__(16) char room[];
  int* own = (int*)room;
  int taken = -1, block = blockIdx.x * 3 + blockIdx.y;
  for (; *plan; ++plan) {
    if (*plan == 'w') own[threadIdx.x] = block * 100 + threadIdx.x;
    if (*plan == 'r') taken = lepton::cluster_read(own + threadIdx.x / 4 * 4, (lepton::cluster_rank() + 1) % 3).values[threadIdx.x % 4];
    if (*plan == 'x') lepton::cluster_read(own, 3);
    if (*plan == 'a') lepton::cluster_arrive();
    if (*plan == 'p') lepton::cluster_wait();
    if (*plan == 's') __syncthreads();
    if (*plan == 'l' && lepton::cluster_rank() == 0) return;
  }
  y[block * 32 + threadIdx.x] = taken;
}
"""

IN_ORDER = """
#include "lepton_order.h"

// What is done before the kernel before is: nothing; a weight is read; so is what that kernel may write; memory is written; nobody waits.
extern "C" __global__ void in_order(const float* weight, const float* x, float* y, int fault) {
  int i = threadIdx.x;
  float w = weight[i];
  if (fault == 1) w += x[i];
  if (fault == 2) y[i] = w;
  if (fault != 3 || i != 7) lepton_after_previous();
  if (i >= 8) return;
  y[i] = w * x[i];
}
"""

PRINTED_BY_TVM = """
#ifdef __CUDACC_RTC__
  #include <cuda/std/cstdint>
#else
  #include <cstdint>
  #include <type_traits>
  #include <cuda.h>
#endif
#if !defined(__CUDA_ARCH__) || (__CUDA_ARCH__ >= 530)
#include <cuda_fp16.h>
__device__ half max(half a, half b)
{
  return __hgt(__half(a), __half(b)) ? a : b;
}
#endif
static inline __device__ __host__ unsigned
__pack_half2(const half x, const half y) {
  unsigned v0 = *((unsigned short *)&x);
  unsigned v1 = *((unsigned short *)&y);
  return (v1 << 16) | v0;
}
template <typename T, typename TVec2>
struct __align__(8) half4_bfloat164 {
  T x, y, z, w;
  __host__ __device__ half4_bfloat164() : x(T(0)), y(T(0)), z(T(0)), w(T(0)) {}
};
#ifdef _WIN32
  using uint = unsigned int;
#else
  #define uint unsigned int
#endif
extern "C" __global__ void __launch_bounds__(64) main_kernel(half* __restrict__ A_ptr, float* __restrict__ B_ptr);
extern "C" __global__ void __launch_bounds__(64) main_kernel(half* __restrict__ A_ptr, float* __restrict__ B_ptr) {
  alignas(64) float S_rf_local_ptr[1];
  __shared__ alignas(64) float red_result_ptr[1];
  __shared__ alignas(64) float red_buf_staging_ptr[2];
  alignas(64) uint mask_ptr[1];
  S_rf_local_ptr[0] = 0x0p+0f/*0.000000e+00*/;
  half2 v_ = *(half2*)(A_ptr + ((((int)blockIdx.x) * 128) + (((int)threadIdx.x) * 2)));
  S_rf_local_ptr[0] = (S_rf_local_ptr[0] + expf((float)(max(v_.x, v_.y))));
  mask_ptr[0] = __activemask();
  for (int step = 16; step; step >>= 1) S_rf_local_ptr[0] = (S_rf_local_ptr[0] + __shfl_down_sync(mask_ptr[0], S_rf_local_ptr[0], step, 32));
  if ((((int)threadIdx.x) % 32) == 0) {
    red_buf_staging_ptr[(((int)threadIdx.x) >> 5)] = S_rf_local_ptr[0];
  }
  __syncthreads();
  if (((int)threadIdx.x) == 0) {
    ((volatile float*)red_result_ptr)[0] = red_buf_staging_ptr[0] + red_buf_staging_ptr[1];
  }
  __syncthreads();
  B_ptr[((((int)blockIdx.x) * 64) + ((int)threadIdx.x))] = ((volatile float*)red_result_ptr)[0];
}
"""


def arrays(*sizes: int) -> list[np.ndarray]:
    rng = np.random.default_rng(1)
    return [rng.standard_normal(n).astype(np.float32) for n in sizes]


def fault(name: str, *args, grid=1, block=32) -> str:
    with pytest.raises(DeviceFault) as caught:
        run(KERNELS, name, grid, block, 0, args)
    return str(caught.value)


@pytest.mark.parametrize("backwards", [False, True])
def test_a_kernel_runs_and_writes_arrays_in_place(backwards):
    x, y = arrays(100, 100)
    run(KERNELS, "scale", 4, 32, 0, [x, y, np.float32(2), 100], backwards=backwards)
    np.testing.assert_array_equal(y, 2 * x)


def test_overruns_are_found_and_placed():
    x, y = arrays(40, 64)
    assert "thread (8, 0, 0) of block (1, 0, 0) reads 4 bytes at byte 160 of argument 0, which has 160 bytes" in fault(
        "careless", x, y, grid=2
    )


def test_misaligned_vectors_are_found():
    x, y = arrays(256, 256)
    assert "reads 16 bytes at byte 4 of argument 0, which is not aligned" in fault("vectors", x, y)


def test_constant_arguments_stay():
    assert "argument 0, which is constant" in fault("writes_input", *arrays(4))


@pytest.mark.parametrize("backwards", [False, True])
def test_barriers_and_shared_memory(backwards):
    x, y = arrays(128, 128)
    figures = run(KERNELS, "block_sum", 2, 64, 256, [x, y], backwards=backwards)
    np.testing.assert_allclose(y, np.repeat(x.reshape(2, 64).sum(1), 64), rtol=1e-5)
    assert figures.barriers == 2 * 8


def test_races_are_found():
    x, y = arrays(64, 64)
    assert "static shared memory, which thread" in fault("racy_sum", x, y, block=64)
    assert "of argument 0, which thread 0 of block number 0 wrote with no barrier in between" in fault("racy_blocks", x, grid=2)


def test_neighbours_within_a_word_do_not_race():
    x = np.arange(32, dtype=np.float16)
    run(KERNELS, "halves_in_place", 1, 32, 0, [x, 0])
    np.testing.assert_array_equal(x, 2 * np.arange(32, dtype=np.float16))
    assert "writes byte 2 of argument 0, which thread 1 of block number 0 read" in fault("halves_in_place", x, 1)


def test_unchecked_kernels_compute_the_same_and_see_barriers():
    x, y = arrays(64, 64)
    assert run(KERNELS, "block_sum", 1, 64, 256, [x, y], checks=False).barriers == 8
    np.testing.assert_allclose(y, np.full(64, x.sum()), rtol=1e-5)
    with pytest.raises(DeviceFault, match="waits at __syncthreads"):
        run(KERNELS, "lonely_barrier", 1, 64, 0, [x], checks=False)


def test_barriers_that_not_all_reach_are_found():
    assert "waits at __syncthreads" in fault("lonely_barrier", *arrays(64), block=64)
    assert "waits at __shfl_sync" in fault("half_of_a_warp", *arrays(64)) or "has finished" in fault("half_of_a_warp", *arrays(64))


def test_shuffles_and_votes():
    (x, y), votes = arrays(32, 32), np.zeros(32, np.int32)
    run(KERNELS, "warp_sum", 1, 32, 0, [x, y, votes])
    np.testing.assert_allclose(y, np.full(32, x.sum()), rtol=1e-5)
    t = np.arange(32)
    shifted = np.where(t % 16 < 8, t + 8, t)
    np.testing.assert_array_equal(votes.view(np.uint32), (0xAAAAAAAA + shifted).astype(np.uint32))


def test_narrow_floats():
    x = np.array([1, 65504, 6e-8, -0.1, np.inf, 1e-5, 3.14159, 2.5e-5], np.float16)
    b = x.astype(ml_dtypes.bfloat16)
    y, c = np.zeros_like(x), np.zeros_like(b)
    run(KERNELS, "narrow", 1, 8, 0, [x, b, y, c])
    with np.errstate(over="ignore"):
        np.testing.assert_array_equal(y, x * x + np.float16(0.1))
    np.testing.assert_array_equal(c, (b.astype(np.float32) / 3).astype(ml_dtypes.bfloat16))


def test_atomics_do_not_race():
    bins, x = np.zeros(4, np.int32), np.arange(128, dtype=np.int32) % 4
    run(KERNELS, "count", 4, 32, 0, [bins, x])
    np.testing.assert_array_equal(bins, np.full(4, 32))


def rotate(counter: int = 0, sync: int = 1, backwards: bool = False, together: bool = True) -> tuple[np.ndarray, int]:
    ring, result, state = np.zeros(10, np.int32), np.zeros(5, np.int32), np.full(1, counter, np.uint32)
    figures = run(TOGETHER, "rotate", 5, 64, 256, [ring, result, state, 4, sync], backwards=backwards, together=together)
    return result, figures.grid_barriers


@pytest.mark.parametrize("backwards", [False, True])
def test_blocks_that_are_there_together_meet(backwards):
    result, barriers = rotate(backwards=backwards)
    np.testing.assert_array_equal(result, (np.arange(5) - 4) % 5)
    assert barriers == 4


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"together": False}, "need not be there: the launch is not cooperative"),
        ({"counter": 3}, "the counter did not begin at zero"),
        ({"sync": 0}, "waits for the grid while other threads use memory: no __syncthreads comes before"),
    ],
)
def test_barriers_of_the_grid_are_checked(options, message):
    with pytest.raises(DeviceFault, match=message):
        rotate(**options)


def test_blocks_that_do_not_meet_are_found():
    with pytest.raises(DeviceFault, match="waits at the grid's barrier"):
        run(TOGETHER, "some_leave", 3, 1, 0, [np.zeros(1, np.uint32)], together=True)
    with pytest.raises(DeviceFault, match="of argument 0, which thread 0 of block number 0 wrote with no barrier in between"):
        run(TOGETHER, "all_meet_late", 3, 1, 0, [np.zeros(3, np.float32), np.zeros(1, np.uint32)], together=True)


def pass_on(plan: str, backwards: bool = False, shared_bytes: int = 128) -> tuple[np.ndarray, int]:
    y, text = np.zeros((2, 3, 32), np.int32), np.frombuffer(plan.encode() + b"\0", np.uint8).copy()
    figures = run(CLUSTERS, "pass_on", (2, 3), 32, shared_bytes, [y, text], backwards=backwards)
    return y, figures.cluster_barriers


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize("plan", ["waprap", "swaprap", "wapraspsw", "waprapsw"])
def test_blocks_of_a_cluster_read_what_the_others_have(plan, backwards):
    y, barriers = pass_on(plan, backwards)
    blocks = np.array([[1, 2, 0], [4, 5, 3]])
    np.testing.assert_array_equal(y, blocks[..., None] * 100 + np.arange(32))
    assert barriers == 4


@pytest.mark.parametrize("backwards", [False, True])
@pytest.mark.parametrize(
    ("plan", "message"),
    [
        ("wrap", "before a barrier of the cluster: that one need not have begun"),
        ("apwrap", "of dynamic shared memory, which thread .* of block number . (wrote|read) with no barrier in between"),
        ("awprap", "of dynamic shared memory, which thread .* of block number . wrote with no barrier in between"),
        ("wapr", "leaves while others of its cluster read its shared memory|which has left"),
        ("wapapr", "leaves while others of its cluster read its shared memory|which has left"),
        ("waparp", "leaves while others of its cluster read its shared memory"),
        ("waprwap", "writes byte .* of dynamic shared memory, which thread .* of block number . read|wrote with no barrier in between"),
        ("waplr", "which has left|leaves while others"),
        ("wapxap", "reads .* from block 3 of a cluster of 3"),
        ("waa", "without having waited since it last did"),
        ("wp", "without having arrived"),
        ("waplps", "without having arrived"),
    ],
)
def test_barriers_of_clusters_are_checked(plan, message, backwards):
    with pytest.raises(DeviceFault, match=message):
        pass_on(plan, backwards)


def test_clusters_are_of_the_grid_and_of_dynamic_memory():
    y, plan = np.zeros((2, 3, 32), np.int32), np.frombuffer(b"waprap\0", np.uint8).copy()
    with pytest.raises(ValueError, match=r"a grid of \(2, 4\) blocks in clusters of \(1, 3, 1\)"):
        run(CLUSTERS, "pass_on", (2, 4), 32, 128, [y, plan])
    with pytest.raises(DeviceFault, match=r"of dynamic shared memory, which has 64 bytes|is not dynamic shared memory"):
        pass_on("apr", shared_bytes=64)
    assert cluster_of(CLUSTERS, "pass_on") == (1, 3, 1)
    text = 'extern "C" __global__ void LEPTON_CLUSTER(1, 4, 1) __launch_bounds__(64) f(float* x) {}'
    assert kernels_of(text) == ("f",)
    assert cluster_of(text, "f") == (1, 1, 1)
    assert cluster_of("#define LEPTON_EMULATED_SM_90\n" + text, "f") == (1, 4, 1)


def test_kernels_wait_for_the_one_before_them():
    weight, x, y = arrays(32, 32, 32)
    run(IN_ORDER, "in_order", 1, 32, 0, [weight, x, y, 0], weights=[0])
    np.testing.assert_array_equal(y[:8], weight[:8] * x[:8])
    for number, message in ((1, "reads byte 0 of argument 1 before it waited"), (2, "writes byte 0 of argument 2 before it waited")):
        with pytest.raises(DeviceFault, match=message):
            run(IN_ORDER, "in_order", 1, 32, 0, [weight, x, y, number], weights=[0])
    with pytest.raises(DeviceFault, match=r"thread \(7, 0, 0\) .* ends without having waited|reads byte 28 of argument 1 before it waited"):
        run(IN_ORDER, "in_order", 1, 32, 0, [weight, x, y, 3], weights=[0])
    with pytest.raises(DeviceFault, match="reads byte 0 of argument 0 before it waited"):
        run(IN_ORDER, "in_order", 1, 32, 0, [weight, x, y, 0])


def test_text_as_tvm_prints_it():
    a, b = arrays(256)[0].astype(np.float16), np.zeros(128, np.float32)
    run(PRINTED_BY_TVM, "main_kernel", 2, 64, 0, [a, b])
    expected = np.exp(a.reshape(2, 64, 2).max(2).astype(np.float32)).sum(1)
    np.testing.assert_allclose(b, np.repeat(expected, 64), rtol=1e-5)


def test_wrong_arguments_and_texts_are_refused():
    x, y = arrays(8, 8)
    with pytest.raises(TypeError, match="4 parameters, 3 arguments"):
        run(KERNELS, "scale", 1, 32, 0, [x, y, np.float32(2)])
    with pytest.raises(TypeError, match="argument 2 has 8 bytes, the parameter 4"):
        run(KERNELS, "scale", 1, 32, 0, [x, y, np.float64(2), 8])
    with pytest.raises(LeptonError, match="does not compile"):
        run('extern "C" __global__ void broken() { nothing(); }', "broken", 1, 1, 0, [])
