// What nvinfer calls to read the four outputs of an edge-retina detector: boxes, scores, labels, count of one frame.
//
// NMS is done and boxes are in pixels of the network's input, which is the frame: config_infer.txt says cluster-mode=4 and
// nothing is scaled. Written from the documented interface, nvdsinfer_custom_impl.h of DeepStream 6.0 to 9.1.
#include "nvdsinfer_custom_impl.h"

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstdio>
#include <cstring>
#include <vector>

namespace {

const NvDsInferLayerInfo* findLayer(const std::vector<NvDsInferLayerInfo>& layers, const char* name,
                                    NvDsInferDataType type, unsigned int elements) {
  for (const NvDsInferLayerInfo& layer : layers) {
    if (layer.layerName == nullptr || std::strcmp(layer.layerName, name) != 0) continue;
    if (layer.dataType == type && layer.buffer != nullptr && (elements == 0 || layer.inferDims.numElements == elements))
      return &layer;
    std::fprintf(stderr, "edge-retina: output %s has type %d and %u elements, wanted type %d and %u\n", name,
                 int(layer.dataType), layer.inferDims.numElements, int(type), elements);
    return nullptr;
  }
  std::fprintf(stderr, "edge-retina: the model has no output %s; is it the model.onnx beside this file?\n", name);
  return nullptr;
}

// The largest extent from `start` that does not pass `end` in float: nvinfer drops a box that ends behind the frame.
float extent(float start, float end) {
  float size = end - start;
  while (size > 0.f && start + size > end) size = std::nextafter(size, 0.f);
  return size;
}

}  // namespace

extern "C" bool NvDsInferParseEdgeRetina(std::vector<NvDsInferLayerInfo> const& outputLayersInfo,
                                         NvDsInferNetworkInfo const& networkInfo,
                                         NvDsInferParseDetectionParams const& detectionParams,
                                         std::vector<NvDsInferObjectDetectionInfo>& objectList) {
  const NvDsInferLayerInfo* scores = findLayer(outputLayersInfo, "scores", FLOAT, 0);
  if (scores == nullptr) return false;
  const unsigned int rows = scores->inferDims.numElements;
  const NvDsInferLayerInfo* boxes = findLayer(outputLayersInfo, "boxes", FLOAT, 4 * rows);
  const NvDsInferLayerInfo* labels = findLayer(outputLayersInfo, "labels", INT32, rows);
  const NvDsInferLayerInfo* count = findLayer(outputLayersInfo, "count", INT32, 1);
  if (boxes == nullptr || labels == nullptr || count == nullptr) return false;

  const float* corner = static_cast<const float*>(boxes->buffer);
  const float* score = static_cast<const float*>(scores->buffer);
  const int32_t* label = static_cast<const int32_t*>(labels->buffer);
  const int64_t found = *static_cast<const int32_t*>(count->buffer);
  const std::vector<float>& least = detectionParams.perClassPreclusterThreshold;
  const float width = float(networkInfo.width), height = float(networkInfo.height);
  for (int64_t i = 0; i < std::min<int64_t>(found, rows); ++i) {
    if (label[i] < 0 || uint32_t(label[i]) >= detectionParams.numClassesConfigured) continue;
    if (size_t(label[i]) < least.size() && !(score[i] >= least[label[i]])) continue;
    // Some trainers' boxes reach beyond the frame, which nvinfer does not take.
    const float x1 = std::clamp(corner[4 * i], 0.f, width), x2 = std::clamp(corner[4 * i + 2], 0.f, width);
    const float y1 = std::clamp(corner[4 * i + 1], 0.f, height), y2 = std::clamp(corner[4 * i + 3], 0.f, height);
    NvDsInferObjectDetectionInfo object{};
    object.classId = uint32_t(label[i]);
    object.left = x1;
    object.top = y1;
    object.width = extent(x1, x2);
    object.height = extent(y1, y2);
    object.detectionConfidence = score[i];
    if (object.width > 0.f && object.height > 0.f) objectList.push_back(object);
  }
  return true;
}

CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(NvDsInferParseEdgeRetina)
