/* A stand-in for libcuda.so.1: memory of the device is memory of the host, streams are in order, captured work is replayed, kernels are
   run by a function of the test, time is what tests say that kernels take. It checks what a driver would check, and counts what it was
   asked to do. */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT __attribute__((visibility("default")))
enum { OK = 0, INVALID = 1, OUT_OF_MEMORY = 2, NOT_INITIALISED = 3, NO_DEVICE = 100, BAD_DEVICE = 101, NO_BINARY = 209, UNSUPPORTED_PTX = 222, NOT_FOUND = 500, FAULT = 700, NO_RESOURCES = 701, TOO_LARGE = 720, INVALID_CLUSTER = 912 };
enum { ALLOCATIONS = 1024, KERNELS = 4096, ARGUMENTS = 64, OPERATIONS = 65536, CALLS = 512, UPLOADS = 4096 };

typedef unsigned long long Address;
typedef struct { char name[128]; int arguments; unsigned cluster[3]; double seconds; } Function;
typedef struct { double seconds; } Event;
typedef struct {
  int kind; /* 0 kernel, 1 copy, 2 fill with bytes, 3 fill with words */
  Function *function;
  unsigned extents[8]; /* grid, block, shared memory, whether cooperative */
  Address arguments[ARGUMENTS];
  void *target;
  const void *source;
  size_t size;
  unsigned value;
  int sent, programmatic; /* a copy of what the host has; a launch that may overlap with the one before */
} Operation;
typedef struct { Operation *operations; int count; } Graph;
typedef struct { Graph *capture; int after_kernel; } Stream;
typedef int (*Launch)(const char *name, const unsigned *extents, const Address *arguments, int count);

static struct { int devices, major, minor, processors, version; size_t memory, used; int initialised, depth; Launch launch; char calls[CALLS][48]; int counts[CALLS]; } state = {
    .devices = 1, .major = 8, .minor = 0, .processors = 108, .version = 13000, .memory = (size_t)1 << 32};
static struct { char *begin; size_t size; } allocations[ALLOCATIONS];
/* What the host sent and nothing wrote since; it is constant, as far as anyone can tell, once the host has waited for it. */
static struct { const char *begin, *end; int settled; } uploads[UPLOADS];
static Function functions[KERNELS];
static Stream plain;
static int emulated = 2, replaying; /* which launches run: 0 none, 1 those that are not replayed, 2 all */
static double clock_seconds; /* of the device: what its kernels are said to take, added up */

static void count(const char *name) {
  for (int k = 0; k < CALLS; ++k) {
    if (state.calls[k][0] == 0) snprintf(state.calls[k], sizeof state.calls[k], "%s", name);
    if (strcmp(state.calls[k], name) == 0) {
      ++state.counts[k];
      return;
    }
  }
}
#define ENTER count(__func__)
#define NEEDS_CONTEXT if (state.depth < 1) return 201

/* -- for tests */
EXPORT void fake_configure(int devices, int major, int minor, int processors, size_t memory, int version) {
  state.devices = devices, state.major = major, state.minor = minor, state.processors = processors, state.memory = memory, state.version = version, state.initialised = 0;
}
EXPORT void fake_on_launch(Launch launch) { state.launch = launch; }
EXPORT void fake_kernel(const char *name, int arguments, unsigned x, unsigned y, unsigned z) {
  for (int k = 0; k < KERNELS; ++k) {
    if (functions[k].name[0] == 0 || strcmp(functions[k].name, name) == 0) {
      snprintf(functions[k].name, sizeof functions[k].name, "%s", name);
      functions[k].arguments = arguments;
      functions[k].cluster[0] = x, functions[k].cluster[1] = y, functions[k].cluster[2] = z; /* of code for 9.0 and later */
      functions[k].seconds = 1e-5;
      return;
    }
  }
}
/* Let a kernel take so long by the device's clock; it cannot be started where that is less than nothing. */
EXPORT void fake_cost(const char *name, double seconds) {
  for (int k = 0; k < KERNELS && functions[k].name[0]; ++k)
    if (strcmp(functions[k].name, name) == 0) functions[k].seconds = seconds;
}
EXPORT void fake_emulate(int which) { emulated = which; }
/* Bytes from an address to the end of its allocation; 0 where there is none. */
EXPORT size_t fake_room(Address address) {
  for (int k = 0; k < ALLOCATIONS; ++k) {
    const char *const begin = allocations[k].begin, *const p = (const char *)(uintptr_t)address;
    if (begin && p >= begin && p < begin + allocations[k].size) return (size_t)(begin + allocations[k].size - p);
  }
  return 0;
}
EXPORT int fake_count(const char *name) {
  for (int k = 0; k < CALLS && state.calls[k][0]; ++k)
    if (strcmp(state.calls[k], name) == 0) return state.counts[k];
  return 0;
}
static void written(const void *begin, size_t size) {
  const char *const first = begin, *const end = first + size;
  for (int k = 0; k < UPLOADS; ++k)
    if (uploads[k].begin < end && first < uploads[k].end) uploads[k].begin = uploads[k].end = NULL;
}
static void sent(const void *begin, size_t size) {
  for (int k = 0; k < UPLOADS; ++k) {
    if (uploads[k].begin != uploads[k].end) continue;
    uploads[k].begin = begin, uploads[k].end = (const char *)begin + size, uploads[k].settled = 0;
    return;
  }
}
/* A kernel wrote there. */
EXPORT void fake_written(Address address, size_t size) { written((void *)(uintptr_t)address, size); }
EXPORT int fake_is_constant(Address address, size_t size) {
  const char *const first = (const char *)(uintptr_t)address;
  for (int k = 0; k < UPLOADS; ++k)
    if (uploads[k].settled && uploads[k].begin <= first && first + size <= uploads[k].end) return 1;
  return 0;
}
EXPORT void fake_forget(void) {
  memset(state.calls, 0, sizeof state.calls);
  memset(state.counts, 0, sizeof state.counts);
}
EXPORT size_t fake_used(void) { return state.used; }

static int is_device(const void *p, size_t size) {
  for (int k = 0; k < ALLOCATIONS; ++k) {
    const char *begin = allocations[k].begin;
    if (begin && (const char *)p >= begin && (const char *)p + size <= begin + allocations[k].size) return 1;
  }
  return 0;
}

static int perform(const Operation *o) {
  switch (o->kind) {
    case 0:
      clock_seconds += o->function->seconds;
      if (emulated < 1 + replaying) return OK;
      return state.launch == NULL || state.launch(o->function->name, o->extents, o->arguments, o->function->arguments) ? FAULT : OK;
    case 1:
      written(o->target, o->size);
      if (o->sent) sent(o->target, o->size);
      memmove(o->target, o->source, o->size);
      return OK;
    case 2: written(o->target, o->size); memset(o->target, (int)o->value, o->size); return OK;
    default:
      written(o->target, 4 * o->size);
      for (size_t k = 0; k < o->size; ++k) ((unsigned *)o->target)[k] = o->value;
      return OK;
  }
}

static int enqueue(Stream *stream, const Operation *o) {
  Graph *const graph = (stream ? stream : &plain)->capture;
  if (state.depth < 1) return 201;
  (stream ? stream : &plain)->after_kernel = o->kind == 0;
  if (graph == NULL) return perform(o);
  if (graph->count == OPERATIONS) return OUT_OF_MEMORY;
  graph->operations[graph->count++] = *o;
  return OK;
}

/* -- the driver */
EXPORT int cuInit(unsigned flags) {
  ENTER;
  if (flags) return INVALID;
  if (state.devices == 0) return NO_DEVICE;
  state.initialised = 1;
  return OK;
}
EXPORT int cuGetErrorString(int error, const char **text) {
  *text = error == NO_DEVICE ? "no CUDA-capable device is detected" : error == OUT_OF_MEMORY ? "out of memory" : error == FAULT ? "an illegal memory access was encountered" : error == NO_RESOURCES ? "too many resources requested for launch" : "an error";
  return OK;
}
EXPORT int cuDriverGetVersion(int *version) { ENTER; *version = state.version; return OK; }
EXPORT int cuDeviceGetCount(int *n) { ENTER; *n = state.devices; return state.initialised ? OK : NOT_INITIALISED; }
EXPORT int cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal < state.devices ? OK : BAD_DEVICE; }
EXPORT int cuDeviceGetName(char *name, int size, int device) { (void)device; snprintf(name, (size_t)size, "Emulated GPU"); return OK; }
EXPORT int cuDeviceGetAttribute(int *value, int attribute, int device) {
  (void)device;
  *value = attribute == 75 ? state.major : attribute == 76 ? state.minor : attribute == 16 ? state.processors : attribute == 95 ? 1 : attribute == 38 ? 1 << 20 : 0;
  return OK;
}
EXPORT int cuDevicePrimaryCtxRetain(void **context, int device) { (void)device; ENTER; *context = &state; return OK; }
EXPORT int cuDevicePrimaryCtxRelease_v2(int device) { (void)device; ENTER; return OK; }
EXPORT int cuCtxPushCurrent_v2(void *context) { ++state.depth; return context == &state ? OK : INVALID; }
EXPORT int cuCtxPopCurrent_v2(void **context) { --state.depth; *context = &state; return OK; }
EXPORT int cuModuleLoadData(void **module, const void *image) {
  ENTER;
  NEEDS_CONTEXT;
  *module = (void *)image;
  return image == NULL ? NO_BINARY : strcmp(image, "too new") == 0 ? UNSUPPORTED_PTX : OK;
}
EXPORT int cuModuleUnload(void *module) { ENTER; return module ? OK : INVALID; }
EXPORT int cuModuleGetFunction(Function **function, void *module, const char *name) {
  if (module == NULL) return INVALID;
  for (int k = 0; k < KERNELS && functions[k].name[0]; ++k) {
    if (strcmp(functions[k].name, name) == 0) {
      *function = &functions[k];
      return OK;
    }
  }
  return NOT_FOUND;
}
EXPORT int cuFuncSetAttribute(Function *function, int attribute, int value) { ENTER; return function && attribute == 8 && value > 0 ? OK : INVALID; }
EXPORT int cuMemGetInfo_v2(size_t *room, size_t *total) { *total = state.memory; *room = state.memory - state.used; return OK; }
EXPORT int cuMemAlloc_v2(Address *address, size_t size) {
  ENTER;
  NEEDS_CONTEXT;
  if (size == 0) return INVALID;
  if (state.used + size > state.memory) return OUT_OF_MEMORY;
  for (int k = 0; k < ALLOCATIONS; ++k) {
    if (allocations[k].begin == NULL) {
      allocations[k].begin = aligned_alloc(256, (size + 255) / 256 * 256);
      allocations[k].size = size;
      memset(allocations[k].begin, 0xFF, size);
      state.used += size;
      *address = (Address)(uintptr_t)allocations[k].begin;
      return OK;
    }
  }
  return OUT_OF_MEMORY;
}
EXPORT int cuMemFree_v2(Address address) {
  ENTER;
  for (int k = 0; k < ALLOCATIONS; ++k) {
    if (allocations[k].begin && allocations[k].begin == (char *)(uintptr_t)address) {
      written(allocations[k].begin, allocations[k].size);
      free(allocations[k].begin);
      state.used -= allocations[k].size;
      allocations[k].begin = NULL;
      return OK;
    }
  }
  return INVALID;
}
EXPORT int cuMemAllocHost_v2(void **memory, size_t size) { ENTER; *memory = malloc(size); return OK; }
EXPORT int cuMemFreeHost(void *memory) { ENTER; free(memory); return OK; }
EXPORT int cuMemcpyHtoDAsync_v2(Address target, const void *source, size_t size, Stream *stream) {
  ENTER;
  if (!is_device((void *)(uintptr_t)target, size) || is_device(source, 1)) return INVALID;
  return enqueue(stream, &(Operation){.kind = 1, .target = (void *)(uintptr_t)target, .source = source, .size = size, .sent = 1});
}
EXPORT int cuMemcpyDtoHAsync_v2(void *target, Address source, size_t size, Stream *stream) {
  ENTER;
  if (!is_device((void *)(uintptr_t)source, size) || is_device(target, 1)) return INVALID;
  return enqueue(stream, &(Operation){.kind = 1, .target = target, .source = (void *)(uintptr_t)source, .size = size});
}
EXPORT int cuMemcpyDtoDAsync_v2(Address target, Address source, size_t size, Stream *stream) {
  ENTER;
  if (!is_device((void *)(uintptr_t)target, size) || !is_device((void *)(uintptr_t)source, size)) return INVALID;
  return enqueue(stream, &(Operation){.kind = 1, .target = (void *)(uintptr_t)target, .source = (void *)(uintptr_t)source, .size = size});
}
EXPORT int cuMemsetD8Async(Address target, unsigned char value, size_t size, Stream *stream) {
  ENTER;
  if (!is_device((void *)(uintptr_t)target, size)) return INVALID;
  return enqueue(stream, &(Operation){.kind = 2, .target = (void *)(uintptr_t)target, .size = size, .value = value});
}
EXPORT int cuMemsetD32Async(Address target, unsigned value, size_t words, Stream *stream) {
  ENTER;
  if (!is_device((void *)(uintptr_t)target, 4 * words) || target % 4) return INVALID;
  return enqueue(stream, &(Operation){.kind = 3, .target = (void *)(uintptr_t)target, .size = words, .value = value});
}
EXPORT int cuPointerGetAttribute(void *value, int attribute, Address address) {
  if (attribute != 2 || !is_device((void *)(uintptr_t)address, 0)) return INVALID;
  *(unsigned *)value = 2;
  return OK;
}
EXPORT int cuStreamCreate(Stream **stream, unsigned flags) { ENTER; (void)flags; NEEDS_CONTEXT; *stream = calloc(1, sizeof **stream); return OK; }
EXPORT int cuStreamDestroy_v2(Stream *stream) { ENTER; free(stream); return OK; }
EXPORT int cuStreamSynchronize(Stream *stream) {
  ENTER;
  if ((stream ? stream : &plain)->capture) return 900;
  for (int k = 0; k < UPLOADS; ++k) uploads[k].settled = 1;
  return OK;
}
EXPORT int cuStreamIsCapturing(const Stream *stream, int *status) { ENTER; *status = (stream ? stream : &plain)->capture != NULL; return OK; }
EXPORT int cuStreamBeginCapture_v2(Stream *stream, int mode) {
  ENTER;
  if (stream == NULL || stream->capture != NULL || mode < 0 || mode > 2) return INVALID;
  stream->capture = calloc(1, sizeof *stream->capture);
  stream->after_kernel = 0;
  stream->capture->operations = malloc(OPERATIONS * sizeof(Operation));
  return OK;
}
EXPORT int cuThreadExchangeStreamCaptureMode(int *mode) {
  static int now = 0;
  const int before = now;
  ENTER;
  if (*mode < 0 || *mode > 2) return INVALID;
  now = *mode;
  *mode = before;
  return OK;
}
EXPORT int cuStreamEndCapture(Stream *stream, Graph **graph) {
  ENTER;
  *graph = stream->capture;
  stream->capture = NULL;
  stream->after_kernel = 0;
  return *graph ? OK : INVALID;
}
EXPORT int cuGraphInstantiateWithFlags(Graph **made, Graph *graph, unsigned long long flags) {
  ENTER;
  if (flags) return INVALID;
  for (int k = 0; k < graph->count; ++k)
    if (graph->operations[k].programmatic && state.version < 12030) return INVALID; /* which has no edges that are programmatic */
  *made = calloc(1, sizeof **made);
  (*made)->count = graph->count;
  (*made)->operations = malloc((size_t)(graph->count + 1) * sizeof(Operation));
  memcpy((*made)->operations, graph->operations, (size_t)graph->count * sizeof(Operation));
  return OK;
}
EXPORT int cuGraphLaunch(Graph *graph, Stream *stream) {
  ENTER;
  int result = OK;
  replaying = 1;
  for (int k = 0; k < graph->count && result == OK; ++k) result = enqueue(stream, &graph->operations[k]);
  replaying = 0;
  (stream ? stream : &plain)->after_kernel = 0;
  return result;
}
static int destroy(Graph *graph) {
  free(graph->operations);
  free(graph);
  return OK;
}
EXPORT int cuGraphExecDestroy(Graph *graph) { ENTER; return destroy(graph); }
EXPORT int cuGraphDestroy(Graph *graph) { ENTER; return destroy(graph); }
EXPORT int cuEventCreate(Event **event, unsigned flags) { ENTER; (void)flags; NEEDS_CONTEXT; *event = calloc(1, sizeof **event); return OK; }
EXPORT int cuEventDestroy_v2(Event *event) { ENTER; free(event); return OK; }
EXPORT int cuEventRecord(Event *event, Stream *stream) {
  ENTER;
  if (event == NULL || (stream ? stream : &plain)->capture) return INVALID;
  event->seconds = clock_seconds;
  return OK;
}
EXPORT int cuEventSynchronize(Event *event) { ENTER; return event ? OK : INVALID; }
EXPORT int cuEventElapsedTime(float *milliseconds, const Event *begin, const Event *end) {
  ENTER;
  *milliseconds = (float)(1e3 * (end->seconds - begin->seconds));
  return OK;
}
/* One block on each multiprocessor. */
EXPORT int cuOccupancyMaxActiveBlocksPerMultiprocessor(int *blocks, Function *function, int threads, size_t shared) {
  ENTER;
  *blocks = 1;
  return function && threads > 0 && threads <= 1024 && shared <= 232448 ? OK : INVALID;
}
static int start(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared, Stream *stream,
                 void **parameters, unsigned together, int programmatic) {
  Operation o = {.function = function, .extents = {gx, gy, gz, bx, by, bz, shared, together}, .programmatic = programmatic};
  if (!gx || !gy || !gz || !bx || !by || !bz || bx * by * bz > 1024 || gy > 65535 || gz > 65535 || bz > 64) return INVALID;
  if (function->seconds < 0) return NO_RESOURCES;
  const unsigned *const cluster = function->cluster;
  if (state.major >= 9 && (gx % cluster[0] || gy % cluster[1] || gz % cluster[2] || cluster[0] * cluster[1] * cluster[2] > 8)) return INVALID_CLUSTER;
  for (int k = 0; k < function->arguments; ++k) {
    memcpy(&o.arguments[k], parameters[k], sizeof(Address));
    if (!is_device((void *)(uintptr_t)o.arguments[k], 0) || o.arguments[k] % 16) return INVALID;
  }
  return enqueue(stream, &o);
}
EXPORT int cuLaunchKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                          Stream *stream, void **parameters, void **extra) {
  ENTER;
  return extra ? INVALID : start(function, gx, gy, gz, bx, by, bz, shared, stream, parameters, 0, 0);
}
EXPORT int cuLaunchCooperativeKernel(Function *function, unsigned gx, unsigned gy, unsigned gz, unsigned bx, unsigned by, unsigned bz, unsigned shared,
                                     Stream *stream, void **parameters) {
  ENTER;
  if (gx * gy * gz > (unsigned)state.processors) return TOO_LARGE;
  return start(function, gx, gy, gz, bx, by, bz, shared, stream, parameters, 1, 0);
}
/* Stricter than a driver: a launch may overlap with a kernel alone, on devices that can, and as soon as such launches can be recorded. */
typedef struct { int id; char pad[4]; union { char pad[64]; void *pointer; int number; } value; } Attribute;
typedef struct { unsigned gx, gy, gz, bx, by, bz, shared; Stream *stream; const Attribute *attributes; unsigned count; } Config;
EXPORT int cuLaunchKernelEx(const Config *c, Function *function, void **parameters, void **extra) {
  ENTER;
  int programmatic = 0;
  for (unsigned k = 0; k < c->count; ++k) {
    if (c->attributes[k].id != 6) return INVALID;
    programmatic = c->attributes[k].value.number != 0;
  }
  if (programmatic && (!(c->stream ? c->stream : &plain)->after_kernel || state.major < 9 || state.version < 12030)) return INVALID;
  return extra ? INVALID : start(function, c->gx, c->gy, c->gz, c->bx, c->by, c->bz, c->shared, c->stream, parameters, 0, programmatic);
}
