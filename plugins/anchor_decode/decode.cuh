// Third kernel: each chosen pair to a candidate box, put where it belongs among those of all levels.
#pragma once

#include "head.cuh"

namespace edge_retina {
namespace kernels {

// How many keys of a sorted list come before `key` of another level. The list's level being finer, equal logits do.
__device__ inline int countBefore(const Key* list, int n, Key key, bool finer) {
  const unsigned logit = unsigned(key >> 32);
  int low = 0, high = n;
  while (low < high) {
    const int middle = (low + high) / 2;
    const unsigned other = unsigned(list[middle] >> 32);
    if (finer ? other >= logit : other > logit) {
      low = middle + 1;
    } else {
      high = middle;
    }
  }
  return low;
}

// Half-open box on the network input, not clipped.
__device__ inline float4 decodeBox(const View& view, const LevelView& level, const float* cellAnchor, int cell,
                                   const float* deltas) {
  const int row = cell / level.width;
  const float one = view.inclusive ? 1.f : 0.f;
  const float x = __fmul_rn(float(cell - row * level.width), float(level.strideX));
  const float y = __fmul_rn(float(row), float(level.strideY));
  const float low[2] = {__fadd_rn(x, cellAnchor[0]), __fadd_rn(y, cellAnchor[1])};
  const float high[2] = {__fadd_rn(__fadd_rn(x, cellAnchor[2]), one), __fadd_rn(__fadd_rn(y, cellAnchor[3]), one)};
  float newLow[2], newHigh[2];
#pragma unroll
  for (int axis = 0; axis < 2; ++axis) {
    const float size = __fsub_rn(high[axis], low[axis]);
    const float first = __fdiv_rn(deltas[axis], view.deltaWeights[axis]);
    const float second = __fdiv_rn(deltas[axis + 2], view.deltaWeights[axis + 2]);
    if (view.coding == BoxCoding::kCorner) {
      newLow[axis] = __fadd_rn(__fmul_rn(first, size), low[axis]);
      newHigh[axis] = __fadd_rn(__fmul_rn(second, size), high[axis]);
    } else {
      const float centre = __fadd_rn(__fmul_rn(first, size), __fadd_rn(low[axis], __fmul_rn(0.5f, size)));
      const float half = __fmul_rn(0.5f, __fmul_rn(expf(least(second, view.maxLogScale)), size));
      newLow[axis] = __fsub_rn(centre, half);
      newHigh[axis] = __fadd_rn(centre, half);
    }
  }
  return make_float4(newLow[0], newLow[1], newHigh[0], newHigh[1]);
}

// Grid: places by threads, batch.
template <int kAnchors>
__global__ void __launch_bounds__(kDecodeThreads)
    decodePlaces(const __grid_constant__ View view, const __grid_constant__ AnchorTable<kAnchors> anchors) {
  const int image = blockIdx.y, place = blockIdx.x * kDecodeThreads + threadIdx.x;
  if (place >= view.places) return;
  int own = 0;
  while (own + 1 < view.levels && place >= view.level[own + 1].firstPlace) ++own;
  const LevelView& level = view.level[own];
  const int* counts = view.listCounts + image * view.levels;
  const Key* lists = view.lists + static_cast<long long>(image) * view.places;
  const int rank = place - level.firstPlace;
  if (rank >= counts[own]) return;

  const Key key = lists[place];
  int position = rank;
  for (int other = 0; other < view.levels; ++other) {
    if (other != own) position += countBefore(lists + view.level[other].firstPlace, counts[other], key, other < own);
  }
  if (position >= view.candidates) return;

  const unsigned index = indexOf(key), pair = index / view.classes;
  const int label = index - pair * view.classes;
  const int cell = pair / level.anchorsPerCell, anchor = pair - cell * level.anchorsPerCell;
  float deltas[4];
#pragma unroll
  for (int i = 0; i < 4; ++i) {
    const long long element = elementOf(anchor * 4 + i, cell, level.cells, level.deltaFormat.pack);
    deltas[i] = readDelta(level.deltas, image * level.deltasPerImage + element, level.deltaFormat);
  }
  float4 box = decodeBox(view, level, anchors.box[level.firstAnchor + anchor], cell, deltas);
  if (view.clip == Clip::kContent) {
    box = clipBox(box, contentLimits(view.geometry), view.inclusive);
  } else if (view.clip == Clip::kInput || view.clip == Clip::kPixels) {
    const float one = view.clip == Clip::kPixels ? 1.f : 0.f;
    box = clipBox(box, make_float4(0.f, 0.f, view.inputWidth - one, view.inputHeight - one), view.inclusive);
  }
  const float logit = logitOf(key);
  // The scan lets through what is a little below the threshold; the score itself decides.
  const bool stays = sigmoid(logit) > view.scoreThreshold &&
                     (!view.dropEmpty || view.clip == Clip::kAfterNms || hasArea(box));
  const long long out = static_cast<long long>(image) * view.candidates + position;
  view.boxes[out] = box;
  view.logits[out] = logit;
  view.labels[out] = stays ? label : -1;
}

}  // namespace kernels
}  // namespace edge_retina
