// Device functions. Float arithmetic is the host's IEEE 754; build with -ffp-contract=off.
#pragma once

inline void __syncthreads() { emulator::barrier(0, emulator::Reduce::kCount, "__syncthreads"); }
inline int __syncthreads_or(int p) { return emulator::barrier(p, emulator::Reduce::kOr, "__syncthreads_or"); }
inline int __syncthreads_and(int p) { return emulator::barrier(p, emulator::Reduce::kAnd, "__syncthreads_and"); }
inline int __syncthreads_count(int p) { return emulator::barrier(p, emulator::Reduce::kCount, "__syncthreads_count"); }
inline void __syncwarp(unsigned mask = ~0u) { emulator::meet(mask, 0, "__syncwarp", true); }

template <class T>
T __shfl_sync(unsigned mask, T value, int source, int width = 32) {
  const int base = int(emulator::self->lane) & ~(width - 1);
  return emulator::shuffle(mask, value, base + (source & (width - 1)), width, "__shfl_sync");
}
template <class T>
T __shfl_up_sync(unsigned mask, T value, unsigned by, int width = 32) {
  return emulator::shuffle(mask, value, int(emulator::self->lane) - int(by), width, "__shfl_up_sync");
}
template <class T>
T __shfl_down_sync(unsigned mask, T value, unsigned by, int width = 32) {
  return emulator::shuffle(mask, value, int(emulator::self->lane + by), width, "__shfl_down_sync");
}
inline unsigned __ballot_sync(unsigned mask, int predicate) {
  const uint64_t* values = emulator::meet(mask, predicate != 0, "__ballot_sync");
  const emulator::Unwatched quiet;
  unsigned lanes = 0;
  for (int i = 0; i < 32; i++) {
    if ((mask & emulator::self->warp->lanes) >> i & 1 && values[i]) lanes |= 1u << i;
  }
  return lanes;
}
inline int __any_sync(unsigned mask, int predicate) { return __ballot_sync(mask, predicate) != 0; }

inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __ffs(int x) { return __builtin_ffs(x); }
inline unsigned __float_as_uint(float x) { return emulator::bits<unsigned>(x); }
inline float __uint_as_float(unsigned x) { return emulator::bits<float>(x); }
inline float __fadd_rn(float a, float b) { return a + b; }
inline float __fsub_rn(float a, float b) { return a - b; }
inline float __fmul_rn(float a, float b) { return a * b; }
inline float __fdiv_rn(float a, float b) { return a / b; }
// The correctly rounded exp, nearly always: a definition that NumPy can repeat.
inline float emulatedExp(float x) { return float(std::exp(double(x))); }
#define expf emulatedExp

template <class T>
T __ldg(const T* p) {
  return emulator::readOnly(p);
}
template <class T>
T __ldcs(const T* p) {
  return emulator::readOnly(p);
}

namespace emulator {
template <class T, class Change>
T readModifyWrite(T* p, Change change) {
  using Word = std::conditional_t<sizeof(T) == 4, uint32_t, uint64_t>;
  Word* word = reinterpret_cast<Word*>(p);
  Word old = __atomic_load_n(word, __ATOMIC_RELAXED), wanted;
  do {
    wanted = bits<Word>(change(bits<T>(old)));
  } while (!__atomic_compare_exchange_n(word, &old, wanted, false, __ATOMIC_RELAXED, __ATOMIC_RELAXED));
  return bits<T>(old);
}
template <class T>
using Given = std::common_type_t<T>;
}  // namespace emulator

template <class T>
T atomicAdd(T* p, emulator::Given<T> value) {
  return emulator::readModifyWrite(p, [=](T old) { return T(old + value); });
}
template <class T>
T atomicAnd(T* p, emulator::Given<T> value) {
  return emulator::readModifyWrite(p, [=](T old) { return T(old & value); });
}
