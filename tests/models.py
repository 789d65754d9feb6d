"""Tiny RetinaNets, made in milliseconds of a seed: real detectors in shape and spec, though nobody trained them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import helper, numpy_helper

from edge_retina.importer import Source, import_model
from edge_retina.rewrite import rewrite
from edge_retina.rewrite.opset import LEAST_OPSET
from edge_retina.spec import METADATA_KEY, DetectorSpec, cell_anchors

CHANNELS = 6
STRIDE = 8  # of the finest level; each further level halves
RATIOS = (0.5, 1.0, 2.0)


def tiny_model(
    path: Path | None = None,
    *,
    classes: int = 3,
    input_size: tuple[int, int] = (64, 64),
    levels: int = 2,
    seed: int = 0,
    opset: int = 18,
    spec_overrides: dict[str, Any] | None = None,
) -> tuple[onnx.ModelProto, DetectorSpec]:
    """A RetinaNet in our own export's form: raw heads per level, spec in the metadata, batch axis free.

    Stem (stride 8), one Conv per further level, and a class and a box Conv shared over the levels. Biased such that a
    frame of noise gives some dozens of detections. path: also saved there. spec_overrides: spec fields to replace.
    """
    rng = np.random.default_rng(seed)
    shapes = [(-(-input_size[0] // STRIDE), -(-input_size[1] // STRIDE))]
    for _ in range(levels - 1):
        shapes.append((-(-shapes[-1][0] // 2), -(-shapes[-1][1] // 2)))
    strides = [STRIDE << level for level in range(levels)]
    values: dict[str, Any] = {
        "family": "edge_retina",
        "labels": tuple(f"thing_{i}" for i in range(classes)),
        "input_size": input_size,
        "mean": (120.0, 110.0, 100.0),
        "std": (60.0, 61.0, 62.0),
        "pad_value": (120.0, 110.0, 100.0),
        "strides": tuple((stride, stride) for stride in strides),
        "level_shapes": tuple(shapes),
        "cell_anchors": tuple(cell_anchors([2.0 * stride], RATIOS) for stride in strides),
    }
    spec = DetectorSpec(**{**values, **(spec_overrides or {})})

    nodes: list[onnx.NodeProto] = []
    weights: list[onnx.TensorProto] = []

    def weight(name: str, array: np.ndarray[Any, Any]) -> str:
        weights.append(numpy_helper.from_array(array.astype(np.float32), name))
        return name

    def conv_weights(name: str, out: int, channels: int, kernel: int, bias: float, gain: float) -> list[str]:
        scale = gain / np.sqrt(channels * kernel * kernel)
        shape = (out, channels, kernel, kernel)
        return [
            weight(f"{name}.weight", rng.standard_normal(shape) * scale),
            weight(f"{name}.bias", np.full(out, bias)),
        ]

    def conv(name: str, x: str, parameters: list[str], kernel: int, stride: int) -> str:
        pads = [kernel // 2] * 4
        nodes.append(helper.make_node("Conv", [x, *parameters], [name], name, strides=[stride, stride], pads=pads))
        return name

    def relu(x: str) -> str:
        nodes.append(helper.make_node("Relu", [x], [f"{x}.relu"]))
        return f"{x}.relu"

    features = [relu(conv("stem", "images", conv_weights("stem", CHANNELS, 3, 5, 0.0, 2.0), 5, STRIDE))]
    for level in range(1, levels):
        parameters = conv_weights(f"down_{level}", CHANNELS, CHANNELS, 3, 0.1, 1.5)
        features.append(relu(conv(f"down_{level}", features[-1], parameters, 3, 2)))
    heads = {
        "logits": conv_weights("classes", len(RATIOS) * classes, CHANNELS, 3, -5.0, 1.4),
        "deltas": conv_weights("boxes", len(RATIOS) * 4, CHANNELS, 3, 0.0, 0.3),
    }
    outputs = []
    for kind, parameters in heads.items():
        for level, (x, shape) in enumerate(zip(features, shapes, strict=True)):
            name = conv(f"{kind}_{level + 3}", x, parameters, 3, 1)
            channels = len(RATIOS) * (classes if kind == "logits" else 4)
            outputs.append(helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["batch", channels, *shape]))
    images = helper.make_tensor_value_info("images", onnx.TensorProto.FLOAT, ["batch", 3, *input_size])
    graph = helper.make_graph(nodes, "tiny", [images], outputs, weights)
    model = helper.make_model(
        graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8, producer_name="tests"
    )
    helper.set_model_props(model, {METADATA_KEY: spec.to_json()})
    onnx.checker.check_model(model, full_check=True)
    if path is not None:
        path.write_bytes(model.SerializeToString())
    return model, spec


def hard_model(path: Path | None = None, *, faint: float = 2.0**-7, seed: int = 0) -> onnx.ModelProto:
    """A tiny_model whose finest features go through two more convolutions, 4 % of the work, that INT8 ruins.

    "narrow" makes half of its channels `faint` beside the others and "wide" lives on those, so that with one scale for
    all they get few codes. Equalisation takes the faintness out again.
    """
    model, _ = tiny_model(seed=seed)
    rng = np.random.default_rng(seed)
    few = np.arange(CHANNELS) < CHANNELS // 2
    narrow = np.eye(CHANNELS) + 0.2 * rng.random((CHANNELS, CHANNELS))
    wide = 0.7 * rng.standard_normal((CHANNELS, CHANNELS)) * np.where(few, 1 / faint, 0.01)
    narrow[few] *= faint
    for name, values in (("narrow", narrow), ("wide", wide)):
        weight = values[:, :, None, None].astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, f"{name}.weight"))
        model.graph.initializer.append(numpy_helper.from_array(np.zeros(CHANNELS, np.float32), f"{name}.bias"))
    nodes = list(model.graph.node)
    for node in nodes:
        node.input[:] = ["wide.relu" if name == "stem.relu" else name for name in node.input]
    added = [
        node
        for name, x in (("narrow", "stem.relu"), ("wide", "narrow.relu"))
        for node in (
            helper.make_node("Conv", [x, f"{name}.weight", f"{name}.bias"], [name], name),
            helper.make_node("Relu", [name], [f"{name}.relu"]),
        )
    ]
    del model.graph.node[:]
    model.graph.node.extend([*nodes[:2], *added, *nodes[2:]])
    onnx.checker.check_model(model, full_check=True)
    if path is not None:
        path.write_bytes(model.SerializeToString())
    return model


def rewritten(
    model: onnx.ModelProto, frame_size: tuple[int, int] | None = None
) -> tuple[onnx.ModelProto, DetectorSpec]:
    """The float graph that a build of one of these models measures, calibrates and quantizes."""
    source = Source(model, "0" * 64)
    found = import_model(source)
    return rewrite(source.graph, found, frame_size, least_opset=LEAST_OPSET), found.spec


def write_pictures(
    folder: Path, count: int, *, size: tuple[int, int] = (64, 64), grey: bool = False, seed: int = 0
) -> Path:
    """Coloured blotches of (H, W) as PNG, all different, in which a tiny_model finds things. Returns the folder."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        blotches = rng.integers(0, 256, (12, 12, 1 if grey else 3), dtype=np.uint8)
        image = cv2.resize(np.broadcast_to(blotches, (12, 12, 3)), size[::-1], interpolation=cv2.INTER_CUBIC)
        cv2.imwrite(str(folder / f"{number:03d}.png"), image)
    return folder
