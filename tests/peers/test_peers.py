"""Peers find what the bundle finds, on the digits model; those that are not installed are named."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import cv2
import numpy as np
import onnx
import pytest
from models import tiny_model

from edge_retina.build import build
from edge_retina.bundle import Bundle, read_bundle
from edge_retina.detector import Detector
from edge_retina.errors import ModelError
from edge_retina.peers import open_peers
from edge_retina.peers.processing import Processing
from edge_retina.peers.trunk import PICTURE, cut_trunk
from edge_retina.spec import DetectorSpec

ROOT = Path(__file__).parents[2]
PICTURE_FILE = ROOT / "samples/digits/test/test_00000.jpg"


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    path = tmp_path_factory.mktemp("peers") / "digits.edge"
    build(ROOT / "samples/digits/digits.onnx", path)
    return read_bundle(path)


def test_no_model_of_ours() -> None:
    model, _ = tiny_model()
    with pytest.raises(ModelError, match="AnchorDecode"):
        cut_trunk(model.SerializeToString())


def test_the_trunk_alone(digits: Bundle) -> None:
    cut = onnx.load_from_string(cut_trunk(digits.model()))
    onnx.checker.check_model(cut, full_check=True)
    assert [value.name for value in cut.graph.input] == [PICTURE]
    levels = range(digits.spec.num_levels)
    assert [v.name for v in cut.graph.output] == [f"{kind}_{i}" for kind in ("logits", "deltas") for i in levels]
    assert not cut.functions
    assert {node.domain for node in cut.graph.node} == {""}


def test_nothing_found(digits: Bundle) -> None:
    """Heads far below the threshold."""
    spec = digits.spec
    processing = Processing(spec)
    _, fit = processing.picture(np.zeros((48, 64, 3), np.uint8))
    heads = [
        np.full((1, len(cell) * count, *shape), -20, np.float32)
        for count in (spec.num_classes, 4)
        for cell, shape in zip(spec.cell_anchors, spec.level_shapes, strict=True)
    ]
    found = processing.detections(heads, fit)
    assert found.boxes.shape == (0, 4)
    assert len(found.scores) == len(found.labels) == 0


def test_peers_find_what_the_bundle_finds(digits: Bundle) -> None:
    frame, told = cv2.imread(str(PICTURE_FILE)), []
    with Detector.load(digits.path, target="ort") as detector:
        ours = detector(frame).mask(min_score=0.3)
    peers = open_peers(digits, [frame], threads=1, on_note=told.append)
    assert {"ONNX Runtime + NumPy", "OpenCV DNN + NumPy"} <= {peer.name for peer in peers}
    for peer in peers:
        found = peer.call(frame)
        assert (np.diff(found.scores) <= 0).all()
        sure = found.scores >= 0.3
        assert found.labels[sure].tolist() == ours.labels.tolist(), peer.name
        # They resize bytes, which rounds to whole grey levels.
        np.testing.assert_allclose(found.scores[sure], ours.scores, atol=0.02)
        np.testing.assert_allclose(found.boxes[sure], ours.xyxy, atol=1)
    if importlib.util.find_spec("openvino") is None:
        assert "OpenVINO + NumPy: openvino is not installed; run: pip install openvino" in told
    if importlib.util.find_spec("torchvision") is None:
        assert any("torchvision: left out, it wants the weights" in line for line in told)


def test_decoding_that_peers_do_not_know(digits: Bundle) -> None:
    spec = DetectorSpec.from_dict({**digits.spec.to_dict(), "class_choice": "best"})
    with pytest.raises(ModelError, match="decodes"):
        Processing(spec)
