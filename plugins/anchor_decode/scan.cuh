// First kernel: every logit once. A block takes a tile of one level of one image and leaves the tile's topK best keys
// above the threshold, or all there are: what a level's topK best can come from, in bounded memory whatever the scores.
#pragma once

#include "head.cuh"
#include "top.cuh"

namespace edge_retina {
namespace kernels {

__device__ inline int levelOfTile(const View& view, int tile) {
  int level = 0;
  while (level + 1 < view.levels && tile >= view.level[level + 1].firstTile) ++level;
  return level;
}

// The key of an element of a level's logits; 0 for one that only pads the last pack of channels.
__device__ inline Key keyOfElement(const LevelView& level, int classes, unsigned element, float logit) {
  const unsigned pack = level.logitFormat.pack, cells = level.cells;
  unsigned channel, cell;
  if (pack == 1) {
    channel = element / cells;
    cell = element - channel * cells;
  } else {
    const unsigned row = element / pack, group = row / cells;
    cell = row - group * cells;
    channel = group * pack + (element - row * pack);
    if (channel >= unsigned(level.anchorsPerCell) * classes) return 0;
  }
  const unsigned anchor = channel / classes, label = channel - anchor * classes;
  return makeKey(logit, (cell * level.anchorsPerCell + anchor) * classes + label);
}

__device__ inline void leaveTile(const View& view, const Top& top, int image, int tile) {
  const int n = endTop<kScanThreads>(top);
  const long long place = static_cast<long long>(image) * view.tiles + tile;
  Key* out = view.tileKeys + place * view.slot;
  for (int i = threadIdx.x; i < n; i += kScanThreads) out[i] = top.keys[i];
  if (threadIdx.x == 0) view.tileCounts[place] = n;
}

// Every class of an anchor stands for itself. Grid: tiles, batch.
template <Element kElement>
__global__ void __launch_bounds__(kScanThreads, kScanBlocks) scanEvery(const __grid_constant__ View view) {
  using Bits = typename Reader<kElement>::Bits;
  constexpr unsigned kVector = 16 / sizeof(Bits), kVectors = kScanValues / kVector;
  __shared__ TopState state;
  const Top top{state, dynamicShared<Key>(), view.bufferKeys, view.topK};
  const int image = blockIdx.y, tile = blockIdx.x;
  const LevelView& level = view.level[levelOfTile(view, tile)];
  const long long base = image * level.logitsPerImage;
  const float scale = level.logitFormat.scale;
  // Positions count from the 16-byte boundary at or before the image's first element.
  const auto address = reinterpret_cast<unsigned long long>(static_cast<const Bits*>(level.logits) + base);
  const unsigned lead = unsigned(address % 16 / sizeof(Bits));
  const unsigned last = level.scanned + lead;
  const unsigned begin = (tile - level.firstTile) * view.tile;
  const unsigned end = last - begin < view.tile ? last : begin + view.tile;
  startTop(top, view.lowest);

  for (unsigned at = begin; begin < last && at < end; at += kScanThreads * kScanValues) {
    float x[kScanValues];
#pragma unroll
    for (unsigned v = 0; v < kVectors; ++v) {
      const unsigned position = at + (v * kScanThreads + threadIdx.x) * kVector;
      float* values = x + v * kVector;
      if (position >= lead && position + kVector <= last) {
        readVectorOnce<kElement>(level.logits, base + position - lead, scale, values);
      } else {
#pragma unroll
        for (unsigned i = 0; i < kVector; ++i) {
          const bool inside = position + i >= lead && position + i < last;
          values[i] = inside ? readOnce<kElement>(level.logits, base + position + i - lead, scale) : -INFINITY;
        }
      }
    }
    unsigned pending = 0;
    const float floor = state.floor;
#pragma unroll
    for (int j = 0; j < kScanValues; ++j) pending |= unsigned(x[j] >= floor) << j;
    offer<kScanThreads>(top, pending, [&](int j) {
      const unsigned vector = j / kVector, i = j % kVector;
      const unsigned element = at + (vector * kScanThreads + threadIdx.x) * kVector + i - lead;
      return keyOfElement(level, view.classes, element, pick(x, j));
    });
  }
  leaveTile(view, top, image, tile);
}

// An anchor stands for its best class, the first of equals; none where one is NaN, as np.argmax has it. Grid: tiles,
// batch.
template <Element kElement>
__global__ void __launch_bounds__(kScanThreads, kScanBlocks) scanBest(const __grid_constant__ View view) {
  __shared__ TopState state;
  const Top top{state, dynamicShared<Key>(), view.bufferKeys, view.topK};
  const int image = blockIdx.y, tile = blockIdx.x;
  const LevelView& level = view.level[levelOfTile(view, tile)];
  const long long base = image * level.logitsPerImage;
  const HeadFormat format = level.logitFormat;
  const unsigned begin = (tile - level.firstTile) * view.tile;
  const unsigned end = level.scanned - begin < view.tile ? level.scanned : begin + view.tile;
  startTop(top, view.lowest);

  for (unsigned at = begin; at < end; at += kScanThreads) {
    const unsigned position = at + threadIdx.x;
    Key key = 0;
    if (position < end) {
      // Neighbouring threads take neighbouring cells.
      const unsigned anchor = position / level.cells, cell = position - anchor * level.cells;
      float best = -INFINITY;
      unsigned label = 0;
      bool number = true;
#pragma unroll 4
      for (int c = 0; c < view.classes; ++c) {
        const long long element = elementOf(anchor * view.classes + c, cell, level.cells, format.pack);
        const float x = readOnce<kElement>(level.logits, base + element, format.scale);
        number = number && x == x;
        if (x > best) {
          best = x;
          label = c;
        }
      }
      if (number && best >= state.floor) {
        key = makeKey(best, (cell * level.anchorsPerCell + anchor) * view.classes + label);
      }
    }
    offer<kScanThreads>(top, key != 0, [&](int) { return key; });
  }
  leaveTile(view, top, image, tile);
}

}  // namespace kernels
}  // namespace edge_retina
