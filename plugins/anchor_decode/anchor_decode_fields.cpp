// Attributes in and out: every value is checked here, before anything is computed with it.
#include "anchor_decode_fields.h"

#include <cmath>
#include <cstdio>
#include <cstring>
#include <limits>

namespace edge_retina {

using nvinfer1::PluginField;
using nvinfer1::PluginFieldCollection;
using nvinfer1::PluginFieldType;

namespace {

constexpr PluginFieldType kFloats = PluginFieldType::kFLOAT32;
constexpr PluginFieldType kInts = PluginFieldType::kINT32;
constexpr PluginFieldType kText = PluginFieldType::kCHAR;

}  // namespace

const FieldKind kFieldKinds[kFieldCount] = {
    {"strides", kInts},           {"level_shapes", kInts},    {"anchors_per_cell", kInts}, {"cell_anchors", kFloats},
    {"num_classes", kInts},       {"delta_weights", kFloats}, {"box_coding", kText},       {"max_log_scale", kFloats},
    {"clip", kText},              {"inclusive_pixels", kInts}, {"drop_empty", kInts},      {"score_threshold", kFloats},
    {"class_choice", kText},      {"top_k", kInts},           {"top_k_scope", kText},      {"nms_iou", kFloats},
    {"class_aware_nms", kInts},   {"max_detections", kInts},  {"input_size", kInts},
};

namespace {

// In the order of the enumerations in anchor_decode.h.
const char* const kBoxCodings[] = {"center", "corner"};
const char* const kClips[] = {"content", "input", "pixels", "after_nms", "none"};
const char* const kClassChoices[] = {"every", "best"};
const char* const kTopKScopes[] = {"level", "all"};

// Far more fields than any caller has; bounds the walk over a collection that is garbage.
constexpr int32_t kMostFields = 1024;
constexpr int32_t kShownText = 24;
constexpr float kLargest = std::numeric_limits<float>::max();

const char* nameOf(PluginFieldType type) {
  switch (type) {
    case PluginFieldType::kFLOAT16: return "FLOAT16";
    case PluginFieldType::kFLOAT32: return "FLOAT32";
    case PluginFieldType::kFLOAT64: return "FLOAT64";
    case PluginFieldType::kINT8: return "INT8";
    case PluginFieldType::kINT16: return "INT16";
    case PluginFieldType::kINT32: return "INT32";
    case PluginFieldType::kINT64: return "INT64";
    case PluginFieldType::kCHAR: return "CHAR";
    default: return "another type";
  }
}

class Reader {
 public:
  Reader(const PluginFieldCollection* fields, char* message) : fields_(fields), message_(message) {
    message_[0] = '\0';
    if (fields_ == nullptr || fields_->nbFields < 0 || fields_->nbFields > kMostFields ||
        (fields_->fields == nullptr && fields_->nbFields > 0)) {
      fail("fields: wanted a collection of 0 to %d, found none or another number", kMostFields);
    }
  }

  bool good() const { return good_; }

  template <class... Values>
  void fail(const char* format, Values... values) {
    if (good_) std::snprintf(message_, kMessageSize, format, values...);
    good_ = false;
  }

  // How many values a field has, 0 where it is missing or unusable: that has failed then.
  int32_t length(const char* name) {
    const PluginField* field = find(name);
    return field != nullptr ? field->length : 0;
  }

  void floats(const char* name, float* values, int32_t count, double low, double high, bool aboveLow = false) {
    const PluginField* field = sized(name, count, "FLOAT32");
    if (field == nullptr) return;
    if (field->type != PluginFieldType::kFLOAT32) return wrongType(*field, "FLOAT32");
    std::memcpy(values, field->data, sizeof(float) * count);  // which need not be aligned in a plan
    for (int32_t i = 0; i < count; ++i) {
      const double value = values[i];
      if (!std::isfinite(value) || !(value >= low && value <= high) || (aboveLow && value == low)) {
        return fail("%s[%d] wants a number %s %g, at most %g, found %g", name, i, aboveLow ? "above" : "from", low,
                    high, value);
      }
    }
  }

  void ints(const char* name, int32_t* values, int32_t count, int32_t low, int32_t high) {
    const PluginField* field = sized(name, count, "INT32");
    if (field == nullptr) return;
    const bool wide = field->type == PluginFieldType::kINT64;
    if (!wide && field->type != PluginFieldType::kINT32) return wrongType(*field, "INT32");
    for (int32_t i = 0; i < count; ++i) {
      int64_t value = 0;
      int32_t narrow = 0;
      const char* from = static_cast<const char*>(field->data) + (wide ? sizeof value : sizeof narrow) * i;
      if (wide) {
        std::memcpy(&value, from, sizeof value);
      } else {
        std::memcpy(&narrow, from, sizeof narrow);
        value = narrow;
      }
      if (value < low || value > high) {
        return fail("%s[%d] wants %d to %d, found %lld", name, i, low, high, static_cast<long long>(value));
      }
      values[i] = static_cast<int32_t>(value);
    }
  }

  template <class Choice, size_t kCount>
  void choice(const char* name, Choice& chosen, const char* const (&names)[kCount]) {
    const PluginField* field = find(name);
    if (field == nullptr) return;
    if (field->type != PluginFieldType::kCHAR) return wrongType(*field, "CHAR");
    const char* text = static_cast<const char*>(field->data);
    int32_t length = field->length;
    while (length > 0 && text[length - 1] == '\0') --length;
    for (size_t i = 0; i < kCount; ++i) {
      if (std::strlen(names[i]) == size_t(length) && std::memcmp(names[i], text, length) == 0) {
        chosen = static_cast<Choice>(i);
        return;
      }
    }
    char shown[kShownText + 1] = {};
    for (int32_t i = 0; i < length && i < kShownText; ++i) shown[i] = text[i] >= ' ' && text[i] <= '~' ? text[i] : '?';
    char known[96] = {};
    for (size_t i = 0; i < kCount; ++i) {
      const size_t used = std::strlen(known);
      std::snprintf(known + used, sizeof known - used, i != 0 ? ", %s" : "%s", names[i]);
    }
    fail("%s wants one of %s, found '%s' (%d characters)", name, known, shown, length);
  }

  bool has(const char* name) {
    for (int32_t i = 0; good_ && i < fields_->nbFields; ++i) {
      const char* found = fields_->fields[i].name;
      if (found != nullptr && std::strcmp(found, name) == 0) return true;
    }
    return false;
  }

 private:
  const PluginField* find(const char* name) {
    const PluginField* only = nullptr;
    for (int32_t i = 0; good_ && i < fields_->nbFields; ++i) {
      const PluginField& field = fields_->fields[i];
      if (field.name == nullptr || std::strcmp(field.name, name) != 0) continue;
      if (only != nullptr) fail("%s is there twice; wanted once", name);
      only = &field;
    }
    if (only == nullptr) fail("%s is missing; export the call with all its attributes", name);
    if (good_ && (only->length <= 0 || only->data == nullptr)) {
      fail("%s wants values, found %s of length %d", name, nameOf(only->type), only->length);
    }
    return good_ ? only : nullptr;
  }

  const PluginField* sized(const char* name, int32_t count, const char* type) {
    const PluginField* field = find(name);
    if (field != nullptr && field->length != count) fail("%s wants %d of %s, found %d", name, count, type, field->length);
    return good_ ? field : nullptr;
  }

  void wrongType(const PluginField& field, const char* wanted) {
    fail("%s wants %s, found %s", field.name, wanted, nameOf(field.type));
  }

  const PluginFieldCollection* fields_;
  char* message_;
  bool good_ = true;
};

void readLevels(Reader& reader, AnchorDecodeParams& params) {
  const int32_t found = reader.length("strides");
  if (reader.good() && (found < 2 || found > 2 * kMaxLevels || found % 2 != 0)) {
    reader.fail("strides wants y, x of 1 to %d levels, found %d numbers", kMaxLevels, found);
  }
  if (!reader.good()) return;
  params.levelCount = found / 2;
  int32_t strides[2 * kMaxLevels] = {}, shapes[2 * kMaxLevels] = {}, perCell[kMaxLevels] = {};
  reader.ints("strides", strides, found, 1, kMaxSide);
  reader.ints("level_shapes", shapes, found, 1, kMaxSide);
  reader.ints("anchors_per_cell", perCell, params.levelCount, 1, kMaxCellAnchors);
  if (!reader.good()) return;
  int32_t all = 0;
  for (int32_t l = 0; l < params.levelCount; ++l) {
    params.levels[l] = {shapes[2 * l], shapes[2 * l + 1], strides[2 * l], strides[2 * l + 1], perCell[l]};
    all += perCell[l];
  }
  float anchors[kMaxLevels * kMaxCellAnchors * 4] = {};
  reader.floats("cell_anchors", anchors, all * 4, -kLargest, kLargest);
  if (!reader.good()) return;
  const float* box = anchors;
  for (int32_t l = 0; l < params.levelCount; ++l) {
    for (int32_t a = 0; a < perCell[l]; ++a, box += 4) {
      if (!(box[0] < box[2] && box[1] < box[3])) {
        return reader.fail("cell_anchors of level %d, anchor %d want x1 < x2, y1 < y2, found %g %g %g %g", l, a, box[0],
                           box[1], box[2], box[3]);
      }
      std::memcpy(params.cellAnchors[l][a], box, sizeof(float) * 4);
    }
  }
}

}  // namespace

bool readFields(const PluginFieldCollection* fields, AnchorDecodeParams& params,
                char (&message)[kMessageSize]) noexcept {
  std::memset(&params, 0, sizeof params);
  Reader reader(fields, message);
  readLevels(reader, params);
  reader.ints("num_classes", &params.classes, 1, 1, kMaxClasses);
  reader.floats("delta_weights", params.deltaWeights, 4, 0, kLargest, true);
  reader.choice("box_coding", params.boxCoding, kBoxCodings);
  reader.floats("max_log_scale", &params.maxLogScale, 1, 0, 80);
  reader.choice("clip", params.clip, kClips);
  reader.ints("inclusive_pixels", &params.inclusivePixels, 1, 0, 1);
  reader.ints("drop_empty", &params.dropEmpty, 1, 0, 1);
  reader.floats("score_threshold", &params.scoreThreshold, 1, 0, 1);
  reader.choice("class_choice", params.classChoice, kClassChoices);
  reader.ints("top_k", &params.topK, 1, 1, kMaxTopK);
  reader.choice("top_k_scope", params.topKScope, kTopKScopes);
  reader.floats("nms_iou", &params.nmsIou, 1, 0, 1);
  reader.ints("class_aware_nms", &params.classAware, 1, 0, 1);
  reader.ints("max_detections", &params.maxDetections, 1, 1, kMaxDetections);
  // Only these two look at it, and a call that was exported without it has none.
  const bool read = params.clip == Clip::kInput || params.clip == Clip::kPixels;
  if (read || reader.has("input_size")) {
    int32_t size[2] = {};
    reader.ints("input_size", size, 2, read ? 1 : 0, kMaxSide);
    params.inputHeight = size[0];
    params.inputWidth = size[1];
  }
  return reader.good();
}

Fields::Fields(const AnchorDecodeParams& params) noexcept
    : maxLogScale_(params.maxLogScale),
      scoreThreshold_(params.scoreThreshold),
      nmsIou_(params.nmsIou),
      classes_(params.classes),
      inclusivePixels_(params.inclusivePixels),
      dropEmpty_(params.dropEmpty),
      topK_(params.topK),
      classAware_(params.classAware),
      maxDetections_(params.maxDetections),
      inputSize_{params.inputHeight, params.inputWidth} {
  int32_t all = 0;
  for (int32_t l = 0; l < params.levelCount; ++l) {
    const AnchorLevel& level = params.levels[l];
    strides_[2 * l] = level.strideY;
    strides_[2 * l + 1] = level.strideX;
    shapes_[2 * l] = level.height;
    shapes_[2 * l + 1] = level.width;
    perCell_[l] = level.anchorsPerCell;
    std::memcpy(anchors_ + 4 * all, params.cellAnchors[l], sizeof(float) * 4 * level.anchorsPerCell);
    all += level.anchorsPerCell;
  }
  std::memcpy(deltaWeights_, params.deltaWeights, sizeof deltaWeights_);
  int32_t next = 0;
  const auto add = [&](const void* data, size_t length) {
    fields_[next] = PluginField(kFieldKinds[next].name, data, kFieldKinds[next].type, static_cast<int32_t>(length));
    ++next;
  };
  const auto text = [&](const char* data) { add(data, std::strlen(data)); };
  // In the order of kFieldKinds.
  add(strides_, 2 * params.levelCount);
  add(shapes_, 2 * params.levelCount);
  add(perCell_, params.levelCount);
  add(anchors_, 4 * all);
  add(&classes_, 1);
  add(deltaWeights_, 4);
  text(kBoxCodings[int(params.boxCoding)]);
  add(&maxLogScale_, 1);
  text(kClips[int(params.clip)]);
  add(&inclusivePixels_, 1);
  add(&dropEmpty_, 1);
  add(&scoreThreshold_, 1);
  text(kClassChoices[int(params.classChoice)]);
  add(&topK_, 1);
  text(kTopKScopes[int(params.topKScope)]);
  add(&nmsIou_, 1);
  add(&classAware_, 1);
  add(&maxDetections_, 1);
  add(inputSize_, 2);
  collection_.nbFields = next;
  collection_.fields = fields_;
}

}  // namespace edge_retina
