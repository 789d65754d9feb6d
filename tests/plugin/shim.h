// What a caller of the plugin needs: TensorRT's part of the bargain, played by the tests.
#pragma once

#include <NvInferRuntime.h>

#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

extern "C" {
nvinfer1::IPluginCreatorInterface* const* getCreators(int32_t& count);
void setLoggerFinder(nvinfer1::ILoggerFinder* finder);
}

namespace shim {

struct Log final : nvinfer1::ILogger {
  std::string text;
  void log(Severity severity, const char* message) noexcept override {
    text += severity == Severity::kERROR ? "error: " : "other: ";
    text += message;
    text += "\n";
  }
};

inline Log& log() {
  static Log only;
  return only;
}

struct Finder final : nvinfer1::ILoggerFinder {
  int kind;
  explicit Finder(int kind_) : kind(kind_) {}
  nvinfer1::ILogger* findLogger() override {
    if (kind == 3) throw std::runtime_error("no logger today");
    return kind == 1 ? &log() : nullptr;
  }
};

inline nvinfer1::IPluginCreatorV3One* creator() {
  int32_t count = 0;
  return static_cast<nvinfer1::IPluginCreatorV3One*>(getCreators(count)[0]);
}

inline nvinfer1::IPluginV3OneCore* core(void* plugin) {
  auto* of = static_cast<nvinfer1::IPluginV3*>(plugin);
  return static_cast<nvinfer1::IPluginV3OneCore*>(of->getCapabilityInterface(nvinfer1::PluginCapabilityType::kCORE));
}
inline nvinfer1::IPluginV3OneBuild* build(void* plugin) {
  auto* of = static_cast<nvinfer1::IPluginV3*>(plugin);
  return static_cast<nvinfer1::IPluginV3OneBuild*>(of->getCapabilityInterface(nvinfer1::PluginCapabilityType::kBUILD));
}
inline nvinfer1::IPluginV3OneRuntime* runtime(void* plugin) {
  auto* of = static_cast<nvinfer1::IPluginV3*>(plugin);
  return static_cast<nvinfer1::IPluginV3OneRuntime*>(
      of->getCapabilityInterface(nvinfer1::PluginCapabilityType::kRUNTIME));
}

// A description is 11 numbers: type, format, nbDims, 8 sizes.
inline nvinfer1::PluginTensorDesc desc(const int64_t* descs, int32_t i) {
  const int64_t* of = descs + 11 * i;
  nvinfer1::PluginTensorDesc made{};
  made.type = static_cast<nvinfer1::DataType>(of[0]);
  made.format = static_cast<nvinfer1::TensorFormat>(of[1]);
  made.dims.nbDims = static_cast<int32_t>(of[2]);
  for (int32_t d = 0; d < nvinfer1::Dims::MAX_DIMS; ++d) made.dims.d[d] = of[3 + d];
  made.scale = -1.F;
  return made;
}

inline std::vector<nvinfer1::PluginTensorDesc> fixed(const int64_t* descs, int32_t count) {
  std::vector<nvinfer1::PluginTensorDesc> all;
  for (int32_t i = 0; i < count; ++i) all.push_back(desc(descs, i));
  return all;
}

// Of a profile from 1 to `batch` images.
inline std::vector<nvinfer1::DynamicPluginTensorDesc> dynamic(const int64_t* descs, int32_t count, int64_t batch) {
  std::vector<nvinfer1::DynamicPluginTensorDesc> all;
  for (int32_t i = 0; i < count; ++i) {
    nvinfer1::DynamicPluginTensorDesc made{};
    made.desc = desc(descs, i);
    made.min = made.opt = made.max = made.desc.dims;
    for (nvinfer1::Dims* dims : {&made.min, &made.opt, &made.max}) {
      if (dims->d[0] < 0) dims->d[0] = dims == &made.max ? batch : 1;
    }
    all.push_back(made);
  }
  return all;
}

// Expressions that are numbers, or symbols with a number to tell them apart by.
class Expressions {
 public:
  const nvinfer1::IDimensionExpr* add(int64_t value, bool constant) {
    made_.push_back(std::make_unique<Expression>(value, constant));
    return made_.back().get();
  }
  int64_t valueOf(const nvinfer1::IDimensionExpr* of) const {
    for (const auto& known : made_) {
      if (known.get() == of) return known->value;
    }
    return -1000;
  }
  nvinfer1::IExprBuilder& builder() { return builder_; }

 private:
  struct Expression final : nvinfer1::IDimensionExpr, nvinfer1::apiv::VDimensionExpr {
    int64_t value;
    bool constant;
    Expression(int64_t value_, bool constant_) : value(value_), constant(constant_) { mImpl = this; }
    bool isConstant() const override { return constant; }
    int64_t getConstantValue() const override { return value; }
    bool isSizeTensor() const override { return false; }
  };
  struct Builder final : nvinfer1::IExprBuilder, nvinfer1::apiv::VExprBuilder {
    Expressions* owner;
    explicit Builder(Expressions* owner_) : owner(owner_) { mImpl = this; }
    const nvinfer1::IDimensionExpr* constant(int64_t value) override { return owner->add(value, true); }
    const nvinfer1::IDimensionExpr* operation(nvinfer1::DimensionOperation, const nvinfer1::IDimensionExpr&,
                                              const nvinfer1::IDimensionExpr&) override {
      return nullptr;
    }
    const nvinfer1::IDimensionExpr* declareSizeTensor(int32_t, const nvinfer1::IDimensionExpr&,
                                                      const nvinfer1::IDimensionExpr&) override {
      return nullptr;
    }
  };
  std::vector<std::unique_ptr<Expression>> made_;
  Builder builder_{this};
};

}  // namespace shim
