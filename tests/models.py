"""Tiny RetinaNets, made in milliseconds of a seed: real detectors in shape and spec, though nobody trained them."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnx
from onnx import helper, numpy_helper

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


def hard_model(path: Path | None = None, *, faint: float = 2.0**-9, seed: int = 0) -> onnx.ModelProto:
    """A tiny_model in which INT8 ruins down_1, 4 % of the work, and nothing else.

    down_1 lives on channel 0 of its input, which is `faint` beside the others, so that without equalisation all of it
    gets code 0; the heads, which read the same tensor, hardly look at that channel.
    """
    model, _ = tiny_model(seed=seed)

    def scale(name: str, place: Any, factor: float) -> None:
        tensor = next(t for t in model.graph.initializer if t.name == name)
        values = numpy_helper.to_array(tensor).copy()
        values[place] *= factor
        tensor.CopyFrom(numpy_helper.from_array(values, name))

    scale("stem.weight", 0, faint)
    scale("down_1.weight", np.s_[:, 0], 2 / faint)
    scale("down_1.weight", np.s_[:, 1:], 0.02)
    if path is not None:
        path.write_bytes(model.SerializeToString())
    return model


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
