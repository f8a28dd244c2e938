"""The part of `NAME.c` that is the same in every artefact: the driver, loaded at run time, and what a session does with it."""

DRIVER = r"""
/* -- the driver: what of cuda.h is used, by the names under which the library exports it */

typedef int CUresult, CUdevice;
typedef unsigned long long CUdeviceptr;
typedef struct CUctx_st *CUcontext;
typedef struct CUmod_st *CUmodule;
typedef struct CUfunc_st *CUfunction;
typedef struct CUstream_st *CUstream;
typedef struct CUgraph_st *CUgraph;
typedef struct CUgraphExec_st *CUgraphExec;

/* CUlaunchAttribute and CUlaunchConfig */
typedef struct { unsigned id, unused; union { unsigned char bytes[64]; unsigned long long words[8]; int allowed; } value; } launch_attribute;
typedef struct { unsigned grid[3], block[3], shared; CUstream stream; launch_attribute *attributes; unsigned count; } launch_config;
_Static_assert(sizeof(launch_attribute) == 72 && sizeof(launch_config) == 56, "as in cuda.h");

#define DRIVER_FUNCTIONS(F) \
  F(Init, cuInit, (unsigned)) \
  F(DriverGetVersion, cuDriverGetVersion, (int *)) \
  F(GetErrorString, cuGetErrorString, (CUresult, const char **)) \
  F(DeviceGetCount, cuDeviceGetCount, (int *)) \
  F(DeviceGet, cuDeviceGet, (CUdevice *, int)) \
  F(DeviceGetName, cuDeviceGetName, (char *, int, CUdevice)) \
  F(DeviceGetAttribute, cuDeviceGetAttribute, (int *, int, CUdevice)) \
  F(PrimaryRetain, cuDevicePrimaryCtxRetain, (CUcontext *, CUdevice)) \
  F(PrimaryRelease, cuDevicePrimaryCtxRelease_v2, (CUdevice)) \
  F(CtxPush, cuCtxPushCurrent_v2, (CUcontext)) \
  F(CtxPop, cuCtxPopCurrent_v2, (CUcontext *)) \
  F(ModuleLoad, cuModuleLoadData, (CUmodule *, const void *)) \
  F(ModuleUnload, cuModuleUnload, (CUmodule)) \
  F(ModuleGetFunction, cuModuleGetFunction, (CUfunction *, CUmodule, const char *)) \
  F(FuncSetAttribute, cuFuncSetAttribute, (CUfunction, int, int)) \
  F(MemGetInfo, cuMemGetInfo_v2, (size_t *, size_t *)) \
  F(MemAlloc, cuMemAlloc_v2, (CUdeviceptr *, size_t)) \
  F(MemFree, cuMemFree_v2, (CUdeviceptr)) \
  F(MemAllocHost, cuMemAllocHost_v2, (void **, size_t)) \
  F(MemFreeHost, cuMemFreeHost, (void *)) \
  F(CopyToDevice, cuMemcpyHtoDAsync_v2, (CUdeviceptr, const void *, size_t, CUstream)) \
  F(CopyToHost, cuMemcpyDtoHAsync_v2, (void *, CUdeviceptr, size_t, CUstream)) \
  F(Copy, cuMemcpyDtoDAsync_v2, (CUdeviceptr, CUdeviceptr, size_t, CUstream)) \
  F(Fill8, cuMemsetD8Async, (CUdeviceptr, unsigned char, size_t, CUstream)) \
  F(Fill32, cuMemsetD32Async, (CUdeviceptr, unsigned, size_t, CUstream)) \
  F(PointerGetAttribute, cuPointerGetAttribute, (void *, int, CUdeviceptr)) \
  F(StreamCreate, cuStreamCreate, (CUstream *, unsigned)) \
  F(StreamDestroy, cuStreamDestroy_v2, (CUstream)) \
  F(StreamSynchronize, cuStreamSynchronize, (CUstream)) \
  F(IsCapturing, cuStreamIsCapturing, (CUstream, int *)) \
  F(BeginCapture, cuStreamBeginCapture_v2, (CUstream, int)) \
  F(EndCapture, cuStreamEndCapture, (CUstream, CUgraph *)) \
  F(GraphInstantiate, cuGraphInstantiateWithFlags, (CUgraphExec *, CUgraph, unsigned long long)) \
  F(GraphLaunch, cuGraphLaunch, (CUgraphExec, CUstream)) \
  F(GraphExecDestroy, cuGraphExecDestroy, (CUgraphExec)) \
  F(GraphDestroy, cuGraphDestroy, (CUgraph)) \
  F(Occupancy, cuOccupancyMaxActiveBlocksPerMultiprocessor, (int *, CUfunction, int, size_t)) \
  F(LaunchTogether, cuLaunchCooperativeKernel, (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **)) \
  F(LaunchKernel, cuLaunchKernel, (CUfunction, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, unsigned, CUstream, void **, void **))

enum { MEMORY_TYPE = 2, DEVICE_MEMORY = 2, NON_BLOCKING = 1, THREAD_LOCAL = 1, MOST_SHARED = 8, SHARED_PLAIN = 49152 };
enum { INVALID_IMAGE = 200, NO_BINARY = 209, UNSUPPORTED_PTX = 222 };
enum { MULTIPROCESSORS = 16, MAJOR = 75, MINOR = 76, COOPERATIVE = 95 };
enum { PROGRAMMATIC = 6, PROGRAMMATIC_VERSION = 12030, PROGRAMMATIC_MAJOR = 9 }; /* CUDA 12.3 records such launches; devices have them from 9.0 on */

#define DECLARE(label, name, parameters) CUresult(*label) parameters;
static struct { DRIVER_FUNCTIONS(DECLARE) } cu;
static CUresult (*launch_ex)(const launch_config *, CUfunction, void **, void **); /* cuLaunchKernelEx, if the driver is new enough */

static _Thread_local char message[512];

/* Says what went wrong; gives `status`. */
__attribute__((format(printf, 2, 3))) static int failed(int status, const char *format, ...) {
  va_list arguments;
  va_start(arguments, format);
  vsnprintf(message, sizeof message, format, arguments);
  va_end(arguments);
  return status;
}

static int driver_failed(CUresult result, const char *what) {
  const char *text = NULL;
  if (cu.GetErrorString(result, &text) != 0 || text == NULL) text = "unknown error";
  return failed(ERROR_CUDA, "%s: %s (%d)", what, text, result);
}

#define TRY(call) \
  do { \
    const CUresult result_ = cu.call; \
    if (result_ != 0) return driver_failed(result_, #call); \
  } while (0)

static int load_driver(void) {
  static pthread_mutex_t turn = PTHREAD_MUTEX_INITIALIZER;
  static int status = -1;
  static char text[sizeof message];
  pthread_mutex_lock(&turn);
  if (status < 0) {
    void *const library = dlopen("libcuda.so.1", RTLD_NOW | RTLD_LOCAL);
    status = OK;
    if (library == NULL) status = failed(ERROR_DRIVER, "no driver of NVIDIA: %s", dlerror());
#define FIND(label, name, parameters) \
    if (status == OK) { \
      *(void **)&cu.label = dlsym(library, #name); \
      if (cu.label == NULL) status = failed(ERROR_DRIVER, "the driver is too old: it has no %s", #name); \
    }
    DRIVER_FUNCTIONS(FIND)
    if (status == OK) {
      const CUresult result = cu.Init(0);
      const char *why = NULL;
      if (result != 0 && (cu.GetErrorString(result, &why) != 0 || why == NULL)) why = "unknown error";
      if (result != 0) status = failed(ERROR_DEVICE, "no GPU: the driver says '%s' (%d)", why, result);
    }
    int version = 0;
    if (status == OK && cu.DriverGetVersion(&version) == 0 && version >= PROGRAMMATIC_VERSION)
      *(void **)&launch_ex = dlsym(library, "cuLaunchKernelEx");
    memcpy(text, message, sizeof message);
  } else {
    memcpy(message, text, sizeof message);
  }
  pthread_mutex_unlock(&turn);
  return status;
}

/* -- sessions */

typedef struct {
  CUdeviceptr pointers[INPUTS + OUTPUTS + 1];
  int variant;
  CUgraphExec graph;
  unsigned long used;
} recording;

struct SESSION {
  CUdevice device;
  CUcontext context;
  CUmodule module;
  CUfunction functions[LAUNCHES];
  unsigned capability; /* that the code in use was made for */
  int overlaps; /* whether a kernel may start while the one before it runs */
  CUdeviceptr memory, arena, weights, staging;
  CUstream stream;
  int64_t *sizes; /* in host memory that the device writes to: the sizes of outputs, as runs report them */
  recording recordings[RECORDINGS];
  recording seen[RECORDINGS]; /* the latest sets of addresses for which nothing was recorded, as there was no room */
  unsigned long runs, misses;
};

typedef struct SESSION session;

static int choose_image(session *s, const void **image) {
  int major = 0, minor = 0, best = -1;
  TRY(DeviceGetAttribute(&major, MAJOR, s->device));
  TRY(DeviceGetAttribute(&minor, MINOR, s->device));
  for (int k = 0; k < (int)(sizeof images / sizeof *images); ++k) {
    const int fits = images[k].ptx ? images[k].major * 10 + images[k].minor <= major * 10 + minor
                                   : images[k].major == major && images[k].minor <= minor;
    if (fits && (best < 0 || images[best].ptx || (!images[k].ptx && images[k].minor > images[best].minor))) best = k;
  }
  if (best < 0) {
    char name[128] = "";
    TRY(DeviceGetName(name, (int)sizeof name, s->device));
    return failed(ERROR_ARCHITECTURE, "'%s' is sm_%d%d; the artefact has code for %s and what is newer", name, major, minor, ARCHITECTURES);
  }
  *image = images[best].code;
  s->capability = (unsigned)(images[best].major * 10 + images[best].minor);
  const char *const wish = getenv("LEPTON_CUDA_OVERLAP");
  s->overlaps = launch_ex != NULL && images[best].major >= PROGRAMMATIC_MAJOR && (wish == NULL || strcmp(wish, "0") != 0);
  return OK;
}

static int allocate(session *s) {
  size_t room = 0, total = 0;
  const size_t wanted = ARENA_ROOM + WEIGHTS_ROOM;
  CUresult result = cu.MemAlloc(&s->memory, wanted);
  if (result != 0) {
    TRY(MemGetInfo(&room, &total));
    return failed(ERROR_MEMORY, "arena and weights take %zu bytes; of the %zu of the GPU %zu are free", wanted, total, room);
  }
  s->arena = s->memory;
  s->weights = s->memory + ARENA_ROOM;
  TRY(StreamCreate(&s->stream, NON_BLOCKING));
  TRY(CopyToDevice(s->weights, WEIGHTS, WEIGHTS_BYTES, s->stream));
  if (SIZES) TRY(MemAllocHost((void **)&s->sizes, SIZES * sizeof(int64_t)));
  return OK;
}

/* Blocks that wait for each other must all be there at the same time: if the GPU has no room for them, no run begins. */
static int check_room(const session *s, int which) {
  const unsigned *const grid = launches[which].grid, *const block = launches[which].block;
  const unsigned blocks = grid[0] * grid[1] * grid[2];
  int supported = 0, processors = 0, each = 0;
  TRY(DeviceGetAttribute(&supported, COOPERATIVE, s->device));
  TRY(DeviceGetAttribute(&processors, MULTIPROCESSORS, s->device));
  TRY(Occupancy(&each, s->functions[which], (int)(block[0] * block[1] * block[2]), launches[which].shared));
  if (supported && blocks <= (unsigned)(processors * each)) return OK;
  char name[128] = "";
  TRY(DeviceGetName(name, (int)sizeof name, s->device));
  return failed(ERROR_ARCHITECTURE, "%s needs %u blocks that run at the same time; '%s' has room for %d, on %d multiprocessors", launches[which].name,
                blocks, name, supported ? processors * each : 0, processors);
}

static int load(session *s) {
  const void *image = NULL;
  int status = choose_image(s, &image);
  if (status != OK) return status;
  const CUresult result = cu.ModuleLoad(&s->module, image);
  if (result == INVALID_IMAGE || result == NO_BINARY || result == UNSUPPORTED_PTX) {
    const char *text = NULL;
    if (cu.GetErrorString(result, &text) != 0 || text == NULL) text = "unknown error";
    return failed(ERROR_DRIVER, "the driver is too old for what compiled the kernels: %s (%d)", text, result);
  }
  if (result != 0) return driver_failed(result, "ModuleLoad");
  for (int k = 0; k < LAUNCHES && launches[k].name != NULL; ++k) {
    TRY(ModuleGetFunction(&s->functions[k], s->module, launches[k].name));
    if (launches[k].shared > SHARED_PLAIN) TRY(FuncSetAttribute(s->functions[k], MOST_SHARED, (int)launches[k].shared));
    if (launches[k].together && (status = check_room(s, k)) != OK) return status;
  }
  if ((status = allocate(s)) != OK) return status;
  if ((status = reset(s, s->stream)) != OK) return status;
  TRY(StreamSynchronize(s->stream));
  return OK;
}

static void release(session *s) {
  CUcontext context = NULL;
  if (s->context != NULL && cu.CtxPush(s->context) == 0) {
    for (int k = 0; k < RECORDINGS; ++k)
      if (s->recordings[k].graph != NULL) cu.GraphExecDestroy(s->recordings[k].graph);
    if (s->stream != NULL) cu.StreamDestroy(s->stream);
    if (s->sizes != NULL) cu.MemFreeHost(s->sizes);
    if (s->staging != 0) cu.MemFree(s->staging);
    if (s->memory != 0) cu.MemFree(s->memory);
    if (s->module != NULL) cu.ModuleUnload(s->module);
    cu.CtxPop(&context);
  }
  if (s->context != NULL) cu.PrimaryRelease(s->device);
  free(s);
}

static int opened(int device, session *s) {
  int count = 0, status;
  CUcontext context = NULL;
  TRY(DeviceGetCount(&count));
  if (device < 0 || device >= count) return failed(ERROR_DEVICE, "no GPU %d: there are %d", device, count);
  TRY(DeviceGet(&s->device, device));
  TRY(PrimaryRetain(&s->context, s->device));
  TRY(CtxPush(s->context));
  status = load(s);
  cu.CtxPop(&context);
  return status;
}

/* Starts a kernel with these arguments, unless the code in use does without it; with `overlapped`, blocks may start while the kernel before it runs,
   which they wait for themselves. */
__attribute__((unused)) static int start(const session *s, CUstream stream, int which, int overlapped, const CUdeviceptr *arguments) {
  void *pointers[MOST_ARGUMENTS];
  if (launches[which].before != 0 && s->capability >= launches[which].before) return OK;
  for (int k = 0; k < launches[which].arguments; ++k) pointers[k] = (void *)&arguments[k];
  const unsigned *const grid = launches[which].grid, *const block = launches[which].block;
  const unsigned shared = launches[which].shared;
  const CUfunction function = s->functions[which];
  launch_attribute programmatic = {.id = PROGRAMMATIC, .value.allowed = 1};
  const launch_config config = {
      {grid[0], grid[1], grid[2]}, {block[0], block[1], block[2]}, shared, stream, &programmatic, 1};
  const CUresult result = launches[which].together
      ? cu.LaunchTogether(function, grid[0], grid[1], grid[2], block[0], block[1], block[2], shared, stream, pointers)
      : overlapped && s->overlaps ? launch_ex(&config, function, pointers, NULL)
      : cu.LaunchKernel(function, grid[0], grid[1], grid[2], block[0], block[1], block[2], shared, stream, pointers, NULL);
  return result == 0 ? OK : driver_failed(result, launches[which].name);
}

/* Reads a few bytes of the device, once all that comes before is done. */
__attribute__((unused)) static int fetch(CUstream stream, void *target, CUdeviceptr source, size_t size) {
  TRY(CopyToHost(target, source, size, stream));
  TRY(StreamSynchronize(stream));
  return OK;
}

static int is_on_device(const void *pointer) {
  unsigned kind = 0;
  return cu.PointerGetAttribute(&kind, MEMORY_TYPE, (CUdeviceptr)(uintptr_t)pointer) == 0 && kind == DEVICE_MEMORY;
}

static int staging(session *s, CUdeviceptr *place, size_t offset) {
  if (s->staging == 0) {
    const CUresult result = cu.MemAlloc(&s->staging, STAGING_ROOM);
    if (result != 0) return failed(ERROR_MEMORY, "copies of inputs and outputs take %zu bytes, which the GPU does not have", (size_t)STAGING_ROOM);
  }
  *place = s->staging + offset;
  return OK;
}

/* Whether a run had these addresses not long ago; the next one will know that this one had. */
static int were_seen(session *s, const CUdeviceptr *pointers, int variant) {
  for (int k = 0; k < RECORDINGS; ++k)
    if (s->seen[k].variant == variant && memcmp(s->seen[k].pointers, pointers, sizeof s->seen[k].pointers) == 0) return 1;
  recording *const latest = &s->seen[s->misses++ % RECORDINGS];
  memcpy(latest->pointers, pointers, sizeof latest->pointers);
  latest->variant = variant;
  return 0;
}

/* The recording of the program for these addresses: made at the first run with them, and kept. Where another one would have to go, it is made at the
   second run, and `graph` is NULL at the first: who has new addresses each time pays for no recordings. */
static int recorded(session *s, const CUdeviceptr *pointers, int variant, CUgraphExec *graph) {
  recording *found = &s->recordings[0];
  for (int k = 0; k < RECORDINGS; ++k) {
    recording *const r = &s->recordings[k];
    if (r->graph != NULL && r->variant == variant && memcmp(r->pointers, pointers, sizeof r->pointers) == 0) {
      r->used = ++s->runs;
      *graph = r->graph;
      return OK;
    }
    if (r->used < found->used) found = r;
  }
  CUgraph captured = NULL;
  *graph = NULL;
  if (found->graph != NULL && !were_seen(s, pointers, variant)) return OK;
  if (found->graph != NULL) TRY(GraphExecDestroy(found->graph));
  found->graph = NULL;
  TRY(BeginCapture(s->stream, THREAD_LOCAL));
  const int status = program(s, pointers, pointers + INPUTS, variant, s->stream);
  const CUresult result = cu.EndCapture(s->stream, &captured);
  if (status != OK) {
    if (captured != NULL) cu.GraphDestroy(captured);
    return status;
  }
  if (result != 0) return driver_failed(result, "cuStreamEndCapture");
  const CUresult made = cu.GraphInstantiate(&found->graph, captured, 0);
  cu.GraphDestroy(captured);
  if (made != 0) {
    found->graph = NULL;
    return driver_failed(made, "cuGraphInstantiateWithFlags");
  }
  memcpy(found->pointers, pointers, sizeof found->pointers);
  found->variant = variant;
  found->used = ++s->runs;
  *graph = found->graph;
  return OK;
}

static int run_here(session *s, const void *const *given, void *const *wanted, int variant, CUstream stream) {
  CUdeviceptr pointers[INPUTS + OUTPUTS + 1] = {0};
  int status;
  for (int k = 0; k < INPUTS; ++k) {
    const int there = is_on_device(given[k]);
    pointers[k] = (CUdeviceptr)(uintptr_t)given[k];
    if (there && pointers[k] % ALIGNMENT == 0) continue;
    if ((status = staging(s, &pointers[k], ports[k].offset)) != OK) return status;
    if (there) TRY(Copy(pointers[k], (CUdeviceptr)(uintptr_t)given[k], ports[k].sizes[variant], stream));
    else TRY(CopyToDevice(pointers[k], given[k], ports[k].sizes[variant], stream));
  }
  for (int k = 0; k < OUTPUTS; ++k) {
    pointers[INPUTS + k] = (CUdeviceptr)(uintptr_t)wanted[k];
    if (is_on_device(wanted[k]) && pointers[INPUTS + k] % ALIGNMENT == 0) continue;
    if ((status = staging(s, &pointers[INPUTS + k], ports[INPUTS + k].offset)) != OK) return status;
  }
  int capturing = 0; /* by the caller, whose graph the launches then become a part of; the default stream cannot be captured */
  if (stream != NULL) TRY(IsCapturing(stream, &capturing));
  CUgraphExec graph = NULL;
  if (RECORDED && !capturing && (status = recorded(s, pointers, variant, &graph)) != OK) return status;
  if (graph != NULL) {
    TRY(GraphLaunch(graph, stream));
  } else if ((status = program(s, pointers, pointers + INPUTS, variant, stream)) != OK) {
    return status;
  }
  for (int k = 0; k < OUTPUTS; ++k) {
    const CUdeviceptr own = (CUdeviceptr)(uintptr_t)wanted[k], place = pointers[INPUTS + k];
    const size_t size = ports[INPUTS + k].sizes[variant];
    if (place == own) continue;
    if (is_on_device(wanted[k])) TRY(Copy(own, place, size, stream));
    else TRY(CopyToHost(wanted[k], place, size, stream));
  }
  return OK;
}
"""
"""C11. The definitions that it refers to, such as `INPUTS` and `launches`, come before it, `program` and `reset` are declared."""
