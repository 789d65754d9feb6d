// Reading head tensors: element types and channel packs. Inputs are read through __ldcs (once) and __ldg only.
#pragma once

#include "arithmetic.cuh"

namespace edge_retina {
namespace kernels {

// Where channel `channel` of cell `cell` lies in an image's tensor.
__device__ inline long long elementOf(int channel, int cell, int cells, int pack) {
  if (pack == 1) return static_cast<long long>(channel) * cells + cell;
  const int group = channel / pack;
  return (static_cast<long long>(group) * cells + cell) * pack + (channel - group * pack);
}

template <Element kElement>
struct Reader;

template <>
struct Reader<Element::kFloat> {
  using Type = float;
  using Bits = unsigned;
  __device__ static float value(Bits bits, float) { return __uint_as_float(bits); }
};
template <>
struct Reader<Element::kHalf> {
  using Type = __half;
  using Bits = unsigned short;
  __device__ static float value(Bits bits, float) { return __half2float(__ushort_as_half(bits)); }
};
template <>
struct Reader<Element::kInt8> {
  using Type = signed char;
  using Bits = unsigned char;
  __device__ static float value(Bits bits, float scale) {
    return __fmul_rn(scale, float(static_cast<signed char>(bits)));
  }
};

template <Element kElement>
__device__ inline float readOnce(const void* data, long long element, float scale) {
  using R = Reader<kElement>;
  return R::value(__ldcs(static_cast<const typename R::Bits*>(data) + element), scale);
}

// 16 bytes of neighbouring elements.
template <Element kElement>
__device__ inline void readVectorOnce(const void* data, long long element, float scale, float* values) {
  using R = Reader<kElement>;
  constexpr int kBits = 8 * sizeof(typename R::Bits), kInWord = 32 / kBits;
  const uint4 vector =
      __ldcs(reinterpret_cast<const uint4*>(static_cast<const typename R::Bits*>(data) + element));
  const unsigned words[4] = {vector.x, vector.y, vector.z, vector.w};
#pragma unroll
  for (int i = 0; i < 4 * kInWord; ++i) {
    const unsigned bits = words[i / kInWord] >> (i % kInWord * (kBits % 32));
    values[i] = R::value(typename R::Bits(bits), scale);
  }
}

// A delta: read when its anchor was chosen, which several classes may have done.
__device__ inline float readDelta(const void* data, long long element, const HeadFormat& format) {
  switch (format.element) {
    case Element::kHalf:
      return __half2float(__ushort_as_half(__ldg(static_cast<const unsigned short*>(data) + element)));
    case Element::kInt8:
      return __fmul_rn(format.scale, float(__ldg(static_cast<const signed char*>(data) + element)));
    default:
      return __ldg(static_cast<const float*>(data) + element);
  }
}

}  // namespace kernels
}  // namespace edge_retina
