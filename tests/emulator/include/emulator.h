// CUDA kernels as host C++: what g++ sees in place of the toolkit's headers. C++17, any POSIX system.
//
// Every CUDA thread is a fiber; blocks are shared out over EMULATOR_WORKERS system threads. Order is part of the test:
// EMULATOR_SEED (0: ascending) shuffles blocks, and the threads of a block anew between barriers, so that a missing
// barrier changes the result. With -DEMULATOR_SYSTEM_THREADS every CUDA thread is a system thread, which lets
// ThreadSanitizer find races inside a block.
//
// It stops the process, with the block and thread concerned, at: a barrier or warp operation that can never complete, a
// warp operation whose mask leaves out the caller or names a lane that ended, lanes of one mask in different
// operations, a shuffle from outside the mask, a launch no GPU takes. It does not know timing, occupancy, registers or
// the memory model between blocks.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <memory>
#include <mutex>
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
#ifdef EMULATOR_SYSTEM_THREADS
#define __shared__ static  // one block at a time
#else
#define __shared__ static thread_local  // one block at a time on each worker
#endif

namespace emulator {

#ifdef EMULATOR_SYSTEM_THREADS
using Generation = std::atomic<unsigned>;
#else
using Generation = unsigned;
#endif

constexpr size_t kStackBytes = 64 << 10;
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
  bool started = false, done = false;
  const char* where = "its own code";
  jmp_buf resume;
  ucontext_t first;
};

// One kind of lanes working together; lanes of a warp may do so under several masks at a time.
struct Meeting {
  unsigned mask = 0, arrived = 0;
  Generation generation{0};
  const char* what = "";
  uint64_t value[2][32];
};

struct Warp {
  std::deque<Meeting> meetings;
  unsigned lanes = 0, ended = 0;
  std::mutex mutex;
};

struct Block {
  uint3 index{};
  dim3 size, grid;
  char* shared = nullptr;
  unsigned live = 0, arrived = 0;
  Generation generation{0};
  int verdict[2]{};
  std::vector<Thread> threads;
  std::unique_ptr<Warp[]> warps;
  std::mutex mutex;
  uint64_t progress = 0;
  jmp_buf scheduler;
  const std::function<void()>* body = nullptr;
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

// Waiting. System threads watch the generation alone and never take the mutex again, so that ThreadSanitizer sees no
// order between them that CUDA does not give.
#ifdef EMULATOR_SYSTEM_THREADS
inline std::unique_lock<std::mutex> lock(std::mutex& mutex) { return std::unique_lock<std::mutex>(mutex); }
inline void wait(std::unique_lock<std::mutex>& held, Generation& generation, unsigned seen) {
  held.unlock();
  for (long i = 0; generation.load(std::memory_order_acquire) == seen; ++i) {
    if (i < 50) {
      std::this_thread::yield();
    } else {
      std::this_thread::sleep_for(std::chrono::microseconds(50));
    }
    if (i > 400000) fail("a barrier or warp operation never completed");
  }
}
inline void complete(Generation& generation) { generation.fetch_add(1, std::memory_order_acq_rel); }
#else
struct NoLock {
  ~NoLock() {}
};
inline NoLock lock(std::mutex&) { return {}; }
inline void wait(NoLock&, Generation& generation, unsigned seen) {
  while (generation == seen) {
    if (!_setjmp(self->resume)) _longjmp(self->block->scheduler, 1);
  }
  self->block->progress++;
}
inline void complete(Generation& generation) {
  generation++;
  self->block->progress++;
}
#endif

enum class Reduce { kCount, kOr, kAnd };

// Barrier of the block, with the reductions of __syncthreads_count, _or and _and.
inline int barrier(int predicate, Reduce kind, const char* what) {
  Block& b = *self->block;
  self->where = what;
  auto held = lock(b.mutex);
  const unsigned seen = b.generation;
  int& verdict = b.verdict[seen & 1];
  if (b.arrived == 0) verdict = kind == Reduce::kAnd;
  const int one = predicate != 0;
  verdict = kind == Reduce::kCount ? verdict + one : kind == Reduce::kOr ? (verdict | one) : (verdict & one);
  if (++b.arrived == b.live) {
    b.arrived = 0;
    complete(b.generation);
  } else {
    wait(held, b.generation, seen);
  }
  self->where = "its own code";
  return verdict;
}

// Every lane in the mask leaves a value; all get the 32 of them.
inline const uint64_t* meet(unsigned mask, uint64_t value, const char* what) {
  Warp& w = *self->warp;
  self->where = what;
  if (!(mask >> self->lane & 1)) fail("a lane is not in the mask it gave");
  auto held = lock(w.mutex);
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
  if (m.arrived == mask) {
    m.arrived = 0;
    complete(m.generation);
  } else {
    wait(held, m.generation, seen);
  }
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
  const int lane = int(self->lane), base = lane & ~(width - 1);
  if (source < base || source >= base + width) source = lane;
  if (!(mask >> source & 1)) fail("a shuffle reads a lane outside its mask");
  return source == lane ? value : bits<T>(values[source]);
}

inline void* dynamicShared() { return self->block->shared; }

inline void end() {
  Block& b = *self->block;
  {
    auto held = lock(self->warp->mutex);
    self->warp->ended |= 1u << self->lane;
  }
  auto held = lock(b.mutex);
  self->done = true;
  b.live--;
  b.progress++;
  if (b.live && b.arrived == b.live) {
    b.arrived = 0;
    complete(b.generation);
  }
}

inline void prepare(Block& b) {
  const unsigned n = b.size.x * b.size.y * b.size.z, warps = (n + 31) / 32;
  b.live = n;
  b.arrived = 0;
  if (b.threads.size() != n) {
    b.threads = std::vector<Thread>(n);
    b.warps.reset(new Warp[warps]);
  }
  for (unsigned i = 0; i < warps; i++) {
    b.warps[i].meetings.clear();
    b.warps[i].ended = 0;
    b.warps[i].lanes = n - i * 32 >= 32 ? ~0u : (1u << (n - i * 32)) - 1;
  }
  for (unsigned i = 0; i < n; i++) {
    Thread& t = b.threads[i];
    t.linear = i;
    t.lane = i % 32;
    t.block = &b;
    t.warp = &b.warps[i / 32];
    t.done = t.started = false;
    t.index = uint3{i % b.size.x, i / b.size.x % b.size.y, i / (b.size.x * b.size.y)};
  }
}

#ifdef EMULATOR_SYSTEM_THREADS
inline void runBlock(Block& b, unsigned) {
  prepare(b);
  std::vector<std::thread> running;
  for (Thread& t : b.threads) {
    running.emplace_back([&] {
      self = &t;
      (*b.body)();
      end();
    });
  }
  for (std::thread& thread : running) thread.join();
}
#else
inline void enter() {
  (*self->block->body)();
  end();
  _longjmp(self->block->scheduler, 1);
}

// Runs the block's fibers in rounds, each from where it waits to where it waits next.
inline void runBlock(Block& b, unsigned seed) {
  prepare(b);
  const size_t n = b.threads.size();
  static thread_local std::unique_ptr<char[]> stacks;
  static thread_local size_t have = 0;
  if (have < n) {
    stacks.reset(new char[n * kStackBytes]);
    have = n;
  }
  std::vector<unsigned> order(n);
  std::iota(order.begin(), order.end(), 0u);
  std::minstd_rand random(seed);
  ucontext_t back;
  for (uint64_t before = ~0ull; b.live;) {
    if (b.progress == before) fail("a barrier or warp operation can never complete");
    before = b.progress;
    if (seed) std::shuffle(order.begin(), order.end(), random);
    for (volatile size_t i = 0; i < n; i = i + 1) {
      Thread& t = b.threads[order[i]];
      if (t.done) continue;
      self = &t;
      if (_setjmp(b.scheduler) == 0) {
        if (t.started) _longjmp(t.resume, 1);
        t.started = true;
        getcontext(&t.first);
        t.first.uc_stack.ss_sp = &stacks[t.linear * kStackBytes];
        t.first.uc_stack.ss_size = kStackBytes;
        t.first.uc_link = nullptr;
        makecontext(&t.first, enter, 0);
        swapcontext(&back, &t.first);
      }
    }
  }
  self = nullptr;
}
#endif

inline unsigned fromEnvironment(const char* name, unsigned otherwise) {
  const char* text = getenv(name);
  return text && *text ? unsigned(atoi(text)) : otherwise;
}

// Kernels launched since the process began, and a note of the latest ones.
struct Launch {
  dim3 grid, block;
  size_t shared, arguments;
};
inline std::vector<Launch>& launches() {
  static std::vector<Launch> all;
  return all;
}

inline cudaError_t launch(dim3 grid, dim3 block, size_t shared, size_t arguments, const std::function<void()>& body) {
  const unsigned total = grid.x * grid.y * grid.z, threads = block.x * block.y * block.z;
  launches().push_back({grid, block, shared, arguments});
  if (!total || !threads || threads > kMaxThreads || block.z > 64 || grid.y > kMaxGridYZ || grid.z > kMaxGridYZ ||
      shared > kMaxShared || arguments > kMaxArguments) {
    return cudaErrorInvalidConfiguration;
  }
  const unsigned seed = fromEnvironment("EMULATOR_SEED", 0);
  std::vector<unsigned> order(total);
  std::iota(order.begin(), order.end(), 0u);
  if (seed) std::shuffle(order.begin(), order.end(), std::minstd_rand(seed));
  std::atomic<unsigned> next{0};
  const auto work = [&] {
    std::unique_ptr<Block> b(new Block);
    b->size = block;
    b->grid = grid;
    b->body = &body;
    for (unsigned i; (i = next++) < total;) {
      // A heap block of just the size, for AddressSanitizer; filled, so that reading what nobody wrote shows.
      std::unique_ptr<char[]> memory(new char[shared ? shared : 1]);
      memset(memory.get(), 0xA5, shared);
      b->shared = memory.get();
      const unsigned at = order[i];
      b->index = uint3{at % grid.x, at / grid.x % grid.y, at / (grid.x * grid.y)};
      runBlock(*b, seed ? seed * 2654435761u + at : 0);
    }
  };
#ifdef EMULATOR_SYSTEM_THREADS
  work();
#else
  const unsigned most = fromEnvironment("EMULATOR_WORKERS", std::thread::hardware_concurrency());
  std::vector<std::thread> workers;
  for (unsigned i = 1; i < std::min(most, total); i++) workers.emplace_back(work);
  work();
  for (std::thread& worker : workers) worker.join();
#endif
  return cudaSuccess;
}

}  // namespace emulator

#define threadIdx (emulator::self->index)
#define blockIdx (emulator::self->block->index)
#define blockDim (emulator::self->block->size)
#define gridDim (emulator::self->block->grid)
#define warpSize 32

#include "intrinsics.h"
