"""Options from a file: what run does with them, and that a message never repeats what is secret."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import click
import pytest
from models import tiny_model

from edge_retina import build
from edge_retina.commands.run import run_command
from edge_retina.errors import UsageError

SECRET = "rtsp://user:hunter2@10.0.0.5/1"


def values(path: Path, *typed: str) -> dict[str, object]:
    """What `run --config path ...` would be called with."""
    return run_command.make_context("run", ["--config", str(path), *typed]).params


@pytest.fixture
def config(tmp_path: Path) -> Path:
    return tmp_path / "run.toml"


def test_an_empty_file_changes_nothing(config):
    config.write_text("")
    assert values(config, "--camera", "0") == run_command.make_context("run", ["--camera", "0"]).params


def test_every_kind_of_option(config):
    config.write_text(
        'bundle = "a.edge"\nsource = ["front=' + SECRET + '", "b.mp4"]\nout = "x.jsonl"\nmin-score = 0.5\nthreads = 2\n'
        'track = true\nplugin = false\nlargest-frame = "640x480"\nline = ["gate=0,50%,100%,50%"]\n[service]\nx = 1\n'
    )
    found = values(config)
    assert found["bundle"] == Path("a.edge")
    assert found["sources"] == (f"front={SECRET}", "b.mp4")
    assert found["outs"] == ("x.jsonl",)
    assert (found["min_score"], found["threads"], found["track"], found["plugin"]) == (0.5, 2, True, False)
    assert (found["largest_frame"], found["lines"]) == ((480, 640), ("gate=0,50%,100%,50%",))


def test_what_is_typed_wins(config):
    config.write_text('bundle = "a.edge"\nmin-score = 0.5\nsource = ["a.mp4"]\n')
    found = values(config, "b.edge", "--min-score", "0.1", "--source", "b.mp4")
    assert (found["bundle"], found["min_score"], found["sources"]) == (Path("b.edge"), 0.1, ("b.mp4",))


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("sources = []", "unknown key 'sources'"),
        ("config = 'x'", "unknown key 'config'"),
        ("track = 1", "track wants true or false"),
        ("min-score = true", "min-score wants text or a number"),
        ("min-score = [0.1, 0.2]", "wants one value, found 2"),
        ("source = [[]]", "source wants text or a number"),
        (f"source = '{SECRET}", "wanted TOML"),
        ("source = 1\nsource = 2", "wanted TOML"),
    ],
)
def test_what_makes_no_sense_is_named_without_its_value(config, text, wanted):
    config.write_text(text)
    with pytest.raises(UsageError, match=wanted) as raised:
        values(config)
    assert str(config) in str(raised.value)
    assert "hunter2" not in str(raised.value)


def test_values_are_checked_as_typed_ones_are(config):
    config.write_text("min-score = 2\n")
    with pytest.raises(click.UsageError, match="0<=x<=1"):
        values(config)


@pytest.mark.parametrize("make", [lambda path: None, lambda path: path.mkdir(), lambda path: path.write_bytes(b"\xff")])
def test_a_file_that_is_none(config, make):
    make(config)
    with pytest.raises(UsageError, match=r"run\.toml"):
        values(config)


def test_run_takes_its_secrets_from_a_file_only_it_can_read(config, tmp_path):
    tiny_model(tmp_path / "m.onnx")
    build(tmp_path / "m.onnx")
    config.write_text('source = "front=test://?frames=3&size=64x48"\nout = "o.jsonl"\n')
    config.chmod(0o600)
    words = [sys.executable, "-m", "edge_retina", "run", "--config", str(config), "--target", "ort"]
    done = subprocess.run(words, cwd=tmp_path, capture_output=True, text=True, timeout=120, check=False, env=os.environ)
    assert done.returncode == 0, done.stderr
    assert len((tmp_path / "o.jsonl").read_text().splitlines()) == 3
