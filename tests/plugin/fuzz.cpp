// Thousands of broken field collections and tensor descriptions, by a seed: fuzz SEED COUNT. Prints what came of them.
//
// Every array lies in memory of just its size, so that AddressSanitizer sees any look past it. What is made must give
// itself back: fields -> plugin -> fields -> plugin, the same bytes.
#include "shim.h"

#include "anchor_decode_fields.h"

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <map>
#include <random>

using namespace shim;
namespace nv = nvinfer1;

namespace {

struct Field {
  std::string name;
  nv::PluginFieldType type;
  int32_t length;
  std::vector<char> data;
  bool null = false;
};
using Collection = std::vector<Field>;

std::mt19937_64 random_;

uint64_t pick(uint64_t below) { return random_() % below; }
bool chance(uint64_t in) { return pick(in) == 0; }

size_t sizeOf(nv::PluginFieldType type) {
  switch (type) {
    case nv::PluginFieldType::kFLOAT32:
    case nv::PluginFieldType::kINT32: return 4;
    case nv::PluginFieldType::kFLOAT64:
    case nv::PluginFieldType::kINT64: return 8;
    case nv::PluginFieldType::kFLOAT16:
    case nv::PluginFieldType::kBF16:
    case nv::PluginFieldType::kINT16: return 2;
    case nv::PluginFieldType::kDIMS: return sizeof(nv::Dims);
    default: return 1;
  }
}

template <class T>
void add(Collection& all, const char* name, nv::PluginFieldType type, std::vector<T> values) {
  Field field{name, type, static_cast<int32_t>(values.size()), {}};
  field.data.resize(values.size() * sizeof(T));
  if (!values.empty()) std::memcpy(field.data.data(), values.data(), field.data.size());
  all.push_back(field);
}

void addText(Collection& all, const char* name, std::vector<const char*> choices) {
  const std::string text = choices[pick(choices.size())];
  std::vector<char> data(text.begin(), text.end());
  if (chance(2)) data.push_back('\0');
  add(all, name, nv::PluginFieldType::kCHAR, data);
}

// A call as an exporter would write it; `large`: perhaps of more levels and anchors than there can be.
Collection call(bool large) {
  Collection all;
  const int32_t levels = 1 + static_cast<int32_t>(pick(large ? 16 : 8));
  std::vector<int32_t> strides, shapes, perCell;
  std::vector<float> anchors;
  for (int32_t l = 0; l < levels; ++l) {
    for (int side = 0; side < 2; ++side) {
      strides.push_back(8 << (l % 5));
      shapes.push_back(1 + static_cast<int32_t>(pick(12)));
    }
    perCell.push_back(1 + static_cast<int32_t>(pick(large ? 90 : 9)));
    for (int32_t a = 0; a < perCell.back(); ++a) {
      const float half = 4.f + static_cast<float>(pick(64));
      anchors.insert(anchors.end(), {-half, -half / 2, half, half / 2});
    }
  }
  const auto ints = nv::PluginFieldType::kINT32;
  const auto floats = nv::PluginFieldType::kFLOAT32;
  const auto flag = [] { return std::vector<int32_t>{static_cast<int32_t>(pick(2))}; };
  const auto number = [](uint64_t most) { return std::vector<int32_t>{1 + static_cast<int32_t>(pick(most))}; };
  add(all, "strides", ints, strides);
  add(all, "level_shapes", ints, shapes);
  add(all, "anchors_per_cell", ints, perCell);
  add(all, "cell_anchors", floats, anchors);
  add(all, "num_classes", ints, number(20));
  add(all, "delta_weights", floats, std::vector<float>{1.f, 1.f, 2.f, 2.f});
  addText(all, "box_coding", {"center", "corner"});
  add(all, "max_log_scale", floats, std::vector<float>{4.f});
  addText(all, "clip", {"content", "input", "pixels", "after_nms", "none"});
  add(all, "inclusive_pixels", ints, flag());
  add(all, "drop_empty", ints, flag());
  add(all, "score_threshold", floats, std::vector<float>{0.5f});
  addText(all, "class_choice", {"every", "best"});
  add(all, "top_k", ints, number(5000));
  addText(all, "top_k_scope", {"level", "all"});
  add(all, "nms_iou", floats, std::vector<float>{0.5f});
  add(all, "class_aware_nms", ints, flag());
  add(all, "max_detections", ints, number(300));
  add(all, "input_size", ints, std::vector<int32_t>{256, 256});
  return all;
}

void mutate(Collection& all) {
  if (all.empty()) return;
  Field& field = all[pick(all.size())];
  static const int32_t odd[] = {0, 1, -1, 2, 3, 9, 64, 65, 5000, 65535, 1 << 24, INT32_MAX, INT32_MIN};
  switch (pick(9)) {
    case 0:  // another type, as many bytes as it needs or fewer values
      field.type = static_cast<nv::PluginFieldType>(static_cast<int32_t>(pick(16)) - 1);
      field.length = static_cast<int32_t>(field.data.size() / sizeOf(field.type));
      break;
    case 1: {  // longer, by what is in memory
      const size_t size = pick(4096) * sizeOf(field.type);
      field.data.resize(size, static_cast<char>(pick(256)));
      field.length = static_cast<int32_t>(size / sizeOf(field.type));
      break;
    }
    case 2:  // shorter, often by one value, and no memory behind it
      if (field.length > 0) {
        field.length = chance(2) ? field.length - 1 : static_cast<int32_t>(pick(static_cast<uint64_t>(field.length)));
        field.data.resize(static_cast<size_t>(field.length) * sizeOf(field.type));
      }
      break;
    case 3:  // bits
      for (uint64_t n = 1 + pick(8); n > 0 && !field.data.empty(); --n) {
        field.data[pick(field.data.size())] ^= static_cast<char>(1 << pick(8));
      }
      break;
    case 4:  // a number that is odd
      if (field.data.size() >= 4) {
        const int32_t value = odd[pick(sizeof odd / sizeof *odd)];
        std::memcpy(field.data.data() + 4 * pick(field.data.size() / 4), &value, 4);
      }
      break;
    case 5:  // lengths that are none
      field.length = -static_cast<int32_t>(pick(1u << 31)) - static_cast<int32_t>(pick(2));
      break;
    case 6: field.null = true; break;
    case 7: all.erase(all.begin() + static_cast<int64_t>(pick(all.size()))); break;
    default:
      if (chance(2)) {
        all.push_back(field);
      } else {
        field.name = all[pick(all.size())].name;
      }
  }
}

nv::IPluginV3* create(const Collection& all, nv::TensorRTPhase phase) {
  std::vector<std::unique_ptr<char[]>> memory;
  std::vector<nv::PluginField> fields;
  for (const Field& field : all) {
    memory.emplace_back(new char[field.data.size()]);
    if (!field.data.empty()) std::memcpy(memory.back().get(), field.data.data(), field.data.size());
    fields.emplace_back(field.name.c_str(), field.null ? nullptr : memory.back().get(), field.type, field.length);
  }
  const nv::PluginFieldCollection collection{static_cast<int32_t>(fields.size()), fields.data()};
  return creator()->createPlugin("fuzzed", &collection, phase);
}

Collection fieldsOf(nv::IPluginV3* plugin) {
  Collection all;
  const nv::PluginFieldCollection* given = runtime(plugin)->getFieldsToSerialize();
  for (int32_t i = 0; i < given->nbFields; ++i) {
    const nv::PluginField& field = given->fields[i];
    const char* data = static_cast<const char*>(field.data);
    all.push_back({field.name, field.type, field.length, {data, data + field.length * sizeOf(field.type)}});
  }
  return all;
}

bool same(const Collection& a, const Collection& b) {
  if (a.size() != b.size()) return false;
  for (size_t i = 0; i < a.size(); ++i) {
    if (a[i].name != b[i].name || a[i].type != b[i].type || a[i].length != b[i].length || a[i].data != b[i].data) {
      return false;
    }
  }
  return true;
}

void require(bool holds, const char* what) {
  if (holds) return;
  std::printf("failed: %s\n", what);
  std::exit(1);
}

// Every question with descriptions that are garbage, or right but for one number; no memory is behind the pointers.
void ask(nv::IPluginV3* plugin) {
  edge_retina::AnchorDecodeParams params;
  char message[edge_retina::kMessageSize];
  require(edge_retina::readFields(runtime(plugin)->getFieldsToSerialize(), params, message), message);
  const int32_t inputs = 2 * params.levelCount + 1;
  std::vector<int64_t> descs;
  for (int32_t i = 0; i < inputs + 4; ++i) {
    int64_t desc[11] = {};
    if (i < inputs - 1) {
      const edge_retina::AnchorLevel& level = params.levels[i % params.levelCount];
      const int64_t channels = i < params.levelCount ? params.classes : 4;
      const int64_t right[] = {0, 0, 4, 1, level.anchorsPerCell * channels, level.height, level.width};
      std::memcpy(desc, right, sizeof right);
    } else if (i == inputs - 1) {
      desc[2] = 1;
      desc[3] = 8;
    }
    descs.insert(descs.end(), desc, desc + 11);
  }
  static const int64_t odd[] = {0, 1, -1, 2, 3, 5, 8, 9, 64, 65, 1 << 20, INT32_MAX, INT64_MAX, INT64_MIN, -2};
  const uint64_t where = pick(descs.size());
  descs[where] = odd[pick(sizeof odd / sizeof *odd)];
  const int64_t batch = odd[pick(sizeof odd / sizeof *odd)];
  const auto all = dynamic(descs.data(), inputs + 4, batch);
  const auto now = fixed(descs.data(), inputs + 4);
  const int32_t few = chance(8) ? static_cast<int32_t>(pick(40)) - 4 : inputs;
  for (int32_t pos = -1; pos <= inputs + 4; ++pos) build(plugin)->supportsFormatCombination(pos, all.data(), few, 4);
  build(plugin)->configurePlugin(all.data(), few, all.data() + inputs, 4);
  build(plugin)->getWorkspaceSize(all.data(), few, all.data() + inputs, 4);
  runtime(plugin)->onShapeChange(now.data(), few, now.data() + inputs, 4);
  std::vector<const void*> in(inputs);
  void* out[4] = {};
  runtime(plugin)->enqueue(now.data(), now.data() + inputs, in.data(), out, nullptr, nullptr);
  Expressions made;
  std::vector<nv::DimsExprs> shapes(inputs);
  for (int32_t i = 0; i < inputs; ++i) {
    shapes[i].nbDims = now[i].dims.nbDims;
    for (int32_t d = 0; d < nv::Dims::MAX_DIMS; ++d) {
      shapes[i].d[d] = chance(20) ? nullptr : made.add(now[i].dims.d[d], chance(2));
    }
  }
  nv::DimsExprs shaped[4];
  build(plugin)->getOutputShapes(shapes.data(), few, nullptr, chance(9) ? 1 : 0, shaped, 4, made.builder());
}

}  // namespace

int main(int count, char** arguments) {
  if (count != 3) return 2;
  random_.seed(std::strtoull(arguments[1], nullptr, 10));
  Finder finder(1);
  setLoggerFinder(&finder);
  long long made = 0, refused = 0;
  std::map<std::string, int> kinds;  // first words of the messages
  for (long long left = std::atoll(arguments[2]); left > 0; --left) {
    const uint64_t mutations = pick(4);
    Collection all = call(mutations > 0 && chance(4));
    for (uint64_t n = 0; n < mutations; ++n) mutate(all);
    log().text.clear();
    nv::IPluginV3* plugin = create(all, chance(2) ? nv::TensorRTPhase::kBUILD : nv::TensorRTPhase::kRUNTIME);
    if (plugin == nullptr) {
      ++refused;
      require(mutations > 0, "a call as exporters write it was refused");
      require(log().text.find('\n') == log().text.size() - 1, "a refusal is one line");
      require(log().text.rfind("error: edge_retina::AnchorDecode: ", 0) == 0, "a refusal says who speaks");
      ++kinds[log().text.substr(34, log().text.find(' ', 34) - 34)];
      continue;
    }
    ++made;
    require(log().text.empty(), "what is made says nothing");
    const Collection fields = fieldsOf(plugin);
    nv::IPluginV3* again = create(fields, nv::TensorRTPhase::kRUNTIME);
    require(again != nullptr, "what was serialised makes a plugin");
    require(same(fields, fieldsOf(again)), "what was serialised makes the same plugin");
    require(std::strcmp(build(plugin)->getTimingCacheID(), build(again)->getTimingCacheID()) == 0, "one timing id");
    nv::IPluginV3* clone = again->clone();
    require(same(fields, fieldsOf(clone)), "a clone is the same plugin");
    delete again;
    ask(clone);
    delete clone;
    delete plugin;
  }
  std::printf("%lld made, %lld refused, %d kinds of refusal\n", made, refused, static_cast<int>(kinds.size()));
  return 0;
}
