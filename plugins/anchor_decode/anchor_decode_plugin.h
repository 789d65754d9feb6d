// AnchorDecode as a TensorRT plugin: an IPluginV3 and its creator over the launcher in anchor_decode.h.
//
// Name AnchorDecode, version "1", namespace edge_retina; TensorRT 10.3 to 11.4. Only virtual interfaces of TensorRT are
// used, so the library links against no part of it. README.md has shapes, types and limits.
#pragma once

#include "anchor_decode.h"
#include "anchor_decode_fields.h"

#include <NvInferRuntime.h>

namespace edge_retina {

constexpr const char* kPluginName = "AnchorDecode";
constexpr const char* kPluginVersion = "1";
constexpr const char* kPluginNamespace = "edge_retina";

// Inputs: logits of every level, deltas of every level, geometry. Outputs: boxes, scores, labels, count.
//
// An object never changes after it was made: what a call needs is in its parameters and in the descriptions of the
// tensors, so that clones, contexts and threads share nothing and enqueue has nothing to prepare.
class AnchorDecodePlugin final : public nvinfer1::IPluginV3,
                                 public nvinfer1::IPluginV3OneCore,
                                 public nvinfer1::IPluginV3OneBuild,
                                 public nvinfer1::IPluginV3OneRuntime {
 public:
  explicit AnchorDecodePlugin(const AnchorDecodeParams& params) noexcept;

  nvinfer1::IPluginCapability* getCapabilityInterface(nvinfer1::PluginCapabilityType type) noexcept override;
  nvinfer1::IPluginV3* clone() noexcept override;

  const char* getPluginName() const noexcept override { return kPluginName; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

  int32_t getNbOutputs() const noexcept override;
  int32_t getOutputDataTypes(nvinfer1::DataType* outputTypes, int32_t nbOutputs, const nvinfer1::DataType* inputTypes,
                             int32_t nbInputs) const noexcept override;
  int32_t getOutputShapes(const nvinfer1::DimsExprs* inputs, int32_t nbInputs, const nvinfer1::DimsExprs* shapeInputs,
                          int32_t nbShapeInputs, nvinfer1::DimsExprs* outputs, int32_t nbOutputs,
                          nvinfer1::IExprBuilder& exprBuilder) noexcept override;
  bool supportsFormatCombination(int32_t pos, const nvinfer1::DynamicPluginTensorDesc* inOut, int32_t nbInputs,
                                 int32_t nbOutputs) noexcept override;
  int32_t configurePlugin(const nvinfer1::DynamicPluginTensorDesc* in, int32_t nbInputs,
                          const nvinfer1::DynamicPluginTensorDesc* out, int32_t nbOutputs) noexcept override;
  size_t getWorkspaceSize(const nvinfer1::DynamicPluginTensorDesc* inputs, int32_t nbInputs,
                          const nvinfer1::DynamicPluginTensorDesc* outputs, int32_t nbOutputs) const noexcept override;
  const char* getTimingCacheID() noexcept override { return timingId_; }
  const char* getMetadataString() noexcept override { return metadata_; }

  int32_t onShapeChange(const nvinfer1::PluginTensorDesc* in, int32_t nbInputs, const nvinfer1::PluginTensorDesc* out,
                        int32_t nbOutputs) noexcept override;
  int32_t enqueue(const nvinfer1::PluginTensorDesc* inputDesc, const nvinfer1::PluginTensorDesc* outputDesc,
                  const void* const* inputs, void* const* outputs, void* workspace,
                  cudaStream_t stream) noexcept override;
  nvinfer1::IPluginV3* attachToContext(nvinfer1::IPluginResourceContext* context) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldsToSerialize() noexcept override;

 private:
  int32_t inputCount() const noexcept { return 2 * params_.levelCount + 1; }
  // Dimensions [B, C, H, W] that head tensor `input` must have, B left at -1.
  nvinfer1::Dims headDims(int32_t input) const noexcept;
  bool checkInput(int32_t input, const nvinfer1::PluginTensorDesc& desc) const noexcept;
  AnchorDecodeFormats formats(const nvinfer1::PluginTensorDesc* in) const noexcept;

  const AnchorDecodeParams params_;
  Fields fields_;
  char timingId_[32];
  char metadata_[160];
};

class AnchorDecodeCreator final : public nvinfer1::IPluginCreatorV3One {
 public:
  AnchorDecodeCreator() noexcept;

  // Null, and an error in TensorRT's log, where the fields are not those of an AnchorDecode call.
  nvinfer1::IPluginV3* createPlugin(const char* name, const nvinfer1::PluginFieldCollection* fc,
                                    nvinfer1::TensorRTPhase phase) noexcept override;
  const nvinfer1::PluginFieldCollection* getFieldNames() noexcept override { return &names_; }
  const char* getPluginName() const noexcept override { return kPluginName; }
  const char* getPluginVersion() const noexcept override { return kPluginVersion; }
  const char* getPluginNamespace() const noexcept override { return kPluginNamespace; }

 private:
  nvinfer1::PluginField fields_[kFieldCount];
  nvinfer1::PluginFieldCollection names_;
};

}  // namespace edge_retina
