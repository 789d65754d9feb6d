from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result

from edge_retina.commands.calib import calib_command
from edge_retina.errors import InputError, UsageError

VIDEO = "test://?frames=40&size=64x48"


@pytest.fixture(autouse=True)
def _folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "120")


def calib(*arguments: str) -> Result:
    result = CliRunner().invoke(calib_command, list(arguments))
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result


def test_nothing_to_pick_from() -> None:
    result = calib("pick")
    assert result.exit_code == 2
    assert "Missing option '--from'" in result.stderr


def test_help_names_the_options() -> None:
    result = calib("pick", "--help")
    for option in ("--from", "--count", "--out", "--seconds", "--every", "--overwrite", "--json", "--images"):
        assert option in result.stdout


def test_a_table_and_a_summary() -> None:
    result = calib("pick", "--from", VIDEO, "-n", "14", "-o", "set")
    assert (result.exit_code, result.stderr) == (0, "")
    listing = json.loads(Path("set/pick.json").read_text())
    for picture in listing["pictures"][:12]:
        assert f"│ {picture['file']} │ {picture['reason']}" in result.stdout
    for picture in listing["pictures"][12:]:
        assert picture["file"] not in result.stdout
    assert "and 2 more, in set/pick.json" in result.stdout
    assert "40 seen, " in result.stdout
    assert f"14 chosen\nsmallest distance between two of them: {listing['smallest_distance']:.2f}\n" in result.stdout
    assert "edge-retina build MODEL.onnx --int8 --calib set" in result.stdout
    assert "were wanted" not in result.stdout


def test_fewer_than_wanted_are_said_to_be() -> None:
    result = calib("pick", "--from", "test://?frames=1&size=64x48")
    assert "1 seen, 0 nearly the same as an earlier one, 0 black or blown out, 1 chosen" in result.stdout
    assert "256 were wanted; all 1 that differ were taken" in result.stdout
    assert Path("calib/frame-000000.png").is_file()


def test_json_is_what_the_file_holds() -> None:
    result = calib("pick", "--from", VIDEO, "-n", "3", "--json")
    assert json.loads(result.stdout) == json.loads(Path("calib/pick.json").read_text())
    assert result.stderr == ""


def test_a_second_time_wants_overwrite() -> None:
    calib("pick", "--from", VIDEO, "-n", "3")
    with pytest.raises(UsageError, match="calib is not empty"):
        calib("pick", "--from", VIDEO, "-n", "2")
    calib("pick", "--from", VIDEO, "-n", "2", "--overwrite")
    assert len(list(Path("calib").glob("*.png"))) == 2


def test_errors_pass_through() -> None:
    result = CliRunner().invoke(calib_command, ["pick", "--from", "nowhere"])
    assert isinstance(result.exception, InputError)
    assert str(result.exception).startswith("no such file or folder: nowhere")
    assert result.output == ""  # no line of a progress bar before the message
    with pytest.raises(UsageError, match=r"^--images goes with a COCO json"):
        calib("pick", "--from", VIDEO, "--images", ".")


def test_progress_is_for_a_terminal(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORCE_COLOR", "1")
    assert "writing" in calib("pick", "--from", VIDEO, "-n", "3", "--json").stderr
