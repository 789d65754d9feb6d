"""What the README tells people to type is typed here."""

from __future__ import annotations

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import rtx

ROOT = Path(__file__).resolve().parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
DIGITS = ROOT / "samples" / "digits"


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, re.DOTALL | re.MULTILINE)


@pytest.fixture(scope="module")
def clone(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A folder like a clone after `make demo`, with a user's own files in it."""
    folder = tmp_path_factory.mktemp("clone")
    os.environ["EDGE_RETINA_CACHE"] = str(folder / "cache")
    (folder / "samples").symlink_to(ROOT / "samples")
    shutil.copy(DIGITS / "digits.onnx", folder / "model.onnx")
    shutil.copy(DIGITS / "pan.mp4", folder / "video.mp4")
    _few_pictures(folder)
    (folder / "demo-out").mkdir()
    run(folder, ["edge-retina", "build", "model.onnx", "-o", "demo-out/digits.edge"])
    yield folder
    del os.environ["EDGE_RETINA_CACHE"]


def _few_pictures(folder: Path) -> None:
    """A calibration set and annotated pictures of the digits sample, few of each: the commands are tested, not INT8."""
    (folder / "calib" / "digits").mkdir(parents=True)
    for path in sorted((ROOT / "calib" / "digits").glob("*.jpg"))[:8]:
        shutil.copy(path, folder / "calib" / "digits")
    truth = json.loads((DIGITS / "test" / "annotations.json").read_bytes())
    truth["images"] = truth["images"][:8]
    kept = {image["id"] for image in truth["images"]}
    truth["annotations"] = [row for row in truth["annotations"] if row["image_id"] in kept]
    (folder / "annotations.json").write_text(json.dumps(truth))
    for image in truth["images"]:
        shutil.copy(DIGITS / "test" / image["file_name"], folder)


def run(folder: Path, words: list[str], code: int = 0) -> subprocess.CompletedProcess[str]:
    if words[0] == "edge-retina":
        words = [sys.executable, "-m", "edge_retina", *words[1:]]
    done = subprocess.run(words, cwd=folder, capture_output=True, text=True, timeout=300, check=False)
    assert done.returncode == code, f"{words}\n{done.stdout}\n{done.stderr}"
    return done


def test_first_screen_has_the_two_commands_the_picture_and_the_three_lines():
    first = "\n".join(README.splitlines()[:28])
    for needed in ("make demo", "make test", "docs/demo.png", "from edge_retina import Detector"):
        assert needed in first
    assert (ROOT / "docs" / "demo.png").is_file()


def test_links_lead_somewhere():
    for target in re.findall(r"\]\(([^)#:]+)\)", README):
        assert (ROOT / target).exists(), target


@pytest.mark.parametrize("code", blocks("python"), ids=lambda code: code.strip().splitlines()[-1][:40])
def test_python_blocks_run(clone, code):
    # The whole video would take a while and show nothing more.
    code = code.replace('.stream("samples/digits/pan.mp4")', '.stream("samples/digits/pan.mp4", max_frames=5)')
    done = run(clone, [sys.executable, "-c", code])
    assert done.stdout


COMMANDS = [
    line.split("#")[0].strip()
    for block in blocks("sh")
    for line in block.splitlines()
    if line.startswith("edge-retina") and "train" not in line
]


@pytest.mark.parametrize("command", COMMANDS)
def test_commands_run(clone, command):
    words = shlex.split(command)
    if words[1] == "run":
        words += ["--max-frames", "3"]
    if "--camera" in words:
        # No camera here: the message must say so, with the exit code of an input error.
        done = run(clone, [*words, "--out", "camera.jsonl"], code=3)
        assert "camera" in done.stderr
        assert "Traceback" not in done.stderr
        return
    if "tensorrt_rtx" in words:
        rtx.interpreter()
    run(clone, words)


def test_every_command_of_the_readme_was_seen():
    assert len(COMMANDS) == 17
    assert len(blocks("python")) == 2


def test_project_file_of_the_readme_is_understood(tmp_path):
    from edge_retina.project import read_project

    (tmp_path / "labels.txt").write_text("cat\ndog\n")
    (tmp_path / "edge-retina.toml").write_text(blocks("toml")[0])
    project = read_project(tmp_path)
    assert project is not None
    assert project.labels == ("cat", "dog")
    assert project.model == tmp_path / "model.onnx"
    assert project.precision == "fp32"


def test_exit_codes_are_those_of_the_error_classes():
    from edge_retina import errors

    listed = dict(re.findall(r"(\d+) (\w+)", README.split("Exit codes:")[1].split("\n\n")[0]))
    for cls, word in {
        errors.UsageError: "usage",
        errors.InputError: "input",
        errors.ModelError: "model",
        errors.BundleError: "bundle",
        errors.OutputError: "output",
        errors.RuntimeFailure: "runtime",
        errors.MissingPackage: "package",
        errors.AccuracyLost: "accuracy",
        errors.Mismatch: "detections",
        errors.FaultFound: "the",
    }.items():
        assert listed[str(cls.exit_code)] == word
