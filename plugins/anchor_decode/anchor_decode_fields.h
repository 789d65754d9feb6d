// The attributes of an AnchorDecode call, as TensorRT hands them to a plugin and keeps them in a plan.
#pragma once

#include "anchor_decode.h"

#include <NvInferRuntime.h>

namespace edge_retina {

constexpr int32_t kFieldCount = 19;

// The call's attributes; edge_retina/rewrite/decode.py, call_attributes, says what each means.
struct FieldKind {
  const char* name;
  nvinfer1::PluginFieldType type;
};
extern const FieldKind kFieldKinds[kFieldCount];

constexpr size_t kMessageSize = 256;

// Fills `params` from the fields of an ONNX node or of a plan. On false `message` is one line that names the field,
// what it wants and what was found; nothing is then to be read from params. Takes any fields: of any type and length,
// with null pointers, twice or not at all. Fields of other names are not looked at.
//
// Numbers: FLOAT32, INT32 or INT64, as the parsers make them of attributes; text: CHAR, with or without a final NUL.
bool readFields(const nvinfer1::PluginFieldCollection* fields, AnchorDecodeParams& params,
                char (&message)[kMessageSize]) noexcept;

// Params as fields; readFields gives them back equal. Owns all that the fields point to.
class Fields {
 public:
  explicit Fields(const AnchorDecodeParams& params) noexcept;
  Fields(const Fields&) = delete;
  Fields& operator=(const Fields&) = delete;

  const nvinfer1::PluginFieldCollection* collection() const noexcept { return &collection_; }

 private:
  int32_t strides_[2 * kMaxLevels];
  int32_t shapes_[2 * kMaxLevels];
  int32_t perCell_[kMaxLevels];
  float anchors_[kMaxLevels * kMaxCellAnchors * 4];
  float deltaWeights_[4];
  float maxLogScale_, scoreThreshold_, nmsIou_;
  int32_t classes_, inclusivePixels_, dropEmpty_, topK_, classAware_, maxDetections_;
  int32_t inputSize_[2];
  nvinfer1::PluginField fields_[kFieldCount];
  nvinfer1::PluginFieldCollection collection_;
};

}  // namespace edge_retina
