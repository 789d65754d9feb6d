// The launcher under a sanitizer, without Python: heads from a seed, several kinds of spec. Prints a digest of all
// outputs; the sanitizer ends the process when it finds something.
#include "anchor_decode.cu"

using namespace edge_retina;

namespace {

struct Random {
  uint64_t state;
  float next() {  // -1 .. 1
    state = state * 6364136223846793005ull + 1442695040888963407ull;
    return float(int64_t(state) >> 40) / float(1 << 23);
  }
};

AnchorDecodeParams basic() {
  AnchorDecodeParams p;
  std::memset(&p, 0, sizeof p);
  p.levelCount = 2;
  p.levels[0] = {14, 12, 8, 8, 2};
  p.levels[1] = {3, 3, 16, 16, 1};
  for (int i = 0; i < 2; ++i) {
    for (int a = 0; a < 2; ++a) {
      const float side = 8.f * float(i + 1) + float(a);
      const float box[4] = {-side, -side, side, side};
      std::memcpy(p.cellAnchors[i][a], box, sizeof box);
    }
  }
  p.classes = 4;
  for (float& weight : p.deltaWeights) weight = 1.f;
  p.maxLogScale = 4.f;
  p.scoreThreshold = 0.05f;
  p.nmsIou = 0.3f;
  p.topK = 20;
  p.maxDetections = 30;
  p.classAware = 1;
  p.inputHeight = p.inputWidth = 64;
  return p;
}

void run(const AnchorDecodeParams& p, Element element, int pack, int batch, uint64_t& digest) {
  Random random{digest | 1};
  AnchorDecodeFormats f;
  std::memset(&f, 0, sizeof f);
  AnchorDecodeInputs in;
  std::memset(&in, 0, sizeof in);
  std::vector<std::unique_ptr<char[]>> heads;
  const size_t size = element == Element::kFloat ? 4 : element == Element::kHalf ? 2 : 1;
  for (int i = 0; i < p.levelCount; ++i) {
    for (const bool deltas : {false, true}) {
      HeadFormat& format = (deltas ? f.deltas : f.logits)[i];
      format = {element, pack, 0.02f};
      const size_t count = size_t(kernels::elementsOf(p.levels[i], deltas ? 4 : p.classes, pack)) * batch;
      heads.emplace_back(new char[count * size]);  // of just the size, so that a read beyond it shows
      for (size_t e = 0; e < count; ++e) {
        const float x = random.next() * 3.f;
        const uint16_t half = uint16_t(0x3000 + int(x * 1000.f));
        const int8_t small = int8_t(x * 40.f);
        const void* value = element == Element::kFloat ? static_cast<const void*>(&x)
                            : element == Element::kHalf ? static_cast<const void*>(&half) : &small;
        std::memcpy(heads.back().get() + e * size, value, size);
      }
      (deltas ? in.deltas : in.logits)[i] = heads.back().get();
    }
  }
  const float geometry[8] = {0, 0, 60, 50, 2, 2, 120, 100};
  in.geometry = geometry;
  const size_t rows = size_t(p.maxDetections) * batch;
  std::unique_ptr<float4[]> boxes(new float4[rows]);
  std::unique_ptr<float[]> scores(new float[rows]);
  std::unique_ptr<int32_t[]> labels(new int32_t[rows]), count(new int32_t[batch]);
  const size_t bytes = anchorDecodeWorkspace(p, f, batch);
  std::unique_ptr<char[]> workspace(new char[bytes + 256]);
  char* aligned = workspace.get() + (256 - reinterpret_cast<uintptr_t>(workspace.get()) % 256);
  const AnchorDecodeOutputs out = {reinterpret_cast<float*>(boxes.get()), scores.get(), labels.get(), count.get()};
  if (launchAnchorDecode(p, f, batch, in, out, aligned, nullptr) != cudaSuccess) std::abort();
  for (size_t i = 0; i < rows; ++i) {
    const uint64_t row = uint64_t(labels[i] + 2) ^ (uint64_t(emulator::bits<uint32_t>(scores[i])) << 8);
    digest = (digest ^ row) * 1099511628211ull;
  }
  for (int i = 0; i < batch; ++i) std::printf("%d ", count[i]);
}

}  // namespace

int main() {
  uint64_t digest = 14695981039346656037ull;
  AnchorDecodeParams p = basic();
  p.scoreThreshold = 0.f;  // more pass than the top-k buffer holds
  run(p, Element::kFloat, 1, 2, digest);
  p.classChoice = ClassChoice::kBest;
  p.clip = Clip::kAfterNms;
  p.dropEmpty = p.inclusivePixels = 1;
  run(p, Element::kHalf, 8, 1, digest);
  p = basic();
  p.topK = 1100;
  p.topKScope = TopKScope::kAll;
  p.boxCoding = BoxCoding::kCorner;
  p.nmsIou = 0.3f;
  p.maxDetections = 1000;
  run(p, Element::kInt8, 32, 1, digest);
  std::printf("digest %llx\n", static_cast<unsigned long long>(digest));
}
