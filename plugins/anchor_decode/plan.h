// How a launch is cut into blocks and its workspace into arrays. Host code.
#pragma once

#include "view.cuh"

#include <cmath>
#include <cstring>

namespace edge_retina {
namespace kernels {

// Kernel arguments of more than 4 KiB came with CUDA 12.1; far fewer anchors than these are usual.
constexpr int kFewAnchors = 128;
#if defined(CUDART_VERSION) && CUDART_VERSION < 12010
constexpr int kManyAnchors = kFewAnchors;
#else
constexpr int kManyAnchors = kMaxLevels * kMaxCellAnchors;
#endif

// Keys of the top-k buffer at most: with what else the kernels keep, within the 48 KiB that every GPU gives unasked.
constexpr int kMaxBufferKeys = 5600;
// A tile leaves up to topK keys of 8 bytes. With at least so many elements to a tile for each of them, tiles leave no
// more than a quarter byte for each logit, and a tile that passes whole still fills its buffer few times.
constexpr long long kElementsPerKey = 32;
constexpr long long kSmallestTile = 16384;      // elements
constexpr long long kSmallestBestTile = 1024;   // anchors
// Tiles of large batches grow, so that what all leave stays near this.
constexpr long long kTileBytes = 32ll << 20;
constexpr long long kMostElements = 0x7fffffffll - 64;

inline long long roundUp(long long value, long long step) { return (value + step - 1) / step * step; }

inline long long cellsOf(const AnchorLevel& level) { return static_cast<long long>(level.height) * level.width; }

// Elements of one image in a head tensor, padding included.
inline long long elementsOf(const AnchorLevel& level, int channels, int pack) {
  return roundUp(static_cast<long long>(level.anchorsPerCell) * channels, pack) * cellsOf(level);
}

struct Plan {
  long long tile;
  int slot;
  int tiles;
  int places;
  int candidates;
  int bufferKeys;
  int firstTile[kMaxLevels + 1];
  int firstPlace[kMaxLevels + 1];
  size_t tileCounts, tileKeys, listCounts, lists, boxes, logits, labels, keptBoxes, keptLabels, keptPlaces, bytes;
};

inline long long scannedOf(const AnchorDecodeParams& p, const AnchorDecodeFormats& f, int level) {
  const AnchorLevel& l = p.levels[level];
  return p.classChoice == ClassChoice::kBest ? cellsOf(l) * l.anchorsPerCell
                                             : elementsOf(l, p.classes, f.logits[level].pack);
}

inline Plan makePlan(const AnchorDecodeParams& p, const AnchorDecodeFormats& f, int batch) {
  Plan plan;
  std::memset(&plan, 0, sizeof plan);
  const bool best = p.classChoice == ClassChoice::kBest;
  long long scanned = 0;
  for (int i = 0; i < p.levelCount; ++i) scanned += scannedOf(p, f, i);

  const double crowded = double(scanned) * batch * p.topK * sizeof(Key) / double(kTileBytes);
  long long tile = best ? kSmallestBestTile : kSmallestTile;
  if (!best && kElementsPerKey * p.topK > tile) tile = kElementsPerKey * p.topK;
  if (crowded > double(tile)) tile = crowded < double(1 << 30) ? static_cast<long long>(crowded) : 1 << 30;
  plan.tile = roundUp(tile, best ? kScanThreads : kScanThreads * kScanValues);
  plan.slot = plan.tile < p.topK ? int(plan.tile) : p.topK;

  long long places = 0;
  for (int i = 0; i < p.levelCount; ++i) {
    // Positions may start up to 15 elements late, at a 16-byte boundary.
    const long long walked = scannedOf(p, f, i) + (best ? 0 : 15);
    plan.firstTile[i] = plan.tiles;
    plan.tiles += int((walked + plan.tile - 1) / plan.tile);
    const long long pairs = cellsOf(p.levels[i]) * p.levels[i].anchorsPerCell * (best ? 1 : p.classes);
    plan.firstPlace[i] = int(places);
    places += pairs < p.topK ? pairs : p.topK;
  }
  plan.firstTile[p.levelCount] = plan.tiles;
  plan.firstPlace[p.levelCount] = plan.places = int(places);
  plan.candidates = p.topKScope == TopKScope::kAll && p.topK < plan.places ? p.topK : plan.places;
  plan.bufferKeys = p.topK < 1024 ? p.topK + 1024 : 2 * p.topK;
  if (plan.bufferKeys > kMaxBufferKeys) plan.bufferKeys = kMaxBufferKeys;

  const auto array = [&](size_t items, size_t size) {
    const size_t at = plan.bytes;
    plan.bytes += size_t(roundUp(static_cast<long long>(items * size) * batch, 256));
    return at;
  };
  plan.tileCounts = array(size_t(plan.tiles), sizeof(int));
  plan.tileKeys = array(size_t(plan.tiles) * plan.slot, sizeof(Key));
  plan.listCounts = array(size_t(p.levelCount), sizeof(int));
  plan.lists = array(size_t(plan.places), sizeof(Key));
  plan.boxes = array(size_t(plan.candidates), sizeof(float4));
  plan.logits = array(size_t(plan.candidates), sizeof(float));
  plan.labels = array(size_t(plan.candidates), sizeof(int));
  plan.keptBoxes = array(size_t(p.maxDetections), sizeof(float4));
  plan.keptLabels = array(size_t(p.maxDetections), sizeof(int));
  plan.keptPlaces = array(size_t(p.maxDetections), sizeof(int));
  return plan;
}

// boxes.sigmoid: float32, exp rounded once.
inline float hostSigmoid(float x) {
  const float e = float(std::exp(-double(std::fabs(x))));
  const float whole = 1.f + e;
  return (x >= 0.f ? 1.f : e) / whole;
}

inline float floatOfOrdered(uint32_t ordered) {
  const uint32_t bits = ordered ^ (ordered >> 31 ? 0x80000000u : 0xffffffffu);
  float x;
  std::memcpy(&x, &bits, sizeof x);
  return x;
}

// A logit that every one whose score exceeds the threshold reaches, and not much below it; NaN where none does.
inline float lowestLogit(float threshold) {
  uint32_t fails = 0x007fffffu, passes = 0xff800000u;  // -inf, +inf in the order of floats
  if (!(hostSigmoid(floatOfOrdered(passes)) > threshold)) return NAN;
  while (passes - fails > 1) {
    const uint32_t middle = fails + (passes - fails) / 2;
    (hostSigmoid(floatOfOrdered(middle)) > threshold ? passes : fails) = middle;
  }
  const float lowest = floatOfOrdered(passes);
  // Another exp may round otherwise, and e / (1 + e) is not quite monotone in float32.
  return lowest - 1e-5f * (1.f + std::fabs(lowest));
}

}  // namespace kernels
}  // namespace edge_retina
