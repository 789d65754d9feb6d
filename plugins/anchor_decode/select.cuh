// Second kernel: of what the tiles of a level left, its topK best, sorted. One block for each level of each image.
#pragma once

#include "top.cuh"

namespace edge_retina {
namespace kernels {

// Grid: levels, batch.
__global__ void __launch_bounds__(kSelectThreads) selectLevel(const __grid_constant__ View view) {
  __shared__ TopState state;
  __shared__ int starts[kSelectThreads];
  __shared__ int sums[kSelectThreads / 32];
  const Top top{state, dynamicShared<Key>(), view.bufferKeys, view.topK};
  const int image = blockIdx.y;
  const LevelView& level = view.level[blockIdx.x];
  const int next = int(blockIdx.x) + 1;
  const int tiles = (next < view.levels ? view.level[next].firstTile : view.tiles) - level.firstTile;
  const long long firstTile = static_cast<long long>(image) * view.tiles + level.firstTile;
  startTop(top, -INFINITY);

  // As many tiles at a time as there are threads, their keys as if they lay in one row.
  for (int group = 0; group < tiles; group += kSelectThreads) {
    const int tile = group + threadIdx.x;
    const int ofTile = tile < tiles ? view.tileCounts[firstTile + tile] : 0;
    int total;
    starts[threadIdx.x] = sumBeforeInBlock<kSelectThreads>(ofTile, sums, total);
    __syncthreads();
    for (int at = 0; at < total; at += kSelectThreads * kSelectValues) {
      Key key[kSelectValues];
      unsigned pending = 0;
      const Key bound = state.bound;
#pragma unroll
      for (int j = 0; j < kSelectValues; ++j) {
        const int i = at + j * kSelectThreads + threadIdx.x;
        key[j] = 0;
        if (i < total) {
          // The last tile that starts at or before i.
          int owner = 0;
          for (int step = kSelectThreads / 2; step > 0; step /= 2) {
            if (starts[owner + step] <= i) owner += step;
          }
          key[j] = view.tileKeys[(firstTile + group + owner) * view.slot + (i - starts[owner])];
        }
        pending |= unsigned(key[j] >= bound) << j;
      }
      offer<kSelectThreads>(top, pending, [&](int j) { return pick(key, j); });
    }
  }

  const int n = endTop<kSelectThreads>(top);
  sortKeys<kSelectThreads>(top.keys, n);
  Key* list = view.lists + static_cast<long long>(image) * view.places + level.firstPlace;
  for (int i = threadIdx.x; i < n; i += kSelectThreads) list[i] = top.keys[i];
  if (threadIdx.x == 0) view.listCounts[image * view.levels + blockIdx.x] = n;
}

}  // namespace kernels
}  // namespace edge_retina
