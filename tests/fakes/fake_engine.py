"""TensorRT's run half over ONNX Runtime: Runtime, ICudaEngine, IExecutionContext, strict about their contracts."""

from __future__ import annotations

import enum
import itertools
import json
import threading
from typing import Any

import numpy as np
import onnx
import onnxruntime as ort

from fakes import fake_cuda
from fakes.fake_cuda import ALIGNMENT, PER_THREAD, POISON, Op

MAGIC = b"FAKETRT\n"
NUMPY = {"UINT8": np.uint8, "FLOAT": np.float32, "INT32": np.int32}
ONNX_NAMES = {onnx.TensorProto.UINT8: "UINT8", onnx.TensorProto.FLOAT: "FLOAT", onnx.TensorProto.INT32: "INT32"}
CALL = ("edge_retina", "AnchorDecode")


class DataType(enum.Enum):
    FLOAT, HALF, INT8, INT32, BOOL, UINT8, FP8, BF16, INT64, INT4 = range(10)


class TensorIOMode(enum.Enum):
    NONE, INPUT, OUTPUT = range(3)


class TensorLocation(enum.Enum):
    DEVICE, HOST = range(2)


class TensorFormat(enum.Enum):
    LINEAR, CHW2, HWC8, CHW4, CHW16, CHW32, DHWC8, CDHW32, HWC = range(9)


class ErrorCodeTRT(enum.Enum):
    SUCCESS, UNSPECIFIED_ERROR, INTERNAL_ERROR, INVALID_ARGUMENT, INVALID_CONFIG, FAILED_ALLOCATION = range(6)
    FAILED_INITIALIZATION, FAILED_EXECUTION, FAILED_COMPUTATION, INVALID_STATE, UNSUPPORTED_STATE = range(6, 11)


class Severity(enum.IntEnum):
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = range(5)


class ILogger:
    """Subclasses must call this __init__, as pybind11 wants it, and have log."""

    Severity = Severity
    INTERNAL_ERROR, ERROR, WARNING, INFO, VERBOSE = Severity

    def __init__(self) -> None:
        self.made = True


class Logger(ILogger):
    def __init__(self, min_severity: Severity = Severity.WARNING) -> None:
        ILogger.__init__(self)
        self.min_severity = min_severity

    def log(self, severity: Severity, msg: str) -> None:
        if severity <= self.min_severity:
            print(f"[TRT] [{severity.name}] {msg}")


class IErrorRecorder:
    def __init__(self) -> None:
        self.made = True


class IProfiler:
    def __init__(self) -> None:
        self.made = True


class Dims(tuple[int, ...]):
    """What TensorRT gives for a shape."""


def make_plan(
    model: bytes,
    *,
    version: str = "10.3.0",
    gpu: str = "Fake Orin",
    rtx: bool = False,
    host_code: bool = False,
    profile: tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] = (
        (1, 64, 64, 3),
        (1, 64, 64, 3),
        (4, 256, 256, 3),
    ),
    **more: Any,
) -> bytes:
    """A plan as the fake builder writes it, over this ONNX. more: "location", "format", "layers" of the header."""
    header = {
        "version": version,
        "gpu": gpu,
        "host_code": host_code,
        "rtx": rtx,
        "profile": {"frames": profile},
        **more,
    }
    return MAGIC + json.dumps(header).encode() + b"\n" + model


def calls_plugin(model: onnx.ModelProto) -> bool:
    """Whether AnchorDecode is called and has no body."""
    called = any((node.domain, node.op_type) == CALL for node in model.graph.node)
    return called and not any((f.domain, f.name) == CALL for f in model.functions)


def with_body(model: onnx.ModelProto) -> onnx.ModelProto:
    """The model with a body for AnchorDecode where it calls the plugin; ONNX Runtime has none of its own."""
    call = next((node for node in model.graph.node if (node.domain, node.op_type) == CALL), None)
    if call is None or any((f.domain, f.name) == CALL for f in model.functions):
        return model
    import onnx_graphsurgeon as gs

    from edge_retina.rewrite.decode import add_decode
    from edge_retina.rewrite.nms import add_nms
    from edge_retina.spec import DetectorSpec

    facts = {a.name: onnx.helper.get_attribute_value(a) for a in call.attribute}
    facts = {name: value.decode() if isinstance(value, bytes) else value for name, value in facts.items()}
    pairs = {name: list(zip(*[iter(facts[name])] * 2, strict=True)) for name in ("strides", "level_shapes")}
    anchors = iter(list(zip(*[iter(facts["cell_anchors"])] * 4, strict=True)))
    spec = DetectorSpec(
        family="edge_retina",
        labels=tuple(f"{i}" for i in range(facts["num_classes"])),
        input_size=tuple(facts["input_size"]),
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        pad_value=(0.0, 0.0, 0.0),
        strides=tuple(pairs["strides"]),
        level_shapes=tuple(pairs["level_shapes"]),
        cell_anchors=tuple(tuple(next(anchors) for _ in range(n)) for n in facts["anchors_per_cell"]),
        delta_weights=tuple(facts["delta_weights"]),
        inclusive_pixels=bool(facts["inclusive_pixels"]),
        drop_empty=bool(facts["drop_empty"]),
        class_aware_nms=bool(facts["class_aware_nms"]),
        **{
            name: facts[name]
            for name in (
                "box_coding",
                "max_log_scale",
                "clip",
                "score_threshold",
                "class_choice",
                "top_k",
                "top_k_scope",
                "nms_iou",
                "max_detections",
            )
        },
    )
    graph = gs.import_onnx(model)
    node = next(n for n in graph.nodes if (n.domain, n.op) == CALL)
    levels = len(facts["anchors_per_cell"])
    wide = [f"{head}_{level}" for head in ("logits", "deltas") for level in range(levels)]
    graph.outputs = [node.inputs[-1]]
    for name, given in zip(wide, node.inputs[:-1], strict=True):
        if given.name == name:
            graph.outputs.append(given)
            continue
        made = gs.Variable(name, np.float32)  # the plugin widens float16 heads by itself
        graph.nodes.append(gs.Node("Cast", f"widen/{name}", {"to": np.float32}, [given], [made]))
        graph.outputs.append(made)
    graph.nodes.remove(node)
    node.inputs.clear()
    add_decode(graph, spec, static=True)
    add_nms(graph, spec, "operator")
    return gs.export_onnx(graph)  # type: ignore[no-any-return]


def names(version: str, rtx: bool) -> dict[str, Any]:
    """What the module has for running plans."""
    registry = IPluginRegistry()

    class Runtime:
        """Loads plans of this version, for the GPU that is installed. inspector: of a plan's header."""

        inspector: Any = None

        def __init__(self, logger: ILogger) -> None:
            if not getattr(logger, "made", False):
                raise TypeError("ILogger.__init__ was not called")
            self.logger = logger
            self.error_recorder: Any = None
            self.engine_host_code_allowed = False

        def deserialize_cuda_engine(self, serialized_engine: Any) -> ICudaEngine | None:
            if fake_cuda._machine is None:
                return self._refuse("CUDA initialization failure with error: 35")
            gpu = fake_cuda.machine()
            try:
                gpu.enter("deserialize_cuda_engine", implicit=True)
            except fake_cuda.LogicError as exc:
                return self._refuse(str(exc))
            data = bytes(serialized_engine)
            if not data.startswith(MAGIC):
                return self._refuse("Magic tag does not match")
            head, _, model = data[len(MAGIC) :].partition(b"\n")
            header = json.loads(head)
            if header["rtx"] != rtx:
                return self._refuse("the engine was built for another product")
            if header["version"] != version:
                return self._refuse(f"Version tag does not match: {header['version']} and {version}")
            if header["gpu"] not in (gpu.name, ""):
                return self._refuse(f"the engine was built for {header['gpu']}, this is {gpu.name}")
            if header["host_code"] and not self.engine_host_code_allowed:
                return self._refuse("host code in the engine is not allowed")
            proto = onnx.load_from_string(model)
            if calls_plugin(proto) and ("AnchorDecode", "1", "edge_retina") not in registry.creators:
                return self._refuse("Cannot deserialize plugin since corresponding IPluginCreator not found")
            return ICudaEngine(self, header, proto)

        def _refuse(self, text: str) -> None:
            # To the recorder if there is one, to the log otherwise.
            if self.error_recorder is not None:
                self.error_recorder.report_error(ErrorCodeTRT.INVALID_ARGUMENT, text)
            else:
                self.logger.log(Severity.ERROR, text)

        def get_plugin_registry(self) -> IPluginRegistry:
            return registry

    return {
        "Runtime": Runtime,
        "ICudaEngine": ICudaEngine,
        "IExecutionContext": IRtxExecutionContext if rtx else IExecutionContext,
        "ILogger": ILogger,
        "Logger": Logger,
        "IErrorRecorder": IErrorRecorder,
        "IProfiler": IProfiler,
        "ErrorCodeTRT": ErrorCodeTRT,
        "DataType": DataType,
        "TensorIOMode": TensorIOMode,
        "TensorLocation": TensorLocation,
        "TensorFormat": TensorFormat,
        "Dims": Dims,
        "get_plugin_registry": lambda: registry,
    }


class IPluginRegistry:
    """A library is a file that starts with ELF; loading registers AnchorDecode, once."""

    def __init__(self) -> None:
        self.creators: set[tuple[str, str, str]] = set()
        self.loaded: list[str] = []

    def load_library(self, plugin_path: str) -> object | None:
        with open(plugin_path, "rb") as file:
            good = file.read(4) == b"\x7fELF"
        creator = ("AnchorDecode", "1", "edge_retina")
        if not good or creator in self.creators:
            return None
        self.creators.add(creator)
        self.loaded.append(plugin_path)
        return object()

    def get_creator(self, type: str, version: str, plugin_namespace: str = "") -> object | None:
        return object() if (type, version, plugin_namespace) in self.creators else None


class ICudaEngine:
    """Tensors as the ONNX has them."""

    def __init__(self, runtime: Any, header: dict[str, Any], model: onnx.ModelProto) -> None:
        self.runtime, self.header = runtime, header  # keep_alive<0, 1>
        self.error_recorder: Any = None
        self.num_optimization_profiles = 1
        self._gpu = fake_cuda.machine()
        self._gpu.engines += 1
        self.tensors: dict[str, tuple[TensorIOMode, DataType, Dims]] = {}
        for mode, values in ((TensorIOMode.INPUT, model.graph.input), (TensorIOMode.OUTPUT, model.graph.output)):
            for value in values:
                kind = value.type.tensor_type
                shape = Dims(d.dim_value if d.HasField("dim_value") else -1 for d in kind.shape.dim)
                self.tensors[value.name] = (mode, DataType[ONNX_NAMES[kind.elem_type]], shape)
        options = ort.SessionOptions()
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        body = with_body(model).SerializeToString()
        self.session = ort.InferenceSession(body, options, providers=["CPUExecutionProvider"])
        self.layers = [node.name for node in model.graph.node]

    def __del__(self) -> None:
        if hasattr(self, "_gpu"):
            self._gpu.engines -= 1

    @property
    def num_io_tensors(self) -> int:
        return len(self.tensors)

    def get_tensor_name(self, index: int) -> str:
        return list(self.tensors)[index]

    def get_tensor_mode(self, name: str) -> TensorIOMode:
        return self.tensors[name][0]

    def get_tensor_dtype(self, name: str) -> DataType:
        return self.tensors[name][1]

    def get_tensor_shape(self, name: str) -> Dims:
        return self.tensors[name][2]

    def get_tensor_location(self, name: str) -> TensorLocation:
        return TensorLocation[self.header.get("location", {}).get(name, "DEVICE")]

    def get_tensor_format(self, name: str) -> TensorFormat:
        return TensorFormat[self.header.get("format", {}).get(name, "LINEAR")]

    def get_tensor_profile_shape(self, name: str, profile_index: int) -> list[Dims]:
        if profile_index != 0:
            raise self._gpu.misuse("there is one profile, 0")
        return [Dims(shape) for shape in self.header["profile"][name]]

    def create_engine_inspector(self) -> Any:
        return self.runtime.inspector(self.header)

    def create_execution_context(self) -> IExecutionContext | None:
        self._gpu.enter("create_execution_context")
        self._gpu.unsafe("create_execution_context")
        need = self.header.get("device_memory", 1 << 20)
        if need > self._gpu.free_bytes():
            if self.error_recorder is not None:
                self.error_recorder.report_error(ErrorCodeTRT.FAILED_ALLOCATION, f"no room for {need} bytes of scratch")
            return None
        return (IRtxExecutionContext if self.header["rtx"] else IExecutionContext)(self)


class IExecutionContext:
    """Runs one batch at a time on the one thread that has it."""

    def __init__(self, engine: ICudaEngine) -> None:
        self.engine = engine
        self.error_recorder: Any = None
        self.profiler: Any = None
        self.enqueue_emits_profile = True
        self._gpu = engine._gpu
        self._gpu.contexts += 1
        self._shape: Dims | None = None
        self._addresses: dict[str, int] = {}
        self._settings = 0  # grows with every change of shape or address
        self._run_with = -1  # the settings that have run outside of a capture
        self._pending = 0
        self._thread = 0

    def __del__(self) -> None:
        if hasattr(self, "_gpu"):
            self._gpu.contexts -= 1
            if self._pending:
                self._gpu.misuse("an execution context dropped while it runs")

    def set_input_shape(self, name: str, shape: Any) -> bool:
        self._enter("set_input_shape")
        shape = Dims(shape)
        fixed = self.engine.get_tensor_shape(name)
        least, _, most = self.engine.get_tensor_profile_shape(name, 0)
        inside = all(low <= size <= high for low, size, high in zip(least, shape, most, strict=True))
        if not inside or any(want not in (-1, size) for want, size in zip(fixed, shape, strict=True)):
            raise self._gpu.misuse(f"set_input_shape: {shape} is outside of the profile {least}..{most}")
        self._shape = shape
        self._settings += 1
        return True

    def set_tensor_address(self, name: str, memory: int) -> bool:
        self._enter("set_tensor_address")
        if memory % ALIGNMENT:
            raise self._gpu.misuse(f"set_tensor_address: {name} at {memory:#x}, no multiple of {ALIGNMENT}")
        if name not in self.engine.tensors:
            return False
        self._addresses[name] = memory
        self._settings += 1
        return True

    def get_tensor_shape(self, name: str) -> Dims:
        self._enter("get_tensor_shape")
        batch = -1 if self._shape is None else self._shape[0]
        mode, _, shape = self.engine.tensors[name]
        if mode is TensorIOMode.INPUT and self._shape is not None:
            return self._shape
        return Dims([batch if shape[0] == -1 else shape[0], *shape[1:]])

    def infer_shapes(self) -> list[str]:
        self._enter("infer_shapes")
        dynamic = any(-1 in shape for mode, _, shape in self.engine.tensors.values() if mode is TensorIOMode.INPUT)
        return ["frames"] if dynamic and self._shape is None else []

    def execute_async_v3(self, stream_handle: int) -> bool:
        gpu = self._gpu
        if gpu.instant:
            return True
        self._enter("execute_async_v3")
        queue = gpu.queues.get(stream_handle)
        if queue is None or queue.handle <= PER_THREAD:
            raise gpu.misuse("execute_async_v3 on the default stream, or on none")
        if missing := self.infer_shapes():
            raise gpu.misuse(f"execute_async_v3 without set_input_shape for {missing}")
        shapes = {name: self.get_tensor_shape(name) for name in self.engine.tensors}
        ranges = []
        for name, (_, dtype, _) in self.engine.tensors.items():
            if name not in self._addresses:
                raise gpu.misuse(f"execute_async_v3 without an address for {name}")
            nbytes = int(np.prod(shapes[name])) * np.dtype(NUMPY[dtype.name]).itemsize
            gpu.view(self._addresses[name], nbytes, name)
            ranges.append((self._addresses[name], self._addresses[name] + nbytes, name))
        ranges.sort()
        for (_, end, name), (start, _, other) in itertools.pairwise(ranges):
            if start < end:
                raise gpu.misuse(f"the memory of {name} and {other} overlaps")
        captured = queue.capture is not None
        if captured and self._run_with != self._settings:
            queue.capture.invalid = True
            raise gpu.misuse("captured before one plain run with these shapes and addresses")
        if captured and self.engine.header.get("control_flow"):
            queue.capture.invalid = True
            return self._fail("a Loop cannot be captured")
        gpu.executions.append((threading.get_ident(), captured))
        if not captured:
            self._run_with = self._settings
        gpu.put(queue, self._op(dict(self._addresses), shapes, self._settings, captured))
        if self.profiler is not None and self.enqueue_emits_profile:
            if not getattr(self.profiler, "made", False):
                raise TypeError("IProfiler.__init__ was not called")
            if captured:
                raise gpu.misuse("a profiler that enqueue tells cannot be captured")
            gpu.drain(queue)  # it waits for the network, to know
            for number, name in enumerate(self.engine.layers, 1):
                self.profiler.report_layer_time(name, number / 1000)
        return True

    def _op(self, addresses: dict[str, int], shapes: dict[str, Dims], settings: int, captured: bool) -> Op:
        gpu, tensors = self._gpu, self.engine.tensors

        def view(name: str) -> Any:
            dtype = np.dtype(NUMPY[tensors[name][1].name])
            nbytes = int(np.prod(shapes[name])) * dtype.itemsize
            return gpu.view(addresses[name], nbytes, name).view(dtype).reshape(shapes[name])

        outputs = [name for name, (mode, _, _) in tensors.items() if mode is TensorIOMode.OUTPUT]

        def begin() -> None:
            if captured and settings != self._settings:
                raise gpu.misuse("a graph launched after the shapes or addresses of its context changed")
            self._pending += 1
            self._thread = threading.get_ident()
            for name in outputs:
                view(name).view(np.uint8)[...] = POISON

        def run() -> None:
            self._pending -= 1
            gpu.kernel_fault()
            inputs = {name: view(name) for name, (mode, _, _) in tensors.items() if mode is TensorIOMode.INPUT}
            for name, value in zip(outputs, self.engine.session.run(outputs, inputs), strict=True):
                target = view(name)
                if value.shape != target.shape or value.dtype != target.dtype:
                    raise gpu.misuse(f"{name} is {value.dtype} {value.shape}, wanted {target.dtype} {target.shape}")
                target[...] = value

        return Op("execute", run, begin)

    def _enter(self, name: str) -> None:
        self._gpu.enter(name)
        if self._pending and self._thread != threading.get_ident():
            raise self._gpu.misuse(f"{name} on a context that another thread is running")

    def _fail(self, text: str) -> bool:
        if self.error_recorder is not None:
            self.error_recorder.report_error(ErrorCodeTRT.FAILED_EXECUTION, text)
        return False


class IRtxExecutionContext(IExecutionContext):
    """RTX's says whether it can be captured."""

    def is_stream_capturable(self, stream: int) -> bool:
        self._gpu.enter("is_stream_capturable")
        return self._gpu.capturable
