from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest
from coco_sets import write_set

pytest.importorskip("torch", reason="training needs PyTorch: pip install 'edge-retina[train]'")

SCRIPT = Path(__file__).parents[2] / "samples" / "digits" / "ablation.py"


def run(monkeypatch: pytest.MonkeyPatch, folder: Path, *arguments: str) -> None:
    budget = ["--train", "6", "--val", "2", "--steps", "2", "--batch", "2", "--size", "32x64"]
    places = ["--data", str(folder / "set"), "--work", str(folder / "work"), "--out", str(folder / "ablation.json")]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *places, *budget, *arguments])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_too_few_scenes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_set(tmp_path / "set", 7)
    with pytest.raises(SystemExit, match=r"wanted 6 \+ 2 scenes, found 7"):
        run(monkeypatch, tmp_path)


def test_each_loss_has_a_row(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_set(tmp_path / "set", 9)
    run(monkeypatch, tmp_path, "--only", "ce", "--only", "focal-2")
    table = capsys.readouterr().out.splitlines()
    assert table[0].startswith("| loss | gamma | alpha | AP | AP50 |")
    assert table[2].startswith("| cross entropy | 0 | none | 0.")
    assert table[3].startswith("| focal loss | 2 | 0.25 | 0.")
    found = json.loads((tmp_path / "ablation.json").read_text())
    wanted = {"train": 6, "val": 2, "steps": 2, "batch": 2, "seed": 0, "size": [32, 64], "model": "narrow"}
    assert found["budget"] == wanted
    assert [(row["key"], row["steps"]) for row in found["rows"]] == [("ce", 2), ("focal-2", 2)]
    (work,) = (tmp_path / "work").iterdir()
    assert len(json.loads((work / "train.json").read_text())["images"]) == 6
    val = json.loads((work / "val.json").read_text())
    assert [image["id"] for image in val["images"]] == [8, 9]
    assert {row["image_id"] for row in val["annotations"]} <= {8, 9}
    # Again: nothing is left to train.
    run(monkeypatch, tmp_path, "--only", "ce", "--only", "focal-2")
    assert json.loads((tmp_path / "ablation.json").read_text()) == found
