"""A bundle for DeepStream's nvinfer: a graph that takes what nvinfer feeds, its configuration and its box parser.

nvinfer feeds float planes [B, 3, H, W], scaled to the network's size, and pads with black: not what each trainer's
resizing does, and uint8 frames [B, H, W, 3] it cannot feed. So the network's size is made the frame's: at that size
nvinfer neither scales nor pads, only spreads the pixels into planes, and the graph begins with the way back. All the
rest of it is the bundle's own: its resizing, its normalisation, its decoding, boxes in pixels of the frame.

Source: docs.nvidia.com/metropolis/deepstream, Gst-nvinfer and nvdsinfer_custom_impl.h.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from edge_retina.errors import ModelError, UsageError
from edge_retina.export.folder import write_folder
from edge_retina.lowering import lower_bundle
from edge_retina.plugin import LIBRARY

if TYPE_CHECKING:
    from edge_retina.bundle import Bundle

__all__ = ["export_deepstream", "for_nvinfer", "nvinfer_config"]

_PARSER, _REGISTER = "nvdsinfer_edge_retina.cpp", "register_plugin.cpp"
_FRAMES, _COUNT = "frames", "count"


def export_deepstream(
    bundle: Bundle,
    out: Path,
    *,
    frame: tuple[int, int] | None = None,
    batch: int = 1,
    min_score: float = 0.3,
    plugin: Path | None = None,
) -> Path:
    """Write a new folder: model.onnx, config_infer.txt, labels.txt, the parser's source and a Makefile; its path.

    frame: (H, W) of what nvstreammux gives; None for the bundle's own. batch: frames that run together at most.
    plugin: the anchor-decode library to decode with; None decodes with TensorRT's own operators.
    Raises UsageError, ModelError, OutputError.
    """
    size = _frame(bundle, frame)
    if batch < 1 or (bundle.manifest.batch_max is not None and batch > bundle.manifest.batch_max):
        most = bundle.manifest.batch_max or "any number"
        raise UsageError(f"batches of {batch}: this bundle takes {most}; give another --batch")
    if out.exists():
        raise UsageError(f"{out}: is there already; remove it or choose another with -o")
    sources = Path(__file__).with_name("sources")
    model = for_nvinfer(lower_bundle(bundle, "tensorrt", plugin=plugin is not None), size)
    labels = "".join(f"{label.replace(';', ',')}\n" for label in bundle.labels)  # a ; would begin another attribute
    about = {"bundle": bundle.digest, "precision": bundle.manifest.precision, "frame": list(size), "batch": batch}
    files = {
        "model.onnx": model,
        "config_infer.txt": nvinfer_config(bundle, size, batch, min_score).encode(),
        "labels.txt": labels.encode(),
        "Makefile": _makefile(size, batch, plugin is not None).encode(),
        _PARSER: (sources / _PARSER).read_bytes(),
        "edge-retina.json": (json.dumps(about, indent=1) + "\n").encode(),
    }
    if plugin is not None:
        try:
            files |= {LIBRARY: plugin.read_bytes(), _REGISTER: (sources / _REGISTER).read_bytes()}
        except OSError as exc:
            raise UsageError(f"{plugin}: cannot be read: {exc.strerror or exc}; give --plugin {LIBRARY}") from exc
    write_folder(out, files, draft_in=out.absolute().parent)
    return out


def for_nvinfer(model: bytes, frame: tuple[int, int]) -> bytes:
    """A lowered model with input `frames` float32 [B, 3, H, W], BGR 0 to 255, and `count` [B, 1].

    The values are those of the uint8 frames, so the detections are too. nvinfer takes no output without dimensions.
    frame: (H, W). Raises ModelError for a graph whose frames go elsewhere than into a Cast or Shape.
    """
    import onnx
    from onnx import TensorProto, helper

    proto = onnx.load_from_string(model)
    graph = proto.graph
    (given,) = graph.input
    readers = [node for node in graph.node if _FRAMES in node.input]
    if given.name != _FRAMES or {node.op_type for node in readers} - {"Cast", "Shape"}:
        raise ModelError("the model's frames do not go straight into a Cast; build the bundle anew: edge-retina build")
    turned = "nvinfer/frames"
    for node in readers:
        node.input[:] = [turned if name == _FRAMES else name for name in node.input]
    graph.node.insert(0, helper.make_node("Transpose", [_FRAMES], [turned], turned, perm=[0, 2, 3, 1]))
    given.CopyFrom(helper.make_tensor_value_info(_FRAMES, TensorProto.FLOAT, ["batch", 3, *frame]))
    flat = "nvinfer/count"
    for node in graph.node:
        node.output[:] = [flat if name == _COUNT else name for name in node.output]
    graph.initializer.append(helper.make_tensor("nvinfer/axis", TensorProto.INT64, [1], [1]))
    graph.node.append(helper.make_node("Unsqueeze", [flat, "nvinfer/axis"], [_COUNT], flat))
    (counted,) = (output for output in graph.output if output.name == _COUNT)
    counted.CopyFrom(helper.make_tensor_value_info(_COUNT, TensorProto.INT32, ["batch", 1]))
    del graph.value_info[:]  # shapes for any frame, of a graph that is now for one
    return bytes(proto.SerializeToString(deterministic=True))


def nvinfer_config(bundle: Bundle, frame: tuple[int, int], batch: int, min_score: float) -> str:
    """The text of config_infer.txt. frame: (H, W)."""
    height, width = frame
    return f"""# Written by `edge-retina export deepstream`, not run on a GPU yet.
# First: make, which builds the parser and, with trtexec, model.plan. Then for instance:
#   gst-launch-1.0 nvstreammux name=m batch-size={batch} width={width} height={height} \\
#     ! nvinfer config-file-path=config_infer.txt ! nvvideoconvert ! nvdsosd ! nv3dsink \\
#     uridecodebin uri=file:///video.mp4 ! m.sink_0
[property]
gpu-id=0
gie-unique-id=1
process-mode=1
network-type=0
# Not onnx-file: nvinfer would build a network without strong types of it, in which precision is TensorRT's to choose.
model-engine-file=model.plan
network-mode=0
batch-size={batch}
# The frame as it is, BGR 0 to 255: the graph does all that is done to it. nvstreammux must give this size.
infer-dims=3;{height};{width}
model-color-format=1
net-scale-factor=1
maintain-aspect-ratio=0
labelfile-path=labels.txt
num-detected-classes={bundle.spec.num_classes}
output-blob-names=boxes;scores;labels;count
custom-lib-path=./libnvdsinfer_edge_retina.so
parse-bbox-func-name=NvDsInferParseEdgeRetina
# NMS is in the graph.
cluster-mode=4

[class-attrs-all]
pre-cluster-threshold={min_score:g}
topk={bundle.spec.max_detections}
"""


def _makefile(frame: tuple[int, int], batch: int, plugin: bool) -> str:
    sides = f"3x{frame[0]}x{frame[1]}"
    shapes = " ".join(f"--{name}Shapes=frames:{n}x{sides}" for name, n in (("min", 1), ("opt", batch), ("max", batch)))
    register = f" {_REGISTER}" if plugin else ""
    static = f" --staticPlugins=./{LIBRARY}" if plugin else ""
    return f"""# On the machine that runs it: DeepStream's and TensorRT's headers, CUDA's, g++ and trtexec.
DEEPSTREAM ?= /opt/nvidia/deepstream/deepstream
CUDA ?= /usr/local/cuda
TRTEXEC ?= /usr/src/tensorrt/bin/trtexec

all: libnvdsinfer_edge_retina.so model.plan

libnvdsinfer_edge_retina.so: {_PARSER}{register}
\tg++ -std=c++17 -O2 -Wall -shared -fPIC -I$(DEEPSTREAM)/sources/includes -I$(CUDA)/include -o $@ $^ -lnvinfer -ldl

# Of this GPU and this TensorRT. 11 has no other networks than strongly typed ones and may not know the option.
model.plan: model.onnx
\t$(TRTEXEC) --onnx=$< --stronglyTyped --saveEngine=$@ {shapes}{static}

.PHONY: all
"""


def _frame(bundle: Bundle, asked: tuple[int, int] | None) -> tuple[int, int]:
    """(H, W) of the frames. Raises UsageError where it is not known, not the bundle's, or odd."""
    fixed = bundle.manifest.frame_size
    frame = asked or fixed
    if frame is None:
        raise UsageError("DeepStream wants one frame size, that of nvstreammux; give it: --frame-size 1280x720")
    if fixed is not None and frame != fixed:
        raise UsageError(f"this bundle takes frames of {fixed[1]}x{fixed[0]} only, found {frame[1]}x{frame[0]}")
    if frame[0] % 2 or frame[1] % 2:
        raise UsageError(f"nvinfer cuts frames to even sides, found {frame[1]}x{frame[0]}; give an even --frame-size")
    return frame
