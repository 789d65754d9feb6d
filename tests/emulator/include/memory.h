// Arrays that kernels may read only through __ldg and __ldcs, with a count for every unit of them.
//
// A watched array lies at an address that no plain load can reach: a kernel that dereferences it ends in a
// segmentation fault, so what the counts say is all there was.
#pragma once

#include <sys/mman.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <vector>

namespace emulator {

struct Watched {
  const char* data;   // where the bytes are
  uintptr_t address;  // where kernels are told they are
  size_t bytes, unit, mapped;
  void* mapping;
  std::unique_ptr<std::atomic<uint32_t>[]> loads;
};

inline std::vector<Watched>& watched() {
  static std::vector<Watched> all;
  return all;
}

inline constexpr size_t kPage = 4096;

// The address to hand to kernels: as far from a page's start as the data is, so that alignment stays.
inline const void* watch(const void* data, size_t bytes, size_t unit) {
  const size_t lead = reinterpret_cast<uintptr_t>(data) % kPage, mapped = (lead + bytes + kPage) / kPage * kPage;
  void* mapping = mmap(nullptr, mapped, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (mapping == MAP_FAILED) abort();
  std::unique_ptr<std::atomic<uint32_t>[]> loads(new std::atomic<uint32_t>[bytes / unit]());
  const uintptr_t address = reinterpret_cast<uintptr_t>(mapping) + lead;
  watched().push_back({static_cast<const char*>(data), address, bytes, unit, mapped, mapping, std::move(loads)});
  return reinterpret_cast<const void*>(address);
}

inline void unwatchAll() {
  for (Watched& w : watched()) munmap(w.mapping, w.mapped);
  watched().clear();
}

// A load that a kernel marked as read-only.
template <class T>
T readOnly(const T* p) {
  const uintptr_t address = reinterpret_cast<uintptr_t>(p);
  if (address % alignof(T)) {
    fprintf(stderr, "emulator: a load of %zu bytes is not aligned\n", sizeof(T));
    abort();
  }
  for (Watched& w : watched()) {
    if (address - w.address >= w.bytes) continue;
    const size_t at = address - w.address;
    if (at + sizeof(T) > w.bytes) {
      fprintf(stderr, "emulator: a load runs past the end of a watched array\n");
      abort();
    }
    for (size_t i = at / w.unit; i < (at + sizeof(T) + w.unit - 1) / w.unit; i++) {
      w.loads[i].fetch_add(1, std::memory_order_relaxed);
    }
    T value;
    memcpy(&value, w.data + at, sizeof value);
    return value;
  }
  return *p;
}

}  // namespace emulator
