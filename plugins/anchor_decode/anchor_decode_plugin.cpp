// TensorRT's calls turned into calls of the launcher. Nothing here throws, allocates on the device or waits for it.
#include "anchor_decode_plugin.h"

#include <atomic>
#include <cstdio>
#include <cstring>
#include <new>

namespace edge_retina {

using nvinfer1::DataType;
using nvinfer1::Dims;
using nvinfer1::DimsExprs;
using nvinfer1::DynamicPluginTensorDesc;
using nvinfer1::IPluginV3;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginTensorDesc;
using nvinfer1::TensorFormat;

namespace {

constexpr int32_t kOk = 0;
constexpr int32_t kError = 1;
constexpr int32_t kOutputs = 4;

std::atomic<nvinfer1::ILoggerFinder*> loggerFinder{nullptr};

template <class... Values>
void logError(const char* format, Values... values) noexcept {
  char text[kMessageSize + 64];
  const int used = std::snprintf(text, sizeof text, "edge_retina::%s: ", kPluginName);
  std::snprintf(text + used, sizeof text - used, format, values...);
  nvinfer1::ILogger* logger = nullptr;
  try {  // findLogger alone, of all that is called here, may throw
    if (nvinfer1::ILoggerFinder* finder = loggerFinder.load()) logger = finder->findLogger();
  } catch (...) {
    logger = nullptr;
  }
  if (logger != nullptr) {
    logger->log(nvinfer1::ILogger::Severity::kERROR, text);
  } else {
    std::fprintf(stderr, "%s\n", text);
  }
}

const char* nameOf(DataType type) {
  switch (type) {
    case DataType::kFLOAT: return "FLOAT";
    case DataType::kHALF: return "HALF";
    case DataType::kINT8: return "INT8";
    case DataType::kINT32: return "INT32";
    case DataType::kINT64: return "INT64";
    case DataType::kBF16: return "BF16";
    default: return "another type";
  }
}

// The layouts of a head tensor that the kernels read and TensorRT has for its type. Channels to a pack; 0: all of them,
// 8: all of them rounded up to a multiple of 8.
struct Layout {
  DataType type;
  TensorFormat format;
  int32_t pack;
};
constexpr int32_t kAllChannels = 0;
constexpr int32_t kAllChannelsBy8 = -8;
constexpr Layout kLayouts[] = {
    {DataType::kFLOAT, TensorFormat::kLINEAR, 1},         {DataType::kFLOAT, TensorFormat::kCHW32, 32},
    {DataType::kFLOAT, TensorFormat::kHWC, kAllChannels}, {DataType::kHALF, TensorFormat::kLINEAR, 1},
    {DataType::kHALF, TensorFormat::kCHW2, 2},            {DataType::kHALF, TensorFormat::kCHW32, 32},
    {DataType::kHALF, TensorFormat::kHWC8, kAllChannelsBy8},
};

const Layout* layoutOf(DataType type, TensorFormat format) {
  for (const Layout& layout : kLayouts) {
    if (layout.type == type && layout.format == format) return &layout;
  }
  return nullptr;
}

bool isHeadType(DataType type) { return type == DataType::kFLOAT || type == DataType::kHALF; }

HeadFormat headFormat(const Layout& layout, int32_t channels) {
  int32_t pack = layout.pack;
  if (pack == kAllChannels) pack = channels;
  if (pack == kAllChannelsBy8) pack = (channels + 7) / 8 * 8;
  return {layout.type == DataType::kHALF ? Element::kHalf : Element::kFloat, pack, 1.f};
}

// "[-1, 720, 100, 168]"; -1 is any size.
struct DimsText {
  char text[96];
  explicit DimsText(const Dims& dims) {
    int used = std::snprintf(text, sizeof text, "[");
    for (int32_t i = 0; i < dims.nbDims && i < Dims::MAX_DIMS && used < int(sizeof text) - 24; ++i) {
      used += std::snprintf(text + used, sizeof text - used, i != 0 ? ", %lld" : "%lld",
                            static_cast<long long>(dims.d[i]));
    }
    std::snprintf(text + used, sizeof text - used, "]");
  }
};

bool fits(const Dims& wanted, const Dims& found) {
  if (found.nbDims != wanted.nbDims) return false;
  for (int32_t i = 0; i < wanted.nbDims; ++i) {
    if (wanted.d[i] >= 0 && found.d[i] >= 0 && wanted.d[i] != found.d[i]) return false;
  }
  return true;
}

DataType outputType(int32_t output) { return output < 2 ? DataType::kFLOAT : DataType::kINT32; }

// FNV-1a, 64 bits.
unsigned long long hash(const void* data, size_t size) {
  unsigned long long value = 0xcbf29ce484222325ull;
  for (size_t i = 0; i < size; ++i) {
    value = (value ^ static_cast<const unsigned char*>(data)[i]) * 0x100000001b3ull;
  }
  return value;
}

}  // namespace

AnchorDecodePlugin::AnchorDecodePlugin(const AnchorDecodeParams& params) noexcept : params_(params), fields_(params) {
  std::snprintf(timingId_, sizeof timingId_, "%016llx", hash(&params_, sizeof params_));
  std::snprintf(metadata_, sizeof metadata_, "levels %d, classes %d, top_k %d, max_detections %d, parameters %s",
                params_.levelCount, params_.classes, params_.topK, params_.maxDetections, timingId_);
}

nvinfer1::IPluginCapability* AnchorDecodePlugin::getCapabilityInterface(
    nvinfer1::PluginCapabilityType type) noexcept {
  switch (type) {
    case nvinfer1::PluginCapabilityType::kCORE: return static_cast<nvinfer1::IPluginV3OneCore*>(this);
    case nvinfer1::PluginCapabilityType::kBUILD: return static_cast<nvinfer1::IPluginV3OneBuild*>(this);
    case nvinfer1::PluginCapabilityType::kRUNTIME: return static_cast<nvinfer1::IPluginV3OneRuntime*>(this);
  }
  return nullptr;
}

IPluginV3* AnchorDecodePlugin::clone() noexcept {
  IPluginV3* copy = new (std::nothrow) AnchorDecodePlugin(params_);
  if (copy == nullptr) logError("no host memory for a clone, %d bytes", int(sizeof(AnchorDecodePlugin)));
  return copy;
}

IPluginV3* AnchorDecodePlugin::attachToContext(nvinfer1::IPluginResourceContext*) noexcept { return clone(); }

const PluginFieldCollection* AnchorDecodePlugin::getFieldsToSerialize() noexcept { return fields_.collection(); }

int32_t AnchorDecodePlugin::getNbOutputs() const noexcept { return kOutputs; }

int32_t AnchorDecodePlugin::getOutputDataTypes(DataType* outputTypes, int32_t nbOutputs, const DataType* inputTypes,
                                               int32_t nbInputs) const noexcept {
  if (outputTypes == nullptr || inputTypes == nullptr || nbOutputs != kOutputs || nbInputs != inputCount()) {
    logError("wants %d inputs and %d outputs, found %d and %d", inputCount(), kOutputs, nbInputs, nbOutputs);
    return kError;
  }
  for (int32_t i = 0; i < nbInputs; ++i) {
    const bool geometry = i == nbInputs - 1;
    if (geometry ? inputTypes[i] != DataType::kFLOAT : !isHeadType(inputTypes[i])) {
      logError("input %d wants %s, found %s", i, geometry ? "FLOAT" : "FLOAT or HALF", nameOf(inputTypes[i]));
      return kError;
    }
    if (i < params_.levelCount && inputTypes[i] != inputTypes[0]) {
      logError("logits of all levels want one type, found %s and %s", nameOf(inputTypes[0]), nameOf(inputTypes[i]));
      return kError;
    }
  }
  for (int32_t i = 0; i < kOutputs; ++i) outputTypes[i] = outputType(i);
  return kOk;
}

Dims AnchorDecodePlugin::headDims(int32_t input) const noexcept {
  const bool logits = input < params_.levelCount;
  const AnchorLevel& level = params_.levels[logits ? input : input - params_.levelCount];
  Dims dims{};
  dims.nbDims = 4;
  dims.d[0] = -1;
  dims.d[1] = level.anchorsPerCell * (logits ? params_.classes : 4);
  dims.d[2] = level.height;
  dims.d[3] = level.width;
  return dims;
}

int32_t AnchorDecodePlugin::getOutputShapes(const DimsExprs* inputs, int32_t nbInputs, const DimsExprs*,
                                            int32_t nbShapeInputs, DimsExprs* outputs, int32_t nbOutputs,
                                            nvinfer1::IExprBuilder& exprBuilder) noexcept {
  if (inputs == nullptr || outputs == nullptr || nbInputs != inputCount() || nbShapeInputs != 0 ||
      nbOutputs != kOutputs) {
    logError("wants %d inputs, no shape inputs and %d outputs, found %d, %d and %d", inputCount(), kOutputs, nbInputs,
             nbShapeInputs, nbOutputs);
    return kError;
  }
  for (int32_t i = 0; i < nbInputs; ++i) {  // what the parser knows already; onShapeChange sees all of it
    Dims known{};
    known.nbDims = inputs[i].nbDims;
    for (int32_t d = 0; d < known.nbDims && d < Dims::MAX_DIMS; ++d) {
      const nvinfer1::IDimensionExpr* size = inputs[i].d[d];
      known.d[d] = size != nullptr && size->isConstant() ? size->getConstantValue() : -1;
    }
    PluginTensorDesc desc{};
    desc.dims = known;
    if (!checkInput(i, desc)) return kError;
  }
  const nvinfer1::IDimensionExpr* batch = inputs[0].d[0];
  const nvinfer1::IDimensionExpr* kept = exprBuilder.constant(params_.maxDetections);
  const nvinfer1::IDimensionExpr* four = exprBuilder.constant(4);
  if (batch == nullptr || kept == nullptr || four == nullptr) {
    logError("no expression for the %s", "shape of the outputs");
    return kError;
  }
  const int32_t ranks[kOutputs] = {3, 2, 2, 1};  // boxes [B, K, 4], scores [B, K], labels [B, K], count [B]
  for (int32_t i = 0; i < kOutputs; ++i) {
    outputs[i].nbDims = ranks[i];
    outputs[i].d[0] = batch;
    if (ranks[i] > 1) outputs[i].d[1] = kept;
    if (ranks[i] > 2) outputs[i].d[2] = four;
  }
  return kOk;
}

bool AnchorDecodePlugin::supportsFormatCombination(int32_t pos, const DynamicPluginTensorDesc* inOut, int32_t nbInputs,
                                                   int32_t nbOutputs) noexcept {
  if (inOut == nullptr || nbInputs != inputCount() || nbOutputs != kOutputs || pos < 0 || pos >= nbInputs + nbOutputs) {
    return false;
  }
  const PluginTensorDesc& desc = inOut[pos].desc;
  if (pos >= nbInputs - 1) {
    const DataType type = pos == nbInputs - 1 ? DataType::kFLOAT : outputType(pos - nbInputs);
    return desc.type == type && desc.format == TensorFormat::kLINEAR;
  }
  if (!isHeadType(desc.type)) return false;
  if (pos == 0) return layoutOf(desc.type, desc.format) != nullptr;
  if (pos < params_.levelCount && desc.type != inOut[0].desc.type) return false;
  // One layout for all heads: four to time at most instead of four to the power of their number.
  const bool same = layoutOf(desc.type, inOut[0].desc.format) != nullptr;
  return desc.format == (same ? inOut[0].desc.format : TensorFormat::kLINEAR);
}

bool AnchorDecodePlugin::checkInput(int32_t input, const PluginTensorDesc& desc) const noexcept {
  Dims wanted{};
  if (input < inputCount() - 1) {
    wanted = headDims(input);
  } else {
    wanted.nbDims = 1;
    wanted.d[0] = kGeometrySize;
  }
  if (fits(wanted, desc.dims)) return true;
  logError("input %d wants shape %s, found %s", input, DimsText(wanted).text, DimsText(desc.dims).text);
  return false;
}

AnchorDecodeFormats AnchorDecodePlugin::formats(const PluginTensorDesc* in) const noexcept {
  AnchorDecodeFormats formats{};  // pack 0 where there is no such layout, which the launcher refuses
  for (int32_t i = 0; i < 2 * params_.levelCount; ++i) {
    const bool logits = i < params_.levelCount;
    HeadFormat& format = logits ? formats.logits[i] : formats.deltas[i - params_.levelCount];
    if (const Layout* layout = layoutOf(in[i].type, in[i].format)) {
      format = headFormat(*layout, static_cast<int32_t>(headDims(i).d[1]));
    }
  }
  return formats;
}

int32_t AnchorDecodePlugin::configurePlugin(const DynamicPluginTensorDesc* in, int32_t nbInputs,
                                            const DynamicPluginTensorDesc* out, int32_t nbOutputs) noexcept {
  if (in == nullptr || out == nullptr || nbInputs != inputCount() || nbOutputs != kOutputs) {
    logError("wants %d inputs and %d outputs, found %d and %d", inputCount(), kOutputs, nbInputs, nbOutputs);
    return kError;
  }
  PluginTensorDesc descs[2 * kMaxLevels + 1];
  for (int32_t i = 0; i < nbInputs; ++i) {
    descs[i] = in[i].desc;
    if (!checkInput(i, descs[i])) return kError;
  }
  const int64_t most = in[0].max.nbDims == 4 ? in[0].max.d[0] : -1;
  if (most > kMaxBatch) {
    logError("batch wants 1 to %d images, the profile has %lld", kMaxBatch, static_cast<long long>(most));
    return kError;
  }
  if (const char* problem = checkAnchorDecode(params_, formats(descs), 1)) {
    logError("%s", problem);
    return kError;
  }
  return kOk;
}

size_t AnchorDecodePlugin::getWorkspaceSize(const DynamicPluginTensorDesc* inputs, int32_t nbInputs,
                                            const DynamicPluginTensorDesc*, int32_t) const noexcept {
  if (inputs == nullptr || nbInputs != inputCount() || inputs[0].max.nbDims != 4) return 0;
  const int64_t batch = inputs[0].max.d[0];
  if (batch < 1 || batch > kMaxBatch) return 0;
  PluginTensorDesc descs[2 * kMaxLevels + 1];
  for (int32_t i = 0; i < nbInputs; ++i) descs[i] = inputs[i].desc;
  return anchorDecodeWorkspace(params_, formats(descs), static_cast<int32_t>(batch));
}

int32_t AnchorDecodePlugin::onShapeChange(const PluginTensorDesc* in, int32_t nbInputs, const PluginTensorDesc* out,
                                          int32_t nbOutputs) noexcept {
  if (in == nullptr || out == nullptr || nbInputs != inputCount() || nbOutputs != kOutputs) {
    logError("wants %d inputs and %d outputs, found %d and %d", inputCount(), kOutputs, nbInputs, nbOutputs);
    return kError;
  }
  for (int32_t i = 0; i < nbInputs; ++i) {
    if (!checkInput(i, in[i])) return kError;
    if (i < nbInputs - 1 && in[i].dims.d[0] != in[0].dims.d[0]) {
      logError("all heads want one batch, input 0 has %lld, input %d has %lld",
               static_cast<long long>(in[0].dims.d[0]), i, static_cast<long long>(in[i].dims.d[0]));
      return kError;
    }
  }
  return kOk;
}

int32_t AnchorDecodePlugin::enqueue(const PluginTensorDesc* inputDesc, const PluginTensorDesc* outputDesc,
                                    const void* const* inputs, void* const* outputs, void* workspace,
                                    cudaStream_t stream) noexcept {
  if (inputDesc == nullptr || outputDesc == nullptr || inputs == nullptr || outputs == nullptr) {
    logError("enqueue wants %s", "tensors and their descriptions");
    return kError;
  }
  if (onShapeChange(inputDesc, inputCount(), outputDesc, kOutputs) != kOk) return kError;
  const int64_t batch = inputDesc[0].dims.d[0];
  if (batch == 0) return kOk;
  if (batch < 0 || batch > kMaxBatch) {
    logError("batch wants 1 to %d images, found %lld", kMaxBatch, static_cast<long long>(batch));
    return kError;
  }
  bool given = workspace != nullptr;
  AnchorDecodeInputs from{};
  for (int32_t l = 0; l < params_.levelCount; ++l) {
    from.logits[l] = inputs[l];
    from.deltas[l] = inputs[params_.levelCount + l];
    given = given && from.logits[l] != nullptr && from.deltas[l] != nullptr;
  }
  from.geometry = static_cast<const float*>(inputs[2 * params_.levelCount]);
  const AnchorDecodeOutputs to{static_cast<float*>(outputs[0]), static_cast<float*>(outputs[1]),
                               static_cast<int32_t*>(outputs[2]), static_cast<int32_t*>(outputs[3])};
  if (!given || from.geometry == nullptr || to.boxes == nullptr || to.scores == nullptr || to.labels == nullptr ||
      to.count == nullptr) {
    logError("enqueue wants memory for all %d inputs, %d outputs and the workspace", inputCount(), kOutputs);
    return kError;
  }
  const AnchorDecodeFormats layouts = formats(inputDesc);
  const int32_t images = static_cast<int32_t>(batch);
  const cudaError_t error = launchAnchorDecode(params_, layouts, images, from, to, workspace, stream);
  if (error == cudaSuccess) return kOk;
  const char* problem = checkAnchorDecode(params_, layouts, images);
  logError("launch failed with CUDA error %d%s%s", int(error), problem != nullptr ? ": " : "",
           problem != nullptr ? problem : "");
  return kError;
}

AnchorDecodeCreator::AnchorDecodeCreator() noexcept {
  for (int32_t i = 0; i < kFieldCount; ++i) fields_[i] = {kFieldKinds[i].name, nullptr, kFieldKinds[i].type, 1};
  names_.nbFields = kFieldCount;
  names_.fields = fields_;
}

IPluginV3* AnchorDecodeCreator::createPlugin(const char*, const PluginFieldCollection* fc,
                                             nvinfer1::TensorRTPhase) noexcept {
  AnchorDecodeParams params;
  char message[kMessageSize];
  if (!readFields(fc, params, message)) {
    logError("%s", message);
    return nullptr;
  }
  AnchorDecodeFormats linear{};
  for (int32_t l = 0; l < kMaxLevels; ++l) linear.logits[l] = linear.deltas[l] = {Element::kFloat, 1, 1.f};
  if (const char* problem = checkAnchorDecode(params, linear, 1)) {
    logError("%s", problem);
    return nullptr;
  }
  IPluginV3* plugin = new (std::nothrow) AnchorDecodePlugin(params);
  if (plugin == nullptr) logError("no host memory for a plugin, %d bytes", int(sizeof(AnchorDecodePlugin)));
  return plugin;
}

}  // namespace edge_retina

// What IPluginRegistry::loadLibrary looks for, and all that the library exports.
extern "C" __attribute__((visibility("default"))) nvinfer1::IPluginCreatorInterface* const* getCreators(
    int32_t& nbCreators) {
  static edge_retina::AnchorDecodeCreator creator;
  static nvinfer1::IPluginCreatorInterface* const creators[] = {&creator};
  nbCreators = 1;
  return creators;
}

extern "C" __attribute__((visibility("default"))) void setLoggerFinder(nvinfer1::ILoggerFinder* finder) {
  edge_retina::loggerFinder.store(finder);
}
