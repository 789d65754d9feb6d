"""torchvision's ONNX through build and Detector: torchvision's own detections on real photographs come back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import pytest
from decoder import Decoder
from matching import match
from recipes import CASES

from edge_retina import Detector, build
from edge_retina.geometry import Geometry
from edge_retina.spec import DetectorSpec, cell_anchors

FIXTURES = Path(__file__).parent / "fixtures"
PHOTOS = ("astronaut", "chelsea", "coffee")
MODELS = ("tv_v1_raw_ts", "tv_v1_raw_dynamo", "tv_v2_raw_ts", "tv_v1_whole_ts", "tv_v2_whole_ts")
SIZES = ((32, 40, 50), (64, 80, 101), (128, 161, 203), (256, 322, 406), (512, 645, 812))


@pytest.mark.parametrize("name", MODELS)
def test_the_bundle_gives_what_torchvision_gives(name, tmp_path):
    """Scores to 5e-4 here: ONNX Runtime's Resize and torch's round source coordinates differently in float32, which
    these random networks amplify. With torch's own resize arithmetic they agree to 1e-4: importer/test_torchvision.py.
    """
    with (
        np.load(FIXTURES / f"{name}.npz") as golden,
        Detector.load(build(FIXTURES / f"{name}.onnx", tmp_path / "m.edge").path) as detector,
    ):
        spec = detector.spec
        for photo in PHOTOS:
            found = detector(cv2.imread(str(FIXTURES / "photos" / f"{photo}.png")))
            wanted = tuple(golden[f"{photo}.{key}"] for key in ("boxes", "scores", "labels"))
            ours = (found.xyxy, found.scores, found.labels)
            report = match(ours, wanted, score=5e-4, threshold=spec.score_threshold, limit=spec.max_detections)
            assert report.ok, f"{photo}: {report}"
            assert report.matched >= 0.9 * len(wanted[1])


@pytest.mark.parametrize("form", ["operator", "fixpoint"])
@pytest.mark.parametrize("name", CASES)
def test_the_onnx_body_agrees_with_torchvisions_postprocessing(name, form):
    case = CASES[name]
    with np.load(FIXTURES / "tv_postprocess.npz") as golden:
        wanted = tuple(golden[f"{name}.{key}"] for key in ("boxes", "scores", "labels"))
    spec = DetectorSpec(
        family="torchvision",
        labels=tuple(f"class_{i}" for i in range(case.classes)),
        input_size=case.input_size,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
        strides=case.strides,
        level_shapes=case.level_shapes,
        cell_anchors=tuple(cell_anchors(s, (0.5, 1.0, 2.0), rounded=True) for s in SIZES[: len(case.level_shapes)]),
        score_threshold=case.score_threshold,
        top_k=case.top_k,
        nms_iou=case.nms_iou,
        max_detections=case.max_detections,
    )
    logits, deltas = case.heads()
    run = Decoder(spec, form)
    boxes, scores, labels, count = run(
        [v[None] for v in logits], [v[None] for v in deltas], Geometry(case.content, case.content, (0, 0))
    )
    n = int(count[0])
    report = match(
        (boxes[0, :n], scores[0, :n], labels[0, :n]), wanted, threshold=case.score_threshold, limit=case.max_detections
    )
    assert report.ok, report
