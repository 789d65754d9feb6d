"""How far heads are from those of the float model: by hand on models changed in one known way."""

from __future__ import annotations

import cv2
import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from models import rewritten, tiny_model, write_pictures
from onnx import numpy_helper

from edge_retina.boxes import anchor_boxes, decode, sigmoid, to_anchor_rows
from edge_retina.check import head_names, head_session
from edge_retina.disagreement import Reference, disagreement, references
from edge_retina.spec import DetectorSpec
from edge_retina.types import U8


@pytest.fixture(scope="module")
def tiny() -> tuple[onnx.ModelProto, DetectorSpec]:
    return rewritten(tiny_model()[0])


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[U8]:
    folder = write_pictures(tmp_path_factory.mktemp("pictures"), 3)
    return [cv2.imread(str(path)) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def wanted(tiny, frames) -> list[Reference]:
    return references(*tiny, frames)


def changed(model: onnx.ModelProto, name: str, change) -> onnx.ModelProto:
    """A copy with one initializer changed."""
    copy = onnx.ModelProto()
    copy.CopyFrom(model)
    tensor = next(t for t in copy.graph.initializer if t.name == f"model/{name}")
    tensor.CopyFrom(numpy_helper.from_array(np.float32(change(numpy_helper.to_array(tensor))), tensor.name))
    return copy


def scores_of(model: onnx.ModelProto, spec: DetectorSpec, frame: U8) -> np.ndarray:
    """Every score of a frame, in any order."""
    heads = head_session(model.SerializeToString(), spec).run(head_names(spec), {"frames": frame[None]})
    return np.concatenate([sigmoid(head).ravel() for head in heads[: spec.num_levels]]).astype(np.float64)


def test_no_frames(tiny):
    model, spec = tiny
    assert references(model, spec, []) == []
    assert disagreement(model, spec, [], []) == 0.0


def test_other_frames_than_the_references(tiny, frames, wanted):
    with pytest.raises(ValueError, match="zip"):
        disagreement(*tiny, frames[:1], wanted)


def test_the_same_model(tiny, frames, wanted):
    assert disagreement(*tiny, frames, wanted) == 0.0


def test_what_a_reference_holds(tiny, frames, wanted):
    """Every score above 0.05, at least the 100 best; the weight is the sum of their squares."""
    model, spec = tiny
    for frame, reference in zip(frames, wanted, strict=True):
        scores = np.sort(scores_of(model, spec, frame))[::-1]
        counted = max(int((scores > 0.05).sum()), 100)
        assert reference.counted.sum() == counted
        assert reference.weight == pytest.approx(np.square(scores[:counted]).sum(), rel=1e-5)
        assert len(reference.pairs) == max(int((scores > 0.005).sum()), 100)
        assert len(reference.boxes) == len(reference.anchors) == len(reference.trust)


def test_all_scores_lost(tiny, frames, wanted):
    """|was - 0| * was over all pairs known, by the same over those that count; boxes are the same."""
    model, spec = tiny
    blind = changed(model, "classes.bias", lambda bias: bias - 50)
    squares = [np.square(r.scores.astype(np.float64)).sum() for r in wanted]
    expected = sum(squares) / sum(r.weight for r in wanted)
    assert disagreement(blind, spec, frames, wanted) == pytest.approx(expected, rel=1e-5)
    assert expected == pytest.approx(1.0, abs=0.02)


def test_all_boxes_lost(tiny, frames, wanted):
    """Nothing overlaps: 1 times the squared best score of every anchor that counts."""
    model, spec = tiny
    astray = changed(model, "boxes.bias", lambda bias: bias + np.tile([9, 9, 0, 0], len(bias) // 4))
    expected = sum(np.square(r.trust).sum() for r in wanted) / sum(r.weight for r in wanted)
    assert disagreement(astray, spec, frames, wanted) == pytest.approx(expected, rel=1e-5)


def test_invented_scores_count(tiny, frames, wanted):
    """All scores become 1: of each of P pairs (1 - was) * 1."""
    model, spec = tiny
    seeing = changed(model, "classes.bias", lambda bias: bias + 100)
    expected = sum((1 - scores_of(model, spec, frame)).sum() for frame in frames) / sum(r.weight for r in wanted)
    # References forget scores below 0.005, and take them for 0.
    assert disagreement(seeing, spec, frames, wanted) == pytest.approx(expected, rel=2e-3)


def test_nothing_detected(tiny, frames):
    """Scores far below every threshold: the 100 best are the measure then."""
    model, spec = tiny
    quiet = changed(model, "classes.bias", lambda bias: bias - 10)
    wanted = references(quiet, spec, frames)
    assert disagreement(quiet, spec, frames, wanted) == 0.0
    quieter = changed(quiet, "classes.bias", lambda bias: bias - 1)
    assert 0.5 < disagreement(quieter, spec, frames, wanted) < 1.0


def test_scores_of_exactly_zero(tiny, frames):
    """sigmoid(-200) is 0 in float32; nothing to divide by."""
    model, spec = tiny
    dead = changed(model, "classes.bias", lambda bias: bias - 200)
    wanted = references(dead, spec, frames)
    assert [r.weight for r in wanted] == [0.0] * 3
    assert disagreement(dead, spec, frames, wanted) == 0.0


def test_boxes_without_area(tiny, frames):
    """Widths of exp(-40): two sides are one number in float32, and still the same model is the same."""
    model, spec = tiny
    thin = changed(model, "boxes.bias", lambda bias: bias + np.tile([0, 0, -40, -40], len(bias) // 4))
    wanted = references(thin, spec, frames)
    assert (wanted[0].boxes[:, 0] == wanted[0].boxes[:, 2]).any()
    assert disagreement(thin, spec, frames, wanted) == 0.0


def test_fewer_pairs_than_a_hundred(frames):
    """One class, one level of 2x2 cells: 12 pairs."""
    model, spec = rewritten(tiny_model(classes=1, input_size=(16, 16), levels=1)[0])
    wanted = references(model, spec, frames)
    assert [len(r.pairs) for r in wanted] == [12] * 3
    assert disagreement(model, spec, frames, wanted) == 0.0


@given(st.sampled_from(["stem.weight", "down_1.weight", "classes.weight", "boxes.weight"]), st.integers(0, 9))
@settings(max_examples=8, deadline=None)
def test_grows_with_noise(name, seed):
    """Ten times the noise on a weight disagrees more; a little noise only a little."""
    model, spec = rewritten(tiny_model()[0])
    rng = np.random.default_rng(seed)
    frames = [cv2.resize(rng.integers(0, 256, (12, 12, 3), dtype=np.uint8), (64, 64)) for _ in range(2)]
    wanted = references(model, spec, frames)

    def noisy(size: float) -> float:
        noise = np.random.default_rng(seed)
        other = changed(model, name, lambda w: w * (1 + size * noise.standard_normal(w.shape)))
        return disagreement(other, spec, frames, wanted)

    little, more, much = (noisy(size) for size in (0.003, 0.03, 0.3))
    assert 0 < little < more < much
    assert little < 0.05


@pytest.mark.parametrize("more", [{"box_coding": "corner"}, {"inclusive_pixels": True}], ids=str)
def test_boxes_are_those_that_the_model_means(tiny, frames, more):
    """Of the reference and of what is held against it: as boxes.detect decodes them."""
    model, spec = tiny[0], tiny[1].override("user", **more)
    (found, *_), (plain, *_) = references(model, spec, frames[:1]), references(*tiny, frames[:1])
    heads = head_session(model.SerializeToString(), spec).run(head_names(spec), {"frames": frames[0][None]})
    levels = range(spec.num_levels)
    rows = [to_anchor_rows(heads[spec.num_levels + i][0], len(spec.cell_anchors[i])) for i in levels]
    anchors = np.concatenate([anchor_boxes(spec, i) for i in levels])
    boxes = decode(np.concatenate(rows), anchors, spec.delta_weights, spec.max_log_scale, spec.box_coding)
    np.testing.assert_array_equal(found.boxes, boxes[found.anchors])
    assert not np.allclose(found.boxes, plain.boxes)
    assert disagreement(model, spec, frames[:1], [found]) == 0
