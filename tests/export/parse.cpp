// Calls the parser as nvinfer does, with outputs from standard input: rows, width, height, classes, threshold, `sort` of
// what is wrong with the layers, then boxes, scores, labels, count as they lie in memory. Prints an object a line.
#include <dlfcn.h>

#include <cstdint>
#include <cstdio>
#include <vector>

#include "nvdsinfer_custom_impl.h"

int main(int, char** arguments) {
  void* library = dlopen(arguments[1], RTLD_NOW);
  if (library == nullptr) return std::fprintf(stderr, "%s\n", dlerror()), 2;
  const auto parse = reinterpret_cast<NvDsInferParseCustomFunc>(dlsym(library, "NvDsInferParseEdgeRetina"));
  if (parse == nullptr) return 2;
  int32_t head[5];
  float threshold;
  if (std::fread(head, 4, 5, stdin) != 5 || std::fread(&threshold, 4, 1, stdin) != 1) return 2;
  const auto rows = unsigned(head[0]);
  std::vector<float> boxes(4 * rows), scores(rows);
  std::vector<int32_t> labels(rows), count(1);
  bool whole = std::fread(boxes.data(), 4, 4 * rows, stdin) == 4 * rows;
  whole = whole && std::fread(scores.data(), 4, rows, stdin) == rows && std::fread(labels.data(), 4, rows, stdin) == rows;
  if (!whole || std::fread(count.data(), 4, 1, stdin) != 1) return 2;
  std::vector<NvDsInferLayerInfo> layers{
      {FLOAT, {{2, {rows, 4}, 4 * rows}}, 1, "boxes", boxes.data(), 0},
      {FLOAT, {{1, {rows}, rows}}, 2, "scores", scores.data(), 0},
      {INT32, {{1, {rows}, rows}}, 3, "labels", labels.data(), 0},
      {INT32, {{1, {1}, 1}}, 4, "count", count.data(), 0},
  };
  if (head[4] == 1) layers.pop_back();
  if (head[4] == 2) layers[0].dataType = HALF;
  if (head[4] == 3) layers[2].buffer = nullptr;
  std::vector<NvDsInferObjectDetectionInfo> objects;
  const NvDsInferParseDetectionParams params{unsigned(head[3]), std::vector<float>(head[3], threshold), {}};
  if (!parse(layers, {unsigned(head[1]), unsigned(head[2]), 3}, params, objects)) return 1;
  for (const auto& o : objects)
    std::printf("%u %.9g %.9g %.9g %.9g %.9g\n", o.classId, o.left, o.top, o.width, o.height, o.detectionConfidence);
  return 0;
}
