// The launcher and the emulator as a shared library, for ctypes.
#include "anchor_decode.cu"

extern "C" {

using namespace edge_retina;

size_t emulator_sizes(int which) {
  const size_t sizes[] = {sizeof(AnchorDecodeParams), sizeof(AnchorDecodeFormats), sizeof(AnchorDecodeInputs),
                          sizeof(AnchorDecodeOutputs)};
  return sizes[which];
}

const char* emulator_check(const AnchorDecodeParams* p, const AnchorDecodeFormats* f, int batch) {
  return checkAnchorDecode(*p, *f, batch);
}

size_t emulator_workspace(const AnchorDecodeParams* p, const AnchorDecodeFormats* f, int batch) {
  return anchorDecodeWorkspace(*p, *f, batch);
}

int emulator_run(const AnchorDecodeParams* p, const AnchorDecodeFormats* f, int batch, const AnchorDecodeInputs* in,
                 const AnchorDecodeOutputs* out, void* workspace) {
  return launchAnchorDecode(*p, *f, batch, *in, *out, workspace, nullptr);
}

float emulator_lowest_logit(float threshold) { return kernels::lowestLogit(threshold); }

const void* emulator_watch(const void* data, size_t bytes, size_t unit) { return emulator::watch(data, bytes, unit); }

// Loads of each unit of the i-th watched array.
void emulator_loads(int i, uint32_t* loads) {
  const emulator::Watched& w = emulator::watched()[i];
  for (size_t u = 0; u < w.bytes / w.unit; u++) loads[u] = w.loads[u];
}

void emulator_unwatch() { emulator::unwatchAll(); }

size_t emulator_launches() { return emulator::launches().size(); }

// Bytes of arguments, of the kernel with most among the launches from `first` on.
size_t emulator_largest_arguments(size_t first) {
  size_t most = 0;
  for (size_t i = first; i < emulator::launches().size(); i++) most = std::max(most, emulator::launches()[i].arguments);
  return most;
}

}  // extern "C"
