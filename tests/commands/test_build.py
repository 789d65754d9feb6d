"""The command line of build: what reaches the stages, what is refused before them, and what is said."""

from __future__ import annotations

import importlib
import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import click
import pytest
from click.testing import CliRunner, Result
from models import tiny_model, write_pictures

from edge_retina import read_bundle
from edge_retina.calibrate.histogram import METHODS
from edge_retina.commands.build import _accuracy_line, build_command, stages
from edge_retina.commands.plan import Planned
from edge_retina.errors import AccuracyLost, InputError, ModelError, UsageError
from edge_retina.quantize import EFFORTS, Recipe
from edge_retina.runtime import TARGETS

PIPELINE = importlib.import_module("edge_retina.build")


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    tiny_model(tmp_path / "m.onnx")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What build() was called with; it makes a plain bundle."""
    given: dict[str, Any] = {}
    real = PIPELINE.build

    def build(model: Path, out: Path, **options: Any) -> Any:
        given.update(model=model, out=out, **options)
        return real(model, out)

    monkeypatch.setattr(PIPELINE, "build", build)
    return given


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(build_command, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_nothing_but_a_model(asked):
    result = run("m.onnx")
    assert result.stdout == "m.edge\n"
    calls = {name: asked.pop(name) for name in ("on_stage", "on_step", "on_note")}
    assert all(map(callable, calls.values()))
    assert asked == {
        "model": Path("m.onnx"),
        "out": Path("m.edge"),
        "precision": "fp32",
        "frame_size": None,
        "family": None,
        "overrides": {},
        "calib": None,
        "calib_images": None,
        "calib_most": 512,
        "ranges": None,
        "recipe": None,
        "float_layers": (),
        "int8_share": 0.95,
        "annotations": None,
        "images": None,
        "max_ap_drop": None,
        "auto": False,
    }


OPTIONS: list[tuple[list[str], str, Any]] = [
    (["--calib-most", "7"], "calib_most", 7),
    (["--calib-images", "dir"], "calib_images", "dir"),
    (["--ranges", "old.edge"], "ranges", "old.edge"),
    (["--int8-method", "entropy"], "recipe", Recipe(method="entropy")),
    (["--int8-effort", "high"], "recipe", Recipe(effort="high")),
    (["--no-equalize"], "recipe", Recipe(equalize=False)),
    (["--no-scale-search"], "recipe", Recipe(search_scales=False)),
    (["--no-bias-correction"], "recipe", Recipe(correct_bias=False)),
    (["--float-layers", "*stem*", "--float-layers", "b"], "float_layers", ("*stem*", "b")),
    (["--int8-share", "0.5"], "int8_share", 0.5),
    (["--eval", "ann.json"], "annotations", Path("ann.json")),
    (["--eval", "ann.json", "--images", "dir"], "images", Path("dir")),
    (["--max-ap-drop", "0.005"], "max_ap_drop", 0.005),
    (["--max-ap-drop", "0", "--auto"], "auto", True),
    (["--frame-size", "640x480"], "frame_size", (480, 640)),
    (["--family", "own"], "family", "own"),
    (["-o", "out/x.edge"], "out", Path("out/x.edge")),
]


@pytest.mark.parametrize(("typed", "name", "wanted"), OPTIONS, ids=lambda v: v[-1] if isinstance(v, list) else None)
def test_every_option_gets_there(asked, typed, name, wanted):
    run("m.onnx", "--int8", "--calib", "in", *typed)
    assert (asked["precision"], asked["calib"]) == ("int8", "in")
    assert asked[name] == wanted


def test_a_spec_gets_there(asked):
    Path("spec.json").write_text(json.dumps({"nms_iou": 0.25}))
    run("m.onnx", "--fp16", "--spec", "spec.json")
    assert (asked["precision"], asked["overrides"], asked["recipe"]) == ("fp16", {"nms_iou": 0.25}, None)


def test_help_names_every_option():
    text = run("--help").stdout
    # Hidden are those for stderr, which the command line gives every command once it has loaded it.
    shown = [parameter for parameter in build_command.params if not getattr(parameter, "hidden", False)]
    for parameter in shown:
        if isinstance(parameter, click.Option):
            assert any(name in text for name in parameter.opts)
            assert parameter.help
    typed = {word for options, *_ in OPTIONS for word in options if word.startswith("--")}
    of_the_plan = {f"--{f.name.replace('_', '-')}" for f in fields(Planned)}  # tests/commands/test_plan.py types them
    known = {name for parameter in shown for name in parameter.opts}
    assert typed | of_the_plan | {"--int8", "--fp16", "--calib", "--spec", "--out", "-o", "model"} == known


def test_choices_are_those_of_the_library():
    choices = {p.name: tuple(p.type.choices) for p in build_command.params if isinstance(p.type, click.Choice)}
    assert choices == {"int8_method": tuple(METHODS), "int8_effort": EFFORTS, "target": TARGETS}
    assert Recipe().method == choices["int8_method"][0]
    assert Recipe().effort == choices["int8_effort"][0]


@pytest.mark.parametrize(
    ("typed", "message"),
    [
        (["--int8", "--fp16"], "exclude each other"),
        (["--calib", "in"], "--calib: calibration goes with --int8, or --fp16"),
        (["--images", "in"], "--images are the pictures of --eval"),
        (["--calib-images", "in"], "--calib-images are the pictures of --calib"),
        (["--max-ap-drop", "0.1", "--eval", "ann.json"], "--max-ap-drop is of what --int8 or --fp16 costs"),
        (["--fp16", "--ranges", "x"], "--ranges goes with --int8"),
        (["--fp16", "--float-layers", "x"], "--float-layers goes with --int8"),
        (["--fp16", "--auto"], "--auto goes with --int8"),
        (["--int8-share", "0.5"], "--int8-share goes with --int8"),
        (["--fp16", "--int8-share", "0.95"], "--int8-share goes with --int8"),  # a default, but asked for
        (["--int8-effort", "normal"], "--int8-effort goes with --int8"),
        (["--int8-method", "mse"], "--int8-method goes with --int8"),
        (["--calib-most", "512"], "--calib-most is how many pictures of --calib"),
        (["--fp16", "--calib-most", "7"], "--calib-most is how many pictures of --calib"),
        (["--no-equalize"], "--no-equalize goes with --int8"),
        (["--no-scale-search"], "--no-scale-search goes with --int8"),
        (["--no-bias-correction"], "--no-bias-correction goes with --int8"),
        (["--int8-method", "max"], "--int8-method goes with --int8"),
        (["--int8-effort", "high"], "--int8-effort goes with --int8"),
        (["--int8", "--calib", "in", "--auto"], "--auto returns layers to float until --max-ap-drop is met"),
    ],
)
def test_what_does_not_go_together(asked, typed, message):
    with pytest.raises(UsageError, match=message):
        run("m.onnx", *typed)
    assert asked == {}


@pytest.mark.parametrize(
    "typed",
    [
        ["--calib-most", "0"],
        ["--int8-share", "1.1"],
        ["--max-ap-drop", "-1"],
        ["--int8-method", "median"],
        ["--frame-size", "7"],
    ],
)
def test_values_out_of_range(asked, typed):
    result = run("m.onnx", "--int8", "--calib", "in", *typed)
    assert result.exit_code == 2
    assert typed[0] in result.stderr
    assert asked == {}


def test_what_is_said_of_an_int8_build(tmp_path):
    """The result alone on stdout; on stderr lines, and nothing of a progress bar where there is no terminal."""
    write_pictures(tmp_path / "in", 5)
    result = run("m.onnx", "--int8", "--calib", "in", "--frame-size", "64x64")
    assert result.stdout == "m.edge\n"
    *notes, what, accuracy, following = result.stderr.splitlines()
    assert any(note.startswith("calibration: 5 pictures are few, ") for note in notes)
    assert what.startswith("edge_retina, 3 classes, int8, any batch size, ")
    assert accuracy.startswith("int8 agrees with FP32 to 0.")
    assert "; 100.0% of the work in INT8 (no annotations were given: agreement with" in accuracy
    assert following == f"run it: edge-retina run {tmp_path / 'm.edge'} --camera 0"
    assert not set(result.stderr) & set("\x1b\r━⠋")
    assert read_bundle("m.edge").manifest.precision == "int8"
    again = run("m.onnx", "--int8", "--calib", "in", "--frame-size", "64x64")
    assert "ranges of m.edge reused: same model, preprocessing and pictures" in again.stderr.splitlines()
    before = Path("m.edge").read_bytes()
    with pytest.raises(AccuracyLost, match=r"Next: --auto, .*; --int8-effort high; or --float-layers NAME"):
        run("m.onnx", "--int8", "--calib", "in", "--frame-size", "64x64", "--max-ap-drop", "0")
    assert Path("m.edge").read_bytes() == before


def test_agreement_is_not_called_accuracy():
    assert _accuracy_line({}) == _accuracy_line({"measured": "nothing was found"}) == ""
    rest = {"int8_share": 0.9549, "float_layers": [], "disagreement": {}}
    agreed = {"measured": "no labels", "agreement": {"int8": {"AP": 0.99641}}, **rest}
    assert _accuracy_line(agreed) == "int8 agrees with FP32 to 0.9964; 95.5% of the work in INT8 (no labels)"
    halves = {"measured": "no labels", "agreement": {"fp16": {"AP": 1.0}}}
    assert _accuracy_line(halves) == "fp16 agrees with FP32 to 1.0000 (no labels)"
    labelled = {"measured": "40 pictures", "fp32": {"AP": 0.5}, "int8": {"AP": 0.49}, **rest}
    assert _accuracy_line(labelled) == "fp32 AP 0.5000, int8 AP 0.4900; 95.5% of the work in INT8 (40 pictures)"


@pytest.mark.parametrize("folder", [".", "..", "/", "models.onnx"])
def test_a_folder_is_no_model(folder):
    Path("models.onnx").mkdir()
    with pytest.raises(ModelError, match="wanted an ONNX file, found a folder; run: edge-retina build FOLDER"):
        run(folder)


def test_messages_name_the_options_of_build(tmp_path):
    write_pictures(tmp_path / "in", 1)
    with pytest.raises(UsageError, match=r"^--calib-images goes with a COCO json, found in; leave it out"):
        run("m.onnx", "--int8", "--calib", "in", "--calib-images", "in")
    Path("set.json").write_text('{"images": [{"file_name": "gone.png"}]}')
    with pytest.raises(InputError, match=r"gone\.png is not there; pass its folder with --calib-images"):
        run("m.onnx", "--int8", "--calib", "set.json")


def test_markup_in_names_is_not_read_as_such(capsys):
    with stages("[bold]m.onnx") as (on_stage, on_step, on_note):
        on_stage("[red]read")
        on_step(1, 2)
        on_note("[/] and a note of [bold]" + 200 * "x")
    assert capsys.readouterr().err == f"[/] and a note of [bold]{200 * 'x'}\n"
