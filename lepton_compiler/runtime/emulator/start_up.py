"""The program around a firmware library on an emulated board: start-up code, calls, the counter of instructions, results to a file.

It runs the jobs of `board.py`. Where calls of kernels are counted, `board.py` has redirected them to the thunks here: each notes the time and
goes on to the kernel, with all registers that may hold arguments, and with the stack, as they were.
"""

from __future__ import annotations

from collections.abc import Sequence

RESULTS = "results.bin"
"""The file that the program writes, in the folder where the emulator runs."""
THUNK_BYTES = 8
"""A thunk: `movw r12, #kernel`, `b.w lepton_trace`."""

SOURCE = """
#include <stdint.h>

typedef int function(const void *, void *, void *);
typedef struct {
  uint32_t calls, counts, data, bytes, log, most, paint, reserved;
  struct { uint32_t resets; const void *arguments[3]; } call[2];
} job;
typedef struct { uint32_t status, failed, stack, events, fault, where; uint64_t begin, end, nothing, trace, after; } outcome;
typedef struct { uint32_t kernel, reserved; uint64_t time; } event;

#define JOB ((const job *)@JOB@)
#define COUNTER ((volatile uint32_t *)0x58100000)
#define PAINT 0xa5a5a5a5u

int @NAME@_run(const void *, void *, void *);
@DECLARATIONS@
void lepton_start(void);
void lepton_record(uint32_t kernel);
void lepton_failed(const uint32_t *frame);
void lepton_fault(void);
void lepton_calibrate(void);
int lepton_nothing(const void *a, void *b, void *c);
int lepton_return(void);
int lepton_main(void);
extern int (*const lepton_kernels[])(void);
int (*const lepton_kernels[])(void) = {@KERNELS@lepton_return};
extern uint32_t lepton_saved[8], lepton_second_stack[128];
uint32_t lepton_saved[8], lepton_second_stack[128];
static outcome found;

static long semihosting(long operation, const void *arguments) {
  register long r0 __asm__("r0") = operation;
  register const void *r1 __asm__("r1") = arguments;
  __asm__ volatile("bkpt 0xab" : "+r"(r0) : "r"(r1) : "memory");
  return r0;
}

static uint64_t now(void) { /* the system counter of the board: 64 bits, read in two halves */
  uint32_t high, low;
  do {
    high = COUNTER[3];
    low = COUNTER[2];
  } while (high != COUNTER[3]);
  return (uint64_t)high << 32 | low;
}

void lepton_record(uint32_t kernel) {
  event *next = (event *)JOB->log + found.events;
  if (found.events < JOB->most) {
    next->kernel = kernel;
    next->time = now();
  }
  ++found.events;
}

__asm__(
  ".syntax unified\\n.thumb\\n"
  ".section .text.lepton_thunks,\\"ax\\",%progbits\\n.balign 4\\n"
  ".globl lepton_thunks\\n.type lepton_thunks, %object\\nlepton_thunks: .space @THUNKS@\\n"
  ".section .text.lepton_trace,\\"ax\\",%progbits\\n.balign 4\\n"
  ".globl lepton_trace\\n.type lepton_trace, %function\\n.thumb_func\\nlepton_trace:\\n"
  "vmov s0, r0\\n"
  "ldr r0, =lepton_saved\\n"
  "stmia.w r0, {r1, r2, r3, r12, lr}\\n"
  "mov r1, sp\\nstr r1, [r0, #20]\\nvstr s0, [r0, #24]\\n"
  "ldr r1, =lepton_second_stack + 512\\nmov sp, r1\\n"
  "mov r0, r12\\n"
  "bl lepton_record\\n"
  "ldr r0, =lepton_saved\\n"
  "ldr r1, [r0, #20]\\nmov sp, r1\\n"
  "ldmia.w r0, {r1, r2, r3, r12, lr}\\n"
  "ldr r0, =lepton_kernels\\nldr.w r12, [r0, r12, lsl #2]\\n"
  "ldr r0, =lepton_saved\\nldr r0, [r0, #24]\\n"
  "bx r12\\n.ltorg\\n"
  ".section .text.lepton_calibrate,\\"ax\\",%progbits\\n.balign 4\\n"
  ".globl lepton_calibrate\\n.type lepton_calibrate, %function\\n.thumb_func\\nlepton_calibrate:\\n"
  "push {r4, lr}\\n"
  "bl lepton_dummy\\nbl lepton_dummy\\n"
  "pop {r4, pc}\\n.word lepton_thunks, lepton_fault\\n"
  ".type lepton_dummy, %function\\n.thumb_func\\nlepton_dummy: movw r12, #@COUNT@\\nb.w lepton_trace\\n"
  ".globl lepton_nothing, lepton_return\\n.type lepton_nothing, %function\\n.type lepton_return, %function\\n"
  ".thumb_func\\nlepton_nothing:\\n.thumb_func\\nlepton_return: bx lr\\n"
  ".section .text.lepton_start,\\"ax\\",%progbits\\n.balign 4\\n"
  ".globl lepton_start\\n.type lepton_start, %function\\n.thumb_func\\nlepton_start:\\n"
  "ldr r0, =0xe000ed88\\nmov.w r1, #0xf00000\\nstr r1, [r0]\\ndsb\\nisb\\n" /* the FPU, and the vectors with it */
  "bl lepton_main\\n.ltorg\\n"
  ".section .text.lepton_fault,\\"ax\\",%progbits\\n.balign 4\\n"
  ".globl lepton_fault\\n.type lepton_fault, %function\\n.thumb_func\\nlepton_fault:\\n"
  "mov r0, sp\\n"
  "ldr r1, =lepton_second_stack + 512\\nmov sp, r1\\n"
  "b.w lepton_failed\\n.ltorg\\n"
  ".text\\n");

static void report(void) { /* the outcome, the times of the kernel calls, the data */
  static const char name[] = "@RESULTS@";
  const long opening[3] = {(long)name, 5, (long)sizeof name - 1};
  const long file = semihosting(1, opening);
  const uint32_t events = found.events < JOB->most ? found.events : JOB->most;
  const long parts[3][3] = {{file, (long)&found, (long)sizeof found},
                            {file, (long)JOB->log, (long)(events * sizeof(event))},
                            {file, (long)JOB->data, (long)JOB->bytes}};
  for (int k = 0; k < 3; ++k) semihosting(5, parts[k]);
  semihosting(2, &file);
  const long ending[2] = {0x20026, 0};
  semihosting(0x20, ending);
  for (;;) {
  }
}

void lepton_failed(const uint32_t *frame) { /* an exception: which one, and where */
  found.fault = *(volatile uint32_t *)0xe000ed28 | 1u << 31;
  found.where = frame[6];
  report();
}

__attribute__((noinline)) static int called(function *f, const void *const *a) {
  uint32_t *const low = (uint32_t *)JOB->paint;
  uint32_t top;
  __asm__ volatile("mov %0, sp" : "=r"(top));
  top = (top - 64) & ~3u;
  for (uint32_t *at = low; at < (uint32_t *)top; ++at) *(volatile uint32_t *)at = PAINT;
  found.begin = now();
  const int status = f(a[0], (void *)a[1], (void *)a[2]);
  found.end = now();
  const uint32_t *at = low;
  while (at < (const uint32_t *)top && *at == PAINT) ++at;
  found.stack = (uint32_t)(top + 64) - (uint32_t)at;
  return status;
}

int lepton_main(void) {
  const void *none[3] = {0, 0, 0};
  COUNTER[0] = 1;
  called(lepton_nothing, none);
  found.nothing = found.end - found.begin;
  lepton_calibrate();
  const uint64_t end = now();
  const event *log = (const event *)JOB->log;
  found.trace = log[1].time - log[0].time;
  found.after = end - log[1].time;
  for (found.failed = 0; found.failed < JOB->calls; ++found.failed) {
    found.events = 0;
    const void *const *arguments = JOB->call[found.failed].arguments;
    found.status = (uint32_t)(JOB->call[found.failed].resets ? called(@RESETS@, arguments) : called(@NAME@_run, arguments));
    if (found.status) break;
  }
  report();
  return 0;
}
"""

RESETS = """
int NAME_reset(void *);
static int lepton_resets(const void *a, void *b, void *c) { (void)b, (void)c; return NAME_reset((void *)a); }
"""


def start_up(name: str, functions: Sequence[str], stateful: bool, job: int) -> str:
    """The C text.

    Args:
        name: of the artefact.
        functions: those of its kernels whose calls can be counted; some need not be there.
        stateful: whether it has a function that resets it.
        job: address of what is to be done.
    """
    extern = "".join(f"__attribute__((weak)) int {function}(void);\n" for function in functions)
    fields = {
        "NAME": name,
        "JOB": hex(job),
        "DECLARATIONS": extern + (RESETS.replace("NAME", name) if stateful else ""),
        "KERNELS": "".join(f"{function}, " for function in functions),
        "COUNT": str(len(functions)),
        "THUNKS": str(max(1, len(functions)) * THUNK_BYTES),
        "RESULTS": RESULTS,
        "RESETS": "lepton_resets" if stateful else "lepton_nothing",
    }
    text = SOURCE
    for field, value in fields.items():
        text = text.replace(f"@{field}@", value)
    return text
