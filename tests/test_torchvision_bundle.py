"""torchvision's ONNX through build and Detector: torchvision's own detections on real photographs come back."""

from __future__ import annotations

from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import onnxruntime as ort
import pytest
from bilinear import resize
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


# Every so many pixels are in the golden files; see fixtures/make_torchvision.py.
PIXEL_STEP = 101
# Half an ulp of float32, relative.
ROUNDING = 2.0**-24


@pytest.fixture(scope="module", params=MODELS)
def built(request, tmp_path_factory):
    """A model's bundle, and what torchvision made of the photographs."""
    bundle = build(FIXTURES / f"{request.param}.onnx", tmp_path_factory.mktemp("bundle") / "m.edge")
    with np.load(FIXTURES / f"{request.param}.npz") as golden:
        return bundle, dict(golden)


def read(photo):
    return cv2.imread(str(FIXTURES / "photos" / f"{photo}.png"))


def compare(found, golden, key, spec, **tolerance):
    wanted = tuple(golden[f"{key}.{part}"] for part in ("boxes", "scores", "labels"))
    return match(found, wanted, threshold=spec.score_threshold, limit=spec.max_detections, **tolerance), len(wanted[1])


def split_at_resize(bundle):
    """Two sessions on the bundle's graph: frames to resized frames; and frames and resized frames to detections."""
    sessions = []
    for first in (True, False):
        graph = gs.import_onnx(onnx.load_model_from_string(bundle.model()))
        (node,) = (node for node in graph.nodes if node.op == "Resize" and node.name.startswith("frame/"))
        pixels = node.outputs[0]
        pixels.dtype, pixels.shape = np.dtype(np.float32), ["batch", 3, "resized_height", "resized_width"]
        if first:
            graph.outputs = [pixels]
        else:
            pixels.inputs.clear()
            graph.inputs.append(pixels)
        model = gs.export_onnx(graph.cleanup().toposort())
        sessions.append(ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]))
    return (*sessions, pixels.name)


def test_frames_that_need_no_resize(built):
    """The bundle as users run it, on windows of the photographs: one fills the network's input, two are padded."""
    bundle, golden = built
    with Detector.load(bundle.path) as detector:
        for photo in PHOTOS:
            top, left, height, width = golden[f"{photo}.window"]
            found = detector(np.ascontiguousarray(read(photo)[top : top + height, left : left + width]))
            ours = (found.xyxy, found.scores, found.labels)
            report, wanted = compare(ours, golden, f"{photo}.window", bundle.spec)
            assert report.ok, f"{photo}: {report}"
            assert report.matched >= 0.99 * wanted > 0


def test_resized_pixels(built):
    """ONNX Runtime's Resize is torchvision's up to float32's rounding of the source coordinates.

    torch multiplies a coordinate by input / output, ONNX Runtime divides it by output / input; scale, product and the
    1/2 taken off are rounded each. So the two lie within six roundings of a coordinate as large as the frame, and the
    pixels within that times the steepest step between neighbours.
    """
    bundle, golden = built
    resizing, _, _ = split_at_resize(bundle)
    for photo in PHOTOS:
        frame = read(photo)
        height, width = golden[f"{photo}.resized.size"]
        (pixels,) = resizing.run(None, {"frames": frame[None]})
        assert pixels.shape == (1, 3, height, width)
        torchs = golden[f"{photo}.resized"]
        again = resize(frame[..., ::-1].astype(np.float32), height, width)
        np.testing.assert_allclose(again.ravel()[::PIXEL_STEP], torchs, atol=6 * 255 * ROUNDING, rtol=0)
        steps = [np.abs(np.diff(frame.astype(np.int32), axis=axis)).max() for axis in (0, 1)]
        bound = 6 * ROUNDING * (np.dot(steps, frame.shape[:2]) + 255)
        np.testing.assert_allclose(pixels[0].transpose(1, 2, 0).ravel()[::PIXEL_STEP], torchs, atol=bound, rtol=0)
        assert bound < 0.1


def test_photographs_that_torch_resized(built):
    """The bundle's own graph before and behind the resize, and torch's arithmetic in its place."""
    bundle, golden = built
    _, detecting, name = split_at_resize(bundle)
    for photo in PHOTOS:
        frame = read(photo)
        pixels = resize(frame[..., ::-1].astype(np.float32), *golden[f"{photo}.resized.size"]).transpose(2, 0, 1)
        boxes, scores, labels, count = detecting.run(None, {"frames": frame[None], name: pixels[None]})
        n = int(count[0])
        report, wanted = compare((boxes[0, :n], scores[0, :n], labels[0, :n]), golden, photo, bundle.spec)
        assert report.ok, f"{photo}: {report}"
        assert report.matched >= 0.99 * wanted > 0


def test_photographs_that_the_bundle_resizes(built):
    """Nothing replaced: scores within 2e-4, for pixels differ by rounding, see test_resized_pixels.

    By at most 4.6e-3 of 255 here, which these random networks make 1.4e-4 of a score. torchvision's own rounding is
    worth nearly as much: against exact arithmetic 3.3e-3 and 1e-4.
    """
    bundle, golden = built
    with Detector.load(bundle.path) as detector:
        for photo in PHOTOS:
            found = detector(read(photo))
            ours = (found.xyxy, found.scores, found.labels)
            report, wanted = compare(ours, golden, photo, bundle.spec, score=2e-4)
            assert report.ok, f"{photo}: {report}"
            assert report.matched >= 0.95 * wanted


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
