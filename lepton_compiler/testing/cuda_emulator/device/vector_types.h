// The vector types of CUDA, with its alignments.
#pragma once

typedef unsigned char uchar;
typedef unsigned short ushort;
typedef unsigned int uint;
typedef unsigned long ulong;
typedef unsigned long long ulonglong;
typedef long long longlong;

#define EMULATOR_VECTORS(NAME, TYPE, ALIGN2, ALIGN4)                                             \
  struct NAME##1 {                                                                               \
    TYPE x;                                                                                      \
  };                                                                                             \
  struct __align__(ALIGN2) NAME##2 {                                                             \
    TYPE x, y;                                                                                   \
  };                                                                                             \
  struct NAME##3 {                                                                               \
    TYPE x, y, z;                                                                                \
  };                                                                                             \
  struct __align__(ALIGN4) NAME##4 {                                                             \
    TYPE x, y, z, w;                                                                             \
  };                                                                                             \
  inline NAME##1 make_##NAME##1(TYPE x) { return {x}; }                                          \
  inline NAME##2 make_##NAME##2(TYPE x, TYPE y) { return {x, y}; }                               \
  inline NAME##3 make_##NAME##3(TYPE x, TYPE y, TYPE z) { return {x, y, z}; }                    \
  inline NAME##4 make_##NAME##4(TYPE x, TYPE y, TYPE z, TYPE w) { return {x, y, z, w}; }

EMULATOR_VECTORS(char, signed char, 2, 4)
EMULATOR_VECTORS(uchar, unsigned char, 2, 4)
EMULATOR_VECTORS(short, short, 4, 8)
EMULATOR_VECTORS(ushort, unsigned short, 4, 8)
EMULATOR_VECTORS(int, int, 8, 16)
EMULATOR_VECTORS(uint, unsigned, 8, 16)
EMULATOR_VECTORS(long, long, 16, 16)
EMULATOR_VECTORS(ulong, unsigned long, 16, 16)
EMULATOR_VECTORS(longlong, long long, 16, 16)
EMULATOR_VECTORS(ulonglong, unsigned long long, 16, 16)
EMULATOR_VECTORS(float, float, 8, 16)
EMULATOR_VECTORS(double, double, 16, 16)
#undef EMULATOR_VECTORS
