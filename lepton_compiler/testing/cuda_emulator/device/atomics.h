// Atomic updates: one fiber runs at a time, so only the checks make them so.
#pragma once

namespace emulator {

template <class T, class F>
__attribute__((no_sanitize("thread"), noinline)) T update(T* address, F change) {
  check(address, sizeof(T), Access::atomic);
  T before;
  std::memcpy(&before, address, sizeof(T));
  T after = change(before);
  std::memcpy(static_cast<void*>(address), &after, sizeof(T));
  return before;
}

template <class T>
using Same = std::common_type_t<T>;  // no deduction from this argument

}  // namespace emulator

#define EMULATOR_ATOMIC(NAME, RESULT)                                                                  \
  template <class T>                                                                                   \
  T NAME(T* address, emulator::Same<T> value) {                                                        \
    return emulator::update(address, [&](T before) { return static_cast<T>(RESULT); });                \
  }
EMULATOR_ATOMIC(atomicAdd, before + value)
EMULATOR_ATOMIC(atomicSub, before - value)
EMULATOR_ATOMIC(atomicExch, ((void)before, value))
EMULATOR_ATOMIC(atomicMax, before > value ? before : value)
EMULATOR_ATOMIC(atomicMin, before < value ? before : value)
EMULATOR_ATOMIC(atomicAnd, before & value)
EMULATOR_ATOMIC(atomicOr, before | value)
EMULATOR_ATOMIC(atomicXor, before ^ value)
EMULATOR_ATOMIC(atomicInc, before >= value ? 0 : before + 1)
#undef EMULATOR_ATOMIC

template <class T>
T atomicCAS(T* address, emulator::Same<T> expected, emulator::Same<T> value) {
  return emulator::update(address, [&](T before) { return before == expected ? value : before; });
}
