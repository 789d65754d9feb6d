"""verify: the trainer's own detections, from the graph's post-processing, from a file or from its heads."""

from __future__ import annotations

import json
from pathlib import Path

import cv2
import numpy as np
import pytest
from models import tiny_model, write_pictures

from edge_retina import Detector, build
from edge_retina.errors import InputError, ModelError, RuntimeFailure, UsageError
from edge_retina.verify import verify

FIXTURES = Path(__file__).resolve().parents[1] / "fixtures"
COFFEE = FIXTURES / "photos" / "coffee.png"


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """m.onnx, its bundle, three pictures, and what the bundle finds in them as r.npz."""
    folder = tmp_path_factory.mktemp("parts")
    tiny_model(folder / "m.onnx")
    write_pictures(folder / "pictures", 3, size=(48, 80))
    arrays = {}
    with Detector.load(build(folder / "m.onnx").path) as detector:
        for path in sorted((folder / "pictures").iterdir()):
            found = detector(cv2.imread(str(path)))
            arrays |= {f"{path.stem}.boxes": found.xyxy, f"{path.stem}.scores": found.scores}
            arrays[f"{path.stem}.labels"] = found.labels
    np.savez(folder / "r.npz", **arrays)
    return folder


def changed(parts: Path, name: str, drop: int = 0, **more: np.ndarray) -> Path:
    """The recorded detections of the middle picture without their first rows, or otherwise changed."""
    with np.load(parts / "r.npz") as arrays:
        held = {key: value[drop:] if key.startswith("001.") else value for key, value in arrays.items()}
    np.savez(parts / name, **{**held, **more})
    return parts / name


def test_the_heads_of_a_raw_export(parts: Path) -> None:
    seen = []
    verdict = verify(parts / "m.onnx", parts / "pictures", on_picture=lambda *at: seen.append(at))
    assert verdict.ok
    assert "proves the rewriting, not the spec" in verdict.against
    assert [name for name, _ in verdict.reports] == ["000.png", "001.png", "002.png"]
    assert seen == [(1, 3), (2, 3), (3, 3)]
    total = verdict.total
    assert (total["missed"], total["extra"]) == (0, 0)
    assert total["matched"] == sum(report.matched for _, report in verdict.reports) > 10
    assert total["worst_px"] < 1e-3
    assert total["worst_iou"] > 0.999
    assert json.loads(json.dumps(verdict.to_json()))["total"] == total


@pytest.mark.parametrize("model", ["m.onnx", "m.edge"])
def test_recorded_detections(parts: Path, model: str) -> None:
    verdict = verify(parts / model, parts / "pictures", reference=parts / "r.npz")
    assert verdict.ok
    assert verdict.against == f"detections recorded in {parts / 'r.npz'}"
    assert (verdict.total["worst_px"], verdict.notes) == (0.0, ())


def test_a_detection_too_many(parts: Path) -> None:
    verdict = verify(parts / "m.onnx", parts / "pictures", reference=changed(parts, "fewer.npz", drop=1))
    assert not verdict.ok
    assert [len(report.extra) for _, report in verdict.reports] == [0, 1, 0]
    assert (verdict.worst.name, verdict.worst.report.extra, verdict.score_needed) == ("001.png", (0,), None)
    assert verdict.worst.image.shape == (48, 80, 3)
    assert len(verdict.worst.ours) == len(verdict.worst.wanted) + 1


def test_scores_that_are_a_little_off(parts: Path) -> None:
    with np.load(parts / "r.npz") as arrays:
        scores = arrays["001.scores"] + np.float32(3e-4)
    reference = changed(parts, "off.npz", **{"001.scores": scores})
    verdict = verify(parts / "m.edge", parts / "pictures", reference=reference)
    assert not verdict.ok
    assert verdict.score_needed == 5e-4
    assert verify(parts / "m.edge", parts / "pictures", reference=reference, score=5e-4).ok


def test_pictures_without_a_reference_are_left_out(parts: Path) -> None:
    rows = [{"bbox": [0, 0, 9, 9], "score": 0.5, "label": "thing_1"}]
    (parts / "one.json").write_text(json.dumps({"001.png": rows}))
    verdict = verify(parts / "m.edge", parts / "pictures", reference=parts / "one.json")
    assert [name for name, _ in verdict.reports] == ["001.png"]
    assert len(verdict.notes) == 1
    assert verdict.notes[0].startswith("2 of 3 pictures were left out: ")
    (parts / "none.json").write_text(json.dumps({"other.png": rows}))
    with pytest.raises(InputError, match=r"none\.json holds nothing of that name"):
        verify(parts / "m.edge", parts / "pictures", reference=parts / "none.json")


def test_nothing_found_proves_nothing(parts: Path) -> None:
    with pytest.raises(InputError, match="neither side finds anything in 3 pictures"):
        verify(parts / "m.onnx", parts / "pictures", overrides={"score_threshold": 1.0})


def test_what_does_not_go_together(parts: Path) -> None:
    pictures = parts / "pictures"
    with pytest.raises(UsageError, match="verify the ONNX it was built of"):
        verify(parts / "m.edge", pictures)
    with pytest.raises(UsageError, match="apply to an ONNX only"):
        verify(parts / "m.edge", pictures, reference=parts / "r.npz", family="torchvision")
    with pytest.raises(UsageError, match="give one of them"):
        verify(parts / "m.onnx", pictures, reference=parts / "r.npz", heads=True)
    for endless in ("0", "test://?frames=0"):
        with pytest.raises(UsageError, match="what never ends"):
            verify(parts / "m.onnx", endless)
    with pytest.raises(ModelError, match="cannot be read"):
        verify(parts / "no.onnx", pictures)
    with pytest.raises(InputError):
        verify(parts / "m.onnx", parts / "nothing")


def test_a_trainer_built_on_another() -> None:
    verdict = verify(FIXTURES / "deepforest_whole_ts.onnx", COFFEE)
    assert verdict.ok
    assert (verdict.source, verdict.total["matched"]) == ("original", 49)


def test_a_whole_export_against_its_own_postprocessing() -> None:
    verdict = verify(FIXTURES / "tv_v2_whole_ts.onnx", COFFEE)
    assert verdict.ok
    assert verdict.notes == ()
    assert "given image.1 [3, 180, 290]: RGB, 0..1" in verdict.against
    assert verdict.worst.image.shape == (180, 290, 3)
    assert verdict.total["matched"] == 34
    assert verdict.total["worst_score"] < 1e-5


def test_a_resize_that_rounds_otherwise_is_bridged_and_said() -> None:
    """The graph multiplies in float32 and makes 255 x 351 of 240 x 330; torchvision itself, and we, 256 x 352."""
    verdict = verify(FIXTURES / "tv_v1_whole_ts.onnx", COFFEE)
    assert verdict.ok
    assert "330x240 pictures are resized to 351x255 by the original, to 352x256 by edge-retina" in verdict.notes[0]
    assert "compared from the original's network input on" in verdict.notes[0]
    assert verdict.total["matched"] == 300


@pytest.mark.parametrize(
    ("overrides", "note"),
    [
        ({"nms_iou": 0.2}, None),
        ({"score_threshold": 0.9}, None),
        ({"max_detections": 1}, None),
        ({"mean": [80.0, 90.0, 100.0]}, "network inputs differ by up to"),
        ({"resize": "stretch", "shortest_side": None, "input_size": [192, 320]}, "to 320x192 by edge-retina"),
    ],
    ids=["nms", "threshold", "limit", "mean", "resize"],
)
def test_a_wrong_spec_is_found_out(overrides: dict[str, object], note: str | None) -> None:
    verdict = verify(FIXTURES / "tv_v2_whole_ts.onnx", COFFEE, overrides=overrides)
    assert not verdict.ok
    assert (note is None and not verdict.notes) or note in verdict.notes[0]


def test_a_wrong_mean_is_not_bridged() -> None:
    """Sizes a pixel apart are a matter of rounding; pixels of another mean are not."""
    wrong = {"mean": [0.0, 0.0, 0.0], "std": [255.0, 255.0, 255.0]}
    verdict = verify(FIXTURES / "tv_v1_whole_ts.onnx", COFFEE, overrides=wrong)
    assert not verdict.ok
    assert "compared from the original's network input on" not in " ".join(verdict.notes)
    assert "colour order" in verdict.against


def test_pictures_on_which_the_original_fails_are_left_out() -> None:
    """MLPerf's graph wants no fewer than 1000 candidates of every level, as in the picture it was traced on."""
    with pytest.raises(RuntimeFailure, match="fails in ONNX Runtime on a picture of 400x267; give recorded"):
        verify(FIXTURES / "mlperf_whole_ts.onnx", COFFEE)


def test_heads_though_there_is_postprocessing() -> None:
    verdict = verify(FIXTURES / "tv_v2_whole_ts.onnx", COFFEE, heads=True, overrides={"nms_iou": 0.2})
    assert verdict.ok  # of the spec nothing is proved
    assert verdict.worst.image.shape == (267, 400, 3)
