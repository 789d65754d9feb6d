"""`edge-retina bench`, from files to what it prints."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner, Result
from fakes import fake_cuda, fake_tensorrt
from models import tiny_model, write_pictures

from edge_retina import build, errors
from edge_retina.commands.bench import bench_command

FRAMES = ("--source", "test://?size=80x64&frames=2")
QUICK = (*FRAMES, "--frames", "6", "--warm-up", "1", "--rounds", "3")


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("EDGE_RETINA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("edge_retina.plugin.missing", lambda *_: [("nvcc", "cuda-nvcc")])
    for name in ("tensorrt", "tensorrt_rtx"):
        monkeypatch.setitem(sys.modules, name, None)
    tiny_model(tmp_path / "m.onnx")
    return tmp_path / "m.onnx"


@pytest.fixture
def bundle(model: Path) -> Path:
    return build(model).path


def bench(*typed: object) -> Result:
    return CliRunner().invoke(bench_command, [str(word) for word in typed], catch_exceptions=False)


def told(*typed: object) -> dict[str, Any]:
    return json.loads(bench(*typed, "--json").stdout)  # type: ignore[no-any-return]


def test_nothing_to_time() -> None:
    result = bench()
    assert result.exit_code == 2
    assert "Missing argument" in result.stderr


def test_two_bundles_side_by_side(bundle: Path) -> None:
    shown = bench(bundle, bundle, *QUICK, "--target", "ort", "--layers").stdout
    first, second = (line for line in shown.splitlines() if " on ort: " in line)
    assert " x (" in second
    assert " x (" not in first
    for word in ("preprocess", "trunk", "decode + NMS", "end to end", "capture", "sinks", "stem", "memory: "):
        assert word in shown


def test_all_of_it_as_json(bundle: Path) -> None:
    found = told(bundle, *QUICK, "--batch", "1,2", "--target", "ort")
    one, two = found["configurations"]
    assert (one["batch"], one["frames"], two["batch"], two["frames"]) == (1, 6, 2, 12)
    assert one["precision"] == "fp32"
    assert one["p50_ms"] <= one["p90_ms"] <= one["p99_ms"] <= one["p99_9_ms"]
    assert two["speed"]["low"] <= two["speed"]["of"] <= two["speed"]["high"]
    assert found["ends"]["capture"]["p50_ms"] > 0
    assert found["ends"]["sinks"]["p50_ms"] > 0
    assert found["machine"]["cores_used"] >= 1
    profile = one["profile"]
    assert set(profile["stages"]) == {"preprocess", "trunk", "decode", "host"}
    assert sum(stage["share"] for stage in profile["stages"].values()) == pytest.approx(1, abs=0.002)
    assert {"stem + stem.relu", "frame/Resize_13"} & {layer["name"] for layer in profile["layers"]}


def test_into_files_and_never_into_a_bundle(bundle: Path, tmp_path: Path) -> None:
    whole = bundle.read_bytes()
    result = bench(*QUICK, "--json", bundle)
    assert result.exit_code == 2
    assert "wants FILE.json" in result.stderr
    assert bundle.read_bytes() == whole
    for value in (bundle, "", tmp_path):
        result = bench(bundle, *QUICK, "--report", value)
        assert result.exit_code == 2
        assert "wants FILE.html, found" in result.stderr
    (tmp_path / "folder.json").mkdir()
    assert "found the folder" in bench(bundle, *QUICK, "--json", tmp_path / "folder.json").stderr
    assert bundle.read_bytes() == whole
    assert "1<=x<=1024" in bench(bundle, "--threads", "100000").stderr
    shown = bench(bundle, *QUICK, "--target", "ort", "--no-profile", "--json", tmp_path / "out.json")
    found = json.loads((tmp_path / "out.json").read_text())
    assert found["configurations"][0]["profile"] is None
    assert " on ort: " in shown.stdout


def test_an_onnx_is_built_at_the_precisions_asked_for(model: Path, tmp_path: Path) -> None:
    pictures = write_pictures(tmp_path / "calib", 4)
    before = set(tmp_path.iterdir())
    found = told(model, *QUICK, "--precision", "fp32,int8", "--calib", pictures, "--target", "ort", "--no-profile")
    assert [row["precision"] for row in found["configurations"]] == ["fp32", "int8"]
    assert [row["name"] for row in found["configurations"]] == ["m.onnx fp32", "m.onnx int8"]
    assert set(tmp_path.iterdir()) <= before | {tmp_path / "cache"}


def test_a_bundle_for_one_frame_size_is_given_such_frames(model: Path) -> None:
    small = build(model, model.with_name("small.edge"), frame_size=(48, 64)).path
    found = told(small, "--frames", "2", "--warm-up", "0", "--target", "ort", "--no-profile")
    assert found["configurations"][0]["frame_size"] == [48, 64]


@pytest.mark.parametrize(
    ("typed", "error", "words"),
    [
        (("--precision", "fp8"), errors.UsageError, "--precision wants some of .*found 'fp8'"),
        (("--precision", "int8"), errors.UsageError, "INT8 wants calibration pictures: --calib"),
        (("--calib", "here"), errors.UsageError, "give an ONNX and --precision int8"),
        (("--source", "nowhere/"), errors.InputError, "no such file or folder"),
        (("--source", "test://?frames=0x"), errors.UsageError, "frames"),
        (("--source", ""), errors.UsageError, "source"),
        (("--json", "--out", "-"), errors.UsageError, "both go to stdout"),
    ],
)
def test_what_is_refused(model: Path, typed: tuple[str, ...], error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words):
        bench(model, *typed)


def test_a_sink_that_cannot_be_is_refused_before_the_work(model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("edge_retina.bench.models.find_models", lambda *_, **__: pytest.fail("already at work"))
    with pytest.raises(errors.UsageError, match="no sink understands"):
        bench(model, *QUICK, "--out", "weird.txt")
    with pytest.raises(errors.OutputError, match="cannot"):
        bench(model, *QUICK, "--out", "/proc/out.jsonl")


def test_a_bundle_that_is_not_there_or_of_another_precision(bundle: Path) -> None:
    with pytest.raises(errors.BundleError, match="nothere"):
        bench(bundle.with_name("nothere.edge"))
    with pytest.raises(errors.UsageError, match="is fp32 and stays so, found --precision int8"):
        bench(bundle, "--precision", "int8")
    (bundle.parent / "empty").mkdir()
    with pytest.raises(errors.InputError, match="wanted images"):
        bench(bundle, "--source", bundle.parent / "empty")


def test_a_batch_that_the_bundle_does_not_take(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from edge_retina.runtime.ort import OrtRuntime

    monkeypatch.setattr(OrtRuntime, "batch_most", 1)
    with pytest.raises(errors.UsageError, match="takes 1 frame in one run, found --batch 4"):
        bench(bundle, *FRAMES, "--batch", "1,4", "--target", "ort")
    assert "wants numbers from 1 to 64" in bench(bundle, "--batch", "0").stderr


def test_what_tensorrt_did_is_shown(bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt", fake_tensorrt.module("10.3.0"))
    typed = (bundle, *FRAMES, "--frames", "5", "--warm-up", "2")
    with fake_cuda.installed():
        (row,) = told(*typed)["configurations"]
        assert row["runtime"] == "tensorrt"
        assert row["frames"] == 5
        assert (row["counts"]["captured_launches"], row["counts"]["plain_launches"]) == (7, 1)
        assert set(row["profile"]["stages"]) == {"upload", "preprocess", "trunk", "decode", "download"}
        shown = bench(*typed).stdout
    assert "7 graph launches, 1 piece by piece, 1 captures, 2 allocations" in shown
    assert "upload" in shown
