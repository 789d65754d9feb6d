// Small kernels, right and wrong, for the emulator's own tests. Arguments: the kernel's name.
#include <cuda_runtime.h>

#include <string>

namespace {

constexpr int kThreads = 96;

struct Arrays {
  int* out;
  const float* watched;
};

// Each thread leaves a number; its right neighbour's is wanted.
template <bool kWaits>
__global__ void neighbour(Arrays a) {
  __shared__ int numbers[kThreads];
  numbers[threadIdx.x] = int(threadIdx.x + blockIdx.x);
  if (kWaits) __syncthreads();
  a.out[blockIdx.x * kThreads + threadIdx.x] = numbers[(threadIdx.x + kThreads - 1) % kThreads];
}

// Within a warp, where hardware in lockstep would hide it.
template <bool kWaits>
__global__ void neighbourInWarp(Arrays a) {
  __shared__ int numbers[32];
  if (threadIdx.x >= 32) return;
  numbers[threadIdx.x] = int(threadIdx.x);
  if (kWaits) __syncwarp();
  a.out[threadIdx.x] = numbers[(threadIdx.x + 31) % 32];
}

__global__ void everything(Arrays a) {
  const int t = int(threadIdx.x), n = __syncthreads_count(t % 3 == 0);
  const bool some = __syncthreads_or(t == 77), all = __syncthreads_and(t < 95);
  int sum = t;
  for (int step = 16; step; step /= 2) sum += __shfl_down_sync(~0u, sum, step);
  sum = __shfl_sync(~0u, sum, 0);
  const unsigned odd = __ballot_sync(~0u, t % 2);
  __shared__ int total, mask;
  if (t == 0) total = 0, mask = -1;
  __syncthreads();
  atomicAdd(&total, t);
  atomicAnd(&mask, ~t);
  __syncthreads();
  int* out = a.out + t * 8;
  const int values[8] = {n, some, all, sum, int(odd), total, mask, int(__ldg(a.watched + t))};
  for (int i = 0; i < 8; ++i) out[i] = values[i];
}

__global__ void deadlock(Arrays) {
  if (threadIdx.x == 0) {
    __shfl_sync(~0u, 1, 0);
  } else {
    __syncthreads();
  }
}
__global__ void notInMask(Arrays) { __shfl_sync(1u, 1, 0); }
__global__ void ended(Arrays) {
  if (threadIdx.x == 5) return;
  __ballot_sync(~0u, 1);
}
__global__ void mixed(Arrays) {
  if (threadIdx.x % 2) {
    __ballot_sync(~0u, 1);
  } else {
    __syncwarp();
  }
}
__global__ void outsideMask(Arrays) {
  if (threadIdx.x < 16) __shfl_down_sync(0xffffu, 1, 1);
}
__global__ void plainLoad(Arrays a) { a.out[threadIdx.x] = int(a.watched[threadIdx.x]); }
template <int kAt>
__global__ void vectorLoad(Arrays a) {
  a.out[threadIdx.x] = int(__ldg(reinterpret_cast<const float4*>(a.watched + kAt)).x);
}

using Kernel = void (*)(Arrays);
const struct {
  const char* name;
  Kernel kernel;
} kKernels[] = {{"neighbour", neighbour<true>},
                {"neighbour without barrier", neighbour<false>},
                {"neighbour in warp", neighbourInWarp<true>},
                {"neighbour in warp without barrier", neighbourInWarp<false>},
                {"everything", everything},
                {"deadlock", deadlock},
                {"not in mask", notInMask},
                {"ended", ended},
                {"mixed", mixed},
                {"outside mask", outsideMask},
                {"plain load", plainLoad},
                {"past the end", vectorLoad<92>},
                {"misaligned", vectorLoad<1>}};

}  // namespace

int main(int, char** argv) {
  alignas(16) static float numbers[95 + 1];
  for (int i = 0; i < 96; ++i) numbers[i] = float(i * i);
  static int out[8 * kThreads];
  const std::string name = argv[1];
  // One short of what a vector load at 92 wants.
  const size_t bytes = name == "past the end" ? sizeof(float) * 95 : sizeof numbers;
  Arrays arrays = {out, static_cast<const float*>(emulator::watch(numbers, bytes, sizeof(float)))};
  void* arguments[] = {&arrays};
  for (const auto& entry : kKernels) {
    if (name != entry.name) continue;
    const dim3 grid(name == "neighbour" ? 8 : 1);
    if (cudaLaunchKernel(entry.kernel, grid, dim3(kThreads), arguments) != cudaSuccess) return 3;
    for (int value : out) std::printf("%d ", value);
    std::printf("\n");
    for (int i = 0; i < 95; ++i) std::printf("%u ", unsigned(emulator::watched()[0].loads[i]));
    return 0;
  }
  // What no GPU takes.
  const struct {
    dim3 grid, block;
    size_t shared;
  } odd[] = {{0, 1, 0}, {1, 0, 0}, {1, 1025, 0}, {1, dim3(1, 1, 65), 0}, {dim3(1, 65536), 1, 0}, {1, 1, 49153}};
  for (const auto& o : odd) {
    if (cudaLaunchKernel(plainLoad, o.grid, o.block, arguments, o.shared) != cudaErrorInvalidConfiguration) return 4;
  }
  return 0;
}
