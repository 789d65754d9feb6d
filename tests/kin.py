"""What tests of the importers share: graphs, photographs as the fixtures' scripts cut them, heads, golden detections.

Frames are BGR uint8 (H, W, 3), exactly as large as the network input, so that nothing is resized.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import onnx
import onnx_graphsurgeon as gs
import onnxruntime
from matching import match

from edge_retina import Detections
from edge_retina.boxes import to_anchor_rows
from edge_retina.importer import Imported, load_onnx
from edge_retina.spec import DetectorSpec

FIXTURES = Path(__file__).parent / "fixtures"
PHOTOS = ("astronaut", "chelsea", "coffee")
_ANCHORS = 9

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
Size = tuple[int, int]
Rows = tuple[npt.NDArray[Any], ...]  # boxes, scores, labels


def load(name: str) -> gs.Graph:
    """A fixture's graph as it is."""
    return gs.import_onnx(onnx.load(FIXTURES / f"{name}.onnx"))


def tidied(name: str) -> gs.Graph:
    """A fixture's graph as import sees it."""
    return load_onnx(FIXTURES / f"{name}.onnx").graph


def resized(photo: str, size: Size) -> U8:
    """All of a photograph."""
    return cv2.resize(_read(photo), size[::-1], interpolation=cv2.INTER_AREA).astype(np.uint8)


def middle(photo: str, size: Size) -> U8:
    """The middle of a photograph."""
    frame = _read(photo)
    y, x = ((frame.shape[axis] - size[axis]) // 2 for axis in range(2))
    return np.ascontiguousarray(frame[y : y + size[0], x : x + size[1]])


def corner(photo: str, size: Size) -> U8:
    """The upper left part of a photograph."""
    return np.ascontiguousarray(_read(photo)[: size[0], : size[1]])


def _read(photo: str) -> U8:
    frame = cv2.imread(str(FIXTURES / "photos" / f"{photo}.png"))
    assert frame is not None
    return frame.astype(np.uint8)


def session_of(model: onnx.ModelProto) -> onnxruntime.InferenceSession:
    return onnxruntime.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])


class Heads:
    """A graph between trunk input and heads, which is used up. Called with a frame: logits and deltas per level."""

    def __init__(self, graph: gs.Graph, found: Imported) -> None:
        tensors, self._found = graph.tensors(), found
        trunk = tensors[found.trunk_input]
        trunk.inputs.clear()
        size = found.spec.input_size
        trunk.shape, trunk.dtype = (1, *size, 3) if found.layout.input == "nhwc" else (1, 3, *size), np.float32
        graph.inputs, graph.outputs = [trunk], [tensors[head] for head in (*found.logits, *found.deltas)]
        for head in graph.outputs:
            head.dtype = np.float32
        self._session = session_of(gs.export_onnx(graph.cleanup()))

    def __call__(self, frame: U8) -> tuple[list[F32], list[F32]]:
        found, spec = self._found, self._found.spec
        pixels = (frame if spec.color_order == "bgr" else frame[..., ::-1]).astype(np.float32)
        batch = ((pixels - np.float32(spec.mean)) / np.float32(spec.std))[None]
        batch = batch if found.layout.input == "nhwc" else batch.transpose(0, 3, 1, 2)
        outputs = self._session.run(None, {found.trunk_input: np.ascontiguousarray(batch)})
        return outputs[: len(found.logits)], outputs[len(found.logits) :]


def flat(maps: list[F32]) -> F32:
    """Every value of all levels."""
    return np.concatenate([head.ravel() for head in maps])


def head_rows(graph: gs.Graph, found: Imported, frame: U8) -> dict[str, F32]:
    """cls_logits and bbox_regression of torchvision's kin, (anchors, K) and (anchors, 4). `graph` is used up."""
    kinds = dict(zip(("cls_logits", "bbox_regression"), Heads(graph, found)(frame), strict=True))
    return {
        kind: np.concatenate([to_anchor_rows(head[0], _ANCHORS) for head in heads]) for kind, heads in kinds.items()
    }


def detect(session: onnxruntime.InferenceSession, frame: U8) -> Rows:
    """What a rewritten model finds in a frame."""
    boxes, scores, labels, count = session.run(["boxes", "scores", "labels", "count"], {"frames": frame[None]})
    return tuple(values[0, : count[0]] for values in (boxes, scores, labels))


def rows_of(found: Detections) -> Rows:
    return found.xyxy, found.scores, found.labels


def golden_rows(golden: Any, photo: str, kind: str = "") -> Rows:
    """The trainer's own detections, out of an open golden file."""
    return tuple(golden[f"{photo}.{kind}{key}"] for key in ("boxes", "scores", "labels"))


def assert_same(ours: Rows, wanted: Rows, spec: DetectorSpec, photo: str) -> None:
    """All of the trainer's detections are there; next to none is left out for lying at the threshold or the limit."""
    report = match(ours, wanted, threshold=spec.score_threshold, limit=spec.max_detections)
    assert report.ok, f"{photo}: {report}"
    assert report.matched >= 0.95 * len(wanted[1]), f"{photo}: {report}"
