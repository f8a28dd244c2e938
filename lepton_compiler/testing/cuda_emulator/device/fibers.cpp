// Runs a grid: cluster after cluster, the threads of a block as fibers that switch at barriers. Blocks that may wait for each other, those of a
// cluster or of a cooperative launch, are all there at the same time, and take turns: one runs until all of its threads wait.
#include <sys/mman.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstring>
#include <vector>

#include "launch.h"
#include "memory.h"
#include "warpgroup.h"

#if !defined(__x86_64__)
#include <ucontext.h>
#endif

extern "C" {
extern char __start_lepton_shared[] __attribute__((weak, visibility("hidden")));
extern char __stop_lepton_shared[] __attribute__((weak, visibility("hidden")));
}

namespace emulator {

namespace {

constexpr size_t STACK = 256 * 1024;
constexpr int WARP = 32, GROUP = 128;

#if defined(__x86_64__)
using Context = void*;
extern "C" void emulator_switch(Context* save, Context load);
asm(R"(
.text
.globl emulator_switch
.hidden emulator_switch
.type emulator_switch, @function
emulator_switch:
  pushq %rbp
  pushq %rbx
  pushq %r12
  pushq %r13
  pushq %r14
  pushq %r15
  movq %rsp, (%rdi)
  movq %rsi, %rsp
  popq %r15
  popq %r14
  popq %r13
  popq %r12
  popq %rbx
  popq %rbp
  ret
.size emulator_switch, .-emulator_switch
)");
void prepare(Context& context, char* stack, void (*entry)()) {
  void** top = reinterpret_cast<void**>(stack + STACK) - 2;
  *top = reinterpret_cast<void*>(entry);
  context = top - 6;
}
void change(Context& save, Context& load) { emulator_switch(&save, load); }
#else
using Context = ucontext_t;
void prepare(Context& context, char* stack, void (*entry)()) {
  getcontext(&context);
  context.uc_stack.ss_sp = stack;
  context.uc_stack.ss_size = STACK;
  context.uc_link = nullptr;
  makecontext(&context, entry, 0);
}
void change(Context& save, Context& load) { swapcontext(&save, &load); }
#endif

enum class State { runnable, at_barrier, at_collective, at_grid, at_cluster, finished };

struct Copy {
  char* to;
  const char* from;
  unsigned bytes, valid, group;
  int line;
};

struct Fiber {
  Context context;
  Thread thread;
  const Thread* visible;  // a copy on its own stack, where a thread may read
  State state;
  unsigned mask;
  void* slot;
  Collective work;
  const char* name;
  int line, reduction;
  bool waited;  // for the kernel before this one
  unsigned copy_group;
  uint32_t arrived, passed;  // barriers of the cluster
  std::vector<Copy> copies;
};

// A block that has begun.
struct Block {
  Index index;
  uint32_t number, place, cluster, epoch, met;  // `place`: among those that are there; `met`: barriers of the grid that it has passed
  uint16_t arrived;                             // the thread that waits there
  bool is_read;                                 // whether other blocks of the cluster read its shared memory,
  uint32_t readers_arrived;                     // and how many barriers of the cluster they had arrived at, at most
  std::vector<Fiber> fibers;
  std::vector<uint32_t> warp_epochs;
  std::vector<uint32_t> publications, published;  // by thread: how often it published what it wrote, now and at the last barrier
  std::vector<char> shared, statics;  // dynamic shared memory; static one, while another block runs
  char* stacks;
};

Block* here = nullptr;
Fiber* running = nullptr;
std::vector<Block>* there = nullptr;  // the blocks that are there at the same time
uint32_t cluster_passed;              // barriers of the cluster that all of its threads have arrived at
Context scheduler;
const Launch* launch_now = nullptr;
Call call_now = nullptr;
void** arguments_now = nullptr;
int reduced;
bool failed;
char message[1024];
Statistics figures;

char* dynamic_base(Block& block) { return block.shared.data() + (1024 - reinterpret_cast<uintptr_t>(block.shared.data()) % 1024) % 1024; }

size_t threads_of(const Launch& launch) { return size_t(launch.block.x) * launch.block.y * launch.block.z; }

size_t static_bytes() { return __start_lepton_shared ? static_cast<size_t>(__stop_lepton_shared - __start_lepton_shared) : 0; }

void set_now() {
  const Thread& t = running->thread;
  const bool together = launch_now->together;
  const uint32_t group = together ? 0 : here->cluster, arrived = together ? here->met : running->arrived, passed = together ? here->met : running->passed;
  const uint32_t published = here->publications[t.linear];
  set_moment({here->number, here->epoch, here->warp_epochs[t.warp], group, arrived, passed, published, static_cast<uint16_t>(t.linear), static_cast<uint16_t>(t.warp)});
}

void resume(Fiber& fiber, size_t number) {
  running = &fiber;
  set_stack(reinterpret_cast<uintptr_t>(here->stacks + number * STACK), reinterpret_cast<uintptr_t>(here->stacks + (number + 1) * STACK));
  set_now();
  set_early(launch_now->ordered && !fiber.waited);
  change(scheduler, fiber.context);
  set_stack(0, UINTPTR_MAX);
  running = nullptr;
}

void suspend(State state, int line) {
  running->state = state;
  running->line = line;
  change(running->context, scheduler);
}

void body() {
  const Thread copy = running->thread;
  running->visible = &copy;
  call_now(arguments_now);
  end_products();
  if (launch_now->ordered && !running->waited) fault("ends without having waited for the kernel before");
  suspend(State::finished, 0);
}

size_t count(State state) {
  size_t found = 0;
  for (const Fiber& f : here->fibers) found += f.state == state;
  return found;
}

void stuck() {
  for (const Fiber& f : here->fibers) {
    if (f.state == State::runnable || f.state == State::finished) continue;
    const char* where = f.state == State::at_barrier   ? "__syncthreads"
                        : f.state == State::at_grid    ? "the grid's barrier"
                        : f.state == State::at_cluster ? "the cluster's barrier"
                                                       : f.name;
    snprintf(message, sizeof message, "thread (%u, %u, %u) of block (%u, %u, %u) waits at %s (line %d) for threads that do not come: %zu have finished, %zu wait at __syncthreads, %zu at warp collectives",
             f.thread.thread.x, f.thread.thread.y, f.thread.thread.z, f.thread.block.x, f.thread.block.y, f.thread.block.z, where, f.line,
             count(State::finished), count(State::at_barrier), count(State::at_collective));
    break;
  }
  failed = true;
}

// All threads are at the barrier: on they go.
void release() {
  int sum = 0, all = 1;
  for (Fiber& f : here->fibers) {
    f.state = State::runnable;
    sum += f.reduction != 0;
    all &= f.reduction != 0;
  }
  reduced = sum | (all << 30);
  ++here->epoch;
  here->published = here->publications;
  ++figures.barriers;
}

void run_warp(size_t first, size_t last, bool backwards) {
  for (bool progress = true; progress && !failed;) {
    progress = false;
    for (size_t i = first; i < last && !failed; ++i) {
      size_t k = backwards ? first + last - 1 - i : i;
      if (here->fibers[k].state != State::runnable) continue;
      resume(here->fibers[k], k);
      progress = true;
    }
  }
}

// Lets `block` be the one that runs: its static shared memory, which all blocks have at the same addresses, and what is known of it.
void enter(Block& block) {
  size_t bytes = static_bytes();
  if (here == &block) return;
  if (here) here->statics.assign(__start_lepton_shared, __start_lepton_shared + bytes);
  if (bytes) std::memcpy(__start_lepton_shared, block.statics.data(), bytes);
  here = &block;
  own_shared(block.place);
  set_published(block.published.data());
}

void start_block(Block& block, Index index, uint32_t number, uint32_t cluster) {
  size_t k = 0;
  const Index& size = launch_now->block;
  block.index = index, block.number = number, block.cluster = cluster, block.epoch = block.met = block.readers_arrived = 0, block.is_read = false;
  block.fibers.resize(threads_of(*launch_now));
  block.warp_epochs.assign((block.fibers.size() + WARP - 1) / WARP, 0);
  block.publications.assign(block.fibers.size(), 0);
  block.published.assign(block.fibers.size(), 0);
  block.statics.assign(static_bytes(), static_cast<char>(0xFF));
  std::memset(block.shared.data(), 0xFF, block.shared.size());
  for (unsigned z = 0; z < size.z; ++z)
    for (unsigned y = 0; y < size.y; ++y)
      for (unsigned x = 0; x < size.x; ++x, ++k) {
        Fiber& f = block.fibers[k];
        f.thread = {{x, y, z}, index, size, launch_now->grid, static_cast<unsigned>(k), static_cast<unsigned>(k % WARP), static_cast<unsigned>(k / WARP)};
        f.state = State::runnable;
        f.waited = false;
        f.copy_group = f.arrived = f.passed = 0;
        f.copies.clear();
        prepare(f.context, block.stacks + k * STACK, body);
      }
}

// Runs a block until it has finished, or waits for others at the barrier of the grid or of the cluster.
void run_block(Block& block) {
  enter(block);
  size_t threads = block.fibers.size(), warps = (threads + WARP - 1) / WARP;
  while (!failed) {
    for (size_t i = 0; i < warps && !failed; ++i) {
      size_t w = launch_now->backwards ? warps - 1 - i : i, first = w * WARP;
      run_warp(first, std::min(first + WARP, threads), launch_now->backwards);
    }
    if (failed || count(State::finished) == threads) return;
    if (count(State::runnable)) continue;
    if (count(State::at_grid) || count(State::at_cluster)) return;
    if (count(State::at_barrier) != threads) return stuck();
    release();
  }
}

Index place_of(uint64_t k) {
  unsigned x = static_cast<unsigned>(k % launch_now->grid.x), rest = static_cast<unsigned>(k / launch_now->grid.x);
  return {x, rest % launch_now->grid.y, rest / launch_now->grid.y};
}

// Lets those threads go on that wait at a barrier of the cluster which all threads have arrived at that are left. Whether there are any.
bool release_cluster() {
  bool all = true, any = false;
  for (const Block& block : *there)
    for (const Fiber& f : block.fibers) all &= f.state == State::finished || f.arrived > cluster_passed;
  if (all) ++cluster_passed, ++figures.cluster_barriers;
  for (Block& block : *there)
    for (Fiber& f : block.fibers)
      if (f.state == State::at_cluster && f.arrived <= cluster_passed) f.state = State::runnable, f.passed = f.arrived, any = true;
  return any;
}

// A block has finished. Those that read its shared memory must have arrived at a barrier since, which it has passed.
void check_leaving(const Block& block) {
  uint32_t passed = 0;
  for (const Fiber& f : block.fibers) passed = std::max(passed, f.passed);
  if (!block.is_read || block.readers_arrived < passed) return;
  snprintf(message, sizeof message, "block (%u, %u, %u) leaves while others of its cluster read its shared memory: no barrier of the cluster lies in between",
           block.index.x, block.index.y, block.index.z);
  failed = true;
}

void run_cluster() {
  while (!failed) {
    Block* late = nullptr;
    for (size_t i = 0; i < there->size() && !failed; ++i) {
      Block& block = (*there)[launch_now->backwards ? there->size() - 1 - i : i];
      run_block(block);
      if (count(State::at_cluster)) late = &block;
      if (!failed && count(State::at_grid)) stuck();
      if (!failed && count(State::finished) == block.fibers.size()) check_leaving(block);
    }
    if (failed || !late) return;
    if (!release_cluster()) {
      enter(*late);
      return stuck();
    }
  }
}

void run_clusters(std::vector<Block>& blocks) {
  const Index &grid = launch_now->grid, &size = launch_now->cluster;
  const uint64_t across = grid.x / size.x, down = grid.y / size.y, clusters = across * down * (grid.z / size.z);
  for (uint64_t i = 0; i < clusters && !failed; ++i) {
    here = nullptr, cluster_passed = 0;
    forget_shared();
    forget_products();
    const uint64_t k = launch_now->backwards ? clusters - 1 - i : i;
    for (uint32_t rank = 0; rank < blocks.size(); ++rank) {
      unsigned x = static_cast<unsigned>(k % across) * size.x + rank % size.x, y = static_cast<unsigned>(k / across % down) * size.y + rank / size.x % size.y;
      unsigned z = static_cast<unsigned>(k / across / down) * size.z + rank / size.x / size.y;
      start_block(blocks[rank], {x, y, z}, static_cast<uint32_t>(i * blocks.size() + rank), static_cast<uint32_t>(i));
    }
    run_cluster();
  }
}

// All blocks are at the barrier of the grid: on they go. What the other threads of a block did must lie before a barrier of the block.
void release_grid(std::vector<Block>& blocks) {
  for (Block& block : blocks) {
    if (touched_beside(block.number, block.epoch, block.arrived)) {
      snprintf(message, sizeof message, "thread %u of block number %u waits for the grid while other threads use memory: no __syncthreads comes before",
               block.arrived, block.number);
      failed = true;
    }
    for (Fiber& f : block.fibers)
      if (f.state == State::at_grid) f.state = State::runnable;
    ++block.met;
  }
  ++figures.grid_barriers;
}

void run_together(std::vector<Block>& blocks) {
  forget_products();
  for (size_t i = 0; i < blocks.size(); ++i) start_block(blocks[i], place_of(i), static_cast<uint32_t>(i), 0);
  while (!failed) {
    size_t waiting = 0;
    Block* late = nullptr;
    for (size_t i = 0; i < blocks.size() && !failed; ++i) {
      Block& block = blocks[launch_now->backwards ? blocks.size() - 1 - i : i];
      run_block(block);
      if (count(State::at_grid)) ++waiting, late = &block;
    }
    if (failed || !waiting) return;
    if (waiting < blocks.size()) {
      enter(*late);
      return stuck();
    }
    release_grid(blocks);
  }
}

void prepare_memory(const Launch& launch, std::vector<Block>& blocks) {
  clear_regions(launch.buffer_count < 0);
  for (uint32_t k = 0; k < blocks.size(); ++k) {
    blocks[k].shared.assign(launch.shared_bytes + 2048, 0);
    if (launch.shared_bytes) add_region(dynamic_base(blocks[k]), launch.shared_bytes, false, true, "dynamic shared memory", launch.races, k);
    if (static_bytes()) add_region(__start_lepton_shared, static_bytes(), false, true, "static shared memory", launch.races, k);
  }
  for (int i = 0; i < launch.buffer_count; ++i) {
    const Buffer& b = launch.buffers[i];
    add_region(b.begin, b.bytes, b.constant, false, b.name, launch.races, 0, b.weight);
  }
}

}  // namespace

const Thread* current() { return running->visible; }

void* dynamic_shared() { return dynamic_base(*here); }

Statistics& statistics() { return figures; }

void fault(const char* format, ...) {
  char what[800];
  va_list list;
  va_start(list, format);
  vsnprintf(what, sizeof what, format, list);
  va_end(list);
  const Thread& t = running->thread;
  snprintf(message, sizeof message, "thread (%u, %u, %u) of block (%u, %u, %u) %s", t.thread.x, t.thread.y, t.thread.z, t.block.x, t.block.y, t.block.z, what);
  failed = true;
  suspend(State::finished, 0);
  __builtin_unreachable();
}

void block_barrier(int line) { block_reduce(0, 0, line); }

int block_reduce(int value, int kind, int line) {
  running->reduction = value;
  suspend(State::at_barrier, line);
  int sum = reduced & ((1 << 30) - 1), all = reduced >> 30;
  return kind == 1 ? all : kind == 2 ? sum != 0 : sum;
}

void after_previous() {
  running->waited = true;
  set_early(false);
}

void grid_barrier(unsigned* counter, unsigned arrivals, int line) {
  if (!launch_now->together) fault("waits for other blocks (line %d), which need not be there: the launch is not cooperative", line);
  check(counter, sizeof *counter, Access::atomic);
  const unsigned before = (*counter)++, blocks = launch_now->grid.x * launch_now->grid.y * launch_now->grid.z;
  if (arrivals != blocks * (here->met + 1))
    fault("waits for %u arrivals at barrier %u of the grid (line %d), which %u blocks have", arrivals, here->met, line, blocks);
  if (before < arrivals - blocks || before >= arrivals)
    fault("finds %u arrivals at barrier %u of the grid (line %d) of %u blocks: the counter did not begin at zero", before, here->met, line, blocks);
  here->arrived = static_cast<uint16_t>(running->thread.linear);
  suspend(State::at_grid, line);
}

void cluster_arrive(int line) {
  if (running->arrived != running->passed) fault("arrives at the cluster's barrier (line %d) without having waited since it last did", line);
  ++running->arrived;
  set_now();
}

void cluster_wait(int line) {
  if (running->arrived == running->passed) fault("waits at the cluster's barrier (line %d) without having arrived", line);
  suspend(State::at_cluster, line);
}

unsigned cluster_rank() { return here->place; }

void read_in_cluster(void* to, const void* own, size_t bytes, unsigned rank, int line) {
  const ptrdiff_t offset = static_cast<const char*>(own) - dynamic_base(*here);
  if (rank >= there->size()) fault("reads (line %d) from block %u of a cluster of %zu", line, rank, there->size());
  if (offset < 0 || offset + bytes > launch_now->shared_bytes) fault("reads in another block (line %d) what is not dynamic shared memory", line);
  Block& block = (*there)[rank];
  if (!running->passed) fault("reads shared memory of block number %u (line %d) before a barrier of the cluster: that one need not have begun", block.number, line);
  bool has_left = true;
  for (const Fiber& f : block.fibers) has_left &= f.state == State::finished;
  if (has_left) fault("reads shared memory of block number %u (line %d), which has left", block.number, line);
  own_shared(block.place);
  check(dynamic_base(block) + offset, bytes, Access::read);
  own_shared(here->place);
  if (&block != here) block.readers_arrived = block.is_read ? std::max(block.readers_arrived, running->arrived) : running->arrived, block.is_read = true;
  std::memcpy(to, dynamic_base(block) + offset, bytes);
}

void warp_collective(unsigned mask, void* slot, Collective work, const char* name, int line) {
  size_t first = running->thread.warp * WARP, lanes = std::min<size_t>(WARP, here->fibers.size() - first);
  if (!(mask >> running->thread.lane & 1)) fault("calls %s (line %d) but is not in its mask %#x", name, line, mask);
  unsigned wanted = lanes == WARP ? mask : mask & ((1u << lanes) - 1);
  running->mask = wanted, running->slot = slot, running->work = work, running->name = name;
  void* slots[WARP] = {};
  for (size_t i = 0; i < lanes; ++i) {
    size_t k = launch_now->backwards ? i : lanes - 1 - i;  // the lane that arrives last comes first: the others need not look further
    if (!(wanted >> k & 1)) continue;
    Fiber& f = here->fibers[first + k];
    if (f.state == State::finished) fault("calls %s (line %d) for lane %zu too, which has finished", name, line, k);
    if (&f != running && !(f.state == State::at_collective && f.mask == wanted && f.work == work)) return suspend(State::at_collective, line);
    slots[k] = f.slot;
  }
  for (size_t k = 0; k < lanes; ++k)
    if ((wanted >> k & 1) && &here->fibers[first + k] != running) here->fibers[first + k].state = State::runnable;
  ++here->warp_epochs[running->thread.warp];
  ++figures.collectives;
  set_now();
  if (work) work(slots);
}

void group_collective(void* slot, Collective work, const char* name, int line) {
  size_t first = running->thread.linear / GROUP * size_t(GROUP);
  if (first + size_t(GROUP) > here->fibers.size()) fault("calls %s (line %d) outside a group of four warps", name, line);
  running->mask = ~0u, running->slot = slot, running->work = work, running->name = name;
  void* slots[GROUP];
  for (size_t i = 0; i < size_t(GROUP); ++i) {
    size_t k = launch_now->backwards ? i : GROUP - 1 - i;
    const Fiber& f = here->fibers[first + k];
    if (&f != running && !(f.state == State::at_collective && f.work == work)) return suspend(State::at_collective, line);
    slots[k] = f.slot;
  }
  for (size_t k = 0; k < size_t(GROUP); ++k)
    if (&here->fibers[first + k] != running) here->fibers[first + k].state = State::runnable;
  ++figures.collectives;
  if (work) work(slots);
}

void group_publish() {
  ++here->publications[running->thread.linear];
  set_now();
}

void copy_async(void* to, const void* from, unsigned bytes, unsigned valid, int line) {
  if (valid) check(from, valid, Access::read);
  if (valid && reinterpret_cast<uintptr_t>(from) % bytes) fault("copies asynchronously (line %d) from an address that is not aligned to %u bytes", line, bytes);
  check(to, bytes, Access::write);
  running->copies.push_back({static_cast<char*>(to), static_cast<const char*>(from), bytes, valid, running->copy_group, line});
}

void copy_async_commit() { ++running->copy_group; }

void copy_async_wait(unsigned groups_left) {
  std::vector<Copy> later;
  for (const Copy& c : running->copies) {
    if (c.group + groups_left >= running->copy_group) {
      later.push_back(c);
      continue;
    }
    check(c.to, c.bytes, Access::write);
    std::memset(c.to, 0, c.bytes);
    std::memcpy(c.to, c.from, c.valid);
  }
  running->copies.swap(later);
}

const char* launch(const Launch& launch, Call call, void** arguments, Statistics* result) {
  launch_now = &launch, call_now = call, arguments_now = arguments;
  failed = false, message[0] = 0, figures = {}, here = nullptr;
  const uint64_t count = uint64_t(launch.grid.x) * launch.grid.y * launch.grid.z, cluster = uint64_t(launch.cluster.x) * launch.cluster.y * launch.cluster.z;
  std::vector<Block> blocks(launch.together ? count : cluster);
  there = &blocks;
  prepare_memory(launch, blocks);
  const size_t room = threads_of(launch) * STACK;
  char* const stacks = static_cast<char*>(
      mmap(nullptr, blocks.size() * room, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0));
  if (stacks == MAP_FAILED) return "the emulator has no memory for stacks";
  for (size_t k = 0; k < blocks.size(); ++k) blocks[k].stacks = stacks + k * room, blocks[k].place = static_cast<uint32_t>(k);
  if (launch.together)
    run_together(blocks);
  else
    run_clusters(blocks);
  munmap(stacks, blocks.size() * room);
  clear_regions(true);
  forget_products();
  *result = figures;
  return message;
}

}  // namespace emulator
