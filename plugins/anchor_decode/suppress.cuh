// Fourth kernel: greedy non-maximum suppression over the sorted candidates, then rows in frame pixels. One block for
// each image.
//
// A chunk of candidates at a time: first against all kept so far, then among themselves by a bit matrix in shared
// memory, which one warp walks through. It ends with the last detection wanted, so the usual cost is small and memory
// does not grow with the square of the candidates.
#pragma once

#include "arithmetic.cuh"

namespace edge_retina {
namespace kernels {

constexpr int kChunkWords = kChunk / 32;

struct Chunk {
  float4 box[kChunk];
  int label[kChunk];
  unsigned alive[kChunkWords];
  unsigned strikes[kChunk][kChunkWords];  // bit j of row i: i being kept, j goes
  int kept[kChunk];
  int keptCount;
};

// A box as NMS sees it: corners that moved past each other span a box all the same.
__device__ inline float4 spanOf(float4 box, BoxCoding coding) {
  if (coding != BoxCoding::kCorner) return box;
  return make_float4(fminf(box.x, box.z), fminf(box.y, box.w), fmaxf(box.x, box.z), fmaxf(box.y, box.w));
}

// Bit j of word `word` for the living after `row` that it would strike.
__device__ inline unsigned strikesOf(const View& view, const Chunk& chunk, int row, int word) {
  unsigned rest = chunk.alive[word], found = 0;
  if (word == row / 32) rest &= row % 32 == 31 ? 0u : kAllLanes << (row % 32 + 1);
  const float4 box = chunk.box[row];
  const int label = chunk.label[row];
  while (rest) {
    const int bit = __ffs(rest) - 1, other = word * 32 + bit;
    rest &= rest - 1;
    if (view.classAware && chunk.label[other] != label) continue;
    if (overlap(box, chunk.box[other], view.nmsIou)) found |= 1u << bit;
  }
  return found;
}

// Who of the chunk stays, in order, `room` at most: by one warp.
__device__ inline void settle(Chunk& chunk, int room) {
  const int lane = threadIdx.x;
  unsigned alive = lane < kChunkWords ? chunk.alive[lane] : 0;
  int kept = 0;
  for (int word = 0; word < kChunkWords && kept < room; ++word) {
    unsigned rest = __shfl_sync(kAllLanes, alive, word);
    while (rest && kept < room) {
      const int bit = __ffs(rest) - 1, row = word * 32 + bit;
      if (lane == 0) chunk.kept[kept] = row;
      ++kept;
      if (lane >= word && lane < kChunkWords) alive &= ~chunk.strikes[row][lane];
      rest = __shfl_sync(kAllLanes, alive, word);
      rest &= bit == 31 ? 0u : kAllLanes << (bit + 1);
    }
  }
  if (lane == 0) chunk.keptCount = kept;
}

// Candidates kept: their places in `places`, best first. All threads get how many.
__device__ inline int keepBest(const View& view, Chunk& chunk, int image, int candidates, int* places) {
  const float4* boxes = view.boxes + static_cast<long long>(image) * view.candidates;
  const int* labels = view.labels + static_cast<long long>(image) * view.candidates;
  float4* keptBoxes = view.keptBoxes + static_cast<long long>(image) * view.maxDetections;
  int* keptLabels = view.keptLabels + static_cast<long long>(image) * view.maxDetections;
  const int row = threadIdx.x % kChunk, part = threadIdx.x / kChunk;
  constexpr int kParts = kSuppressThreads / kChunk;
  int kept = 0;
  for (int start = 0; start < candidates && kept < view.maxDetections; start += kChunk) {
    if (part == 0) {
      const bool inside = start + row < candidates;
      chunk.label[row] = inside ? labels[start + row] : -1;
      if (inside) chunk.box[row] = spanOf(boxes[start + row], view.coding);
      if (row < kChunkWords) chunk.alive[row] = kAllLanes;
    }
    __syncthreads();
    const int label = chunk.label[row];
    bool alive = label >= 0;
    for (int i = part; i < kept && alive; i += kParts) {
      if (view.classAware && keptLabels[i] != label) continue;
      alive = !overlap(keptBoxes[i], chunk.box[row], view.nmsIou);
    }
    const unsigned word = __ballot_sync(kAllLanes, alive);
    if (threadIdx.x % 32 == 0) atomicAnd(&chunk.alive[row / 32], word);
    __syncthreads();
    if (chunk.alive[row / 32] >> row % 32 & 1) {
      for (int w = row / 32; w < kChunkWords; ++w) {
        if (w % kParts == part) chunk.strikes[row][w] = strikesOf(view, chunk, row, w);
      }
    }
    __syncthreads();
    if (threadIdx.x < 32) settle(chunk, view.maxDetections - kept);
    __syncthreads();
    const int more = chunk.keptCount;
    for (int i = threadIdx.x; i < more; i += kSuppressThreads) {
      const int from = chunk.kept[i];
      keptBoxes[kept + i] = chunk.box[from];
      keptLabels[kept + i] = chunk.label[from];
      places[kept + i] = start + from;
    }
    kept += more;
    __syncthreads();
  }
  return kept;
}

__device__ inline float4 toFrame(float4 box, const View& view) {
  const float left = __ldg(view.geometry), top = __ldg(view.geometry + 1);
  const float scaleX = __ldg(view.geometry + 4), scaleY = __ldg(view.geometry + 5);
  box = make_float4(__fmul_rn(__fsub_rn(box.x, left), scaleX), __fmul_rn(__fsub_rn(box.y, top), scaleY),
                    __fmul_rn(__fsub_rn(box.z, left), scaleX), __fmul_rn(__fsub_rn(box.w, top), scaleY));
  if (view.clip == Clip::kContent || view.clip == Clip::kAfterNms) {
    const float width = __ldg(view.geometry + 6), height = __ldg(view.geometry + 7);
    box = make_float4(least(box.x, width), least(box.y, height), least(box.z, width), least(box.w, height));
  }
  return box;
}

// Grid: batch.
__global__ void __launch_bounds__(kSuppressThreads) suppress(const __grid_constant__ View view) {
  __shared__ Chunk chunk;
  __shared__ int sums[kSuppressThreads / 32];
  const int image = blockIdx.x;
  int candidates = 0;
  for (int level = 0; level < view.levels; ++level) candidates += view.listCounts[image * view.levels + level];
  candidates = candidates < view.candidates ? candidates : view.candidates;
  int* places = view.keptPlaces + static_cast<long long>(image) * view.maxDetections;
  const int kept = keepBest(view, chunk, image, candidates, places);

  const long long firstPlace = static_cast<long long>(image) * view.candidates;
  const long long firstRow = static_cast<long long>(image) * view.maxDetections;
  int count = 0;
  for (int start = 0; start < kept; start += kSuppressThreads) {
    const int i = start + threadIdx.x;
    bool stays = i < kept;
    float4 box = make_float4(0.f, 0.f, 0.f, 0.f);
    long long place = 0;
    if (stays) {
      place = firstPlace + places[i];
      box = view.boxes[place];
      if (view.clip == Clip::kAfterNms) {
        box = clipBox(box, contentLimits(view.geometry), view.inclusive);
        stays = !view.dropEmpty || hasArea(box);
      }
    }
    int more;
    const int row = count + sumBeforeInBlock<kSuppressThreads>(stays, sums, more);
    if (stays) {
      view.outBoxes[firstRow + row] = toFrame(box, view);
      view.outScores[firstRow + row] = sigmoid(view.logits[place]);
      view.outLabels[firstRow + row] = view.labels[place];
    }
    count += more;
  }
  for (int row = count + threadIdx.x; row < view.maxDetections; row += kSuppressThreads) {
    view.outBoxes[firstRow + row] = make_float4(0.f, 0.f, 0.f, 0.f);
    view.outScores[firstRow + row] = 0.f;
    view.outLabels[firstRow + row] = -1;
  }
  if (threadIdx.x == 0) view.outCount[image] = count;
}

}  // namespace kernels
}  // namespace edge_retina
