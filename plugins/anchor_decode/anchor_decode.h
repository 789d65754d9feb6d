// Heads of an anchor-based detector to detections: a plain C++ door to the CUDA kernels. Knows nothing of TensorRT.
//
// What is computed is defined by edge_retina/boxes.py, function detect; README.md beside this file has shapes, costs
// and limits. All calls are noexcept, keep no state and may be made from several threads.
#pragma once

#include <cstddef>
#include <cstdint>

#include <cuda_runtime_api.h>

namespace edge_retina {

constexpr int32_t kMaxLevels = 8;
constexpr int32_t kMaxCellAnchors = 64;
constexpr int32_t kMaxTopK = 5000;
constexpr int32_t kMaxDetections = 5000;
constexpr int32_t kMaxClasses = 65535;
constexpr int32_t kMaxSide = 16384;
constexpr int32_t kMaxBatch = 64;
constexpr int32_t kGeometrySize = 8;

enum class BoxCoding : int32_t { kCenter = 0, kCorner = 1 };
enum class Clip : int32_t { kContent = 0, kInput = 1, kPixels = 2, kAfterNms = 3, kNone = 4 };
enum class ClassChoice : int32_t { kEvery = 0, kBest = 1 };
enum class TopKScope : int32_t { kLevel = 0, kAll = 1 };
enum class Element : int32_t { kFloat = 0, kHalf = 1, kInt8 = 2 };

// One pyramid level, fine to coarse. Sides in cells, strides in network-input pixels per cell.
struct AnchorLevel {
  int32_t height;
  int32_t width;
  int32_t strideY;
  int32_t strideX;
  int32_t anchorsPerCell;
};

// The call's attributes, as edge_retina/rewrite/decode.py, call_attributes, writes them. Plain data: may be copied
// with memcpy and compared with memcmp after zero-initialisation.
struct AnchorDecodeParams {
  int32_t levelCount;
  AnchorLevel levels[kMaxLevels];
  float cellAnchors[kMaxLevels][kMaxCellAnchors][4];  // x1 y1 x2 y2 about the cell's origin, network-input pixels
  int32_t classes;
  float deltaWeights[4];
  float maxLogScale;
  float scoreThreshold;
  float nmsIou;
  BoxCoding boxCoding;
  Clip clip;
  ClassChoice classChoice;
  TopKScope topKScope;
  int32_t inclusivePixels;  // 0 or 1, as all flags
  int32_t dropEmpty;
  int32_t classAware;
  int32_t topK;
  int32_t maxDetections;
  int32_t inputHeight;  // of the network input in pixels; read only where clip is kInput or kPixels
  int32_t inputWidth;
};

// How a head tensor [B, C, H, W] lies in memory: channels in packs, [B, ceil(C / pack), H, W, pack].
// pack 1 is linear NCHW (kLINEAR), 4, 16 and 32 are kCHW4, kCHW16 and kCHW32; kHWC8 is pack = C rounded up to 8,
// kHWC is pack = C. What pads the last pack is never looked at.
struct HeadFormat {
  Element element;
  int32_t pack;
  float scale;  // kInt8 only: value = scale * element
};

// One format for each level's logits and deltas. All logits must have the same element type; packs, scales and the
// deltas' types are free.
struct AnchorDecodeFormats {
  HeadFormat logits[kMaxLevels];
  HeadFormat deltas[kMaxLevels];
};

// Device pointers. logits[l]: [B, anchors * classes, H, W], channel a * classes + c. deltas[l]: [B, anchors * 4, H, W],
// channel a * 4 + i. geometry: float [8], offset x y, content w h, scale x y, frame w h; one for the whole batch.
// Every pointer aligned to its element; 16 bytes make it quick.
struct AnchorDecodeInputs {
  const void* logits[kMaxLevels];
  const void* deltas[kMaxLevels];
  const float* geometry;
};

// Device pointers, K = maxDetections. boxes: [B, K, 4] xyxy in frame pixels, 16-byte aligned. scores: [B, K]
// descending. labels: [B, K]. count: [B]. Rows past count are zero, their labels -1.
struct AnchorDecodeOutputs {
  float* boxes;
  float* scores;
  int32_t* labels;
  int32_t* count;
};

// Null when the kernels can run these; else one line that says what was wanted and what was found (static text).
const char* checkAnchorDecode(const AnchorDecodeParams& params, const AnchorDecodeFormats& formats,
                              int32_t batch) noexcept;

// Bytes of device memory that one launch needs, at most; 0 for what checkAnchorDecode refuses. Never grows with the
// scores, and never shrinks when only the batch grows.
size_t anchorDecodeWorkspace(const AnchorDecodeParams& params, const AnchorDecodeFormats& formats,
                             int32_t batch) noexcept;

// Queues the kernels on `stream` and returns the first error of a launch; cudaErrorInvalidValue for what
// checkAnchorDecode refuses. No synchronisation, no allocation, no host read, no copy: may be captured in a graph.
// workspace: anchorDecodeWorkspace bytes, 256-byte aligned; need not be cleared.
cudaError_t launchAnchorDecode(const AnchorDecodeParams& params, const AnchorDecodeFormats& formats, int32_t batch,
                               const AnchorDecodeInputs& inputs, const AnchorDecodeOutputs& outputs, void* workspace,
                               cudaStream_t stream) noexcept;

// Kernels that one launch queues, whatever the levels, classes and batch.
constexpr int32_t kLaunches = 4;

}  // namespace edge_retina
