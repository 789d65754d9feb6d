"""The command line of sensitivity: layers in order of what they cost, as a table and as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from models import hard_model, write_pictures

from edge_retina.commands.sensitivity import sensitivity_command
from edge_retina.errors import InputError, ModelError

LAYERS = ["stem", "narrow", "wide", "down_1", "logits_0", "deltas_0"]


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")
    hard_model(tmp_path / "m.onnx")
    write_pictures(tmp_path / "in", 4)


def run(*arguments: str) -> Result:
    result = CliRunner().invoke(sensitivity_command, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_nothing_to_calibrate_on():
    result = run("m.onnx")
    assert result.exit_code == 2
    assert "Missing option '--calib'" in result.stderr


def test_help_names_the_options():
    text = run("--help").stdout
    for parameter in sensitivity_command.params[1:]:
        if not parameter.hidden:  # those for stderr, which the command line gives every command
            assert parameter.opts[0] in text


def test_json_and_table_say_the_same():
    found = run("m.onnx", "--calib", "in", "--frames", "2", "--json")
    data = json.loads(found.stdout)
    assert (data["model"], data["pictures"]) == ("m.onnx", 4)
    rows = data["layers"]
    assert sorted(row["layer"] for row in rows) == sorted(LAYERS)
    assert [row["disagreement"] for row in rows] == sorted((row["disagreement"] for row in rows), reverse=True)
    assert {row["layer"]: row["convolutions"] for row in rows} == {n: 2 if n.endswith("_0") else 1 for n in LAYERS}
    assert sum(row["share"] for row in rows) == pytest.approx(1, abs=1e-5)
    assert found.stderr == "calibration: 4 pictures are few, wanted 100 to 1000; " + (
        "run: edge-retina calib pick --from VIDEO -n 256 -o calib/\n"
    )
    shown = run("m.onnx", "--calib", "in", "--frames", "2", "--top", "4").stdout
    order = [line.split("│")[1].split() for line in shown.splitlines() if line.startswith("│")]
    assert [name for (name,) in order] == [row["layer"] for row in rows[:4]]
    assert f"{rows[0]['disagreement']:.4f}" in shown
    assert shown.endswith("2 more layers cost less: --top 6\n")


def test_other_sources(tmp_path):
    """A COCO json with its pictures elsewhere; a frame size; fields of the spec."""
    images = [{"id": i, "file_name": f"{i:03d}.png"} for i in range(3)]
    Path("ann.json").write_text(json.dumps({"images": images}))
    Path("spec.json").write_text(json.dumps({"resize": "stretch"}))
    result = run(
        *("m.onnx", "--calib", "ann.json", "--calib-images", "in", "--calib-most", "2", "--frames", "1", "--json"),
        *("--frame-size", "32x48", "--spec", "spec.json"),
    )
    assert json.loads(result.stdout)["pictures"] == 2
    assert "2 of 2 pictures were resized to 32x48" in result.stderr


def test_errors_pass_through():
    with pytest.raises(InputError, match="no such file or folder: nowhere"):
        run("m.onnx", "--calib", "nowhere")
    with pytest.raises(ModelError, match=r"none\.onnx: cannot be read"):
        run("none.onnx", "--calib", "in")
