// The launcher: checks, cuts up, queues four kernels.
#include "anchor_decode.h"

#include "decode.cuh"
#include "plan.h"
#include "scan.cuh"
#include "select.cuh"
#include "suppress.cuh"

namespace edge_retina {
namespace {

using kernels::AnchorTable;
using kernels::Plan;
using kernels::View;

bool within(long long value, long long low, long long high) { return low <= value && value <= high; }
bool flag(int32_t value) { return value == 0 || value == 1; }

const char* checkLevel(const AnchorDecodeParams& p, const AnchorDecodeFormats& f, int i) {
  const AnchorLevel& l = p.levels[i];
  if (!within(l.height, 1, kMaxSide) || !within(l.width, 1, kMaxSide)) {
    return "level_shapes wants sides of 1 to 16384 cells";
  }
  if (!within(l.strideY, 1, kMaxSide) || !within(l.strideX, 1, kMaxSide)) return "strides wants 1 to 16384 pixels";
  if (!within(l.anchorsPerCell, 1, kMaxCellAnchors)) return "anchors_per_cell wants 1 to 64";
  for (int a = 0; a < l.anchorsPerCell; ++a) {
    for (float side : p.cellAnchors[i][a]) {
      if (!std::isfinite(side)) return "cell_anchors wants finite numbers";
    }
  }
  const HeadFormat* formats[2] = {&f.logits[i], &f.deltas[i]};
  const int channels[2] = {p.classes, 4};
  for (int t = 0; t < 2; ++t) {
    const HeadFormat& format = *formats[t];
    if (!within(int(format.element), 0, 2)) return "a head's element type wants float, half or int8";
    const long long all = static_cast<long long>(l.anchorsPerCell) * channels[t];
    if (!within(format.pack, 1, kernels::roundUp(all, 32))) return "a head's pack wants 1 to its channels, rounded up";
    if (format.element == Element::kInt8 && !(std::isfinite(format.scale) && format.scale > 0.f)) {
      return "an int8 head wants a finite scale above 0";
    }
    if (kernels::elementsOf(l, channels[t], format.pack) > kernels::kMostElements) {
      return "a level's head wants fewer than 2^31 elements for an image";
    }
  }
  if (f.logits[i].element != f.logits[0].element) return "the logits of all levels want one element type";
  return nullptr;
}

int anchorsOf(const AnchorDecodeParams& p) {
  int all = 0;
  for (int i = 0; i < p.levelCount; ++i) all += p.levels[i].anchorsPerCell;
  return all;
}

template <class T>
T* at(void* workspace, size_t offset) {
  return reinterpret_cast<T*>(static_cast<char*>(workspace) + offset);
}

View makeView(const AnchorDecodeParams& p, const AnchorDecodeFormats& f, const Plan& plan,
              const AnchorDecodeInputs& inputs, const AnchorDecodeOutputs& outputs, void* workspace) {
  View view;
  std::memset(&view, 0, sizeof view);
  int firstAnchor = 0;
  for (int i = 0; i < p.levelCount; ++i) {
    const AnchorLevel& l = p.levels[i];
    kernels::LevelView& v = view.level[i];
    v.logits = inputs.logits[i];
    v.deltas = inputs.deltas[i];
    v.logitsPerImage = kernels::elementsOf(l, p.classes, f.logits[i].pack);
    v.deltasPerImage = kernels::elementsOf(l, 4, f.deltas[i].pack);
    v.logitFormat = f.logits[i];
    v.deltaFormat = f.deltas[i];
    v.scanned = unsigned(kernels::scannedOf(p, f, i));
    v.cells = int(kernels::cellsOf(l));
    v.width = l.width;
    v.anchorsPerCell = l.anchorsPerCell;
    v.strideX = l.strideX;
    v.strideY = l.strideY;
    v.firstTile = plan.firstTile[i];
    v.firstPlace = plan.firstPlace[i];
    v.firstAnchor = firstAnchor;
    firstAnchor += l.anchorsPerCell;
  }
  view.levels = p.levelCount;
  view.classes = p.classes;
  view.tiles = plan.tiles;
  view.tile = unsigned(plan.tile);
  view.slot = plan.slot;
  view.topK = p.topK;
  view.bufferKeys = plan.bufferKeys;
  view.places = plan.places;
  view.candidates = plan.candidates;
  view.maxDetections = p.maxDetections;
  view.classAware = p.classAware != 0;
  view.dropEmpty = p.dropEmpty != 0;
  view.inclusive = p.inclusivePixels != 0;
  view.coding = p.boxCoding;
  view.clip = p.clip;
  view.lowest = kernels::lowestLogit(p.scoreThreshold);
  view.scoreThreshold = p.scoreThreshold;
  view.nmsIou = p.nmsIou;
  view.maxLogScale = p.maxLogScale;
  std::memcpy(view.deltaWeights, p.deltaWeights, sizeof view.deltaWeights);
  view.inputWidth = float(p.inputWidth);
  view.inputHeight = float(p.inputHeight);
  view.tileCounts = at<int>(workspace, plan.tileCounts);
  view.tileKeys = at<kernels::Key>(workspace, plan.tileKeys);
  view.listCounts = at<int>(workspace, plan.listCounts);
  view.lists = at<kernels::Key>(workspace, plan.lists);
  view.boxes = at<float4>(workspace, plan.boxes);
  view.logits = at<float>(workspace, plan.logits);
  view.labels = at<int>(workspace, plan.labels);
  view.keptBoxes = at<float4>(workspace, plan.keptBoxes);
  view.keptLabels = at<int>(workspace, plan.keptLabels);
  view.keptPlaces = at<int>(workspace, plan.keptPlaces);
  view.geometry = inputs.geometry;
  view.outBoxes = reinterpret_cast<float4*>(outputs.boxes);
  view.outScores = outputs.scores;
  view.outLabels = outputs.labels;
  view.outCount = outputs.count;
  return view;
}

using ViewKernel = void (*)(const View);

ViewKernel scanFor(ClassChoice choice, Element element) {
  const bool best = choice == ClassChoice::kBest;
  switch (element) {
    case Element::kHalf:
      return best ? kernels::scanBest<Element::kHalf> : kernels::scanEvery<Element::kHalf>;
    case Element::kInt8:
      return best ? kernels::scanBest<Element::kInt8> : kernels::scanEvery<Element::kInt8>;
    default:
      return best ? kernels::scanBest<Element::kFloat> : kernels::scanEvery<Element::kFloat>;
  }
}

template <int kAnchors>
cudaError_t launchDecode(const AnchorDecodeParams& p, View& view, dim3 grid, cudaStream_t stream) {
  AnchorTable<kAnchors> anchors;
  std::memset(&anchors, 0, sizeof anchors);
  for (int i = 0; i < p.levelCount; ++i) {
    const size_t bytes = sizeof(float) * 4 * size_t(p.levels[i].anchorsPerCell);
    std::memcpy(anchors.box[view.level[i].firstAnchor], p.cellAnchors[i], bytes);
  }
  void* arguments[] = {&view, &anchors};
  return cudaLaunchKernel(kernels::decodePlaces<kAnchors>, grid, dim3(kernels::kDecodeThreads), arguments, 0, stream);
}

}  // namespace

const char* checkAnchorDecode(const AnchorDecodeParams& p, const AnchorDecodeFormats& f, int32_t batch) noexcept {
  if (!within(batch, 1, kMaxBatch)) return "batch wants 1 to 64 images";
  if (!within(p.levelCount, 1, kMaxLevels)) return "strides wants 1 to 8 levels";
  if (!within(p.classes, 1, kMaxClasses)) return "num_classes wants 1 to 65535";
  for (int i = 0; i < p.levelCount; ++i) {
    if (const char* problem = checkLevel(p, f, i)) return problem;
  }
  if (anchorsOf(p) > kernels::kManyAnchors) return "more than 128 cell anchors over all levels want CUDA 12.1 or later";
  for (float weight : p.deltaWeights) {
    if (!(std::isfinite(weight) && weight > 0.f)) return "delta_weights wants finite numbers above 0";
  }
  if (!(p.maxLogScale >= 0.f && p.maxLogScale <= 80.f)) return "max_log_scale wants 0 to 80";
  if (!(p.scoreThreshold >= 0.f && p.scoreThreshold <= 1.f)) return "score_threshold wants 0 to 1";
  if (!(p.nmsIou >= 0.f && p.nmsIou <= 1.f)) return "nms_iou wants 0 to 1";
  if (!within(int(p.boxCoding), 0, 1)) return "box_coding wants center or corner";
  if (!within(int(p.clip), 0, 4)) return "clip wants content, input, pixels, after_nms or none";
  if (!within(int(p.classChoice), 0, 1)) return "class_choice wants every or best";
  if (!within(int(p.topKScope), 0, 1)) return "top_k_scope wants level or all";
  if (!flag(p.inclusivePixels) || !flag(p.dropEmpty) || !flag(p.classAware)) return "a flag wants 0 or 1";
  if (!within(p.topK, 1, kMaxTopK)) return "top_k wants 1 to 5000";
  if (!within(p.maxDetections, 1, kMaxDetections)) return "max_detections wants 1 to 5000";
  if (p.clip == Clip::kInput || p.clip == Clip::kPixels) {
    if (!within(p.inputHeight, 1, kMaxSide) || !within(p.inputWidth, 1, kMaxSide)) {
      return "input_size wants sides of 1 to 16384 pixels";
    }
  }
  return nullptr;
}

size_t anchorDecodeWorkspace(const AnchorDecodeParams& p, const AnchorDecodeFormats& f, int32_t batch) noexcept {
  if (checkAnchorDecode(p, f, batch)) return 0;
  // Larger batches have larger tiles, so that a smaller one can need more.
  size_t bytes = 0;
  for (int images = 1; images <= batch; ++images) {
    const size_t needed = kernels::makePlan(p, f, images).bytes;
    bytes = needed > bytes ? needed : bytes;
  }
  return bytes;
}

cudaError_t launchAnchorDecode(const AnchorDecodeParams& p, const AnchorDecodeFormats& f, int32_t batch,
                               const AnchorDecodeInputs& inputs, const AnchorDecodeOutputs& outputs, void* workspace,
                               cudaStream_t stream) noexcept {
  if (checkAnchorDecode(p, f, batch)) return cudaErrorInvalidValue;
  const Plan plan = kernels::makePlan(p, f, batch);
  View view = makeView(p, f, plan, inputs, outputs, workspace);
  void* arguments[] = {&view};
  const size_t buffer = size_t(plan.bufferKeys) * sizeof(kernels::Key);
  const unsigned images = unsigned(batch);

  const ViewKernel scan = scanFor(p.classChoice, f.logits[0].element);
  const dim3 scanGrid(plan.tiles, images), selectGrid(p.levelCount, images);
  cudaError_t error = cudaLaunchKernel(scan, scanGrid, dim3(kernels::kScanThreads), arguments, buffer, stream);
  if (error != cudaSuccess) return error;
  const dim3 selectBlock(kernels::kSelectThreads);
  error = cudaLaunchKernel(kernels::selectLevel, selectGrid, selectBlock, arguments, buffer, stream);
  if (error != cudaSuccess) return error;
  const dim3 decodeGrid((plan.places + kernels::kDecodeThreads - 1) / kernels::kDecodeThreads, images);
  error = anchorsOf(p) <= kernels::kFewAnchors ? launchDecode<kernels::kFewAnchors>(p, view, decodeGrid, stream)
                                               : launchDecode<kernels::kManyAnchors>(p, view, decodeGrid, stream);
  if (error != cudaSuccess) return error;
  return cudaLaunchKernel(kernels::suppress, dim3(images), dim3(kernels::kSuppressThreads), arguments, 0, stream);
}

}  // namespace edge_retina
