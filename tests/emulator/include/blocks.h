// Running blocks: fibers in rounds, blocks over workers.
#pragma once

namespace emulator {

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
    t.done = false;
    t.index = uint3{i % b.size.x, i / b.size.x % b.size.y, i / (b.size.x * b.size.y)};
  }
}

// What a fiber does, block after block.
inline void live() {
  for (;;) {
    const std::function<void()>* body;
    Fiber *own, *scheduler;
    {
      const Unwatched quiet;
      after(&self->block->started);
      body = self->block->body;
      own = &self->fiber;
      scheduler = &self->block->scheduler;
    }
    (*body)();
    end();
    pause(*own, *scheduler);
  }
}

// Runs the block's fibers in rounds, each from where it waits to where it waits next.
inline void runBlock(Block& b, unsigned seed) {
  const Unwatched quiet;
  prepare(b);
  before(&b.started);
  std::vector<unsigned> order(b.threads.size());
  std::iota(order.begin(), order.end(), 0u);
  std::minstd_rand random(seed);
  for (uint64_t before = ~0ull; b.live;) {
    if (b.progress == before) fail("a barrier or warp operation can never complete");
    before = b.progress;
    if (seed) std::shuffle(order.begin(), order.end(), random);
    for (const unsigned i : order) {
      if (b.threads[i].done) continue;
      self = &b.threads[i];
      resume(b.scheduler, self->fiber, live);
    }
  }
  self = nullptr;
  after(&b.ended);
}

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
#ifdef EMULATOR_ONE_WORKER
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
