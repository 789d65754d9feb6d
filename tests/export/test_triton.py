"""A Triton model repository: its configuration against Triton's protobuf and the ONNX, and who may replace what."""

from __future__ import annotations

import hashlib
import json
import os
import shlex
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime as ort
import pytest
from click.testing import CliRunner
from export.kserve import Served, read_config, serve
from models import tiny_model
from plugin.build import EMULATOR, headers
from tritonclient.grpc import model_config_pb2

from edge_retina.build import build
from edge_retina.bundle import Bundle
from edge_retina.commands.export import export_command
from edge_retina.detector import Detector
from edge_retina.errors import BundleError, MissingPackage, OutputError, UsageError
from edge_retina.export import folder
from edge_retina.export.triton import Serving, export_triton
from edge_retina.planfile import Plan, PlanKey
from edge_retina.plans import write_bare, write_plan
from edge_retina.plugin import LIBRARY

ROOT = Path(__file__).parents[2]
FRAMES = np.random.default_rng(0).integers(0, 256, (3, 70, 90, 3), dtype=np.uint8)
ONNX_TYPES = {"TYPE_UINT8": "tensor(uint8)", "TYPE_FP32": "tensor(float)", "TYPE_INT32": "tensor(int32)"}


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    where = tmp_path_factory.mktemp("triton")
    tiny_model(where / "tiny.onnx")
    return build(where / "tiny.onnx", where / "tiny.edge")


def files(where: Path) -> dict[str, bytes]:
    return {str(path.relative_to(where)): path.read_bytes() for path in sorted(where.rglob("*")) if path.is_file()}


def a_plan(tiny: Bundle, where: Path, **key: str) -> Plan:
    facts = {"gpu": "Orin", "compute_capability": "8.7", "driver": "", "plugin": "", "options": ""}
    facts |= {
        "bundle": tiny.digest,
        "target": "tensorrt",
        "version": "10.3.0",
        "profile": "1x64x64..1x480x640..4x720x1280",
    }
    return Plan(PlanKey(**{**facts, **key}), b"a plan", False, {}, where / "out.plan")


# -- the configuration


def test_a_model_of_any_frames(tiny: Bundle, tmp_path: Path) -> None:
    done = export_triton(tiny, tmp_path / "repo")
    assert (done.model, done.version, done.config_kept, done.plugin) == (tmp_path / "repo/tiny", 1, False, None)
    written = files(tmp_path / "repo")
    assert set(written) == {
        f"tiny/{name}" for name in ("config.pbtxt", "labels.txt", "1/model.onnx", "1/edge-retina.json")
    }
    assert written["tiny/1/model.onnx"] == tiny.model()
    assert written["tiny/labels.txt"] == b"thing_0\nthing_1\nthing_2\n"
    assert json.loads(written["tiny/1/edge-retina.json"])["bundle"] == tiny.digest
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]  # no draft is left
    config = read_config(done.model)
    assert (config.name, config.backend, config.default_model_filename) == ("tiny", "onnxruntime", "model.onnx")
    assert config.max_batch_size == 8
    assert config.version_policy.latest.num_versions == 1
    (group,) = config.instance_group
    assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.KIND_CPU)
    assert config.dynamic_batching.max_queue_delay_microseconds == 0
    assert config.parameters["intra_op_thread_count"].string_value == "0"
    assert json.loads(config.parameters["labels"].string_value) == ["thing_0", "thing_1", "thing_2"]
    warm = [(w.batch_size, list(w.inputs["frames"].dims), w.inputs["frames"].random_data) for w in config.model_warmup]
    assert warm == [(1, [480, 640, 3], True), (8, [480, 640, 3], True)]


@pytest.mark.parametrize("size", [None, (70, 90)])
def test_tensors_are_those_of_the_onnx(tiny: Bundle, tmp_path: Path, size: tuple[int, int] | None) -> None:
    bundle = tiny if size is None else build(tiny.path.with_name("tiny.onnx"), tmp_path / "b.edge", frame_size=size)
    done = export_triton(bundle, tmp_path / "repo", name="m")
    config = read_config(done.model)
    session = ort.InferenceSession(done.model / "1/model.onnx", providers=["CPUExecutionProvider"])
    for mine, theirs in ((config.input, session.get_inputs()), (config.output, session.get_outputs())):
        assert [t.name for t in mine] == [t.name for t in theirs]
        for tensor, node in zip(mine, theirs, strict=True):
            assert ONNX_TYPES[model_config_pb2.DataType.Name(tensor.data_type)] == node.type
            dims = list(tensor.reshape.shape) if tensor.HasField("reshape") else list(tensor.dims)
            free = [-1 if isinstance(dim, str) else dim for dim in node.shape]
            assert [-1, *dims] == free  # max_batch_size stands for the first one
    assert list(config.input[0].dims) == [*(size or (-1, -1)), 3]
    assert list(config.model_warmup[0].inputs["frames"].dims) == [*(size or (480, 640)), 3]


def test_options_stand_in_the_configuration(tiny: Bundle, tmp_path: Path) -> None:
    serving = Serving(max_batch=2, instances=3, threads=4, gpu=True, max_delay_us=500, frame=(100, 200))
    config = read_config(export_triton(tiny, tmp_path, name="a.b-c_1", serving=serving).model)
    assert (config.name, config.max_batch_size) == ("a.b-c_1", 2)
    (group,) = config.instance_group
    assert (group.count, group.kind) == (3, model_config_pb2.ModelInstanceGroup.KIND_GPU)
    assert config.dynamic_batching.max_queue_delay_microseconds == 500
    assert config.parameters["intra_op_thread_count"].string_value == "4"
    assert [list(w.inputs["frames"].dims) for w in config.model_warmup] == [[100, 200, 3]] * 2


def test_single_frames_only(tiny: Bundle, tmp_path: Path) -> None:
    single = replace(tiny, manifest=replace(tiny.manifest, batch_max=1))
    config = read_config(export_triton(single, tmp_path).model)
    assert config.max_batch_size == 1
    assert not config.HasField("dynamic_batching")
    assert [w.batch_size for w in config.model_warmup] == [1]
    with pytest.raises(UsageError, match="takes 1 at most; give --max-batch 1"):
        export_triton(single, tmp_path, name="other", serving=Serving(max_batch=2))
    assert [path.name for path in tmp_path.iterdir()] == ["tiny"]


@pytest.mark.parametrize("name", ["", "../tiny", ".hidden", "a/b", "a b", "x" * 129, "a\n"])
def test_names_that_are_no_folder(tiny: Bundle, tmp_path: Path, name: str) -> None:
    with pytest.raises(UsageError, match="--name"):
        export_triton(tiny, tmp_path, name=name)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    "wrong",
    [{"max_batch": 0}, {"instances": 0}, {"threads": -1}, {"max_delay_us": -1}],
    ids=lambda wrong: next(iter(wrong)),
)
def test_options_out_of_range(wrong: dict[str, int]) -> None:
    with pytest.raises(UsageError, match="or more"):
        Serving(**wrong)
    with pytest.raises(UsageError, match="below 2147483648"):
        Serving(**dict.fromkeys(wrong, 1 << 31))


# -- who may replace what


def test_the_same_again_changes_nothing(tiny: Bundle, tmp_path: Path) -> None:
    export_triton(tiny, tmp_path)
    (tmp_path / "tiny/config.pbtxt").write_text("# mine now\n")
    before = files(tmp_path)
    again = export_triton(tiny, tmp_path)
    assert (again.version, again.config_kept) == (1, True)
    assert files(tmp_path) == before


def test_a_further_version(tiny: Bundle, tmp_path: Path) -> None:
    export_triton(tiny, tmp_path, version=3)
    before = files(tmp_path)
    tiny_model(tmp_path.with_name("other.onnx"), seed=1)
    other = build(tmp_path.with_name("other.onnx"), tmp_path.with_name("other.edge"))
    with pytest.raises(UsageError, match="has version 3, of another bundle; add this one: --version 4"):
        export_triton(other, tmp_path, name="tiny")
    with pytest.raises(UsageError, match="version 3 is of another bundle or plan; add this one: --version 4"):
        export_triton(other, tmp_path, name="tiny", version=3)
    with pytest.raises(UsageError, match="from 1 on"):
        export_triton(other, tmp_path, name="tiny", version=0)
    assert files(tmp_path) == before
    done = export_triton(other, tmp_path, name="tiny", version=4)
    assert (done.version, done.config_kept) == (4, True)
    after = files(tmp_path)
    assert {name: data for name, data in after.items() if "/4/" not in name} == before
    assert after["tiny/4/model.onnx"] == other.model()


def test_another_model_is_never_touched(tiny: Bundle, tmp_path: Path) -> None:
    tiny_model(tmp_path / "two.onnx", classes=2)
    two = build(tmp_path / "two.onnx", tmp_path / "two.edge")
    repository = tmp_path / "repo"
    (repository / "foreign/1").mkdir(parents=True)
    (repository / "foreign/1/model.onnx").write_bytes(b"somebody's")
    (repository / "a_file").write_bytes(b"")
    export_triton(tiny, repository)
    before = files(repository)
    with pytest.raises(UsageError, match="another model, it differs in labels"):
        export_triton(two, repository, name="tiny", version=2)
    for name in ("foreign", "a_file"):
        with pytest.raises(UsageError, match="not written by edge-retina"):
            export_triton(tiny, repository, name=name, version=1)
    assert files(repository) == before


def test_a_repository_that_cannot_be_written(tiny: Bundle, tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(OutputError, match="cannot write"):
        export_triton(tiny, tmp_path / "file" / "repo")


@pytest.mark.parametrize("elsewhere", [False, True])
def test_all_or_nothing(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, elsewhere: bool) -> None:
    """A disk that fills up; beside the repository, or in it where the folder beside is of another disk."""
    if elsewhere:
        monkeypatch.setattr(folder, "_same_device", lambda *_: False)
    real = Path.write_bytes

    def full(path: Path, data: bytes) -> int:
        if path.name == "model.onnx":
            raise OSError(28, "No space left on device")
        return real(path, data)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "write_bytes", full)
        with pytest.raises(OutputError, match="No space left"):
            export_triton(tiny, tmp_path / "repo")
    assert list((tmp_path / "repo").iterdir()) == []
    assert [path.name for path in tmp_path.iterdir()] == ["repo"]
    export_triton(tiny, tmp_path / "repo")
    mode = (tmp_path / "repo/tiny").stat().st_mode & 0o777
    umask = os.umask(0)
    os.umask(umask)
    assert mode == 0o777 & ~umask  # a server that runs as somebody else can read it


# -- run as the backend would


def test_detections_of_a_batch_are_the_bundles_own(tiny: Bundle, tmp_path: Path) -> None:
    outputs = Served(export_triton(tiny, tmp_path).model).infer(FRAMES)
    assert outputs["count"].shape == (3, 1)
    with Detector.load(tiny.path, target="ort") as detector:
        expected = detector.batch(list(FRAMES))
    assert sum(map(len, expected)) > 3
    for row, detections in enumerate(expected):
        count = outputs["count"][row, 0]
        np.testing.assert_array_equal(outputs["boxes"][row, :count], detections.xyxy)
        np.testing.assert_array_equal(outputs["scores"][row, :count], detections.scores)
        np.testing.assert_array_equal(outputs["labels"][row, :count], detections.labels)
        assert (outputs["labels"][row, count:] == -1).all()


def test_the_sample_client_against_a_stand_in_server(tiny: Bundle, tmp_path: Path) -> None:
    export_triton(tiny, tmp_path / "repo")
    cv2.imwrite(str(tmp_path / "picture.png"), FRAMES[0])
    client = ROOT / "samples" / "triton" / "client.py"
    assert len(client.read_text().splitlines()) <= 40

    def ask(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, str(client), *words]
        return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)

    with serve(tmp_path / "repo") as url:
        done = ask("--url", url, "--model", "tiny", "--min-score", "0", str(tmp_path / "picture.png"))
        absent = ask("--url", url, "--model", "tiny", str(tmp_path / "none.png"))
        unknown = ask("--url", url, "--model", "other", str(tmp_path / "picture.png"))
    assert done.returncode == 0, done.stderr
    with Detector.load(tiny.path, target="ort") as detector:
        expected = detector(FRAMES[0])
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    assert len(rows) == len(expected) > 1
    assert [row["name"] for row in rows] == [detection.name for detection in expected]
    np.testing.assert_allclose([row["score"] for row in rows], expected.scores, atol=1e-4)
    np.testing.assert_allclose([row["xyxy"] for row in rows], expected.xyxy, atol=0.06)
    assert absent.returncode == 1
    assert "no picture" in absent.stderr
    assert unknown.returncode != 0


# -- plans


def test_a_plan_for_the_tensorrt_backend(tiny: Bundle, tmp_path: Path) -> None:
    plan = a_plan(tiny, tmp_path)
    done = export_triton(tiny, tmp_path / "repo", plan=plan)
    assert set(files(done.model)) == {"config.pbtxt", "labels.txt", "1/model.plan", "1/edge-retina.json"}
    assert (done.model / "1/model.plan").read_bytes() == b"a plan"
    config = read_config(done.model)
    assert (config.backend, config.default_model_filename, config.max_batch_size) == ("tensorrt", "model.plan", 4)
    assert list(config.input[0].dims) == [-1, -1, 3]
    assert config.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert "intra_op_thread_count" not in config.parameters
    assert [list(w.inputs["frames"].dims) for w in config.model_warmup] == [[480, 640, 3]] * 2
    assert "TensorRT 10.3.0 on Orin" in (done.model / "config.pbtxt").read_text()
    with pytest.raises(UsageError, match="differs in backend"):
        export_triton(tiny, tmp_path / "repo", version=2)


def test_what_a_plan_takes_is_what_the_configuration_says(tiny: Bundle, tmp_path: Path) -> None:
    fixed = a_plan(tiny, tmp_path, profile="1x480x640..1x480x640..1x480x640")
    config = read_config(export_triton(tiny, tmp_path, plan=fixed).model)
    assert (config.max_batch_size, list(config.input[0].dims)) == (1, [480, 640, 3])
    with pytest.raises(UsageError, match="takes 4 at most"):
        export_triton(tiny, tmp_path, name="b", plan=a_plan(tiny, tmp_path), serving=Serving(max_batch=5))
    with pytest.raises(UsageError, match="what its profile has, 1x64x64"):
        export_triton(tiny, tmp_path, name="b", plan=a_plan(tiny, tmp_path), serving=Serving(frame=(2000, 64)))
    with pytest.raises(BundleError, match="a plan of tensorrt_rtx"):
        export_triton(tiny, tmp_path, name="b", plan=a_plan(tiny, tmp_path, target="tensorrt_rtx"))
    with pytest.raises(BundleError, match="takes 2 frames or more"):
        export_triton(tiny, tmp_path, name="b", plan=a_plan(tiny, tmp_path, profile="2x64x64..2x64x64..4x64x64"))


def test_the_plugin_travels_with_the_plan_that_needs_it(tiny: Bundle, tmp_path: Path) -> None:
    library = tmp_path / LIBRARY
    library.write_bytes(b"\x7fELF of the plugin")
    plan = a_plan(tiny, tmp_path, plugin=hashlib.sha256(library.read_bytes()).hexdigest())
    with pytest.raises(MissingPackage, match="--plugin FILE"):
        export_triton(tiny, tmp_path / "repo", plan=plan)
    other = tmp_path / "other.so"
    other.write_bytes(b"another")
    with pytest.raises(UsageError, match="is not what"):
        export_triton(tiny, tmp_path / "repo", plan=plan, plugin=other)
    with pytest.raises(UsageError, match="cannot be read"):
        export_triton(tiny, tmp_path / "repo", plan=plan, plugin=tmp_path / "none.so")
    with pytest.raises(UsageError, match="leave --plugin out"):
        export_triton(tiny, tmp_path / "repo", plan=a_plan(tiny, tmp_path), plugin=library)
    assert not (tmp_path / "repo").exists()
    done = export_triton(tiny, tmp_path / "repo", plan=plan, plugin=library)
    assert done.plugin == done.model / LIBRARY
    assert done.plugin.read_bytes() == library.read_bytes()
    with pytest.raises(UsageError, match="differs in plugin"):
        export_triton(tiny, tmp_path / "repo", plan=a_plan(tiny, tmp_path), version=2)


def test_what_registers_the_plugin_compiles_against_tensorrts_headers(tiny: Bundle, tmp_path: Path) -> None:
    """Linked against a stand-in of libnvinfer that notes what it is asked to load."""
    include = headers()
    compiler = shutil.which("g++")
    if compiler is None:
        pytest.skip("no g++")
    library = tmp_path / LIBRARY
    library.write_bytes(b"\x7fELF of the plugin")
    plan = a_plan(tiny, tmp_path, plugin=hashlib.sha256(library.read_bytes()).hexdigest())
    model = export_triton(tiny, tmp_path / "repo", plan=plan, plugin=library).model
    flags = ["-std=c++17", "-shared", "-fPIC", "-Wall", "-Wextra", "-Werror", "-Wno-error=deprecated-declarations"]
    flags += ["-isystem", str(include), f"-I{EMULATOR / 'include'}"]
    stand_in = Path(__file__).with_name("registry.cpp")
    subprocess.run([compiler, *flags, "-o", str(tmp_path / "libnvinfer.so"), str(stand_in)], check=True, timeout=120)
    out = model / "libedge_retina_register.so"
    link = ["-L", str(tmp_path), f"-Wl,-rpath,{tmp_path}", "-lnvinfer", "-ldl"]
    subprocess.run(
        [compiler, *flags, "-o", str(out), str(model / "register_plugin.cpp"), *link], check=True, timeout=120
    )
    code = f"import ctypes; ctypes.CDLL({str(out)!r})"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert done.stdout == f"loadLibrary {model / LIBRARY}\n"


# -- the command


def run(*words: object) -> Any:
    return CliRunner().invoke(export_command, ["triton", *map(str, words)])


def test_the_command(tiny: Bundle, tmp_path: Path) -> None:
    done = run(tiny.path, "-o", tmp_path / "repo", "--threads", 2, "--frame-size", "128x96")
    assert done.exit_code == 0, done.output
    assert done.stdout == f"{tmp_path / 'repo/tiny/1'}\n"
    assert f"tritonserver --model-repository={tmp_path / 'repo'}" in done.stderr
    spaced = run(tiny.path, "-o", tmp_path / "a 'b")
    assert shlex.split(spaced.stderr)[-1] == f"--model-repository={tmp_path}/a 'b"
    config = read_config(tmp_path / "repo/tiny")
    assert config.parameters["intra_op_thread_count"].string_value == "2"
    assert list(config.model_warmup[0].inputs["frames"].dims) == [96, 128, 3]
    again = run(tiny.path, "-o", tmp_path / "repo", "--json")
    facts = {"model": str(tmp_path / "repo/tiny"), "version": 1, "config_kept": True, "plugin": None}
    assert json.loads(again.stdout) == facts
    assert "was there and stays as it is" in again.stderr


def test_plans_from_a_file_and_from_the_cache(tiny: Bundle, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_RETINA_CACHE", str(tmp_path / "cache"))
    none = run(tiny.path, "-o", tmp_path / "repo", "--plan", "cache")
    assert "no plan of" in str(none.exception)
    library = tmp_path / "mine.so"
    library.write_bytes(b"\x7fELF of the plugin")
    plan = a_plan(tiny, tmp_path, plugin=hashlib.sha256(library.read_bytes()).hexdigest())
    write_plan(plan.key, b"of the cache", host_code=False, about={})
    write_bare(tmp_path / "out.plan", plan)
    monkeypatch.setenv("EDGE_RETINA_PLUGIN", str(library))
    cached = run(tiny.path, "-o", tmp_path / "repo", "--plan", "cache", "--json")
    assert cached.exit_code == 0, cached.output
    assert (tmp_path / "repo/tiny/1/model.plan").read_bytes() == b"of the cache"
    assert json.loads(cached.stdout)["plugin"] == str(tmp_path / "repo/tiny" / LIBRARY)
    register = tmp_path / "repo/tiny/libedge_retina_register.so"
    assert f"--backend-config=tensorrt,plugins={register}" in cached.stderr
    bare = run(tiny.path, "-o", tmp_path / "repo", "--plan", tmp_path / "out.plan", "--version", 2)
    assert bare.exit_code == 0, bare.output
    assert (tmp_path / "repo/tiny/2/model.plan").read_bytes() == b"a plan"
