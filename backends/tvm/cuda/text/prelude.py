"""What every translation unit begins with: the names of C's integers, which NVRTC does not know, and vectors for wide loads and stores."""

from __future__ import annotations

from lepton_compiler.backends.tvm.cuda.text.order import ORDER

INTEGERS = """\
#ifdef __CUDACC_RTC__
typedef signed char int8_t;
typedef short int16_t;
typedef int int32_t;
typedef long long int64_t;
typedef unsigned char uint8_t;
typedef unsigned short uint16_t;
typedef unsigned int uint32_t;
typedef unsigned long long uint64_t;
typedef unsigned long long uintptr_t;
#else
#include <stdint.h>
#endif
#ifndef INT64_C
#define INT64_C(x) x##LL
#define UINT64_C(x) x##ULL
#endif

/* parts of arrays of any type */
struct __align__(4) __attribute__((may_alias)) lepton_4bytes { uint32_t part[1]; };
struct __align__(8) __attribute__((may_alias)) lepton_8bytes { uint32_t part[2]; };
struct __align__(16) __attribute__((may_alias)) lepton_16bytes { uint32_t part[4]; };
"""

PRELUDE = f"{INTEGERS}\n{ORDER}"
