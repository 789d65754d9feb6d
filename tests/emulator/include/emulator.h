// CUDA kernels as host C++: what g++ sees in place of the toolkit's headers. C++17, any POSIX system.
//
// Every CUDA thread is a fiber; blocks are shared out over EMULATOR_WORKERS system threads. Order is part of the test:
// EMULATOR_SEED (0: ascending) shuffles blocks, and the threads of a block anew between barriers, so that a missing
// barrier changes the result. Under -fsanitize=thread the fibers are ThreadSanitizer's too, ordered by barriers and
// __syncwarp alone, so that it finds races inside a block whatever the order. -DEMULATOR_ONE_WORKER puts __shared__
// variables where AddressSanitizer can fence them in.
//
// It stops the process, with the block and thread concerned, at: a barrier or warp operation that can never complete, a
// warp operation whose mask leaves out the caller or names a lane that ended, lanes of one mask in different
// operations, a shuffle from outside the mask. It does not know timing, occupancy, registers or the memory model
// between blocks.
#pragma once

#include <algorithm>
#include <atomic>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <numeric>
#include <random>
#include <thread>
#include <tuple>
#include <type_traits>
#include <vector>

#include "memory.h"
#include "vectors.h"

#define EDGE_RETINA_EMULATOR 1
#define __host__
#define __device__
#define __global__
#define __grid_constant__
#define __forceinline__ inline
#define __launch_bounds__(...)
#define __align__(n) alignas(n)
#ifdef EMULATOR_ONE_WORKER
#define __shared__ static
#else
#define __shared__ static thread_local  // one block at a time on each worker
#endif

#include "fibers.h"

namespace emulator {

constexpr unsigned kMaxThreads = 1024, kMaxGridYZ = 65535;
constexpr size_t kMaxShared = 48 << 10;  // what every GPU gives unasked
constexpr size_t kMaxArguments = 32764;  // bytes of kernel arguments since CUDA 12.1

struct Block;
struct Warp;

struct Thread {
  uint3 index{};
  unsigned linear = 0, lane = 0;
  Block* block = nullptr;
  Warp* warp = nullptr;
  bool done = false;
  const char* where = "its own code";
  Fiber fiber;
};

// One kind of lanes working together; lanes of a warp may do so under several masks at a time.
struct Meeting {
  unsigned mask = 0, arrived = 0, generation = 0;
  const char* what = "";
  uint64_t value[2][32];
  char order[2];
};

struct Warp {
  std::deque<Meeting> meetings;
  unsigned lanes = 0, ended = 0;
};

struct Block {
  uint3 index{};
  dim3 size, grid;
  char* shared = nullptr;
  unsigned live = 0, arrived = 0, generation = 0;
  int verdict[2]{};
  char order[2], started, ended;
  std::vector<Thread> threads;
  std::unique_ptr<Warp[]> warps;
  uint64_t progress = 0;
  Fiber scheduler;
  const std::function<void()>* body = nullptr;

  ~Block() {
    for (Thread& t : threads) forget(t.fiber);
  }
};

inline thread_local Thread* self = nullptr;

[[noreturn]] inline void fail(const char* problem) {
  fprintf(stderr, "emulator: %s", problem);
  if (self) {
    const Block& b = *self->block;
    fprintf(stderr, " (block %u,%u,%u thread %u in %s)", b.index.x, b.index.y, b.index.z, self->linear, self->where);
    int shown = 0;
    for (const Thread& t : b.threads) {
      if (!t.done && shown++ < 8) fprintf(stderr, "\n  not ended: thread %u in %s", t.linear, t.where);
    }
  }
  fprintf(stderr, "\n");
  fflush(stderr);
  abort();
}

inline void wait(const unsigned& generation, unsigned seen) {
  while (generation == seen) pause(self->fiber, self->block->scheduler);
  self->block->progress++;
}

inline void complete(unsigned& generation) {
  generation++;
  self->block->progress++;
}

enum class Reduce { kCount, kOr, kAnd };

// Barrier of the block, with the reductions of __syncthreads_count, _or and _and.
inline int barrier(int predicate, Reduce kind, const char* what) {
  const Unwatched quiet;
  Block& b = *self->block;
  self->where = what;
  const unsigned seen = b.generation;
  int& verdict = b.verdict[seen & 1];
  if (b.arrived == 0) verdict = kind == Reduce::kAnd;
  const int one = predicate != 0;
  verdict = kind == Reduce::kCount ? verdict + one : kind == Reduce::kOr ? (verdict | one) : (verdict & one);
  before(&b.order[seen & 1]);
  if (++b.arrived == b.live) {
    b.arrived = 0;
    complete(b.generation);
  } else {
    wait(b.generation, seen);
  }
  after(&b.order[seen & 1]);
  self->where = "its own code";
  return verdict;
}

// Every lane in the mask leaves a value; all get the 32 of them. Memory is ordered only where `orders`, as CUDA
// promises for __syncwarp alone.
inline const uint64_t* meet(unsigned mask, uint64_t value, const char* what, bool orders = false) {
  const Unwatched quiet;
  Warp& w = *self->warp;
  self->where = what;
  if (!(mask >> self->lane & 1)) fail("a lane is not in the mask it gave");
  mask &= w.lanes;
  if (mask & w.ended) fail("a mask names a lane that has ended");
  size_t k = 0;
  while (k < w.meetings.size() && w.meetings[k].mask != mask) k++;
  if (k == w.meetings.size()) {
    w.meetings.emplace_back();
    w.meetings[k].mask = mask;
  }
  Meeting& m = w.meetings[k];
  const unsigned seen = m.generation;
  if (!m.arrived) m.what = what;
  if (strcmp(m.what, what) != 0) fail("lanes of one mask are in different operations");
  m.value[seen & 1][self->lane] = value;
  m.arrived |= 1u << self->lane;
  if (orders) before(&m.order[seen & 1]);
  if (m.arrived == mask) {
    m.arrived = 0;
    complete(m.generation);
  } else {
    wait(m.generation, seen);
  }
  if (orders) after(&m.order[seen & 1]);
  self->where = "its own code";
  return m.value[seen & 1];
}

template <class To, class From>
To bits(From from) {
  static_assert(sizeof(From) <= sizeof(To) || sizeof(To) <= sizeof(From), "");
  To to{};
  memcpy(&to, &from, std::min(sizeof to, sizeof from));
  return to;
}

template <class T>
T shuffle(unsigned mask, T value, int source, int width, const char* what) {
  const uint64_t* values = meet(mask, bits<uint64_t>(value), what);
  const Unwatched quiet;
  const int lane = int(self->lane), base = lane & ~(width - 1);
  if (source < base || source >= base + width) source = lane;
  if (!(mask >> source & 1)) fail("a shuffle reads a lane outside its mask");
  return source == lane ? value : bits<T>(values[source]);
}

inline void* dynamicShared() { return self->block->shared; }

inline void end() {
  const Unwatched quiet;
  Block& b = *self->block;
  self->warp->ended |= 1u << self->lane;
  self->done = true;
  before(&b.ended);
  b.live--;
  b.progress++;
  if (b.live && b.arrived == b.live) {
    b.arrived = 0;
    complete(b.generation);
  }
}

}  // namespace emulator

#define threadIdx (emulator::self->index)
#define blockIdx (emulator::self->block->index)
#define blockDim (emulator::self->block->size)
#define gridDim (emulator::self->block->grid)
#define warpSize 32

#include "blocks.h"
#include "intrinsics.h"
