"""The C program around what is measured: buffers, caches as a model leaves them, a clock, and two ways to be called.

A measured library is one or several contenders and this code. It is called through plain C functions in the runner's process, or
through TVM's RPC as functions of packed arguments, on a board.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from lepton_compiler.target import Target
from lepton_compiler.toolchain import find_toolchain

FUNCTIONS = ("put", "get", "run", "cpu", "free")


@dataclass(frozen=True)
class Contender:
    """What is called and timed.

    Attributes:
        prototype: C declarations that `call` needs.
        call: a C expression of type int, 0 where all is well; `p` is the array of its arguments.
        arguments: for each element of `p` a buffer of the table, or a number as ("number", N).
    """

    prototype: str
    call: str
    arguments: tuple[int | tuple[str, int], ...]


@dataclass(frozen=True)
class Table:
    """The buffers that contenders share.

    Attributes:
        sizes: in bytes, each at a 64-byte boundary, all zero at first.
        warm: buffers that were just written when a contender is called, as the results of the kernel before it are.
        evicted: bytes of other memory that are read before each call, as the other kernels of the model do.
    """

    sizes: tuple[int, ...]
    warm: tuple[int, ...]
    evicted: int


TEMPLATE = """\
#define _POSIX_C_SOURCE 200809L
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

@prototypes@

#define CONTENDERS @contenders@
#define BUFFERS @buffers@
#define EVICTED @evicted@
#define PARTS @parts@
#define EXPORT __attribute__((visibility("default")))

static const int64_t sizes[BUFFERS + 1] = {@sizes@};
static const uint8_t warm[BUFFERS + 1] = {@warm@};
static uint8_t *buffers[BUFFERS + 1];
static uint8_t *others;
static volatile uint64_t sink;

@calls@

static int64_t nanoseconds(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

static int ready(void) {
  if (others != NULL) return 0;
  for (int k = 0; k < BUFFERS; k++) {
    const size_t size = ((size_t)sizes[k] + 128) / 64 * 64;
    if (buffers[k] == NULL && (buffers[k] = aligned_alloc(64, size)) != NULL) memset(buffers[k], 0, size);
    if (buffers[k] == NULL) return 1;
  }
  others = calloc(1, (size_t)(EVICTED + 64));
  return others == NULL;
}

/* The caches as the kernel before leaves them: full of other things, and of its results. */
static void prepare(void) {
  uint64_t sum = 0;
  for (int64_t k = 0; k < EVICTED; k += 64) sum += others[k]++;
  for (int k = 0; k < BUFFERS; k++)
    for (int64_t i = 0; warm[k] && i < sizes[k]; i += 64) ((volatile uint8_t *)buffers[k])[i] = ((volatile uint8_t *)buffers[k])[i];
  sink += sum;
}

EXPORT int lepton_tune_put(int64_t buffer, const uint8_t *data, int64_t size) {
  if (ready() || buffer < 0 || buffer >= BUFFERS || size > sizes[buffer]) return 1;
  memcpy(buffers[buffer], data, (size_t)size);
  return 0;
}

EXPORT int lepton_tune_get(int64_t buffer, uint8_t *data, int64_t size) {
  if (ready() || buffer < 0 || buffer >= BUFFERS || size > sizes[buffer]) return 1;
  memcpy(data, buffers[buffer], (size_t)size);
  return 0;
}

EXPORT int lepton_tune_free(void) {
  for (int k = 0; k < BUFFERS; k++) {
    free(buffers[k]);
    buffers[k] = NULL;
  }
  free(others);
  others = NULL;
  return 0;
}

/* Call each contender whose bit is set once per round, in an order that changes; samples are [rounds][CONTENDERS][PARTS] seconds. */
EXPORT int lepton_tune_run(double *samples, int64_t rounds, int64_t active) {
  if (ready()) return 1;
  for (int64_t r = 0; r < rounds; r++)
    for (int j = 0; j < CONTENDERS; j++) {
      const int turn = (int)((j + r / 2) % CONTENDERS), k = r % 2 ? CONTENDERS - 1 - turn : turn;
      double *out = samples + (r * CONTENDERS + k) * PARTS;
      if (!(active >> k & 1)) continue;
      prepare();
      @before@
      const int64_t start = nanoseconds();
      const int status = call(k);
      out[0] = 1e-9 * (double)(nanoseconds() - start);
      @after@
      if (status != 0) return status;
    }
  return 0;
}

/* What the processor is: its name, and the sizes of the caches of its first core; a line of text. */
EXPORT int lepton_tune_cpu(char *text, int64_t size) {
  char line[512], path[96], level[8], kind[32], bytes[32];
  FILE *file = fopen("/proc/cpuinfo", "r");
  text[0] = 0;
  while (file != NULL && fgets(line, sizeof line, file) != NULL)
    if (strncmp(line, "model name", 10) == 0 || strncmp(line, "CPU part", 8) == 0) {
      char *value = strchr(line, ':');
      if (value == NULL) continue;
      value[strcspn(value, "\\n")] = 0;
      snprintf(text, (size_t)size, "%s", value + 1 + strspn(value + 1, " \\t"));
      break;
    }
  if (file != NULL) fclose(file);
  for (int k = 0; k < 8; k++) {
    const char *names[] = {"level", "type", "size"};
    char *values[] = {level, kind, bytes};
    int found = 0;
    for (int n = 0; n < 3; n++) {
      snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/%s", k, names[n]);
      if ((file = fopen(path, "r")) == NULL) break;
      found += fgets(values[n], n == 0 ? sizeof level : sizeof kind, file) != NULL;
      values[n][strcspn(values[n], "\\n")] = 0;
      fclose(file);
    }
    const size_t end = strlen(text);
    if (found == 3 && strcmp(kind, "Instruction") != 0) snprintf(text + end, (size_t)size - end, ", L%s %s", level, bytes);
  }
  return 0;
}

/* The same for TVM's RPC. */
typedef struct { int32_t type; uint32_t zero; union { int64_t integer; void *pointer; } value; } Any;
typedef struct { void *data; int32_t device[2]; int32_t ndim; uint8_t dtype[4]; int64_t *shape, *strides; uint64_t offset; } Tensor;

static void *at(const Any *any) {
  Tensor *tensor = any->value.pointer;
  return (uint8_t *)tensor->data + tensor->offset;
}

static int done(Any *result, int status) {
  memset(result, 0, sizeof *result);
  result->type = 1;
  result->value.integer = status;
  return 0;
}

EXPORT int __tvm_ffi_lepton_tune_put(void *self, const Any *a, int32_t count, Any *result) {
  (void)self;
  return done(result, count == 3 ? lepton_tune_put(a[0].value.integer, at(a + 1), a[2].value.integer) : 1);
}

EXPORT int __tvm_ffi_lepton_tune_get(void *self, const Any *a, int32_t count, Any *result) {
  (void)self;
  return done(result, count == 3 ? lepton_tune_get(a[0].value.integer, at(a + 1), a[2].value.integer) : 1);
}

EXPORT int __tvm_ffi_lepton_tune_run(void *self, const Any *a, int32_t count, Any *result) {
  (void)self;
  return done(result, count == 3 ? lepton_tune_run(at(a), a[1].value.integer, a[2].value.integer) : 1);
}

EXPORT int __tvm_ffi_lepton_tune_free(void *self, const Any *a, int32_t count, Any *result) {
  (void)self;
  (void)a;
  (void)count;
  return done(result, lepton_tune_free());
}

EXPORT int __tvm_ffi_lepton_tune_cpu(void *self, const Any *a, int32_t count, Any *result) {
  (void)self;
  return done(result, count == 2 ? lepton_tune_cpu(at(a), a[1].value.integer) : 1);
}
"""
"""`Any` is `TVMFFIAny` and `Tensor` is DLPack's `DLTensor`, as tensors arrive in a function that is called over RPC."""


def source(contenders: Sequence[Contender], table: Table, profiled: tuple[str, int] | None = None) -> str:
    """The C text.

    Args:
        contenders: at most 63.
        table: their buffers.
        profiled: the array in which a model sums up the seconds of its kernel calls, and how many there are.
    """
    calls = ["static int call(int contender) {", "  switch (contender) {"]
    for k, contender in enumerate(contenders):
        arguments = ", ".join(f"buffers[{a}]" if isinstance(a, int) else f"(void *)(intptr_t){a[1]}" for a in contender.arguments)
        calls.append(f"    case {k}: {{ void *p[] = {{{arguments}}}; (void)p; return {contender.call}; }}")
    calls += ["  }", "  return 1;", "}"]
    name, parts = profiled or ("", 0)
    values = {
        "prototypes": "\n".join([*(c.prototype for c in contenders), *([f"extern double {name}[];"] if parts else [])]),
        "contenders": len(contenders),
        "buffers": len(table.sizes),
        "evicted": f"((int64_t){table.evicted})",
        "parts": 1 + parts,
        "sizes": ", ".join([*map(str, table.sizes), "0"]),
        "warm": ", ".join([*("1" if k in table.warm else "0" for k in range(len(table.sizes))), "0"]),
        "calls": "\n".join(calls),
        "before": f"memset({name}, 0, {parts} * sizeof *{name});" if parts else "",
        "after": f"memcpy(out + 1, {name}, {parts} * sizeof *{name});" if parts else "",
    }
    text = TEMPLATE
    for key, value in values.items():
        text = text.replace(f"@{key}@", str(value))
    return text


def library(text: str, objects: Sequence[bytes], target: Target) -> bytes:
    """Compile the C text for a machine and link it with objects to a shared library.

    Raises:
        LeptonError: the C compiler failed.
        MissingDependency: there is no C compiler.
    """
    tools = find_toolchain(target)
    with tempfile.TemporaryDirectory(prefix="lepton-tune-") as temporary:
        folder = Path(temporary)
        (folder / "harness.c").write_text(text)
        names = [tools.compile(folder, "harness.c")]
        for k, code in enumerate(objects):
            (folder / f"{k}.o").write_bytes(code)
            names.append(f"{k}.o")
        exports = [f"{prefix}lepton_tune_{f}" for prefix in ("", "__tvm_ffi_") for f in FUNCTIONS]
        tools.shared(folder, names, "harness.so", exports)
        return (folder / "harness.so").read_bytes()
