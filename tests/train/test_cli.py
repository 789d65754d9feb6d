from __future__ import annotations

import re
import sys
from importlib.util import find_spec
from pathlib import Path

import onnx
import pytest
from click.testing import CliRunner, Result
from coco_sets import write_set

from edge_retina.errors import EdgeRetinaError, InputError, MissingPackage, UsageError
from edge_retina.train.cli import train_command


def invoke(*arguments: object) -> Result:
    return CliRunner().invoke(train_command, [str(a) for a in arguments])


def failure(result: Result) -> str:
    """The one line that main() shows."""
    assert isinstance(result.exception, EdgeRetinaError), result.exception
    assert result.stdout == ""
    assert "\n" not in str(result.exception)
    return str(result.exception)


def test_help_needs_no_torch() -> None:
    result = invoke("--help")
    assert result.exit_code == 0
    for option in ("--pretrained", "--optimizer", "--beta", "--steps", "--size WxH", "--resume"):
        assert option in result.stdout


def test_data_and_out_are_needed() -> None:
    assert invoke().exit_code == 2


@pytest.mark.parametrize("package", ["torch", "onnxscript", "faster_coco_eval"])
def test_missing_packages(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    for name in ("torch", "onnxscript", "faster_coco_eval"):
        monkeypatch.setitem(sys.modules, name, None if name == package else sys)
    result = invoke("--data", "x", "--out", "y.onnx")
    assert isinstance(result.exception, MissingPackage)
    assert failure(result) == f"training needs {package}; run: pip install 'edge-retina[train]'"


@pytest.mark.parametrize("size", ["320", "320x", "x320", "axb", "32x32x32", "-32x32", "3²x32"])
def test_malformed_sizes(size: str) -> None:
    result = invoke("--data", "x", "--out", "y.onnx", "--size", size)
    assert isinstance(result.exception, UsageError)
    assert failure(result) == f"--size wants WIDTHxHEIGHT, such as 320x320, found {size!r}"


@pytest.mark.parametrize(
    ("option", "value"), [("--flip", "1.5"), ("--colour", "-1"), ("--loss", "hinge"), ("--optimizer", "lion")]
)
def test_values_out_of_range(option: str, value: str) -> None:
    result = invoke("--data", "x", "--out", "y.onnx", option, value)
    assert result.exit_code == 2
    assert option in result.stderr


needs_torch = pytest.mark.skipif(
    not all(find_spec(name) for name in ("torch", "onnxscript", "faster_coco_eval")),
    reason="training needs PyTorch: pip install 'edge-retina[train]'",
)
SHORT = ("--steps", 2, "--batch", 2, "--size", "96x64", "--workers", 0, "--device", "cpu")


@needs_torch
def test_from_pictures_to_onnx(tiny: str, squares: Path, tmp_path: Path) -> None:
    import torch

    torch.set_num_threads(1)
    out = tmp_path / "m.onnx"
    result = invoke("--data", squares, "--out", out, "--model", tiny, *SHORT, "--optimizer", "sgd", "--beta", 0.2)
    assert result.exception is None
    assert result.stdout == f"{out}\n"
    assert re.search(r"^epoch 0  step 2  validation AP 0\..* AR100 0\.\d+$", result.stderr, re.MULTILINE)
    (images,) = onnx.load(out).graph.input
    assert [d.dim_value for d in images.type.tensor_type.shape.dim][1:] == [3, 64, 96]
    again = invoke("--data", squares, "--out", out, "--model", tiny, *SHORT, "--optimizer", "sgd", "--resume")
    assert (again.exception, again.stdout) == (None, f"{out}\n")


@needs_torch
def test_ctrl_c_says_how_to_go_on(tiny: str, squares: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_retina.train import loop

    def interrupted(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(loop, "retinanet_loss", interrupted)
    result = invoke("--data", squares, "--out", tmp_path / "m.onnx", "--model", tiny, *SHORT)
    assert result.exit_code != 0
    assert "m.pt holds this run; go on with the same command and --resume\n" in result.stderr
    assert (tmp_path / "m.pt").is_file()
    refused = invoke("--data", squares, "--out", tmp_path / "m.onnx", "--model", tiny, *SHORT)
    assert "--overwrite" in failure(refused)
    again = invoke("--data", squares, "--out", tmp_path / "m.onnx", "--model", tiny, *SHORT, "--overwrite")
    assert "go on with the same command and --resume in place of --overwrite\n" in again.stderr


@needs_torch
def test_too_few_pictures_to_validate_on_are_mentioned(tiny: str, tmp_path: Path) -> None:
    data = write_set(tmp_path / "few", 3)
    result = invoke("--data", data, "--out", tmp_path / "m.onnx", "--model", tiny, *SHORT)
    assert result.exception is None
    assert result.stderr.count("fewer than 20 pictures, so none is held out and no AP reported; give --val") == 1


@needs_torch
@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        (("--model", "vgg"), UsageError, "unknown model 'vgg'; use one of resnet18, "),
        (("--size", "100x100"), UsageError, "input size wants multiples of 32, found 100x100"),
        (("--resume",), InputError, "no checkpoint to resume from; leave out --resume"),
        (("--pretrained", "gone.pth"), InputError, "gone.pth: wanted a PyTorch state dict"),
        (("--data", "gone.json"), InputError, "gone.json: wanted COCO annotations"),
        (("--device", "cuda:77"), UsageError, "--device cuda:77: PyTorch has no such device"),
        (("--lr", "0"), UsageError, "lr wants a number above 0"),
        (("--resume", "--overwrite"), UsageError, "resume and overwrite"),
    ],
)
def test_errors_are_one_line(
    squares: Path, tmp_path: Path, arguments: tuple[str, ...], error: type[Exception], message: str
) -> None:
    result = invoke("--data", squares, "--out", tmp_path / "m.onnx", *arguments)
    assert isinstance(result.exception, error)
    assert message in failure(result)
    assert result.stderr == ""  # no empty progress bar
    assert list(tmp_path.iterdir()) == []
