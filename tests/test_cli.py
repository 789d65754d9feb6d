"""The command as people type it: results on stdout, one message on stderr, exit codes, signals, pipes and terminals."""

from __future__ import annotations

import contextlib
import json
import os
import pty
import re
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import cv2
import numpy as np
import onnx
import pytest
from models import tiny_model, write_pictures

from edge_retina import build, cli
from edge_retina.project import FILE, Project, read_project

COMMAND = [sys.executable, "-m", "edge_retina"]
FRAMES = "test://?frames=3&size=64x64"
ENDLESS = "test://?frames=0&size=64x64"


class Result(NamedTuple):
    code: int
    out: str
    err: str


Run = Callable[..., Result]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty project folder, where the command is typed; no display."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    return tmp_path


@pytest.fixture
def edge_retina(folder: Path, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Iterator[Run]:
    """The command, in this process; what it prints goes through the real file descriptors."""
    before = signal.getsignal(signal.SIGTERM)

    def run(*arguments: object) -> Result:
        capfd.readouterr()
        monkeypatch.setattr(sys, "argv", ["edge-retina", *map(str, arguments)])
        with pytest.raises(SystemExit) as caught:
            cli.main()
        assert isinstance(caught.value.code, int)
        return Result(caught.value.code, *capfd.readouterr())

    yield run
    signal.signal(signal.SIGTERM, before)


@pytest.fixture(scope="session")
def parts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with m.onnx and m.edge to copy from."""
    folder = tmp_path_factory.mktemp("parts")
    tiny_model(folder / "m.onnx")
    build(folder / "m.onnx")
    return folder


@pytest.fixture
def model(folder: Path, parts: Path) -> Path:
    (folder / "m.onnx").write_bytes((parts / "m.onnx").read_bytes())
    return folder / "m.onnx"


@pytest.fixture
def bundle(folder: Path, parts: Path) -> Path:
    (folder / "m.edge").write_bytes((parts / "m.edge").read_bytes())
    return folder / "m.edge"


def names_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def lines_of(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def after_target(error: str) -> str:
    """What stderr says after the line that names the runtime, which depends on the machine."""
    return re.sub(r"^running on [^\n]*\n", "", error)


def assert_one_message(result: Result, code: int, *parts: str) -> None:
    assert result.code == code, result
    assert result.out == ""
    assert after_target(result.err).startswith("edge-retina: ")
    assert after_target(result.err).count("\n") == 1
    assert "Traceback" not in result.err
    for part in parts:
        assert part in result.err


# Nothing given


def test_no_command_says_where_to_begin(edge_retina: Run) -> None:
    result = edge_retina()
    assert (result.code, result.out) == (2, "")
    assert "edge-retina build model.onnx " in result.err
    assert re.search(r"^  Look +inspect, report, .*doctor", result.err, re.MULTILINE)
    assert "edge-retina COMMAND --help" in result.err


@pytest.mark.parametrize(
    "command", ["build", "run", "inspect", "train", "demo", "eval", "calib", "sensitivity", "report", "verify"]
)
def test_each_command_has_help(edge_retina: Run, command: str) -> None:
    result = edge_retina(command, "--help")
    assert (result.code, result.err) == (0, "")
    assert f"Usage: edge-retina {command}" in result.out


def test_version(edge_retina: Run) -> None:
    assert edge_retina("--version").out.startswith("edge-retina, version ")


@pytest.mark.parametrize(
    "typed", ["fly", "build --frame-size 640", "build --frame-size ²x5", "run --min-score 2", "inspect", "inspect a b"]
)
def test_click_complains_in_its_own_words(edge_retina: Run, typed: str) -> None:
    result = edge_retina(*typed.split())
    assert (result.code, result.out) == (2, "")
    assert "Error: " in result.err


# build in a project folder


def test_build_in_an_empty_folder(edge_retina: Run, folder: Path) -> None:
    result = edge_retina("build")
    assert_one_message(result, 2, "which model? Wanted one in edge-retina.toml or the only *.onnx", "no .onnx file")
    assert names_in(folder) == []


def test_build_the_only_model(edge_retina: Run, model: Path) -> None:
    result = edge_retina("build")
    assert (result.code, result.out) == (0, f"{model.with_suffix('.edge')}\n")
    assert "3 classes, fp32, any batch size" in result.err
    assert f"run it: edge-retina run {model.with_suffix('.edge')} --camera 0" in result.err
    # No terminal, no questions.
    assert names_in(model.parent) == ["m.edge", "m.onnx"]


def test_build_among_several(edge_retina: Run, model: Path) -> None:
    (model.parent / "a.onnx").touch()
    assert_one_message(edge_retina("build"), 2, "found a.onnx, m.onnx; run: edge-retina build MODEL.onnx")
    assert edge_retina("build", "m.onnx").out == "m.edge\n"


def test_build_elsewhere(edge_retina: Run, model: Path) -> None:
    assert edge_retina("build", model.name, "-o", "out/x.edge", "--frame-size", "64x48").out == "out/x.edge\n"
    facts = json.loads(edge_retina("inspect", "out/x.edge", "--json").out)
    assert facts["frame_size"] == [48, 64]


def test_int8_wants_pictures(edge_retina: Run, model: Path) -> None:
    assert_one_message(edge_retina("build", "--int8"), 2, "INT8 wants calibration pictures: --calib FOLDER")
    assert_one_message(edge_retina("build", "--int8", "--fp16"), 2, "exclude each other")
    assert names_in(model.parent) == ["m.onnx"]


def test_the_project_file_decides(edge_retina: Run, model: Path) -> None:
    (model.parent / "a.onnx").touch()
    (model.parent / FILE).write_text('model = "m.onnx"\nbundle = "out/x.edge"\nlabels = ["a", "b", "c"]\n')
    result = edge_retina("build")
    assert (result.code, result.out) == (0, f"{model.parent / 'out/x.edge'}\n")
    result = edge_retina("run", "--source", FRAMES, "--json", "--min-score", 0)
    names = {row["name"] for line in lines_of(result.out) for row in line["detections"]}
    assert names
    assert names <= {"a", "b", "c"}


def test_labels_alone_in_the_project_file(edge_retina: Run, model: Path) -> None:
    # Once they were passed over where the file named no model.
    (model.parent / FILE).write_text('labels = ["a", "b", "c"]\n')
    edge_retina("build")
    assert json.loads(edge_retina("inspect", "m.edge", "--json").out)["spec"]["labels"] == ["a", "b", "c"]


def test_labels_without_a_model_are_for_the_only_one(edge_retina: Run, model: Path) -> None:
    (model.parent / FILE).write_text('labels = ["a", "b", "c"]\n')
    for typed, wanted in (("m.onnx", "a"), ("./m.onnx", "a")):
        edge_retina("build", typed)
        assert json.loads(edge_retina("inspect", "m.edge", "--json").out)["spec"]["labels"][0] == wanted
    (model.parent / "other.onnx").write_bytes(model.read_bytes())
    edge_retina("build", "m.onnx")
    assert json.loads(edge_retina("inspect", "m.edge", "--json").out)["spec"]["labels"][0] == "thing_0"


def test_options_that_would_do_nothing(edge_retina: Run, model: Path, bundle: Path) -> None:
    assert_one_message(edge_retina("build", "--calib", "in/"), 2, "--calib: calibration goes with --int8, or --fp16")
    assert_one_message(edge_retina("build", "--calib", "in/", "--int8"), 3, "no such file or folder: in/")
    assert_one_message(edge_retina("build", "--images", "in/"), 2, "--images are the pictures of --eval")
    for option in (("--ranges", "m.edge"), ("--float-layers", "*"), ("--auto",)):
        assert_one_message(edge_retina("build", "--fp16", *option), 2, f"{option[0]} goes with --int8")
    (model.parent / "spec.json").write_text("{}")
    for option in (("--family", "own"), ("--spec", "spec.json")):
        assert_one_message(edge_retina("inspect", "m.edge", *option), 2, "m.edge: --family and --spec", "an ONNX only")
    (model.parent / FILE).write_text('model = "m.onnx"\ncalibration = "in/"\n')
    assert edge_retina("build").code == 0


def test_what_inspect_says_is_a_spec(edge_retina: Run, model: Path) -> None:
    facts = json.loads(edge_retina("inspect", "m.onnx", "--json").out)
    facts["spec"]["labels"] = ["a", "b", "c"]
    write_spec(model.parent, json.dumps(facts))
    assert edge_retina("build", "--spec", "spec.json").code == 0
    spec = json.loads(edge_retina("inspect", "m.edge", "--json").out)["spec"]
    assert {**spec, "origins": 0} == {**facts["spec"], "origins": 0}
    write_spec(model.parent, '{"spec": []}')
    assert_one_message(
        edge_retina("build", "--spec", "spec.json"), 4, "wanted a JSON object of spec fields, found list"
    )


def test_a_target_that_is_no_bundle_stays(edge_retina: Run, model: Path) -> None:
    for name, text in (("notes.txt", "mine"), ("x.zip", "PK\x03\x04 mine")):
        (model.parent / name).write_text(text)
        assert_one_message(edge_retina("build", "-o", name), 2, f"{name}: is there and is no bundle", "another name")
        assert (model.parent / name).read_text() == text


def test_another_model_than_the_projects(edge_retina: Run, model: Path) -> None:
    text = 'model = "a.onnx"\nbundle = "a.edge"\nlabels = ["x"]\n'
    (model.parent / FILE).write_text(f'{text}precision = "int8"\n')
    assert edge_retina("build", "m.onnx").out == "m.edge\n"
    (model.parent / FILE).write_text(text)
    assert_one_message(edge_retina("build"), 4, "a.onnx: cannot be read: No such file")


def test_a_project_for_int8(edge_retina: Run, model: Path) -> None:
    (model.parent / FILE).write_text('model = "m.onnx"\nprecision = "int8"\n')
    assert_one_message(edge_retina("build"), 2, "INT8 wants calibration pictures")
    (model.parent / FILE).write_text('model = "m.onnx"\nprecision = "int8"\ncalibration = "in/"\n')
    assert_one_message(edge_retina("build"), 3, "no such file or folder")


def test_a_broken_project_file(edge_retina: Run, model: Path) -> None:
    (model.parent / FILE).write_text("model = ")
    for command in (("build",), ("run", "--camera", "0")):
        assert_one_message(edge_retina(*command), 2, f"{FILE}: cannot be read")


# Bad input


def write_spec(folder: Path, text: str) -> None:
    (folder / "spec.json").write_text(text)


def test_bad_models(edge_retina: Run, folder: Path, model: Path, bundle: Path) -> None:
    (folder / "empty.onnx").touch()
    (folder / "cut.onnx").write_bytes(model.read_bytes()[:5000])
    (folder / "folder.onnx").mkdir()
    assert_one_message(edge_retina("build", "none.onnx"), 4, "none.onnx: cannot be read: No such file")
    assert_one_message(edge_retina("build", "folder.onnx"), 4, "wanted an ONNX file, found a folder")
    assert_one_message(edge_retina("build", "empty.onnx"), 4, "empty.onnx: wanted an ONNX model")
    assert_one_message(edge_retina("build", "cut.onnx"), 4, "cut.onnx: ")
    assert_one_message(edge_retina("build", bundle, "-o", "x.edge"), 4, "a bundle is run with: edge-retina run")
    assert_one_message(edge_retina("build", model, "-o", model), 2, "the bundle would replace the model")
    assert_one_message(edge_retina("build", model, "-o", "empty.onnx/x.edge"), 6, "cannot be written")
    assert_one_message(edge_retina("build", model, "-o", "/proc/x.edge"), 6, "cannot be written")
    assert_one_message(edge_retina("build", model, "--family", "yolo"), 2, "unknown family 'yolo'")
    assert names_in(folder) == ["cut.onnx", "empty.onnx", "folder.onnx", "m.edge", "m.onnx"]


def test_bad_specs(edge_retina: Run, folder: Path, model: Path) -> None:
    for text in ("", "[]", "{", '{"colour": 1}', '{"labels": ["a"]}', '{"mean": 1}', "[" * 100_000):
        write_spec(folder, text)
        assert_one_message(edge_retina("build", "--spec", "spec.json"), 4)
    assert_one_message(edge_retina("build", "--spec", "none.json"), 4, "none.json: wanted a spec as JSON, found:")


def test_a_graph_without_metadata_is_described(edge_retina: Run, folder: Path) -> None:
    proto, spec = tiny_model()
    del proto.metadata_props[:]
    onnx.save(proto, folder / "m.onnx")
    assert_one_message(edge_retina("build"), 4, "no RetinaNet heads found", "--spec spec.json: family, labels")
    assert_one_message(edge_retina("inspect", "m.onnx"), 4, "no RetinaNet heads found")
    write_spec(folder, spec.to_json())
    assert edge_retina("build", "--spec", "spec.json").code == 0
    assert json.loads(edge_retina("inspect", "m.edge", "--json").out)["spec"]["origins"]["mean"] == "user"


def test_bad_runs(edge_retina: Run, folder: Path, model: Path) -> None:
    (folder / "empty.png").touch()
    assert_one_message(
        edge_retina("run", "--camera", "0"), 2, "which bundle? Wanted one in edge-retina.toml or the only"
    )
    assert_one_message(edge_retina("run", "m.onnx", "--camera", "0"), 5, "this is an ONNX; build it first")
    assert_one_message(edge_retina("run", "none.edge", "--camera", "0"), 5, "no such file; make it: edge-retina build")
    edge_retina("build")
    assert_one_message(edge_retina("run"), 2, "run wants one of --camera N and --source URI")
    assert_one_message(edge_retina("run", "--camera", "77"), 3, "no camera at /dev/video77")
    assert_one_message(edge_retina("run", "--source", "none.mp4"), 3, "no such file or folder: none.mp4")
    assert_one_message(edge_retina("run", "--source", "empty.png"), 3, "found an empty file")
    assert_one_message(edge_retina("run", "--source", "ftp://x"), 2, "no source understands")
    assert_one_message(edge_retina("run", "--source", FRAMES, "--out", "x.doc"), 2, "no sink understands")
    assert_one_message(edge_retina("run", "--source", FRAMES, "--out", "empty.png/x.jsonl"), 6, "cannot write")
    assert_one_message(edge_retina("run", "--source", FRAMES, "--out", "/proc/x.jsonl"), 6, "cannot write")
    (folder / "b.edge").touch()
    assert_one_message(edge_retina("run", "--camera", "0"), 2, "found b.edge, m.edge")
    assert names_in(folder) == ["b.edge", "empty.png", "m.edge", "m.onnx"]


def test_an_unexpected_error(edge_retina: Run, bundle: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise ZeroDivisionError("oh")

    monkeypatch.setattr("edge_retina.detector.Detector.load", fail)
    result = edge_retina("run", "--source", FRAMES)
    assert_one_message(result, 1, "unexpected ZeroDivisionError: oh; set EDGE_RETINA_TRACEBACK=1 to see where")
    monkeypatch.setenv("EDGE_RETINA_TRACEBACK", "1")
    monkeypatch.setattr(sys, "argv", ["edge-retina", "run", "--source", FRAMES])
    with pytest.raises(ZeroDivisionError):
        cli.main()


# run


def test_run_prints_a_line_a_frame(edge_retina: Run, bundle: Path) -> None:
    result = edge_retina("run", "--source", FRAMES, "--min-score", "0.99")
    assert (result.code, result.out) == (0, "0: nothing\n1: nothing\n2: nothing\n")
    assert after_target(result.err).startswith("3 frames, 0 detections, ")
    result = edge_retina("run", "--source", FRAMES, "--max-frames", 1, "--min-score", 0)
    assert result.out.startswith("0: thing_")
    assert after_target(result.err).startswith("1 frames, ")


def test_run_json(edge_retina: Run, bundle: Path) -> None:
    result = edge_retina("run", "--source", FRAMES, "--json", "--min-score", 0)
    rows = lines_of(result.out)
    assert [(row["frame"], row["width"], row["height"]) for row in rows] == [(0, 64, 64), (1, 64, 64), (2, 64, 64)]
    assert all(row["detections"] for row in rows)
    # Nothing twice where stdout was asked for already.
    assert edge_retina("run", "--source", FRAMES, "--json", "--out", "-", "--min-score", 0).out == result.out


def test_min_score_leaves_out_everywhere(edge_retina: Run, bundle: Path) -> None:
    def run(*options: object) -> tuple[list[float], list[float], int]:
        result = edge_retina("run", "--source", FRAMES, "--json", "--out", "x.jsonl", *options)
        scores = [
            [row["score"] for line in lines_of(text) for row in line["detections"]]
            for text in (result.out, Path("x.jsonl").read_text())
        ]
        return scores[0], scores[1], int(after_target(result.err).split(" detections")[0].split(", ")[1])

    everything, _, _ = run("--min-score", 0)
    assert min(everything) < 0.1 < 0.3 < max(everything)
    for options, least in (((), 0.3), (("--min-score", 0.1), 0.1), (("--min-score", 0), 0.0)):
        wanted = [score for score in everything if score >= least]
        assert run(*options) == (wanted, wanted, len(wanted))


def test_run_on_pictures(edge_retina: Run, bundle: Path) -> None:
    Path("in").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (64, 64, 4), dtype=np.uint8)
    cv2.imwrite("in/a_grey.png", pixels[:, :, 0])
    cv2.imwrite("in/b_alpha.png", pixels)
    cv2.imwrite("in/c_deep.png", pixels[:, :, :3].astype(np.uint16) * 257)
    cv2.imwrite("in/d_one.png", pixels[:1, :1, :3])
    result = edge_retina("run", "--source", "in/", "--json", "--min-score", 0)
    assert result.code == 0
    rows = lines_of(result.out)
    assert [row["name"] for row in rows] == ["a_grey.png", "b_alpha.png", "c_deep.png", "d_one.png"]
    # The same pixels, whether with an alpha channel or at 16 bits.
    assert rows[1]["detections"] == rows[2]["detections"] != []
    assert edge_retina("run", "--source", "in/a_grey.png").out.startswith("a_grey.png: ")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
def test_a_full_disk(edge_retina: Run, bundle: Path) -> None:
    os.symlink("/dev/full", "x.jsonl")
    result = edge_retina("run", "--source", FRAMES, "--out", "x.jsonl")
    assert_one_message(result, 6, "cannot write", "No space left on device")


# inspect


def test_inspect_writes_a_spec_that_is_read_again(edge_retina: Run, model: Path, bundle: Path) -> None:
    result = edge_retina("inspect", "m.onnx", "--write-spec", "s.json")
    assert (result.code, result.err) == (0, "s.json: spec and heads of m.onnx, for --spec\n")
    first = json.loads(edge_retina("inspect", "m.onnx", "--json").out)
    again = json.loads(edge_retina("inspect", "m.onnx", "--spec", "s.json", "--json").out)
    assert (again["spec"] | {"origins": {}}, again["heads"]) == (first["spec"] | {"origins": {}}, first["heads"])
    assert_one_message(edge_retina("inspect", "m.onnx", "--write-spec", "s.json"), 2, "s.json: is there already")
    assert_one_message(edge_retina("inspect", "m.edge", "--write-spec", "t.json"), 2, "--write-spec", "an ONNX only")
    assert names_in(model.parent) == ["m.edge", "m.onnx", "s.json"]


def test_inspect_starts_a_spec_for_what_no_family_knows(edge_retina: Run, folder: Path, model: Path) -> None:
    bare = onnx.load(model)
    del bare.metadata_props[:]
    onnx.save(bare, "bare.onnx")
    result = edge_retina("inspect", "bare.onnx", "--write-spec", "s.json")
    wanted = "s.json: started, for no family knows this graph; fill in: mean, std, cell_anchors\n"
    assert result == (0, wanted, "")
    assert_one_message(edge_retina("build", "bare.onnx", "--spec", "s.json"), 4, "to be filled in", "cell_anchors")


def test_detections_that_differ_have_an_exit_code(edge_retina: Run, bundle: Path) -> None:
    write_pictures(bundle.parent / "pictures", 1)
    Path("r.json").write_text('{"000.png": [{"bbox": [1, 2, 3, 4], "score": 0.9, "label": 0}]}')
    result = edge_retina("verify", "m.edge", "--images", "pictures", "--reference", "r.json")
    assert result.code == 10
    assert result.err.startswith("edge-retina: m.edge: 1 detections missed and")
    assert "verify.png: 000.png" in result.out


def test_inspect_text(edge_retina: Run, model: Path) -> None:
    result = edge_retina("inspect", "m.onnx")
    assert (result.code, result.err) == (0, "")
    for part in ("m.onnx (onnx)", "metadata", "thing_0, thing_1, thing_2", "anchors, level 1", "heads from images"):
        assert part in result.out
    edge_retina("build")
    result = edge_retina("inspect", "m.edge")
    for part in ("m.edge (bundle)", "precision fp32, frames any, batch any", "digest ", "built by edge-retina"):
        assert part in result.out


def test_labels_in_brackets_are_no_markup(edge_retina: Run, folder: Path) -> None:
    tiny_model(folder / "m[1].onnx", spec_overrides={"labels": ("[red]", "[/x]", ":smile:")})
    result = edge_retina("inspect", "m[1].onnx")
    assert result.code == 0
    assert "m[1].onnx (onnx)" in result.out
    assert "3: [red], [/x], :smile:" in result.out
    assert edge_retina("build").out == f"{folder / 'm[1].edge'}\n"


# Processes: pipes, signals, terminals


def start(*arguments: object, **options: Any) -> subprocess.Popen[str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, **options}
    return subprocess.Popen([*COMMAND, *map(str, arguments)], **pipes)


@contextlib.contextmanager
def ended(process: subprocess.Popen[str]) -> Iterator[subprocess.Popen[str]]:
    with process:
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("command", [("run", "--json"), ("run",)])
def test_a_reader_who_leaves(bundle: Path, command: tuple[str, ...]) -> None:
    with ended(start(*command, "--source", ENDLESS)) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        assert process.stdout.readline()
        process.stdout.close()
        assert process.wait(60) == 0
        assert "Traceback" not in (text := process.stderr.read())
        assert "Error" not in text


def test_a_reader_of_inspect_who_never_came(model: Path) -> None:
    read, write = os.pipe()
    os.close(read)
    for options in ((), ("--json",)):
        with ended(start("inspect", "m.onnx", *options, stdout=write)) as process:
            assert process.communicate(timeout=60)[1] == ""
            assert process.returncode == 0
    os.close(write)


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="no /dev/full")
@pytest.mark.parametrize("typed", ["inspect m.edge", f"run --source {FRAMES}", f"run --json --source {FRAMES}"])
def test_stdout_on_a_full_disk(bundle: Path, typed: str) -> None:
    with open("/dev/full", "w") as full, ended(start(*typed.split(), stdout=full)) as process:
        error = after_target(process.communicate(timeout=60)[1])
        assert process.returncode == 6
    assert error.startswith("edge-retina: cannot write to stdout: No space left on device")
    assert error.count("\n") == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupted_run_leaves_whole_lines(bundle: Path, number: signal.Signals) -> None:
    out = bundle.parent / "out.jsonl"
    with ended(start("run", "--source", ENDLESS, "--out", out)) as process:
        deadline = time.monotonic() + 60
        while not (out.exists() and out.stat().st_size > 2000):
            assert process.poll() is None
            assert time.monotonic() < deadline
            time.sleep(0.02)
        process.send_signal(number)
        _, error = process.communicate(timeout=60)
        assert process.returncode == 130
    summary, _, last = after_target(error).strip().rpartition("\n")
    assert last == "edge-retina: interrupted"
    assert re.match("[0-9]+ frames, ", summary)
    text = out.read_text()
    assert text.endswith("\n")
    assert [row["frame"] for row in lines_of(text)] == list(range(text.count("\n")))
    assert names_in(bundle.parent) == ["m.edge", "out.jsonl"]


def talk(master: int, process: subprocess.Popen[str], answer: str) -> str:
    """What a process prints on a terminal until it ends; its question is answered, again every 5 seconds."""
    said, deadline, asked_at = "", time.monotonic() + 60, 0.0
    while process.poll() is None and time.monotonic() < deadline:
        if select.select([master], [], [], 0.1)[0]:
            with contextlib.suppress(OSError):  # Linux: the other end has closed
                said += os.read(master, 4096).decode(errors="replace")
        # Again, for Python's readline sleeps through a ^C that comes while it is getting ready.
        if "[Y/n]:" in said and time.monotonic() > asked_at + 5:
            os.write(master, answer.encode())
            asked_at = time.monotonic()
    return said


# Takes the terminal for its own, so that a ^C there becomes a signal, and builds.
ON_A_TERMINAL = """
import fcntl, runpy, sys, termios
fcntl.ioctl(0, termios.TIOCSCTTY, 0)
sys.argv[1:] = ["build"]
runpy.run_module("edge_retina", run_name="__main__")
"""


@pytest.mark.parametrize(("answer", "written"), [("\n", True), ("n\n", False), ("\x03", False)])
def test_the_first_build_on_a_terminal_offers_the_project_file(model: Path, answer: str, written: bool) -> None:
    master, slave = pty.openpty()
    terminal = {"stdin": slave, "stdout": slave, "stderr": slave}
    command = [sys.executable, "-c", ON_A_TERMINAL]
    with ended(subprocess.Popen(command, text=True, start_new_session=True, **terminal)) as process:
        os.close(slave)
        said = talk(master, process, answer)
        code = process.wait(60)
    os.close(master)
    assert "write edge-retina.toml, so that `edge-retina build` and `run` need no names?" in said
    assert code == (130 if answer == "\x03" else 0)
    assert "Traceback" not in said
    wanted = Project(model, model.with_suffix(".edge"), precision="fp32") if written else None
    assert read_project(model.parent) == wanted
    assert (model.parent / "m.edge").exists()


def test_the_installed_script(bundle: Path) -> None:
    script = Path(sys.executable).with_name("edge-retina")
    if not script.exists():
        pytest.skip("the package is not installed with its script")
    result = subprocess.run([script, "run", "--camera", "77"], capture_output=True, text=True, timeout=60, check=False)
    assert result.returncode == 3
    assert after_target(result.stderr).startswith("edge-retina: no camera at /dev/video77")
