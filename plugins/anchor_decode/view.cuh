// What the kernels see of one launch: plain data, passed by value. plan.h fills it in.
#pragma once

#include "anchor_decode.h"

#include <cuda_fp16.h>
#include <cuda_runtime.h>

namespace edge_retina {
namespace kernels {

// A (anchor, class) pair as one number: greater is better. High word: the logit, so that numbers order as floats do;
// low word: 2^32 - 1 - index, index = ((y * W + x) * A + a) * classes + c within the level. No two pairs share a key,
// none is 0.
using Key = unsigned long long;

constexpr int kScanThreads = 256;
constexpr int kScanBlocks = 4;      // of a multiprocessor at least; leaves a thread 64 registers
constexpr int kSelectThreads = 512;
constexpr int kDecodeThreads = 128;
constexpr int kSuppressThreads = 512;
constexpr int kScanValues = 16;    // logits that a thread holds at a time
constexpr int kSelectValues = 8;   // keys likewise
constexpr int kChunk = 256;        // candidates that NMS settles at a time
constexpr unsigned kAllLanes = 0xffffffffu;

struct LevelView {
  const void* logits;
  const void* deltas;
  long long logitsPerImage;  // elements, padding included
  long long deltasPerImage;
  HeadFormat logitFormat;
  HeadFormat deltaFormat;
  unsigned scanned;  // what the scan walks through: elements, or anchors where only an anchor's best class counts
  int cells;
  int width;
  int anchorsPerCell;
  int strideX;
  int strideY;
  int firstTile;    // of this level among the image's tiles
  int firstPlace;   // of its list among the image's places
  int firstAnchor;  // of its cell anchors in the anchor table
};

struct View {
  LevelView level[kMaxLevels];
  int levels;
  int classes;
  int tiles;         // of one image, all levels
  unsigned tile;     // elements or anchors of a tile
  int slot;          // keys that a tile leaves at most
  int topK;
  int bufferKeys;    // of shared memory, more than topK
  int places;        // of one image: topK for each level, fewer where there are no more pairs
  int candidates;    // of them those that go on at most, topKScope seen to
  int maxDetections;
  bool classAware;
  bool dropEmpty;
  bool inclusive;
  BoxCoding coding;
  Clip clip;
  float lowest;      // no logit below it passes the score threshold; NaN: none does
  float scoreThreshold;
  float nmsIou;
  float maxLogScale;
  float deltaWeights[4];
  float inputWidth;
  float inputHeight;
  // Workspace, each [B, ...].
  int* tileCounts;     // [tiles]
  Key* tileKeys;       // [tiles, slot]
  int* listCounts;     // [levels]
  Key* lists;          // [places], a level's list from its firstPlace on
  float4* boxes;       // [candidates], best first
  float* logits;       // [candidates]
  int* labels;         // [candidates], -1: fell out
  float4* keptBoxes;   // [maxDetections], as NMS compares them
  int* keptLabels;     // [maxDetections]
  int* keptPlaces;     // [maxDetections]
  // The call's own.
  const float* geometry;
  float4* outBoxes;
  float* outScores;
  int* outLabels;
  int* outCount;
};

// Cell anchors of all levels, one after the other.
template <int Count>
struct AnchorTable {
  float box[Count][4];
};

// Shared memory whose size the launch gives.
template <class T>
__device__ inline T* dynamicShared() {
#ifdef EDGE_RETINA_EMULATOR
  return static_cast<T*>(emulator::dynamicShared());
#else
  extern __shared__ __align__(16) unsigned char memory[];
  return reinterpret_cast<T*>(memory);
#endif
}

}  // namespace kernels
}  // namespace edge_retina
