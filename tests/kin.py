"""What tests of torchvision's kin share: photographs of exactly the network's size, and heads of a cut graph."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
from matching import Report, match

from edge_retina import Detector
from edge_retina.boxes import to_anchor_rows
from edge_retina.importer import Imported

FIXTURES = Path(__file__).parent / "fixtures"
PHOTOS = ("astronaut", "chelsea", "coffee")
_ANCHORS = 9


def load(name: str) -> gs.Graph:
    return gs.import_onnx(onnx.load(FIXTURES / f"{name}.onnx"))


def photograph(name: str, size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """A photograph, BGR, resized to (H, W) as the fixtures' scripts do it."""
    frame = cv2.imread(str(FIXTURES / "photos" / f"{name}.png"))
    return cv2.resize(frame, size[::-1], interpolation=cv2.INTER_AREA)


def head_rows(graph: gs.Graph, found: Imported, frame: npt.NDArray[np.uint8]) -> dict[str, npt.NDArray[np.float32]]:
    """cls_logits and bbox_regression, (anchors, K) and (anchors, 4), of the graph between trunk input and heads.

    frame: BGR, of the network's size. `graph` is used up.
    """
    tensors, spec = graph.tensors(), found.spec
    trunk = tensors[found.trunk_input]
    trunk.inputs.clear()
    trunk.shape, trunk.dtype = (1, 3, *spec.input_size), np.float32
    graph.inputs, graph.outputs = [trunk], [tensors[head] for head in (*found.logits, *found.deltas)]
    for head in graph.outputs:
        head.dtype = np.float32
    model = gs.export_onnx(graph.cleanup()).SerializeToString()
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    rgb = frame[..., ::-1].astype(np.float32)
    batch = ((rgb - np.float32(spec.mean)) / np.float32(spec.std)).transpose(2, 0, 1)[None]
    outputs = [out[0] for out in session.run(None, {trunk.name: np.ascontiguousarray(batch)})]
    kinds = {"cls_logits": outputs[: spec.num_levels], "bbox_regression": outputs[spec.num_levels :]}
    return {kind: np.concatenate([to_anchor_rows(head, _ANCHORS) for head in heads]) for kind, heads in kinds.items()}


def compare(detector: Detector, name: str, photo: str) -> tuple[Report, int]:
    """A bundle's detections held against a golden file's, whose number comes second."""
    spec = detector.spec
    found = detector(photograph(photo, spec.input_size))
    with np.load(FIXTURES / f"{name}.npz") as golden:
        wanted = tuple(golden[f"{photo}.{key}"] for key in ("boxes", "scores", "labels"))
    ours = (found.xyxy, found.scores, found.labels)
    return match(ours, wanted, threshold=spec.score_threshold, limit=spec.max_detections), len(wanted[1])
