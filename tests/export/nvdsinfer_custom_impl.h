// A stand-in for DeepStream's header, for tests: what NVIDIA's API reference documents of it, as far as a box parser sees
// it. Written for these tests, not NVIDIA's file; names, types and order are those of the reference, DeepStream 9.1.
#pragma once

#include <vector>

constexpr unsigned int kMostDims = 8;

struct NvDsInferDims {
  unsigned int numDims;
  unsigned int d[kMostDims];
  unsigned int numElements;
};

enum NvDsInferDataType { FLOAT = 0, HALF = 1, INT8 = 2, INT32 = 3, INT64 = 4, UINT8 = 5 };

struct NvDsInferLayerInfo {
  NvDsInferDataType dataType;
  union {
    NvDsInferDims inferDims;
    NvDsInferDims dims;
  };
  int bindingIndex;
  const char* layerName;
  void* buffer;
  int isInput;
};

struct NvDsInferNetworkInfo {
  unsigned int width, height, channels;
};

struct NvDsInferObjectDetectionInfo {
  unsigned int classId;
  float left, top, width, height;
  float detectionConfidence;
#ifndef BEFORE_ROTATION
  float rotation_angle;
#endif
};

struct NvDsInferParseDetectionParams {
  unsigned int numClassesConfigured;
  std::vector<float> perClassPreclusterThreshold;
  std::vector<float> perClassPostclusterThreshold;
};

using NvDsInferParseCustomFunc = bool (*)(std::vector<NvDsInferLayerInfo> const&, NvDsInferNetworkInfo const&,
                                          NvDsInferParseDetectionParams const&,
                                          std::vector<NvDsInferObjectDetectionInfo>&);

#define CHECK_CUSTOM_PARSE_FUNC_PROTOTYPE(function) static_assert(NvDsInferParseCustomFunc(&function) != nullptr, "");
