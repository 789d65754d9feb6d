from __future__ import annotations

import json
import runpy
import sys
from pathlib import Path

import pytest

pytest.importorskip("matplotlib", reason="the plots need matplotlib: pip install 'edge-retina[digits]'")

import cv2

SCRIPT = Path(__file__).parents[2] / "samples" / "digits" / "curve.py"
HISTORY = [
    {"step": 20, "elapsed": 10.0, "classification": 1.0, "regression": 0.5, "lr": 0.001},
    {"step": 30, "elapsed": 15.0, "ap": 0.2},
    {"step": 40, "elapsed": 20.0, "classification": 0.5, "regression": 0.2, "lr": 0.001},
    {"step": 50, "elapsed": 25.0, "ap": 0.4, "ap50": 0.6},
]
ROW = {"ap": 0.5, "aps": -1, "apm": 0.6, "apl": 0.7}
ABLATION = {
    "budget": {"steps": 10, "batch": 8, "size": [192, 192]},
    "rows": [{"gamma": 0.0, "alpha": None, **ROW}, {"gamma": 2.0, "alpha": 0.25, **ROW}],
}


def run(monkeypatch: pytest.MonkeyPatch, folder: Path) -> None:
    places = ["--history", str(folder / "h.json"), "--ablation", str(folder / "a.json"), "--out", str(folder)]
    monkeypatch.setattr(sys, "argv", [str(SCRIPT), *places])
    runpy.run_path(str(SCRIPT), run_name="__main__")


def test_nothing_to_draw(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    run(monkeypatch, tmp_path)
    out, err = capsys.readouterr()
    assert out == ""
    assert "so no curve.png" in err
    assert "so no ablation.png" in err


def test_two_pictures(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "h.json").write_text(json.dumps({"options": {}, "history": HISTORY}))
    (tmp_path / "a.json").write_text(json.dumps(ABLATION))
    run(monkeypatch, tmp_path)
    assert capsys.readouterr().out == f"{tmp_path / 'curve.png'}\n{tmp_path / 'ablation.png'}\n"
    for name in ("curve.png", "ablation.png"):
        picture = cv2.imread(str(tmp_path / name))
        assert picture is not None
        assert picture.shape[1] > 800
        assert picture.mean() > 200  # on a light ground
    before = (tmp_path / "curve.png").read_bytes()
    run(monkeypatch, tmp_path)
    assert (tmp_path / "curve.png").read_bytes() == before
