// Products of groups of warps in the background. Until they are waited for, sums are no numbers, nothing may touch them, and nothing may write to
// the tiles; both are read as late as possible, when the wait ends. The order of what is asked for is that
// of the PTX ISA, "Asynchronous Warpgroup Level Matrix Multiply-Accumulate Instructions":
// a fence before the first product and after each wait; writes to shared memory published by the thread that wrote, before a barrier; a wait
// of the whole group, after which a barrier lies before the tiles are written by other threads.
#include "warpgroup.h"

#include <cstring>
#include <map>
#include <vector>

#include "memory.h"

namespace emulator {

namespace {

constexpr int GROUP = 128, ROWS = 64, STEP = 32;  // threads, rows, bytes along k

// The sums of a product, as long as they are not in the registers of the threads.
struct Sums {
  void* d[GROUP];
  int count;                               // of a thread
  unsigned products;                       // that are under way
  std::vector<uint32_t> values[GROUP];
};

struct Product {
  GroupProduct what;
  size_t sums;
  unsigned group;
};

struct Group {
  bool fenced[GROUP];
  unsigned committed;
  std::vector<Product> products;
  std::vector<Sums> sums;
};

struct Request {
  const GroupProduct* product;
  unsigned left;
};

std::map<std::pair<uint64_t, uint32_t>, Group> groups;
size_t under_way;  // products, of all groups

uint64_t block_number(const Thread& t) { return (uint64_t(t.block.z) * t.grid_size.y + t.block.y) * t.grid_size.x + t.block.x; }

Group& own_group() {
  const Thread& t = *current();
  return groups[{block_number(t), t.linear / GROUP}];
}

// Where 16 bytes of a row of a tile along k lie: eight rows are the descriptor's stride apart, bits 4-6 of an address are exchanged by bits 7-9.
const char* chunk_of(uint64_t descriptor, int row, int chunk) {
  size_t start = (descriptor & 0x3FFF) << 4, stride = (descriptor >> 32 & 0x3FFF) << 4;
  size_t address = start + static_cast<size_t>(row / 8) * stride + static_cast<size_t>(row % 8) * 128 + static_cast<size_t>(chunk) * 16;
  address ^= (address >> 7 & 7) << 4;
  return static_cast<const char*>(dynamic_shared()) + address;
}

template <class Visit>
void each_chunk(const GroupProduct& product, Visit visit) {
  for (int chunk = 0; chunk < STEP / 16; ++chunk) {
    for (int row = 0; row < ROWS; ++row) visit(chunk_of(product.a, row, chunk));
    for (int column = 0; column < product.columns; ++column) visit(chunk_of(product.b, column, chunk));
  }
}

template <class T>
void multiply(const GroupProduct& product, Sums& sums) {
  constexpr int MOST = 32;
  int depth = product.a_kind == Kind::s8 || product.a_kind == Kind::u8 ? 32 : 16;
  static T a[ROWS][MOST], b[256][MOST];
  auto rows = [&](T (*into)[MOST], uint64_t descriptor, int count, Kind kind) {
    for (int row = 0; row < count; ++row) {
      uint32_t words[STEP / 4];
      for (int chunk = 0; chunk < STEP / 16; ++chunk) std::memcpy(words + chunk * 4, chunk_of(descriptor, row, chunk), 16);
      for (int k = 0; k < depth; ++k) into[row][k] = element<T>(words, k, kind);
    }
  };
  rows(a, product.a, ROWS, product.a_kind);
  rows(b, product.b, product.columns, product.b_kind);
  for (int thread = 0; thread < GROUP; ++thread)
    for (int i = 0; i < sums.count; ++i) {
      int row = thread / 32 * 16 + thread % 32 / 4 + i % 4 / 2 * 8, column = i / 4 * 8 + thread % 4 * 2 + i % 2;
      T sum = 0, before;
      for (int k = 0; k < depth; ++k) sum += a[row][k] * b[column][k];
      std::memcpy(&before, &sums.values[thread][i], 4);
      sum = added(before, sum);
      std::memcpy(&sums.values[thread][i], &sum, 4);
    }
}

// The sums that begin at these addresses; as long as there are products of them, the registers hold what is no number.
size_t taken_sums(Group& group, GroupProduct** threads) {
  size_t k = 0;
  while (k < group.sums.size() && group.sums[k].d[0] != threads[0]->d) ++k;
  if (k == group.sums.size()) group.sums.emplace_back();
  Sums& sums = group.sums[k];
  if (sums.products) return k;
  sums.count = threads[0]->columns / 2;
  for (int thread = 0; thread < GROUP; ++thread) {
    sums.d[thread] = threads[thread]->d;
    sums.values[thread].resize(sums.count);
    std::memcpy(sums.values[thread].data(), sums.d[thread], sums.count * 4);
    std::memset(sums.d[thread], 0xFF, sums.count * 4);
  }
  return k;
}

void begin(void** slots) {
  GroupProduct* threads[GROUP];
  for (int i = 0; i < GROUP; ++i) threads[i] = const_cast<GroupProduct*>(static_cast<Request*>(slots[i])->product);
  const GroupProduct& what = *threads[0];
  Group& group = own_group();
  for (int i = 0; i < GROUP; ++i) {
    if (!group.fenced[i]) fault("begins a product of a group of warps without wgmma.fence after the last wait, or before the first product");
    if (threads[i]->a != what.a || threads[i]->b != what.b) fault("multiplies other tiles than the rest of its group of warps");
  }
  for (uint64_t descriptor : {what.a, what.b}) {
    if (descriptor >> 62 != 1) fault("multiplies a tile that does not have the 128-byte swizzle");
    if ((descriptor & 0x3FFF) << 4 & 0x380) fault("multiplies a tile that does not begin at a multiple of 1024 bytes");
  }
  each_chunk(what, [](const char* chunk) { read_by_group(chunk, 16), keep_from_writes(chunk, true); });
  size_t sums = taken_sums(group, threads);
  ++group.sums[sums].products;
  group.products.push_back({what, sums, group.committed});
  ++under_way;
  ++statistics().matrix_products;
}

void commit(void**) { ++own_group().committed; }

void wait(void** slots) {
  Group& group = own_group();
  unsigned left = static_cast<Request*>(slots[0])->left;
  size_t done = 0;
  for (; done < group.products.size() && group.products[done].group + left < group.committed; ++done) {
    const Product& product = group.products[done];
    Sums& sums = group.sums[product.sums];
    each_chunk(product.what, [](const char* chunk) { keep_from_writes(chunk, false), read_by_group(chunk, 16); });
    if (product.what.a_kind == Kind::s8 || product.what.a_kind == Kind::u8)
      multiply<int32_t>(product.what, sums);
    else
      multiply<float>(product.what, sums);
    --under_way;
    if (--sums.products) continue;
    for (int thread = 0; thread < GROUP; ++thread) std::memcpy(sums.d[thread], sums.values[thread].data(), sums.count * 4);
  }
  group.products.erase(group.products.begin(), group.products.begin() + done);
  std::memset(group.fenced, 0, sizeof group.fenced);
}

}  // namespace

void group_fence() { own_group().fenced[current()->linear % GROUP] = true; }

void group_product(const GroupProduct& product, int line) {
  Request request = {&product, 0};
  group_collective(&request, begin, "wgmma", line);
}

void group_commit(int line) { group_collective(nullptr, commit, "wgmma.commit_group", line); }

void group_wait(unsigned groups_left, int line) {
  Request request = {nullptr, groups_left};
  group_collective(&request, wait, "wgmma.wait_group", line);
}

bool is_under_way(uintptr_t address, size_t bytes) {
  if (!under_way) return false;
  const unsigned thread = current()->linear % GROUP;
  for (const Sums& sums : own_group().sums) {
    uintptr_t begin = reinterpret_cast<uintptr_t>(sums.d[thread]);
    if (sums.products && address < begin + sums.count * 4 && begin < address + bytes) return true;
  }
  return false;
}

void forget_products() {
  groups.clear();
  under_way = 0;
}

void end_products() {
  if (under_way && !own_group().products.empty()) fault("ends while products of its group of warps are under way");
}

}  // namespace emulator
