// Float arithmetic as edge_retina/boxes.py has it: float32, every operation rounded by itself.
//
// The _rn intrinsics keep compilers from fusing a multiplication with an addition, whatever their flags. Where a value
// may be NaN, comparisons are written so that it stays NaN, as np.minimum and np.maximum do.
#pragma once

#include "view.cuh"

namespace edge_retina {
namespace kernels {

__device__ inline float least(float value, float bound) { return value > bound ? bound : value; }
__device__ inline float most(float value, float bound) { return value < bound ? bound : value; }
__device__ inline float clamp(float value, float low, float high) { return least(most(value, low), high); }

__device__ inline float sigmoid(float x) {
  const float e = expf(-fabsf(x));
  return __fdiv_rn(x >= 0.f ? 1.f : e, __fadd_rn(1.f, e));
}

// Bits of a float such that unsigned comparison orders them as floats; both zeros are one.
__device__ inline unsigned orderedBits(float x) {
  const unsigned bits = __float_as_uint(x == 0.f ? 0.f : x);
  return bits ^ (bits >> 31 ? 0xffffffffu : 0x80000000u);
}
__device__ inline float orderedFloat(unsigned ordered) {
  return __uint_as_float(ordered ^ (ordered >> 31 ? 0x80000000u : 0xffffffffu));
}

__device__ inline Key makeKey(float logit, unsigned index) {
  return (Key(orderedBits(logit)) << 32) | (0xffffffffu - index);
}
__device__ inline float logitOf(Key key) { return orderedFloat(unsigned(key >> 32)); }
__device__ inline unsigned indexOf(Key key) { return 0xffffffffu - unsigned(key); }

// Whether two boxes overlap by more than `threshold` of their union. x1 y1 x2 y2 in x y z w.
__device__ inline bool overlap(float4 a, float4 b, float threshold) {
  const float width = __fsub_rn(fminf(a.z, b.z), fmaxf(a.x, b.x));
  const float height = __fsub_rn(fminf(a.w, b.w), fmaxf(a.y, b.y));
  if (!(width > 0.f && height > 0.f)) return false;
  const float both = __fmul_rn(width, height);
  const float areaA = __fmul_rn(__fsub_rn(a.z, a.x), __fsub_rn(a.w, a.y));
  const float areaB = __fmul_rn(__fsub_rn(b.z, b.x), __fsub_rn(b.w, b.y));
  const float either = __fsub_rn(__fadd_rn(areaA, areaB), both);
  return either > 0.f && __fdiv_rn(both, either) > threshold;
}

__device__ inline bool hasArea(float4 box) { return box.z > box.x && box.w > box.y; }

// Limits of clip kinds that look at the frame: left, top, right, bottom; then into them, a pixel of the border inside
// where boxes were trained with their last pixel.
__device__ inline float4 clipBox(float4 box, float4 limits, bool inclusive) {
  const float one = inclusive ? 1.f : 0.f;
  box.x = clamp(box.x, limits.x, __fsub_rn(limits.z, one));
  box.y = clamp(box.y, limits.y, __fsub_rn(limits.w, one));
  box.z = clamp(box.z, __fadd_rn(limits.x, one), limits.z);
  box.w = clamp(box.w, __fadd_rn(limits.y, one), limits.w);
  return box;
}

// The resized frame on the network input.
__device__ inline float4 contentLimits(const float* geometry) {
  const float left = __ldg(geometry), top = __ldg(geometry + 1);
  return make_float4(left, top, __fadd_rn(left, __ldg(geometry + 2)), __fadd_rn(top, __ldg(geometry + 3)));
}

// Sum of the lower lanes' values; `total` gets that of all.
__device__ inline int sumBefore(int value, int& total) {
  const int lane = threadIdx.x % 32;
  int sum = value;
  for (int step = 1; step < 32; step *= 2) {
    const int other = __shfl_up_sync(kAllLanes, sum, step);
    if (lane >= step) sum += other;
  }
  total = __shfl_sync(kAllLanes, sum, 31);
  return sum - value;
}

// The same over a block of kThreads; `sums` is shared memory for kThreads / 32 values. Two barriers, none after.
template <int kThreads>
__device__ inline int sumBeforeInBlock(int value, int* sums, int& total) {
  const int warp = threadIdx.x / 32;
  int ofWarp;
  int before = sumBefore(value, ofWarp);
  __syncthreads();
  if (threadIdx.x % 32 == 0) sums[warp] = ofWarp;
  __syncthreads();
  total = 0;
  for (int w = 0; w < kThreads / 32; ++w) {
    if (w < warp) before += sums[w];
    total += sums[w];
  }
  return before;
}

}  // namespace kernels
}  // namespace edge_retina
