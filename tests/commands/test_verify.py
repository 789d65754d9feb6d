"""`edge-retina verify` as people type it: a table or one JSON object, a picture of the worst frame, exit code 10."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
from click.testing import CliRunner, Result
from models import tiny_model, write_pictures

from edge_retina import Detector, build
from edge_retina.commands import verify as command
from edge_retina.errors import InputError, Mismatch, OutputError, SpecError, UsageError

Run = Callable[..., Result]


@pytest.fixture(scope="module")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model and its bundle, pictures, what it finds as right.npz, and that without the best of each as fewer.npz."""
    folder = tmp_path_factory.mktemp("parts")
    tiny_model(folder / "m.onnx")
    write_pictures(folder / "pictures", 3)
    arrays = {}
    with Detector.load(build(folder / "m.onnx").path) as detector:
        for path in sorted((folder / "pictures").iterdir()):
            found = detector(cv2.imread(str(path)))
            parts = {"boxes": found.xyxy, "scores": found.scores, "labels": found.labels}
            arrays |= {f"{path.name}.{key}": value for key, value in parts.items()}
    np.savez(folder / "right.npz", **arrays)
    np.savez(folder / "fewer.npz", **{key: value[1:] for key, value in arrays.items()})
    return folder


@pytest.fixture
def run(tmp_path: Path, parts: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """The command, typed in a copy of `parts`; errors of ours come out as they are."""
    shutil.copytree(parts, tmp_path / "here")
    monkeypatch.chdir(tmp_path / "here")

    def run(*arguments: object, catch: bool = False) -> Result:
        return CliRunner().invoke(command.verify_command, [str(a) for a in arguments], catch_exceptions=catch)

    return run


def test_all_well(run: Run) -> None:
    result = run("m.onnx", "--images", "pictures")
    assert result.exit_code == 0
    assert result.stdout.startswith("m.onnx against the heads of m.onnx, run as they are")
    rows = [[cell.strip() for cell in line.split("│")[1:-1]] for line in result.stdout.splitlines() if "│" in line]
    assert [row[0] for row in rows] == ["000.png", "001.png", "002.png", "all 3"]
    assert rows[-1][1] == str(sum(int(row[1]) for row in rows[:-1]))
    assert rows[-1][2:5] == ["0", "0", "0"]
    assert not Path("verify.png").exists()


def test_what_differs_is_drawn_and_told(run: Run) -> None:
    with pytest.raises(Mismatch, match=r"^m.edge: 0 detections missed and 3 extra in 3 of 3 pictures, .*verify\.png$"):
        run("m.edge", "--images", "pictures", "--reference", "fewer.npz")
    assert cv2.imread("verify.png").shape == (900 + 3 * 26, 900, 3)
    result = run("m.edge", "--images", "pictures", "--reference", "fewer.npz", "-o", "new/worst.jpg", catch=True)
    assert isinstance(result.exception, Mismatch)
    assert "new/worst.jpg: 0" in result.stdout
    assert Path("new/worst.jpg").read_bytes()[:2] == b"\xff\xd8"
    assert [path.name for path in Path("new").iterdir()] == ["worst.jpg"]


def test_scores_a_little_off_are_told(run: Run) -> None:
    with np.load("right.npz") as arrays:
        held = {key: value + np.float32(1.5e-4) if key.endswith("scores") else value for key, value in arrays.items()}
    np.savez("off.npz", **held)
    with pytest.raises(Mismatch, match=r"with --score 0\.0002 all of them match"):
        run("m.edge", "--images", "pictures", "--reference", "off.npz")
    assert run("m.edge", "--images", "pictures", "--reference", "off.npz", "--score", "0.0002").exit_code == 0


def test_a_picture_is_drawn_when_it_is_asked_for(run: Run) -> None:
    result = run("m.edge", "--images", "pictures", "--reference", "right.npz", "-o", "folder/")
    assert result.exit_code == 0
    assert Path("folder/verify.png").is_file()


def test_json(run: Run) -> None:
    facts = json.loads(run("m.edge", "--images", "pictures", "--reference", "right.npz", "--json").stdout)
    assert (facts["ok"], facts["model"], facts["overlay"], facts["px"]) == (True, "m.edge", None, 0.1)
    assert facts["total"]["matched"] == sum(picture["matched"] for picture in facts["pictures"])
    result = run("m.edge", "--images", "pictures", "--reference", "fewer.npz", "--json", catch=True)
    facts = json.loads(result.stdout)
    assert (facts["ok"], facts["total"]["extra"], facts["overlay"]) == (False, 3, "verify.png")


def test_many_pictures_are_summed_up(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(command, "_MOST_ROWS", 2)
    lines = run("m.onnx", "--images", "pictures").stdout
    assert "all 3, 1 not" in lines
    assert sum(f"00{number}.png" in lines for number in range(3)) == 2


@pytest.mark.parametrize(
    ("typed", "kind", "message"),
    [
        ("m.edge --images pictures", UsageError, "give recorded detections with --reference"),
        ("m.onnx --images pictures -o worst.txt", UsageError, r"-o wants a picture \(.*found worst\.txt"),
        ("m.onnx --images pictures -o pictures/001.png", UsageError, "is one of the pictures to look at"),
        ("m.onnx --images nothing", InputError, "nothing"),
        ("m.onnx --images pictures --reference no.npz", InputError, "No such file"),
        ("m.onnx --images pictures --spec m.onnx", SpecError, "wanted a spec as JSON"),
        ("m.onnx --images pictures -o m.onnx/v.png", OutputError, "cannot write"),
    ],
)
def test_what_does_not_go_together(run: Run, typed: str, kind: type[Exception], message: str) -> None:
    with pytest.raises(kind, match=message):
        run(*typed.split())
