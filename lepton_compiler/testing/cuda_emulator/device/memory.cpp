// Checks of every access: bounds, alignment and races. The compiler calls the `__tsan_*` functions (-fsanitize=thread), which are these.
#include "memory.h"
#include "warpgroup.h"

#include <cstdio>

extern "C" {  // of the linker: where this library lies
extern char __ehdr_start __attribute__((visibility("hidden")));
extern char _end __attribute__((visibility("hidden")));
}

namespace emulator {

namespace {

std::vector<Region> regions;
Region* latest = nullptr;
uintptr_t stack_begin = 0, stack_end = UINTPTR_MAX;  // outside fibers nothing is checked
Moment now;
uint64_t accesses_left;
uint32_t owner;
bool by_group;  // the access is one of all threads of a group of warps, by the async proxy
const uint32_t* published;
bool early_now;

// The last use of memory that all blocks share: in which interval between barriers of the block, and by which thread, or several.
struct Touch {
  uint32_t epoch;
  uint16_t thread;
  bool any, several;
};
std::vector<Touch> touches;

bool open_world;

constexpr uint64_t ACCESS_LIMIT = 4'000'000'000;
constexpr uintptr_t WORD = 4, CHUNK = 16;

Region* find(uintptr_t address) {
  if (latest && address >= latest->begin && address < latest->end) return latest;
  for (Region& region : regions)
    if (address >= region.begin && address < region.end && (!region.shared || region.block == owner)) return latest = &region;
  return nullptr;
}

const char* verb(Access access) { return access == Access::read ? "reads" : access == Access::write ? "writes" : "updates"; }

[[noreturn]] void outside(uintptr_t address, size_t bytes, Access access) {
  const Region* nearest = nullptr;
  uintptr_t distance = 4096;
  for (const Region& region : regions) {
    uintptr_t apart = address >= region.end ? address - region.end : region.begin > address ? region.begin - address : 0;
    if (apart < distance) nearest = &region, distance = apart;
  }
  if (!nearest) fault("%s %zu bytes at %p, which is nowhere near any argument", verb(access), bytes, reinterpret_cast<void*>(address));
  fault("%s %zu bytes at byte %td of %s, which has %zu bytes", verb(access), bytes, static_cast<ptrdiff_t>(address - nearest->begin),
        nearest->name.c_str(), static_cast<size_t>(nearest->end - nearest->begin));
}

// Whether a barrier that blocks have in common lies between an earlier access and now: that thread arrived at it, this one has passed it.
bool parted(const Moment& before) { return before.group == now.group && before.arrived < now.passed; }

// Whether a barrier lies between an earlier access and now: one of several blocks, of the block, or of the warp.
bool ordered(const Moment& before, bool many_threads, bool many_warps, bool many_blocks, bool many_groups) {
  if (!many_groups && parted(before)) return true;
  if (many_blocks || before.block != now.block) return false;
  if (before.block_epoch < now.block_epoch) return true;
  if (many_warps || before.warp != now.warp) return false;
  return before.warp_epoch < now.warp_epoch || (!many_threads && before.thread == now.thread);
}

[[noreturn]] void race(const Region& region, uintptr_t address, Access access, const Moment& other, const char* what) {
  fault("%s byte %zu of %s, which thread %u of block number %u %s with no barrier in between", verb(access),
        static_cast<size_t>(address - region.begin), region.name.c_str(), other.thread, other.block, what);
}

void note_read(Cell& cell) {
  bool fresh = !cell.is_read || (!cell.many_groups && parted(cell.read)) ||
               (cell.read.block == now.block && cell.read.block_epoch < now.block_epoch && !cell.many_blocks);
  if (fresh) {
    cell.many_threads = cell.many_warps = cell.many_blocks = cell.many_groups = false;
    cell.is_read = true;
    cell.read = now;
  } else {
    const uint32_t arrived = cell.read.arrived;
    cell.many_threads |= cell.read.thread != now.thread;
    cell.many_warps |= cell.read.warp != now.warp;
    cell.many_blocks |= cell.read.block != now.block;
    cell.many_groups |= cell.read.group != now.group;
    cell.read = now;
    if (arrived > now.arrived) cell.read.arrived = arrived;
  }
  cell.many_threads |= by_group, cell.many_warps |= by_group;
}

void check_published(const Region& region, uintptr_t address, const Cell& cell) {
  if (published && cell.write.block == now.block && published[cell.write.thread] <= cell.write.published)
    fault("multiplies byte %zu of %s, which thread %u wrote and did not publish by fence.proxy.async before a barrier",
          static_cast<size_t>(address - region.begin), region.name.c_str(), cell.write.thread);
}

void touch(Region& region, uintptr_t address, Cell& cell, Access access) {
  bool both_atomic = access == Access::atomic && cell.atomic;
  if (cell.is_written && !both_atomic && !ordered(cell.write, false, false, false, false)) race(region, address, access, cell.write, "wrote");
  if (by_group && cell.is_written) check_published(region, address, cell);
  if (access == Access::read) return note_read(cell);
  if (cell.is_read && !ordered(cell.read, cell.many_threads, cell.many_warps, cell.many_blocks, cell.many_groups))
    race(region, address, access, cell.read, "read");
  cell.write = now;
  cell.is_written = true;
  cell.atomic = access == Access::atomic;
}

// From now on an access may touch less than a cell had: threads may use neighbours that were in one cell.
void refine(Region& region, uintptr_t unit) {
  std::vector<Cell> cells;
  cells.reserve(region.cells.size() * region.unit / unit);
  for (const Cell& cell : region.cells) cells.insert(cells.end(), region.unit / unit, cell);
  region.cells.swap(cells);
  region.unit = unit;
}

void note_touch() {
  if (now.block >= touches.size()) touches.resize(now.block + 1);
  Touch& touch = touches[now.block];
  const bool same = touch.any && touch.epoch == now.block_epoch;
  touch = {now.block_epoch, now.thread, true, same && (touch.several || touch.thread != now.thread)};
}

bool in_image(uintptr_t address) {
  return address >= reinterpret_cast<uintptr_t>(&__ehdr_start) && address < reinterpret_cast<uintptr_t>(&_end);
}

}  // namespace

void add_region(const void* begin, size_t bytes, bool constant, bool shared, std::string name, bool races, uint32_t block, bool weight) {
  uintptr_t start = reinterpret_cast<uintptr_t>(begin);
  size_t cells = constant || !races ? 0 : (bytes + WORD - 1) / WORD;
  regions.push_back({start, start + bytes, WORD, constant, shared, weight, block, std::move(name), std::vector<Cell>(cells)});
  latest = nullptr;
}

void clear_regions(bool others_too) {
  regions.clear();
  open_world = others_too;
  owner = 0;
  touches.clear();
  latest = nullptr;
  accesses_left = ACCESS_LIMIT;
}

void forget_shared() {
  for (Region& region : regions)
    if (region.shared) region.cells.assign(region.cells.size(), Cell{}), region.readers.clear();
}

void own_shared(uint32_t block) {
  owner = block;
  latest = nullptr;
}

bool touched_beside(uint32_t block, uint32_t block_epoch, uint16_t thread) {
  if (block >= touches.size()) return false;
  const Touch& touch = touches[block];
  return touch.any && touch.epoch == block_epoch && (touch.several || touch.thread != thread);
}

void set_stack(uintptr_t begin, uintptr_t end) { stack_begin = begin, stack_end = end; }

void set_moment(const Moment& moment) { now = moment; }

void set_published(const uint32_t* counts) { published = counts; }

void read_by_group(const void* address, size_t bytes) {
  by_group = true;
  check(address, bytes, Access::read);
  by_group = false;
}

void keep_from_writes(const void* address, bool keep) {
  uintptr_t at = reinterpret_cast<uintptr_t>(address);
  Region* region = find(at);
  region->readers.resize((region->end - region->begin + CHUNK - 1) / CHUNK);
  region->readers[(at - region->begin) / CHUNK] += keep ? 1 : -1;
}

void set_early(bool early) { early_now = early; }

void check(const void* pointer, size_t bytes, Access access) {
  uintptr_t address = reinterpret_cast<uintptr_t>(pointer);
  if (address >= stack_begin && address < stack_end) {
    if (is_under_way(address, bytes)) fault("%s sums of a product of its group of warps that it has not waited for", verb(access));
    return;
  }
  Region* region = find(address);
  if (!region) {
    if (open_world || in_image(address)) return;
    outside(address, bytes, access);
  }
  if (address + bytes > region->end) outside(address, bytes, access);
  if (early_now && !region->shared && !region->weight)
    fault("%s byte %zu of %s before it waited for the kernel before", verb(access), static_cast<size_t>(address - region->begin), region->name.c_str());
  if (bytes <= 16 && (bytes & (bytes - 1)) == 0 && address % bytes)
    fault("%s %zu bytes at byte %zu of %s, which is not aligned", verb(access), bytes, static_cast<size_t>(address - region->begin), region->name.c_str());
  if (!--accesses_left) fault("has not finished after %llu accesses", static_cast<unsigned long long>(ACCESS_LIMIT));
  if (region->constant && access != Access::read) fault("writes to %s, which is constant", region->name.c_str());
  if (access != Access::read && !region->readers.empty())
    for (uintptr_t at = (address - region->begin) / CHUNK; at <= (address + bytes - 1 - region->begin) / CHUNK; ++at)
      if (region->readers[at])
        fault("%s byte %zu of %s, which a product of a group of warps that is under way reads", verb(access), static_cast<size_t>(address - region->begin),
              region->name.c_str());
  if (region->cells.empty()) return;
  if (!region->shared) note_touch();
  uintptr_t offset = address - region->begin, whole = (offset | bytes) & -(offset | bytes);
  if (whole < region->unit) refine(*region, whole);
  for (uintptr_t at = offset; at < offset + bytes; at += region->unit) touch(*region, region->begin + at, region->cells[at / region->unit], access);
}

}  // namespace emulator

#define HOOKS(SIZE)                                                                                                        \
  void __tsan_read##SIZE(void* p) { emulator::check(p, SIZE, emulator::Access::read); }                                    \
  void __tsan_write##SIZE(void* p) { emulator::check(p, SIZE, emulator::Access::write); }                                  \
  void __tsan_unaligned_read##SIZE(void* p) { emulator::check(p, SIZE, emulator::Access::read); }                          \
  void __tsan_unaligned_write##SIZE(void* p) { emulator::check(p, SIZE, emulator::Access::write); }                        \
  void __tsan_volatile_read##SIZE(void* p) { emulator::check(p, SIZE, emulator::Access::read); }                           \
  void __tsan_volatile_write##SIZE(void* p) { emulator::check(p, SIZE, emulator::Access::write); }                         \
  void __tsan_unaligned_volatile_read##SIZE(void* p) { emulator::check(p, SIZE, emulator::Access::read); }                 \
  void __tsan_unaligned_volatile_write##SIZE(void* p) { emulator::check(p, SIZE, emulator::Access::write); }

extern "C" {
HOOKS(1)
HOOKS(2)
HOOKS(4)
HOOKS(8)
HOOKS(16)
void __tsan_read_range(void* p, size_t bytes) { emulator::check(p, bytes, emulator::Access::read); }
void __tsan_write_range(void* p, size_t bytes) { emulator::check(p, bytes, emulator::Access::write); }
void __tsan_func_entry(void*) {}
void __tsan_func_exit() {}
void __tsan_init() {}
}
