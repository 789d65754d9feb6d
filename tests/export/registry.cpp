// A stand-in for libnvinfer: a plugin registry that says what it is asked to load. Its virtual functions stand where
// TensorRT's headers put them, so that a call through those headers arrives at the right one.
#include <NvInferRuntime.h>

#include <cstdio>

namespace {

using namespace nvinfer1;

class Registry final : public IPluginRegistry {
 public:
  PluginLibraryHandle loadLibrary(AsciiChar const* path) noexcept override {
    std::printf("loadLibrary %s\n", path);
    std::fflush(stdout);
    return this;
  }
  void deregisterLibrary(PluginLibraryHandle) noexcept override {}
  void setErrorRecorder(IErrorRecorder*) noexcept override {}
  IErrorRecorder* getErrorRecorder() const noexcept override { return nullptr; }
  bool isParentSearchEnabled() const override { return false; }
  void setParentSearchEnabled(bool) override {}
  bool registerCreator(IPluginCreatorInterface&, AsciiChar const*) noexcept override { return false; }
  bool deregisterCreator(IPluginCreatorInterface const&) noexcept override { return false; }
  IPluginCreatorInterface* const* getAllCreators(int32_t*) const noexcept override { return nullptr; }
  IPluginCreatorInterface* getCreator(AsciiChar const*, AsciiChar const*, AsciiChar const*) noexcept override {
    return nullptr;
  }
  IPluginResource* acquirePluginResource(AsciiChar const*, IPluginResource*) noexcept override { return nullptr; }
  int32_t releasePluginResource(AsciiChar const*) noexcept override { return 0; }
#if NV_TENSORRT_MAJOR < 11
  bool registerCreator(IPluginCreator&, AsciiChar const*) noexcept override { return false; }
  bool deregisterCreator(IPluginCreator const&) noexcept override { return false; }
  IPluginCreator* const* getPluginCreatorList(int32_t*) const noexcept override { return nullptr; }
  IPluginCreator* getPluginCreator(AsciiChar const*, AsciiChar const*, AsciiChar const*) noexcept override {
    return nullptr;
  }
#endif
#if NV_TENSORRT_MAJOR > 10 || NV_TENSORRT_MINOR >= 10
  IPluginCreatorInterface* const* getAllCreatorsRecursive(int32_t*) noexcept override { return nullptr; }
#endif
};

}  // namespace

extern "C" __attribute__((visibility("default"))) IPluginRegistry* getPluginRegistry() noexcept {
  static Registry registry;
  return &registry;
}
