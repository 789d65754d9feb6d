// Fibers: a stack each, switched by hand. Under ThreadSanitizer they are its fibers as well.
#pragma once

#include <setjmp.h>
#include <ucontext.h>

#include <cstddef>
#include <memory>

#ifdef __SANITIZE_THREAD__
#include <sanitizer/tsan_interface.h>
extern "C" {
void AnnotateIgnoreReadsBegin(const char* file, int line);
void AnnotateIgnoreReadsEnd(const char* file, int line);
void AnnotateIgnoreWritesBegin(const char* file, int line);
void AnnotateIgnoreWritesEnd(const char* file, int line);
}
#endif

namespace emulator {

constexpr size_t kStackBytes = 64 << 10;

struct Fiber {
  ucontext_t context;
  std::unique_ptr<char[]> stack;  // untouched pages cost nothing
  jmp_buf place;
  void* watched = nullptr;
};

#ifdef __SANITIZE_THREAD__

// The emulator's own accesses, which nothing orders, are no races.
struct Unwatched {
  Unwatched() {
    AnnotateIgnoreReadsBegin(__FILE__, __LINE__);
    AnnotateIgnoreWritesBegin(__FILE__, __LINE__);
  }
  ~Unwatched() {
    AnnotateIgnoreWritesEnd(__FILE__, __LINE__);
    AnnotateIgnoreReadsEnd(__FILE__, __LINE__);
  }
};

// What happened before `before` is seen after `after` of the same address.
inline void before(void* order) { __tsan_release(order); }
inline void after(void* order) { __tsan_acquire(order); }

// ThreadSanitizer keeps account of setjmp for each fiber, so contexts it is.
__attribute__((no_sanitize_thread)) inline void pause(Fiber& own, Fiber& scheduler) {
  __tsan_switch_to_fiber(scheduler.watched, __tsan_switch_to_fiber_no_sync);
  swapcontext(&own.context, &scheduler.context);
}

inline void resume(Fiber& scheduler, Fiber& fiber, void (*body)()) {
  scheduler.watched = __tsan_get_current_fiber();
  if (!fiber.stack) {
    fiber.stack.reset(new char[kStackBytes]);
    fiber.watched = __tsan_create_fiber(0);
    getcontext(&fiber.context);
    fiber.context.uc_stack.ss_sp = fiber.stack.get();
    fiber.context.uc_stack.ss_size = kStackBytes;
    fiber.context.uc_link = nullptr;
    makecontext(&fiber.context, body, 0);
  }
  __tsan_switch_to_fiber(fiber.watched, __tsan_switch_to_fiber_no_sync);
  swapcontext(&scheduler.context, &fiber.context);
}

inline void forget(Fiber& fiber) {
  if (fiber.watched) __tsan_destroy_fiber(fiber.watched);
}

#else

struct Unwatched {
  ~Unwatched() {}
};
inline void before(void*) {}
inline void after(void*) {}

inline void pause(Fiber& own, Fiber& scheduler) {
  if (!_setjmp(own.place)) _longjmp(scheduler.place, 1);
}

inline void resume(Fiber& scheduler, Fiber& fiber, void (*body)()) {
  if (_setjmp(scheduler.place)) return;
  if (fiber.stack) _longjmp(fiber.place, 1);
  fiber.stack.reset(new char[kStackBytes]);
  getcontext(&fiber.context);
  fiber.context.uc_stack.ss_sp = fiber.stack.get();
  fiber.context.uc_stack.ss_size = kStackBytes;
  fiber.context.uc_link = nullptr;
  makecontext(&fiber.context, body, 0);
  setcontext(&fiber.context);
}

inline void forget(Fiber&) {}

#endif

}  // namespace emulator
