"""The shipped model in FP16 and INT8 on all its test scenes: what the README says of their accuracy is so."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from edge_retina import Detector, build
from edge_retina.bundle import Bundle
from edge_retina.evaluate import average_precision, evaluate, read_coco
from edge_retina.stream import frames_at_once

ROOT = Path(__file__).resolve().parent.parent
DIGITS, CALIB = ROOT / "samples" / "digits", ROOT / "calib" / "digits"
TEST = DIGITS / "test"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Bundle]:
    folder = tmp_path_factory.mktemp("precisions")
    calib = {"fp16": None, "int8": CALIB}
    return {
        name: build(DIGITS / "digits.onnx", folder / f"{name}.edge", precision=name, calib=source)
        for name, source in calib.items()
    }


@pytest.fixture(scope="module")
def fp32_ap() -> Iterator[float]:
    """Of the PyTorch model, recorded; tests/test_digits.py holds the FP32 bundle to the same detections."""
    sys.path.insert(0, str(DIGITS))
    import evaluate as sample

    yield average_precision(read_coco(TEST / "annotations.json"), sample.load_results()[1])["AP"]
    sys.path.remove(str(DIGITS))


def ap(bundle: Bundle) -> float:
    with Detector.load(bundle.path, parallel=frames_at_once(TEST)) as detector:
        return evaluate(detector, read_coco(TEST / "annotations.json"), TEST).AP


def test_fp16_costs_next_to_nothing(built: dict[str, Bundle], fp32_ap: float) -> None:
    assert ap(built["fp16"]) == pytest.approx(fp32_ap, abs=0.001)


def test_int8_costs_little_with_nearly_all_work_in_int8(built: dict[str, Bundle], fp32_ap: float) -> None:
    facts = built["int8"].manifest.accuracy
    assert facts is not None
    assert facts["int8_share"] >= 0.9
    assert fp32_ap - ap(built["int8"]) <= 0.003


def test_the_bundles_are_small(built: dict[str, Bundle]) -> None:
    sizes = {name: len(bundle.model()) for name, bundle in built.items()}
    fp32 = (DIGITS / "digits.onnx").stat().st_size
    assert sizes["fp16"] < 0.6 * fp32
    assert sizes["int8"] < 0.4 * fp32
