// Makes the anchor-decode plugin known to TensorRT in a server that only opens libraries, as Triton and DeepStream do.
//
// libedge_retina_anchor_decode.so is made for IPluginRegistry::loadLibrary and does nothing when it is merely opened. This
// one, lying beside it, calls loadLibrary when it is opened. Build it where the server runs, against its TensorRT:
//   g++ -std=c++17 -O2 -shared -fPIC -I/usr/local/cuda/include -o libedge_retina_register.so register_plugin.cpp -lnvinfer -ldl
#include <NvInferRuntime.h>
#include <dlfcn.h>

#include <cstdio>
#include <string>

namespace {

constexpr char kLibrary[] = "libedge_retina_anchor_decode.so";

bool registerPlugin() {
  Dl_info here{};
  if (dladdr(reinterpret_cast<void*>(&registerPlugin), &here) == 0 || here.dli_fname == nullptr) return false;
  const std::string self(here.dli_fname);
  const size_t slash = self.rfind('/');
  const std::string folder = slash == std::string::npos ? "." : self.substr(0, slash);
  const std::string library = folder + "/" + kLibrary;
  nvinfer1::IPluginRegistry* registry = getPluginRegistry();
  const bool known = registry != nullptr && registry->loadLibrary(library.c_str()) != nullptr;
  if (!known) std::fprintf(stderr, "edge-retina: TensorRT does not load %s\n", library.c_str());
  return known;
}

[[maybe_unused]] const bool kRegistered = registerPlugin();

}  // namespace
