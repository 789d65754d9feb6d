"""Options that several commands share."""

from __future__ import annotations

import json

import click
import pytest

from edge_retina.commands.options import blanks, frame_size, read_spec
from edge_retina.errors import SpecError


def size(value):
    return frame_size(click.Context(click.Command("x")), click.Option(["--frame-size"]), value)


def test_nothing():
    assert size(None) is None
    assert read_spec(None) == {}


@pytest.mark.parametrize(
    ("text", "wanted"), [("640x480", (480, 640)), ("1X2", (2, 1)), ("16384x16384", (16384, 16384)), ("007x8", (8, 7))]
)
def test_width_comes_first(text, wanted):
    assert size(text) == wanted


@pytest.mark.parametrize(
    "text", ["", "x", "640", "640x", "x480", "640x480x3", "0x480", "640x0", "-640x480", "6.5x4", "²x5", "640 x 480"]
)
def test_other_sizes(text):
    with pytest.raises(click.BadParameter, match="wants WIDTHxHEIGHT, such as 640x480"):
        size(text)


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_spec(tmp_path, wrapped):
    fields = {"nms_iou": 0.25, "labels": ["é"]}
    path = tmp_path / "spec.json"
    path.write_text(json.dumps({"spec": fields, "kind": "onnx"} if wrapped else fields), encoding="utf-8")
    assert read_spec(str(path)) == fields


@pytest.mark.parametrize("content", [None, b"", b"{", b"[" * 100_000, b"\xff", b"[1]", b"7", b'{"spec": 7}', b"null"])
def test_no_spec(tmp_path, content):
    path = tmp_path / "spec.json"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SpecError, match=f"{path}: wanted a"):
        read_spec(str(path))


def test_what_was_started_is_to_be_filled_in(tmp_path):
    fields = {"mean": None, "std": [1, 1, 1], "shortest_side": None, "heads": {"trunk_input": None, "logits": ["a"]}}
    assert blanks(fields) == ("mean", "heads.trunk_input")
    assert blanks({}) == blanks({"shortest_side": None, "heads": None}) == ()
    path = tmp_path / "spec.json"
    path.write_text(json.dumps(fields))
    with pytest.raises(SpecError, match=r"still to be filled in, .*: mean, heads\.trunk_input \(null now"):
        read_spec(str(path))
