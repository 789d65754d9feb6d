from __future__ import annotations

import json
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs PyTorch: pip install 'edge-retina[train]'")

from edge_retina.errors import UsageError
from edge_retina.train.options import TrainOptions


def options(**values: object) -> TrainOptions:
    return TrainOptions(**{"data": Path("set"), "out": Path("runs/m.onnx"), **values})


def test_defaults() -> None:
    plain = options()
    assert (plain.peak_lr, plain.decay) == (2e-3, 0.05)
    assert (plain.checkpoint, plain.history) == (Path("runs/m.pt"), Path("runs/m.history.json"))


def test_sgd_has_the_rates_of_the_paper() -> None:
    assert (options(optimizer="sgd").peak_lr, options(optimizer="sgd").decay) == (0.01, 1e-4)
    assert (options(optimizer="sgd", lr=0.5).peak_lr, options(weight_decay=0.0).decay) == (0.5, 0.0)


def test_to_dict_is_json() -> None:
    plain = json.loads(json.dumps(options(alpha=None).to_dict()))
    assert (plain["data"], plain["lr"], plain["alpha"], plain["size"]) == ("set", 2e-3, None, [320, 320])
    assert plain["augmentation"] == {"flip": 0.5, "scale": 0.5, "colour": 0.5}


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"preset": "resnet19"}, "unknown model 'resnet19'; use one of resnet18, "),
        ({"optimizer": "adam"}, "unknown optimizer 'adam'; use one of adamw, sgd"),
        ({"epochs": 0}, "epochs wants a number above 0"),
        ({"steps": 0}, "steps wants"),
        ({"minutes": 0.0}, "minutes wants"),
        ({"lr": -1.0}, "lr wants"),
        ({"lr": float("nan")}, "lr wants"),
        ({"batch": 0}, "batch wants"),
        ({"gamma": -0.5}, "gamma wants 0 or more"),
        ({"gamma": float("nan")}, "gamma wants 0 or more"),
        ({"beta": -0.1}, "beta wants"),
        ({"workers": -1}, "workers wants"),
        ({"seed": -1}, "seed wants"),
        ({"batch": 1, "size": (128, 96)}, "batch 1 wants a size above 128 pixels"),
        ({"alpha": 1.5}, "alpha wants 0 to 1"),
        ({"resume": True, "overwrite": True}, "resume and overwrite"),
        ({"out": Path("a.json")}, r"out wants a name that ends in \.onnx, found a\.json"),
        ({"out": Path()}, "out wants a name"),
    ],
)
def test_values_that_make_no_sense(values: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        options(**values)


@pytest.mark.parametrize(
    ("out", "values", "found"),
    [
        ("m.onnx", {"pretrained": "m.pt"}, r"pretrained \S*m\.pt is a file that this run writes; give another --out"),
        ("m.onnx", {"pretrained": "sub/../m.onnx"}, "pretrained"),
        ("m.onnx", {"data": "m.history.json"}, "data"),
        ("m.onnx", {"val": "m.history.json"}, "val"),
        ("m.onnx", {"val": "link.json"}, "val"),
        ("m.onnx", {"data": "folder"}, r"data \S*annotations\.json"),
    ],
)
def test_what_is_read_is_not_written_over(tmp_path: Path, out: str, values: dict[str, str], found: str) -> None:
    (tmp_path / "link.json").symlink_to(tmp_path / "m.history.json")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "annotations.json").symlink_to(tmp_path / "m.history.json")
    with pytest.raises(UsageError, match=found):
        options(out=tmp_path / out, **{name: tmp_path / value for name, value in values.items()})
