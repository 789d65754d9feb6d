"""TensorRT's build half over the onnx package: Builder, network, parser and config as each version has them, strict.

What a version lacks is no attribute here either; what the documentation leaves undefined, or ends the process, is
Misuse. Sources: python/src of NVIDIA/TensorRT at v10.3.0, v10.13.0, v10.16 and v11.1, and tensorrt_rtx 1.7.1.
"""

from __future__ import annotations

import enum
import json
import weakref
from collections.abc import Callable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any

import onnx
from onnx import shape_inference

from fakes import fake_cuda, fake_engine
from fakes.fake_cuda import Misuse
from fakes.fake_engine import MAGIC, DataType, ILogger, IPluginRegistry, Severity

VERSIONS = ("10.3.0", "10.13.0", "10.16.2", "11.4.1")
RTX_VERSION = "1.7.1"
PRECISION_FLAGS = "FP16 BF16 INT8 FP8 INT4 OBEY_PRECISION_CONSTRAINTS PREFER_PRECISION_CONSTRAINTS WEIGHTLESS"
FLAGS = (
    "DEBUG GPU_FALLBACK REFIT DISABLE_TIMING_CACHE TF32 SPARSE_WEIGHTS SAFETY_SCOPE DIRECT_IO VERSION_COMPATIBLE "
    "EXCLUDE_LEAN_RUNTIME ERROR_ON_TIMING_CACHE_MISS DISABLE_COMPILATION_CACHE STRIP_PLAN REFIT_IDENTICAL "
    "WEIGHT_STREAMING REFIT_INDIVIDUAL"
)
LAYER_TYPES = (
    "CONVOLUTION DECONVOLUTION ACTIVATION POOLING ELEMENTWISE SHUFFLE RESIZE CONCATENATION SLICE GATHER TOPK NMS CAST "
    "QUANTIZE DEQUANTIZE CONSTANT SHAPE UNARY REDUCE PADDING IDENTITY SELECT PLUGIN_V2 PLUGIN_V3"
)
OPERATORS = {
    **{"Conv": "CONVOLUTION", "ConvTranspose": "DECONVOLUTION", "MaxPool": "POOLING", "Resize": "RESIZE"},
    **{"QuantizeLinear": "QUANTIZE", "DequantizeLinear": "DEQUANTIZE", "Cast": "CAST", "Shape": "SHAPE"},
    **{"Concat": "CONCATENATION", "Gather": "GATHER", "Slice": "SLICE", "TopK": "TOPK", "Pad": "PADDING"},
    **dict.fromkeys(("Relu", "Sigmoid", "Clip"), "ACTIVATION"),
    **dict.fromkeys(("Reshape", "Transpose", "Unsqueeze", "Squeeze", "Flatten"), "SHUFFLE"),
    **dict.fromkeys(("Add", "Sub", "Mul", "Div", "Max", "Min"), "ELEMENTWISE"),
}
TYPES = {"FLOAT": "FLOAT", "FLOAT16": "HALF", "INT8": "INT8", "UINT8": "UINT8", "INT32": "INT32", "INT64": "INT64"}
# In the words of the engine inspector of TensorRT 10, of 11 and of RTX's text.
FORMATS = {"FLOAT": "FP32", "HALF": "FP16", "INT8": "Int8"}
WORDS = {"FLOAT": "Float", "HALF": "Half", "INT8": "Int8"}
PLUGIN = ("AnchorDecode", "1", "edge_retina")


@dataclass
class Machine:
    """What the module runs on, what goes wrong there, and what was asked of it.

    gpu: name, None for none. memory: bytes. parser_errors: fail parsing. build_errors: what the log is told of a failed
    build. engine_type: what convolutions come out in, whatever was asked; None: as asked. fused: the inspector names no
    convolution. loads: whether the plan can be deserialised. at_step: called with the number of each step.
    """

    gpu: str | None = "Fake Orin"
    memory: int = 8 << 30
    parser_errors: list[Error] = field(default_factory=list)
    build_errors: list[str] = field(default_factory=list)
    engine_type: str | None = None
    fused: bool = False
    loads: bool = True
    at_step: Callable[[int], None] = lambda _: None
    builders: weakref.WeakSet[Any] = field(default_factory=weakref.WeakSet)
    calls: list[str] = field(default_factory=list)
    configs: list[dict[str, Any]] = field(default_factory=list)


@dataclass
class Error:
    """What a ParserError tells."""

    desc: str
    node: int = 0
    node_name: str = ""
    node_operator: str = ""
    code: str = "INVALID_NODE"
    stack: tuple[str, ...] = ()


class Bound:
    """Like a class of pybind11: what it does not have cannot be set, and arguments have their types."""

    _settable: tuple[str, ...] = ()

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_") and name not in self._settable:
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        object.__setattr__(self, name, value)


def bound_enum(name: str, members: dict[str, int]) -> type[enum.Enum]:
    """An enumeration without arithmetic: 1 << int(member) works, 1 << member does not."""
    return enum.Enum(name, members, type=_Plain)  # type: ignore[no-any-return,call-overload]


class _Plain:
    def __int__(self) -> int:
        return int(self.value)  # type: ignore[attr-defined]


def listed(name: str, words: str) -> type[enum.Enum]:
    return bound_enum(name, {word: number for number, word in enumerate(words.split())})


def at_least(version: str, wanted: tuple[int, int]) -> bool:
    return tuple(int(part) for part in version.split(".")[:2]) >= wanted


class IHostMemory(Bound):
    def __init__(self, data: bytes) -> None:
        self._data = data

    @property
    def nbytes(self) -> int:
        return len(self._data)

    def __bytes__(self) -> bytes:
        return self._data


class ITimingCache(Bound):
    def __init__(self, data: bytes) -> None:
        self._data = data

    def serialize(self) -> IHostMemory:
        return IHostMemory(self._data)


class IProgressMonitor:
    """Subclasses must call this __init__, as pybind11 wants it."""

    def __init__(self) -> None:
        self.made = True


class ITensor(Bound):
    def __init__(self, name: str, dtype: DataType, shape: tuple[int, ...] = ()) -> None:
        self._facts = (name, dtype, shape)

    name = property(lambda self: self._facts[0])
    dtype = property(lambda self: self._facts[1])
    shape = property(lambda self: fake_engine.Dims(self._facts[2]))


class ILayer(Bound):
    def __init__(self, name: str, type: Any, inputs: list[ITensor], outputs: list[ITensor]) -> None:
        self._facts = (name, type, inputs, outputs)

    name = property(lambda self: self._facts[0])
    type = property(lambda self: self._facts[1])
    num_inputs = property(lambda self: len(self._facts[2]))
    num_outputs = property(lambda self: len(self._facts[3]))

    def get_input(self, index: int) -> ITensor:
        return self._facts[2][index]

    def get_output(self, index: int) -> ITensor:
        return self._facts[3][index]


class INetworkDefinition(Bound):
    def __init__(self, strongly_typed: bool) -> None:
        self._strongly_typed = strongly_typed
        self._model = b""
        self._inputs: list[ITensor] = []
        self._layers: list[ILayer] = []
        self._weights: Any = None  # a weak reference to the parser, which owns them

    num_layers = property(lambda self: len(self._layers))
    num_inputs = property(lambda self: len(self._inputs))

    def get_layer(self, index: int) -> ILayer:
        return self._layers[index]

    def get_input(self, index: int) -> ITensor:
        return self._inputs[index]


class IOptimizationProfile(Bound):
    def __init__(self) -> None:
        self._shapes: dict[str, tuple[tuple[int, ...], ...]] = {}

    def set_shape(self, input: str, min: Any, opt: Any, max: Any) -> None:
        shapes = tuple(tuple(shape) for shape in (min, opt, max))
        if not all(low <= usual <= high for low, usual, high in zip(*shapes, strict=True)):
            raise RuntimeError("Shape provided for opt is inconsistent with other shapes.")
        self._shapes[input] = shapes


def tensors_of(model: onnx.ModelProto) -> dict[str, ITensor]:
    inferred = shape_inference.infer_shapes(model).graph
    found = {}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        kind = value.type.tensor_type
        shape = tuple(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
        word = TYPES.get(onnx.TensorProto.DataType.Name(kind.elem_type), "FLOAT")
        found[value.name] = ITensor(value.name, DataType[word], shape)
    for constant in inferred.initializer:
        word = TYPES.get(onnx.TensorProto.DataType.Name(constant.data_type), "FLOAT")
        found[constant.name] = ITensor(constant.name, DataType[word], tuple(constant.dims))
    return found


class EngineInspector(Bound):
    """Describes an engine from the layers in its plan's header."""

    def __init__(self, version: str, layers: list[Any], layer_format: Any) -> None:
        self._version, self._layers, self._format = version, layers, layer_format

    def get_engine_information(self, format: Any) -> str:
        if format is not self._format.JSON:
            raise Misuse("only JSON is made here")
        io = "I/O Tensors" if at_least(self._version, (11, 0)) else "Bindings"
        return json.dumps({"Layers": self._layers, io: []})


def described(network: INetworkDefinition, machine: Machine, version: str) -> list[dict[str, Any]]:
    """The engine's layers as the inspector's JSON has them: one of each convolution."""
    made_by = {layer.get_output(0).name: layer for layer in network._layers}
    layers: list[dict[str, Any]] = [{"Name": "Reformatting CopyNode", "LayerType": "Reformat", "Inputs": []}]

    def kind(word: str) -> dict[str, str]:
        if at_least(version, (11, 0)):
            return {"Format": "Row major linear", "DataType": WORDS[word]}
        return {"Format/Datatype": f"Row major linear {FORMATS[word]} format"}

    for layer in network._layers:
        if layer.type.name not in ("CONVOLUTION", "DECONVOLUTION"):
            continue
        data = layer.get_input(0)
        source = made_by.get(data.name)
        quantized = source is not None and source.type.name == "DEQUANTIZE"
        word = machine.engine_type or ("INT8" if quantized else data.dtype.name)
        name = "{ForeignNode[a...b]}" if machine.fused else layer.name
        layers.append(
            {
                "Name": name,
                "LayerType": "Myelin" if machine.fused else "CaskConvolution",
                "Inputs": [{"Name": data.name, "Dimensions": [1, 1], **kind(word)}],
                "Outputs": [{"Name": layer.get_output(0).name, "Dimensions": [1, 1], **kind(word)}],
                "Weights": {"Type": WORDS[word], "Count": 9},
                "Metadata": "" if machine.fused else f"[ONNX Layer: {layer.name}]\x1f[ONNX Layer: relu]",
            }
        )
    return layers


def rtx_text(layers: list[dict[str, Any]]) -> str:
    """The same as RTX's builder prints it at verbose."""

    def tensor(name: str, kind: str) -> str:
        return f"{{ Name: {name}, Dimensions: [1,1], Strides: [1,1], StrideOrder: [1,0], Datatype: {kind}, Format: x }}"

    lines = [
        f"Name: {layer['Name']}_myl0_{number}, LayerType: correlation, "
        f"Inputs: [ {tensor('p', layer['Weights']['Type'])}], Constants: [ {tensor('w', layer['Weights']['Type'])}], "
        f"Outputs: [ {tensor('y', layer['Weights']['Type'])}], TacticName: t, StreamId: 0, "
        f"Metadata: {layer['Metadata']}"
        for number, layer in enumerate(layers)
        if "Weights" in layer
    ]
    return "Layers:\n" + "\n".join(lines) + "\n\nI/O Tensors:\n Name: frames"


def names(version: str, rtx: bool, registry: IPluginRegistry | None = None) -> dict[str, Any]:
    """What the module has for building plans; `fake` is the Machine. registry: that of the module's run half."""
    eleven = rtx or at_least(version, (11, 0))
    registry = registry or IPluginRegistry()
    machine = Machine(gpu=None) if rtx else Machine()
    if not rtx and fake_cuda._machine is not None:
        machine.gpu, machine.memory = fake_cuda.machine().name, fake_cuda.machine().memory

    flags = ([] if eleven else PRECISION_FLAGS.split()) + FLAGS.split()
    flags += ["STRICT_NANS", "MONITOR_MEMORY"] if eleven or at_least(version, (10, 7)) else []
    flags += ["EDITABLE_TIMING_CACHE"] if eleven or at_least(version, (10, 9)) else []
    flags += ["DISTRIBUTIVE_INDEPENDENCE"] if eleven or at_least(version, (10, 13)) else []
    BuilderFlag = listed("BuilderFlag", " ".join([*flags, *(["REQUIRE_USER_ALLOCATION"] if rtx else [])]))
    python_plugins = {"PREFER_JIT_PYTHON_PLUGINS": 2, "PREFER_AOT_PYTHON_PLUGINS": 3}
    if rtx:
        creation = {"STRONGLY_TYPED": 0}
    elif eleven:
        creation = {"STRONGLY_TYPED": 0, "PREFER_JIT_PYTHON_PLUGINS": 1, "PREFER_AOT_PYTHON_PLUGINS": 2}
    else:
        creation = {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1, **(python_plugins if at_least(version, (10, 9)) else {})}
    NetworkDefinitionCreationFlag = bound_enum("NetworkDefinitionCreationFlag", creation)
    MemoryPoolType = listed("MemoryPoolType", "WORKSPACE DLA_MANAGED_SRAM DLA_LOCAL_DRAM DLA_GLOBAL_DRAM TACTIC_DRAM")
    ProfilingVerbosity = listed("ProfilingVerbosity", "LAYER_NAMES_ONLY NONE DETAILED")
    same = " SAME_COMPUTE_CAPABILITY" if eleven or at_least(version, (10, 9)) else ""
    HardwareCompatibilityLevel = listed("HardwareCompatibilityLevel", "NONE AMPERE_PLUS" + same)
    LayerInformationFormat = listed("LayerInformationFormat", "ONELINE JSON")
    LayerType = listed("LayerType", LAYER_TYPES)
    ErrorCode = listed("ErrorCode", "SUCCESS INTERNAL_ERROR INVALID_NODE UNSUPPORTED_NODE INVALID_GRAPH")
    ComputeCapability = listed("ComputeCapability", "NONE CURRENT SM75 SM80 SM86 SM89 SM120 SM121")

    class ParserError(Bound):
        def __init__(self, error: Error) -> None:
            self._error = error

        def code(self) -> Any:
            return ErrorCode[self._error.code]

        def desc(self) -> str:
            return self._error.desc

        def node(self) -> int:
            return self._error.node

        def node_name(self) -> str:
            return self._error.node_name

        def node_operator(self) -> str:
            return self._error.node_operator

        def local_function_stack(self) -> list[str]:
            return list(self._error.stack)

    class OnnxParser(Bound):
        """Reads a model with the onnx package; who owns AnchorDecode is decided as that version decides."""

        def __init__(self, network: INetworkDefinition, logger: ILogger) -> None:
            check_logger(logger)
            self._network, self._logger = network, logger
            self._errors: list[Error] = []

        num_errors = property(lambda self: len(self._errors))

        def get_error(self, index: int) -> ParserError:
            return ParserError(self._errors[index])

        def parse(self, model: bytes) -> bool:
            if rtx and registry.creators:
                raise Misuse("std::terminate: a registered plugin ends the process of TensorRT-RTX")
            proto = onnx.load_from_string(model)
            self._errors = list(machine.parser_errors)
            network = self._network
            network._model, network._weights = model, weakref.ref(self)
            found = tensors_of(proto)
            network._inputs = [found[value.name] for value in proto.graph.input]
            constants = {constant.name for constant in proto.graph.initializer}
            for index, node in enumerate(proto.graph.node):
                inputs = [found[n] for n in node.input if n in found and (n not in constants or node.op_type != "Conv")]
                outputs = [found[n] if n in found else ITensor(n, DataType.FLOAT) for n in node.output]
                word = OPERATORS.get(node.op_type, "ELEMENTWISE")
                if node.op_type == PLUGIN[0]:
                    word = owner(proto, node)
                    if not word:
                        told = 'creator && "Plugin not found, are the plugin name, version, and namespace correct?"'
                        self._errors.append(Error(told, index, node.name, node.op_type))
                network._layers.append(
                    ILayer(node.name or f"node_{index}", LayerType[word or "IDENTITY"], inputs, outputs)
                )
            for error in self._errors:
                told = f"While parsing node number {error.node}: {error.desc}"
                self._logger.log(Severity.ERROR, told)
            return not self._errors

    def owner(proto: onnx.ModelProto, node: onnx.NodeProto) -> str:
        """PLUGIN_V3, the last layer of the function's body, or nothing; tensorrt.md 4.3."""
        function = any(f.name == node.op_type for f in proto.functions)
        plugin = registry.get_creator(*PLUGIN) is not None
        if function and not rtx and not at_least(version, (10, 7)):
            return "SELECT"
        named = any(a.name == "plugin_namespace" for a in node.attribute)
        if plugin and (named or not function or not (eleven or at_least(version, (10, 15)))):
            return "PLUGIN_V3"
        return "SELECT" if function else ""

    class IBuilderConfig(Bound):
        _settable = (
            *("builder_optimization_level", "profiling_verbosity", "hardware_compatibility_level", "progress_monitor"),
            *(("num_compute_capabilities",) if rtx else ()),
        )

        def __init__(self) -> None:
            self._flags = {BuilderFlag["TF32"]}
            self._pools: dict[Any, int] = {}
            self._profiles: list[IOptimizationProfile] = []
            self._cache: Any = None
            self._capabilities: dict[int, Any] = {}
            self.builder_optimization_level = 3
            self.profiling_verbosity = ProfilingVerbosity["LAYER_NAMES_ONLY"]
            self.hardware_compatibility_level = HardwareCompatibilityLevel["NONE"]
            self.progress_monitor = None
            if rtx:
                self.num_compute_capabilities = 0

        def __setattr__(self, name: str, value: Any) -> None:
            wanted = {
                "builder_optimization_level": lambda: type(value) is int and 0 <= value <= 5,
                "profiling_verbosity": lambda: isinstance(value, ProfilingVerbosity),
                "hardware_compatibility_level": lambda: isinstance(value, HardwareCompatibilityLevel),
                "progress_monitor": lambda: value is None or getattr(value, "made", False),
            }
            if not wanted.get(name, lambda: True)():
                raise TypeError(f"{name}: incompatible argument {value!r}")
            super().__setattr__(name, value)

        def set_flag(self, flag: Any) -> None:
            check_flag(flag)
            if flag.name in PRECISION_FLAGS.split():
                raise RuntimeError(f"the flag {flag.name} cannot be set: networks are strongly typed")
            self._flags.add(flag)

        def clear_flag(self, flag: Any) -> None:
            check_flag(flag)
            self._flags.discard(flag)

        def set_memory_pool_limit(self, pool: Any, pool_size: int) -> None:
            if not isinstance(pool, MemoryPoolType) or type(pool_size) is not int:
                raise TypeError("incompatible arguments")
            if machine.gpu is not None and pool_size > machine.memory:
                raise Misuse(f"a pool of {pool_size} bytes on a GPU of {machine.memory}")
            self._pools[pool] = pool_size

        def add_optimization_profile(self, profile: IOptimizationProfile) -> int:
            self._profiles.append(profile)
            return len(self._profiles) - 1

        def create_timing_cache(self, serialized_timing_cache: bytes) -> ITimingCache | None:
            if rtx:
                raise Misuse("a timing cache makes TensorRT-RTX ask for a GPU")
            if serialized_timing_cache and not serialized_timing_cache.startswith(b"CACHE "):
                return None
            return ITimingCache(serialized_timing_cache or f"CACHE {machine.gpu} {version}".encode())

        def set_timing_cache(self, cache: ITimingCache, ignore_mismatch: bool) -> bool:
            fits = cache._data.startswith(f"CACHE {machine.gpu} {version}".encode())
            if fits:
                self._cache = weakref.ref(cache)
            return fits or ignore_mismatch

        def get_timing_cache(self) -> ITimingCache | None:
            return self._cache and self._cache()

    if rtx:

        def set_compute_capability(self: IBuilderConfig, compute_capability: Any, index: int) -> bool:
            if not isinstance(compute_capability, ComputeCapability) or index >= self.num_compute_capabilities:
                raise Misuse("set_compute_capability before num_compute_capabilities, or of another type")
            self._capabilities[index] = compute_capability
            return True

        IBuilderConfig.set_compute_capability = set_compute_capability  # type: ignore[attr-defined]

    class Builder(Bound):
        def __init__(self, logger: ILogger) -> None:
            check_logger(logger)
            if machine.gpu is None and not rtx:
                logger.log(Severity.ERROR, "CUDA initialization failure with error: 35")
                raise TypeError("pybind11::init(): factory function returned nullptr")
            self._logger = logger
            machine.builders.add(self)

        def create_network(self, flags: int = 0) -> INetworkDefinition:
            if type(flags) is not int:
                raise TypeError("flags: int")
            return INetworkDefinition(eleven or bool(flags >> int(NetworkDefinitionCreationFlag["STRONGLY_TYPED"]) & 1))

        def create_builder_config(self) -> IBuilderConfig:
            return IBuilderConfig()

        def create_optimization_profile(self) -> IOptimizationProfile:
            return IOptimizationProfile()

        def build_serialized_network(self, network: INetworkDefinition, config: IBuilderConfig) -> IHostMemory | None:
            machine.calls.append("build_serialized_network")
            check_build(network, config)
            machine.configs.append(
                {
                    "flags": {flag.name for flag in config._flags},
                    "pools": {pool.name: size for pool, size in config._pools.items()},
                    "level": config.builder_optimization_level,
                    "verbosity": config.profiling_verbosity.name,
                    "hardware": config.hardware_compatibility_level.name,
                    "profiles": [profile._shapes for profile in config._profiles],
                    "capabilities": [config._capabilities[i].name for i in sorted(config._capabilities)],
                }
            )
            if not run_phases(config.progress_monitor):
                return None
            for text in machine.build_errors:
                self._logger.log(Severity.ERROR, text)
            if machine.build_errors:
                return None
            layers = described(network, machine, version)
            if config.profiling_verbosity is not ProfilingVerbosity["DETAILED"]:
                layers = [layer["Name"] for layer in layers]
            elif rtx:
                self._logger.log(Severity.VERBOSE, rtx_text(layers))
            shapes = config._profiles[0]._shapes if config._profiles else {}
            shape = tuple(network.get_input(0).shape)
            header = {
                "version": version,
                "gpu": machine.gpu or "",
                "host_code": BuilderFlag["VERSION_COMPATIBLE"] in config._flags,
                "rtx": rtx,
                "profile": {"frames": shapes.get("frames", (shape,) * 3)},
                "layers": layers,
            }
            if (cache := config.get_timing_cache()) is not None:
                cache._data += b" conv"
            return IHostMemory(MAGIC + json.dumps(header).encode() + b"\n" + network._model)

    def run_phases(monitor: Any) -> bool:
        """Two steps, the second of which has four of its own; as TensorRT, it asks after each whether to go on."""
        if monitor is None:
            return True
        monitor.phase_start("Building Engine", None, 2)
        numbers = iter(range(99))

        def step(phase: str, number: int) -> bool:
            machine.at_step(next(numbers))
            answer = monitor.step_complete(phase, number)
            if type(answer) is not bool:
                raise Misuse("step_complete gives a bool")
            return answer

        going = step("Building Engine", 0)
        if going:
            monitor.phase_start("Timing", "Building Engine", 4)
            going = all(step("Timing", number) for number in range(4))
            monitor.phase_finish("Timing")
        going = going and step("Building Engine", 1)
        monitor.phase_finish("Building Engine")
        return going

    def check_build(network: INetworkDefinition, config: IBuilderConfig) -> None:
        if not network._strongly_typed:
            raise Misuse("a weakly typed network, in which the builder chooses the precision")
        if network._weights is None or network._weights() is None:
            raise Misuse("the parser, which owns the network's weights, is gone")
        if config._cache is not None and config._cache() is None:
            raise Misuse("the timing cache is gone before the build")
        for tensor in network._inputs:
            if -1 not in tensor.shape:
                continue
            if not config._profiles or tensor.name not in config._profiles[0]._shapes:
                raise Misuse(f"{tensor.name} has open sizes and no profile")
            for shape in config._profiles[0]._shapes[tensor.name]:
                if any(fixed not in (-1, size) for fixed, size in zip(tensor.shape, shape, strict=True)):
                    raise Misuse(f"the profile's {shape} does not go with {tensor.shape}")

    def check_logger(logger: Any) -> None:
        if not isinstance(logger, ILogger) or not getattr(logger, "made", False):
            raise TypeError("a logger is wanted, whose ILogger.__init__ was called")

    def check_flag(flag: Any) -> None:
        if not isinstance(flag, BuilderFlag):
            raise TypeError(f"BuilderFlag wanted, found {flag!r}")

    return {
        "fake": machine,
        "Builder": Builder,
        "BuilderFlag": BuilderFlag,
        "EngineInspector": EngineInspector,
        "ErrorCode": ErrorCode,
        "HardwareCompatibilityLevel": HardwareCompatibilityLevel,
        "IBuilderConfig": IBuilderConfig,
        "IHostMemory": IHostMemory,
        "ILayer": ILayer,
        "INetworkDefinition": INetworkDefinition,
        "IOptimizationProfile": IOptimizationProfile,
        "IProgressMonitor": IProgressMonitor,
        "ITensor": ITensor,
        "ITimingCache": ITimingCache,
        "LayerInformationFormat": LayerInformationFormat,
        "LayerType": LayerType,
        "MemoryPoolType": MemoryPoolType,
        "NetworkDefinitionCreationFlag": NetworkDefinitionCreationFlag,
        "OnnxParser": OnnxParser,
        "ParserError": ParserError,
        "ProfilingVerbosity": ProfilingVerbosity,
        "get_plugin_registry": lambda: registry,
        **({"ComputeCapability": ComputeCapability} if rtx else {}),
    }


def module(version: str = "10.3.0", rtx: bool = False) -> ModuleType:
    """A module that builds, and loads plans just far enough to inspect them: no CUDA is wanted."""
    trt = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    trt.__version__ = version  # type: ignore[attr-defined]
    trt.__dict__.update(fake_engine.names(version, rtx))
    trt.__dict__.update(names(version, rtx, trt.get_plugin_registry()))

    class Engine(Bound):
        def __init__(self, header: dict[str, Any]) -> None:
            self._header = header

        def create_engine_inspector(self) -> EngineInspector:
            return EngineInspector(version, self._header["layers"], trt.LayerInformationFormat)

    class Runtime(Bound):
        _settable = ("engine_host_code_allowed",)

        def __init__(self, logger: ILogger) -> None:
            self._logger = logger
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, serialized_engine: bytes) -> Engine | None:
            trt.fake.calls.append(f"deserialize_cuda_engine beside {len(trt.fake.builders)} builders")
            header = json.loads(serialized_engine[len(MAGIC) :].partition(b"\n")[0])
            if not trt.fake.loads or (header["host_code"] and not self.engine_host_code_allowed):
                self._logger.log(Severity.ERROR, "deserializeCudaEngine: CUDA out of memory")
                return None
            return Engine(header)

    trt.Runtime = Runtime  # type: ignore[attr-defined]
    return trt
