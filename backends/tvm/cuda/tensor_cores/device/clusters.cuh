// Sums that the blocks of a cluster share. Each keeps its part in its own shared memory; then each finishes some of the elements, reading the parts
// of the others where they lie (PTX ISA, "barrier.cluster", "mapa", "ld"; CUDA C++ Programming Guide, "Thread Block Clusters").
#if defined(LEPTON_EMULATED_SM_90) || defined(LEPTON_EMULATED_SM_90A) || (!defined(LEPTON_EMULATED) && __CUDA_ARCH__ >= 900)
#define LEPTON_CLUSTERS 1
#define LEPTON_CLUSTER(...) __cluster_dims__(__VA_ARGS__)
#else
#define LEPTON_CLUSTER(...)
#endif

#ifdef LEPTON_EMULATED
#include "lepton_clusters.h"
#elif __CUDA_ARCH__ >= 900
namespace lepton {

// A barrier of all threads of the cluster, in two halves: what a thread did before it arrives, the others see once they have waited.
__device__ __forceinline__ void cluster_arrive() { asm volatile("barrier.cluster.arrive.release.aligned;" ::: "memory"); }
__device__ __forceinline__ void cluster_wait() { asm volatile("barrier.cluster.wait.acquire.aligned;" ::: "memory"); }

// The number of this block in its cluster.
__device__ __forceinline__ unsigned cluster_rank() {
  unsigned rank;
  asm("mov.u32 %0, %%cluster_ctarank;" : "=r"(rank));
  return rank;
}

// Four elements from the shared memory of a block of the cluster: those at the place where this block has `own`.
template <class T>
__device__ __forceinline__ Pack<T, 4> cluster_read(const T* own, unsigned rank) {
  static_assert(sizeof(T) == 4);
  unsigned address;
  union {
    unsigned words[4];
    Pack<T, 4> pack;
  } four;
  asm("mapa.shared::cluster.u32 %0, %1, %2;" : "=r"(address) : "r"(shared_address(own)), "r"(rank));
  asm volatile("ld.shared::cluster.v4.b32 {%0, %1, %2, %3}, [%4];"
               : "=r"(four.words[0]), "=r"(four.words[1]), "=r"(four.words[2]), "=r"(four.words[3]) : "r"(address) : "memory");
  return four.pack;
}

}  // namespace lepton
#endif

#if defined(LEPTON_EMULATED) || __CUDA_ARCH__ >= 900
namespace lepton {

// This block's part of the sums of a tile, in its shared memory, once nothing else is there. Rows are PAD elements further apart than they are long,
// so that those that lanes write at the same time lie in different banks.
template <class Sum, int ROWS, int COLUMNS, int PAD>
struct Gathered {
  static constexpr int COUNT = 4, PITCH = COLUMNS + PAD;
  Sum* tile;
  int first_m, first_n;

  template <int GIVEN>
  __device__ __forceinline__ void operator()(int m, int n, const Sum (&sums)[GIVEN]) const {
    Pack<Sum, GIVEN> pack;
#pragma unroll
    for (int i = 0; i < GIVEN; ++i) pack.values[i] = sums[i];
    *reinterpret_cast<Pack<Sum, GIVEN>*>(tile + (m - first_m) * PITCH + n - first_n) = pack;
  }
};

// Fragments need not pass through shared memory on their way there: four rows of eight elements lie in different banks.
template <int ROWS, int COLUMNS, class Sum, int TALL, int WIDE, int PAD>
__device__ __forceinline__ void drain(const Sum (&sums)[ROWS][COLUMNS][4], char*, int m, int n, int, int lane,
                                      const Gathered<Sum, TALL, WIDE, PAD>& store) {
#pragma unroll
  for (int i = 0; i < ROWS; ++i)
#pragma unroll
    for (int j = 0; j < COLUMNS; ++j)
#pragma unroll
      for (int half = 0; half < 2; ++half) {
        Sum two[2] = {sums[i][j][half * 2], sums[i][j][half * 2 + 1]};
        store(m + i * 16 + half * 8 + lane / 4, n + j * 8 + lane % 4 * 2, two);
      }
}

// parts[i] is of block (rank + i) % SPLITS; puts them in the order of the blocks, so that every sum is added up in the same one.
template <class Sum, int SPLITS>
__device__ __forceinline__ void sort(Pack<Sum, 4> (&parts)[SPLITS], unsigned rank) {
#pragma unroll
  for (int step = 1; step < SPLITS; step *= 2) {
    Pack<Sum, 4> before[SPLITS];
#pragma unroll
    for (int i = 0; i < SPLITS; ++i) before[i] = parts[i];
#pragma unroll
    for (int i = 0; i < SPLITS; ++i)
#pragma unroll
      for (int e = 0; e < 4; ++e) parts[i].values[e] = rank & step ? before[(i + SPLITS - step) % SPLITS].values[e] : before[i].values[e];
  }
}

// Adds up the parts that the SPLITS blocks of a cluster have, and hands every sum to the `store` of one of them. Blocks begin at different ones of the
// others, so that not all read from the same at a time. Nobody leaves before all have read.
template <int M, int N, int SPLITS, int THREADS, class Sum, int ROWS, int COLUMNS, int PAD, class Store>
__device__ __forceinline__ void finish_in_cluster(const Gathered<Sum, ROWS, COLUMNS, PAD>& parts, const Store& store) {
  constexpr int ACROSS = COLUMNS / 4, UNITS = ROWS * ACROSS, PASSES = (UNITS + SPLITS * THREADS - 1) / (SPLITS * THREADS);
  unsigned rank = cluster_rank();
  cluster_arrive();
  cluster_wait();
#pragma unroll 1
  for (int pass = 0; pass < PASSES; ++pass) {
    int unit = (pass * SPLITS + rank) * THREADS + threadIdx.x, row = unit / ACROSS, column = unit % ACROSS * 4;
    int m = parts.first_m + row, n = parts.first_n + column;
    bool inside = unit < UNITS && m < M && n < N;
    Sum sums[4] = {};
    if (inside) {
      Pack<Sum, 4> read[SPLITS];
#pragma unroll
      for (int i = 0; i < SPLITS; ++i)
        read[i] = cluster_read(parts.tile + row * parts.PITCH + column, rank + i < SPLITS ? rank + i : rank + i - SPLITS);
      sort(read, rank);
#pragma unroll
      for (int i = 0; i < SPLITS; ++i)
#pragma unroll
        for (int e = 0; e < 4; ++e) sums[e] += read[i].values[e];
    }
    if (pass == PASSES - 1) cluster_arrive();
    if (inside) store(m, n, sums);
  }
  cluster_wait();
}

}  // namespace lepton
#endif
