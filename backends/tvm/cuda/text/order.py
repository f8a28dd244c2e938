"""What orders a kernel after the one before it, which may still be running when its threads start.

From `sm_90` on a launch can be *programmatic* (CUDA C++ Programming Guide, "Programmatic Dependent Launch and Synchronization"; PTX ISA,
"griddepcontrol"): its blocks start as soon as all blocks of the kernel before it have asked for that or are gone, and there is room for them. Three
rules make the results those of kernels that run one after another:

1. All threads of every kernel call `lepton_after_previous` before they touch memory that any kernel writes, and before they write any. It comes back
   when the kernel before is complete and what it wrote can be seen.
2. That kernel called it too, so that it was complete only after the one before it: by induction all earlier kernels are complete, with their reads as
   well as their writes, and the arena may be used again for other tensors.
3. Only after the wait does a kernel let the next one start. So there are two at a time, one that works and one that waits; and as all blocks of a kernel
   must have come that far, the next one only takes room that this one leaves: the slots of its last wave.

Before the call only weights are read, which nothing writes once a session is open, and indices computed. What is not a weight must not be read
through `ld.global.nc` either, for that is for memory that stays as it is from the start of a kernel to its end, and the compiler may move it up across
the wait. It is what pointers to constants become that are `__restrict__`, and `__ldg`: only those to weights are.
"""

from __future__ import annotations

AFTER_PREVIOUS = "lepton_after_previous();"
"""The statement that every kernel begins with, unless it reads weights first."""

ORDER = """\
#ifndef LEPTON_ORDER
#define LEPTON_ORDER
#ifdef LEPTON_EMULATED
#include "lepton_order.h"
#else
/* Waits for the kernel before this one, and lets the next one start. Every thread calls it before it touches what kernels write. */
static __device__ __forceinline__ void lepton_after_previous() {
#if __CUDA_ARCH__ >= 900
  asm volatile("griddepcontrol.wait;" ::: "memory");
  asm volatile("griddepcontrol.launch_dependents;" ::: "memory");
#endif
}
#endif
#endif
"""


def pointer(kind: str, name: str, *, written: bool, weight: bool, alone: bool = True) -> str:
    """The declaration of a parameter that points to elements of the C type `kind`.

    Args:
        written: whether the kernel writes there. Such pointers are `__restrict__`: loads through others may then be moved across stores.
        weight: whether nothing writes there while a session is open.
        alone: whether no two parameters overlap.
    """
    return f"{'' if written else 'const '}{kind} *{'__restrict__ ' if alone and (written or weight) else ''}{name}"
