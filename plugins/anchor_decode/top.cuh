// The k greatest of a stream of keys, exactly, in a bounded piece of shared memory, by one block.
//
// Keys go into a buffer of more than k places. When it is full, a radix selection over its keys finds the bound that
// just k of them reach; the rest goes, and what is below the bound is turned away from then on. Which thread's key gets
// which place depends on timing, the set of k keys does not: keys are unique.
#pragma once

#include "arithmetic.cuh"

namespace edge_retina {
namespace kernels {

struct TopState {
  int count;      // places taken, or asked for where that is more than there are
  int wanted;     // how many to take from the digit under study
  int digit;
  int kept;
  float floor;    // a logit below it need not be offered
  Key bound;      // likewise a key
  unsigned histogram[256];
};

struct Top {
  TopState& state;
  Key* keys;
  int capacity;
  int k;
};

__device__ inline void startTop(const Top& top, float floor) {
  if (threadIdx.x == 0) {
    top.state.count = 0;
    top.state.floor = floor;
    top.state.bound = 1;
  }
  __syncthreads();
}

// Counts a digit of each lane that has one. Leading digits are mostly one and the same, so those like the first lane's
// are counted together.
__device__ inline void countDigit(unsigned* histogram, unsigned digit, bool has) {
  const unsigned lanes = __ballot_sync(kAllLanes, has);
  if (!lanes) return;
  const int first = __ffs(lanes) - 1;
  const unsigned common = __shfl_sync(kAllLanes, digit, first);
  const bool same = has && digit == common;
  const unsigned together = __ballot_sync(kAllLanes, same);
  if (int(threadIdx.x % 32) == first) {
    atomicAdd(&histogram[digit], unsigned(__popc(together)));
  } else if (has && !same) {
    atomicAdd(&histogram[digit], 1u);
  }
}

// A bound that exactly k of the n > k keys reach; bits it does not need are zero.
template <int kThreads>
__device__ Key findBound(const Top& top, int n) {
  static_assert(kThreads >= 256, "one thread for each digit");
  TopState& state = top.state;
  Key bound = 0, known = 0;
  int wanted = top.k;
  for (int shift = 56; shift >= 0; shift -= 8) {
    if (threadIdx.x < 256) state.histogram[threadIdx.x] = 0;
    __syncthreads();
    for (int start = 0; start < n; start += kThreads) {
      const int i = start + threadIdx.x;
      const Key key = i < n ? top.keys[i] : 0;
      countDigit(state.histogram, (key >> shift) & 255, i < n && (key & known) == bound);
    }
    __syncthreads();
    if (threadIdx.x < 32) {
      // Lane 0 has the eight greatest digits.
      const int first = 255 - 8 * int(threadIdx.x);
      int ofLane = 0, all;
      for (int i = 0; i < 8; ++i) ofLane += state.histogram[first - i];
      int before = sumBefore(ofLane, all);
      if (before < wanted && wanted <= before + ofLane) {
        int digit = first;
        while (before + int(state.histogram[digit]) < wanted) before += state.histogram[digit--];
        state.digit = digit;
        state.wanted = wanted - before;
      }
    }
    __syncthreads();
    bound |= Key(state.digit) << shift;
    known |= Key(255) << shift;
    wanted = state.wanted;
    const bool whole = wanted == int(state.histogram[state.digit]);
    __syncthreads();
    if (whole) break;
  }
  return bound ? bound : 1;
}

// Leaves the k greatest keys of the buffer in it, in any order.
template <int kThreads>
__device__ void keepTop(const Top& top) {
  TopState& state = top.state;
  const int n = state.count < top.capacity ? state.count : top.capacity;
  if (threadIdx.x == 0) state.kept = 0;
  const Key bound = findBound<kThreads>(top, n);
  for (int start = 0; start < n; start += kThreads) {
    const int i = start + threadIdx.x;
    const Key key = i < n ? top.keys[i] : 0;
    // Kept keys move down, to places that were read in this round or before.
    __syncthreads();
    const unsigned lanes = __ballot_sync(kAllLanes, key >= bound);
    int place = 0;
    if (threadIdx.x % 32 == 0 && lanes) place = atomicAdd(&state.kept, __popc(lanes));
    place = __shfl_sync(kAllLanes, place, 0) + __popc(lanes & ((1u << threadIdx.x % 32) - 1));
    if (key >= bound) top.keys[place] = key;
  }
  if (threadIdx.x == 0) {
    state.count = top.k;
    state.bound = bound;
    state.floor = logitOf(bound);
  }
  __syncthreads();
}

// Takes the keys keyOf(j) of the bits j of `pending`. All threads of the block come here together; one barrier when
// there is room.
template <int kThreads, class KeyOf>
__device__ void offer(const Top& top, unsigned pending, KeyOf keyOf) {
  TopState& state = top.state;
  for (;;) {
    if (__any_sync(kAllLanes, pending != 0)) {
      for (unsigned rest = pending; rest; rest &= rest - 1) {
        if (keyOf(__ffs(rest) - 1) < state.bound) pending ^= rest & (0u - rest);
      }
      int ofWarp, place = 0;
      const int before = sumBefore(__popc(pending), ofWarp);
      if (threadIdx.x % 32 == 0) place = atomicAdd(&state.count, ofWarp);
      place = __shfl_sync(kAllLanes, place, 0) + before;
      for (; pending && place < top.capacity; pending &= pending - 1) top.keys[place++] = keyOf(__ffs(pending) - 1);
    }
    if (!__syncthreads_or(pending != 0)) return;
    keepTop<kThreads>(top);
  }
}

// values[j] without an address: a loop over bits would put the array into memory.
template <int kValues, class T>
__device__ inline T pick(const T (&values)[kValues], int j) {
  T value = values[0];
#pragma unroll
  for (int i = 1; i < kValues; ++i) value = i == j ? values[i] : value;
  return value;
}

// How many keys there are once all were offered, k at most. All threads come here together, from startTop or offer.
template <int kThreads>
__device__ int endTop(const Top& top) {
  if (top.state.count > top.k) keepTop<kThreads>(top);
  return top.state.count;
}

// Sorts n keys, greatest first: a bitonic network whose comparators all point one way, so that n need be no power of
// two. All threads come here together; a barrier after.
template <int kThreads>
__device__ void sortKeys(Key* keys, int n) {
  int size = 2;
  while (size < 2 * n) {
    for (int step = size / 2; step > 0; step /= 2) {
      for (int pair = threadIdx.x;; pair += kThreads) {
        const int low = (pair / step) * 2 * step + pair % step;
        if (low >= n) break;
        // The first round of a size meets its second half from the far end.
        const int high = step == size / 2 ? low ^ (size - 1) : low + step;
        if (high < n && keys[low] < keys[high]) {
          const Key key = keys[low];
          keys[low] = keys[high];
          keys[high] = key;
        }
      }
      __syncthreads();
    }
    size *= 2;
  }
}

}  // namespace kernels
}  // namespace edge_retina
