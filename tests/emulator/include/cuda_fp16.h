// In place of the toolkit's header: half precision numbers, to read.
#pragma once

#include <cstdint>
#include <cstring>

struct __half {
  uint16_t bits;
};

inline __half __ushort_as_half(unsigned short bits) { return {bits}; }

inline float __half2float(__half h) {
  const uint32_t sign = uint32_t(h.bits & 0x8000) << 16, exponent = h.bits >> 10 & 31, fraction = h.bits & 1023;
  uint32_t word;
  if (exponent == 0) {
    const float small = float(fraction) * 0x1p-24f;
    memcpy(&word, &small, sizeof word);
  } else if (exponent == 31) {
    word = 0x7f800000u | fraction << 13;
  } else {
    word = (exponent + 112) << 23 | fraction << 13;
  }
  word |= sign;
  float value;
  memcpy(&value, &word, sizeof value);
  return value;
}
