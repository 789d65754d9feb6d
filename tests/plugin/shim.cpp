// The plugin as TensorRT sees it, for ctypes: everything goes through the virtual interfaces and the two exports.
#include "shim.h"

#include <cstdio>
#include <cstring>
#include <vector>

using namespace shim;
namespace nv = nvinfer1;

extern "C" {

// What the plugin said since the last call, one line each.
const char* shim_said() {
  static std::string text;
  text.swap(log().text);
  log().text.clear();
  return text.c_str();
}

// finder 0: none, 1: one that has a logger, 2: one that has none, 3: one that throws.
void shim_logger(int finder) {
  static Finder finders[] = {Finder{1}, Finder{2}, Finder{3}};
  setLoggerFinder(finder == 0 ? nullptr : &finders[finder - 1]);
}

int32_t shim_creators(const char** name, const char** version, const char** name_space, int32_t* fields) {
  int32_t count = 0;
  nv::IPluginCreatorInterface* const* all = getCreators(count);
  auto* creator = static_cast<nv::IPluginCreatorV3One*>(all[0]);
  *name = creator->getPluginName();
  *version = creator->getPluginVersion();
  *name_space = creator->getPluginNamespace();
  *fields = creator->getFieldNames()->nbFields;
  return count;
}

void shim_declared(int32_t field, const char** name, int32_t* type) {
  const nv::PluginField& declared = creator()->getFieldNames()->fields[field];
  *name = declared.name;
  *type = static_cast<int32_t>(declared.type);
}

// count below 0: no collection at all.
void* shim_create(int32_t count, const char* const* names, const int32_t* types, const int32_t* lengths,
                  const void* const* data, int32_t phase) {
  std::vector<nv::PluginField> fields;
  for (int32_t i = 0; i < count; ++i) {
    fields.emplace_back(names[i], data[i], static_cast<nv::PluginFieldType>(types[i]), lengths[i]);
  }
  const nv::PluginFieldCollection all{count, fields.data()};
  return creator()->createPlugin("a name", count < 0 ? nullptr : &all, static_cast<nv::TensorRTPhase>(phase));
}

void shim_destroy(void* plugin) { delete static_cast<nv::IPluginV3*>(plugin); }
void* shim_clone(void* plugin) { return static_cast<nv::IPluginV3*>(plugin)->clone(); }
void* shim_attach(void* plugin) { return runtime(plugin)->attachToContext(nullptr); }

int32_t shim_fields(void* plugin) { return runtime(plugin)->getFieldsToSerialize()->nbFields; }
void shim_field(void* plugin, int32_t i, const char** name, int32_t* type, int32_t* length, const void** data) {
  const nv::PluginField& field = runtime(plugin)->getFieldsToSerialize()->fields[i];
  *name = field.name;
  *type = static_cast<int32_t>(field.type);
  *length = field.length;
  *data = field.data;
}

const char* shim_timing_id(void* plugin) { return build(plugin)->getTimingCacheID(); }
const char* shim_metadata(void* plugin) { return build(plugin)->getMetadataString(); }
const char* shim_name(void* plugin, int32_t which) {
  const nv::IPluginV3OneCore* of = core(plugin);
  return which == 0 ? of->getPluginName() : which == 1 ? of->getPluginVersion() : of->getPluginNamespace();
}
int32_t shim_has(void* plugin, int32_t capability) {
  auto* of = static_cast<nv::IPluginV3*>(plugin);
  return of->getCapabilityInterface(static_cast<nv::PluginCapabilityType>(capability)) != nullptr;
}
int32_t shim_outputs(void* plugin) { return build(plugin)->getNbOutputs(); }

int32_t shim_output_types(void* plugin, const int32_t* inputs, int32_t count, int32_t* outputs, int32_t outputCount) {
  std::vector<nv::DataType> in(count), out(outputCount);
  for (int32_t i = 0; i < count; ++i) in[i] = static_cast<nv::DataType>(inputs[i]);
  const int32_t error = build(plugin)->getOutputDataTypes(out.data(), outputCount, in.data(), count);
  for (int32_t i = 0; i < outputCount; ++i) outputs[i] = static_cast<int32_t>(out[i]);
  return error;
}

// Sizes of -1 are symbols, told apart as -1 - (number of the input); outputs get nbDims, then sizes.
int32_t shim_output_shapes(void* plugin, const int64_t* descs, int32_t count, int32_t shapeInputs, int64_t* outputs,
                           int32_t outputCount) {
  Expressions made;
  std::vector<nv::DimsExprs> in(count), out(outputCount);
  for (int32_t i = 0; i < count; ++i) {
    const nv::Dims dims = desc(descs, i).dims;
    in[i].nbDims = dims.nbDims;
    for (int32_t d = 0; d < dims.nbDims && d < nv::Dims::MAX_DIMS; ++d) {
      in[i].d[d] = made.add(dims.d[d] < 0 ? -1 - i : dims.d[d], dims.d[d] >= 0);
    }
  }
  const int32_t error = build(plugin)->getOutputShapes(in.data(), count, nullptr, shapeInputs, out.data(), outputCount,
                                                       made.builder());
  for (int32_t i = 0; error == 0 && i < outputCount; ++i) {
    outputs[9 * i] = out[i].nbDims;
    for (int32_t d = 0; d < out[i].nbDims; ++d) outputs[9 * i + 1 + d] = made.valueOf(out[i].d[d]);
  }
  return error;
}

int32_t shim_supports(void* plugin, int32_t pos, const int64_t* descs, int32_t inputs, int32_t outputs) {
  const std::vector<nv::DynamicPluginTensorDesc> all = dynamic(descs, inputs + outputs, 1);
  return build(plugin)->supportsFormatCombination(pos, all.data(), inputs, outputs);
}

int32_t shim_configure(void* plugin, const int64_t* descs, int32_t inputs, int32_t outputs, int64_t batch) {
  const std::vector<nv::DynamicPluginTensorDesc> all = dynamic(descs, inputs + outputs, batch);
  return build(plugin)->configurePlugin(all.data(), inputs, all.data() + inputs, outputs);
}

size_t shim_workspace(void* plugin, const int64_t* descs, int32_t inputs, int32_t outputs, int64_t batch) {
  const std::vector<nv::DynamicPluginTensorDesc> all = dynamic(descs, inputs + outputs, batch);
  return build(plugin)->getWorkspaceSize(all.data(), inputs, all.data() + inputs, outputs);
}

int32_t shim_shape_change(void* plugin, const int64_t* descs, int32_t inputs, int32_t outputs) {
  const std::vector<nv::PluginTensorDesc> all = fixed(descs, inputs + outputs);
  return runtime(plugin)->onShapeChange(all.data(), inputs, all.data() + inputs, outputs);
}

int32_t shim_enqueue(void* plugin, const int64_t* descs, int32_t inputs, int32_t outputs, const void* const* in,
                     void* const* out, void* workspace) {
  const std::vector<nv::PluginTensorDesc> all = fixed(descs, inputs + outputs);
  return runtime(plugin)->enqueue(all.data(), all.data() + inputs, in, out, workspace, nullptr);
}

}  // extern "C"
