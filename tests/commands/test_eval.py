"""`edge-retina eval` as people type it: tables or one JSON object on stdout, progress on stderr, errors with codes."""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from coco_sets import write_set
from models import tiny_model

from edge_retina import build, errors
from edge_retina.accuracy import average_precision, read_coco
from edge_retina.commands import eval as command
from edge_retina.detector import Detector

DIGITS = Path(__file__).resolve().parents[2] / "samples" / "digits"
PICTURES = 6
FIGURES = ["AP", "AP50", "AP75", "APs", "APm", "APl", "AR100"]

Run = Callable[..., Result]


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two tiny detectors that differ, one with other labels, and a set with pictures; to copy from."""
    folder = tmp_path_factory.mktemp("parts")
    labels = {"labels": ("square", "bar", "third")}
    for name, seed, fields in (("m", 0, labels), ("n", 1, labels), ("things", 0, {})):
        tiny_model(folder / f"{name}.onnx", seed=seed, spec_overrides=fields)
        build(folder / f"{name}.onnx")
    write_set(folder / "set", PICTURES)
    return folder


@pytest.fixture
def run(tmp_path: Path, parts: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command, typed in a copy of `parts`; errors of ours come out as they are."""
    shutil.copytree(parts, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: object) -> Result:
        return CliRunner().invoke(command.eval_command, [str(a) for a in arguments], catch_exceptions=False)

    return run


def cells(text: str) -> list[list[str]]:
    """The rows of all tables in it."""
    return [[cell.strip() for cell in line.split("│")[1:-1]] for line in text.splitlines() if line.startswith("│")]


def loaded(result: Result) -> dict[str, Any]:
    assert result.exit_code == 0
    found: dict[str, Any] = json.loads(result.stdout)
    return found


# What does not go together


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        ("m.edge", "wants annotations, --coco ann.json, or pictures"),
        ("m.edge n.edge", "wants annotations, --coco ann.json, or pictures"),
        ("m.edge n.edge --images set --source set", "one of --source URI and --images DIR"),
        ("m.edge --source set", "held against the first one, found m.edge alone"),
        ("m.edge n.edge --source 0", "a camera does not give twice"),
        ("m.edge n.edge --source test://?frames=0", "never ends; say how many frames to look at: --max-frames"),
        ("m.edge --coco set --source set", "leave out --source and --max-frames"),
        ("m.edge --coco set --max-frames 3", "leave out --source and --max-frames"),
        ("m.edge things.edge --source set", "m.edge knows square, bar, third; things.edge knows thing_0"),
        ("m.edge things.edge --coco two.json", "of square, bar; the model knows thing_0, thing_1, thing_2"),
    ],
)
def test_usage(run: Run, typed: str, message: str) -> None:
    shutil.copy("set/annotations.json", "two.json")
    for picture in Path("set").glob("*.png"):
        shutil.copy(picture, picture.name)
    with pytest.raises(errors.UsageError, match=message.replace("?", r"\?")):
        run(*typed.split())


@pytest.mark.parametrize(
    ("typed", "error", "message"),
    [
        ("no.onnx --coco set", errors.ModelError, "no.onnx"),
        ("no.edge --coco set", errors.BundleError, "no.edge"),
        ("m.edge --coco no.json", errors.InputError, "no.json"),
        ("m.edge n.edge --source nothing", errors.InputError, "no such file or folder: nothing"),
        ("m.edge --coco set --images .", errors.InputError, "0.png is not there .6 of 6 pictures are missing"),
    ],
)
def test_what_is_missing_is_named(run: Run, typed: str, error: type[Exception], message: str) -> None:
    with pytest.raises(error, match=message):
        run(*typed.split())


def test_no_model(run: Run) -> None:
    result = run("--coco", "set")
    assert result.exit_code == 2
    assert "MODEL" in result.stderr


def test_the_missing_extra_is_known_before_the_pictures_are_looked_at(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faster_coco_eval", None)
    monkeypatch.setattr(Detector, "load", None)
    with pytest.raises(errors.MissingPackage, match="pip install faster-coco-eval"):
        run("m.edge", "n.edge", "--source", "set")


# With annotations


def test_json(run: Run) -> None:
    facts = loaded(run("m.edge", "n.onnx", "--coco", "set", "--json", "--threads", "1"))
    assert facts.keys() == {"models", "annotations"}
    assert facts["annotations"] == "set"
    assert [(m["path"], m["precision"]) for m in facts["models"]] == [("m.edge", "fp32"), ("n.onnx", "fp32")]
    truth = read_coco(Path("set/annotations.json"))
    for name, model in zip("mn", facts["models"], strict=True):
        with Detector.load(f"{name}.edge") as detector:
            assert model["digest"] == detector.bundle.digest
            rows = []
            for image in truth["images"]:
                found = detector(cv2.imread(f"set/{image['file_name']}")).to_coco(image["id"], (3, 7, -1))
                rows += [row for row in found if row["category_id"] > 0]
        assert {k: model["accuracy"][k] for k in FIGURES} == average_precision(truth, rows)
        assert (model["accuracy"]["images"], model["accuracy"]["objects"]) == (PICTURES, 5)
        assert model["accuracy"]["per_class"].keys() == {"square", "bar"}
        assert model["seconds"] > 0


def test_tables(run: Run) -> None:
    result = run("m.edge", "n.edge", "--coco", "set/annotations.json")
    assert result.exit_code == 0
    assert "5 objects in 6 pictures of set/annotations.json" in result.stdout
    rows = cells(result.stdout)
    assert [row[0] for row in rows[:7]] == FIGURES
    assert {row[0] for row in rows[7:]} == {"square", "bar"}
    for _, first, second, change in rows:
        if "-" not in (first, second):
            assert abs(float(second) - float(first) - float(change)) < 0.00011
    for heading in ("m.edge fp32", "n.edge fp32", "change", "AP per class"):
        assert heading in result.stdout
    assert result.stderr == ""


def test_one_model_has_no_change(run: Run) -> None:
    result = run("m.edge", "--coco", "set")
    assert "change" not in result.stdout
    assert {len(row) for row in cells(result.stdout)} == {2}


def test_models_of_one_name_bear_their_folders(run: Run) -> None:
    Path("old").mkdir()
    shutil.copy("n.edge", "old/m.edge")
    result = run("m.edge", "old/m.edge", "--coco", "set")
    assert "old/m.edge fp32" in result.stdout


def test_the_worst_classes_or_all(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_WORST_CLASSES", 1)
    few = run("m.edge", "n.edge", "--coco", "set")
    every = run("m.edge", "n.edge", "--coco", "set", "--all-classes")
    assert "AP per class, the worst 1 of 2" in few.stdout
    assert cells(every.stdout)[:8] == cells(few.stdout)
    assert len(cells(every.stdout)) == 9


def test_a_bundle_is_known_by_its_content(run: Run) -> None:
    Path("m.edge").rename("m.bin")
    Path("m.onnx").rename("m.model")
    first, second = loaded(run("m.bin", "m.model", "--coco", "set", "--json"))["models"]
    assert first["digest"] == second["digest"]
    assert first["accuracy"] == second["accuracy"]


def test_nothing_is_left_behind(run: Run) -> None:
    before = sorted(Path.cwd().rglob("*"))
    assert run("m.onnx", "--coco", "set").exit_code == 0
    assert sorted(Path.cwd().rglob("*")) == before


def test_pictures_elsewhere(run: Run) -> None:
    facts = loaded(run("m.edge", "--coco", "set", "--json"))
    shutil.move("set/annotations.json", "ann.json")
    elsewhere = loaded(run("m.edge", "--coco", "ann.json", "--images", "set", "--json"))
    assert elsewhere["models"][0]["accuracy"] == facts["models"][0]["accuracy"]


# Without annotations


@pytest.fixture
def confident(run: Run) -> Run:
    """Pictures of noise, on which the tiny detectors are sure of something."""
    rng = np.random.default_rng(0)
    Path("noise").mkdir()
    for number in range(4):
        cv2.imwrite(f"noise/{number}.png", rng.integers(0, 256, (64, 64, 3), np.uint8))
    return run


@pytest.mark.parametrize("option", ["--source", "--images"])
def test_a_model_agrees_with_itself(confident: Run, option: str) -> None:
    facts = loaded(confident("m.edge", "m.onnx", "n.edge", option, "noise", "--json"))
    assert facts["annotations"] is None
    assert (facts["source"], facts["reference"]) == ("noise", "m.edge")
    first, same, other = (model["accuracy"] for model in facts["models"])
    assert first == same
    assert (first["AP"], first["images"]) == (1, 4)
    assert first["objects"] == other["objects"] > 0
    assert other["AP"] < 0.5


def test_agreement_says_that_it_is_no_accuracy(confident: Run) -> None:
    result = confident("m.edge", "n.edge", "--source", "noise")
    assert "no annotations, so this is no accuracy but agreement with what m.edge detects" in result.stdout
    assert cells(result.stdout)[0][:2] == ["AP", "1.0000"]
    assert result.stderr == ""


def test_only_so_many_frames(confident: Run) -> None:
    facts = loaded(confident("m.edge", "m.edge", "--source", "noise/*.png", "--max-frames", "2", "--json"))
    assert [model["accuracy"]["images"] for model in facts["models"]] == [2, 2]


# The real thing


def test_digits(tmp_path: Path) -> None:
    truth = read_coco(DIGITS / "test" / "annotations.json")
    truth["images"] = truth["images"][:6]
    ids = {image["id"] for image in truth["images"]}
    truth["annotations"] = [a for a in truth["annotations"] if a["image_id"] in ids]
    (tmp_path / "a.json").write_text(json.dumps(truth))
    typed = [DIGITS / "digits.onnx", "--coco", tmp_path / "a.json", "--images", DIGITS / "test", "--json"]
    found = loaded(CliRunner().invoke(command.eval_command, [str(a) for a in typed], catch_exceptions=False))
    accuracy = found["models"][0]["accuracy"]
    assert accuracy["objects"] == len(truth["annotations"])
    assert accuracy["AP"] > 0.65
    assert accuracy["AP50"] > 0.85
