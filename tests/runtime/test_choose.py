"""Which runtime is taken, what is said of it, and how it comes by its plan; on a GPU and a TensorRT of Python."""

from __future__ import annotations

import hashlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fakes import fake_cuda, fake_tensorrt
from models import tiny_model

from edge_retina import Bundle, Detector, build
from edge_retina.errors import BundleCorrupt, MissingPackage, PlanRefused, RuntimeFailure, UsageError
from edge_retina.plans import Plan, list_plans, read_plan, write_bare, write_plan
from edge_retina.runtime import Gpu, open_runtime
from edge_retina.signing import make_key, sign

NO_PLUGIN = "decoding in TensorRT's own layers, not in the plugin, for which is missing: nvcc (cuda-nvcc)"
FRAME = np.random.default_rng(0).integers(0, 256, (64, 80, 3), dtype=np.uint8)


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Bundle:
    folder = tmp_path_factory.mktemp("bundle")
    tiny_model(folder / "m.onnx")
    return build(folder / "m.onnx")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGE_RETINA_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("edge_retina.plugin.missing", lambda *_: [("nvcc", "cuda-nvcc")])
    for name in ("tensorrt", "tensorrt_rtx"):  # as if not installed
        monkeypatch.setitem(sys.modules, name, None)


@pytest.fixture
def gpu() -> Iterator[Any]:
    with fake_cuda.installed() as machine:
        yield machine


def install(monkeypatch: pytest.MonkeyPatch, version: str = "10.3.0", *, rtx: bool = False) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx" if rtx else "tensorrt", fake_tensorrt.module(version, rtx))


def opened(bundle: Bundle, target: str = "auto", **options: Any) -> tuple[str, list[str]]:
    """The runtime's name and what was said; it detects what ONNX Runtime does."""
    notes: list[str] = []
    with Detector.load(bundle.path, target="ort") as reference:
        wanted = reference(FRAME)
    assert len(wanted) > 3
    with Detector.load(bundle.path, target=target, gpu=Gpu(on_note=notes.append, **options)) as detector:
        for _ in range(3):  # piece by piece, captured, launched
            found = detector(FRAME)
            np.testing.assert_array_equal(found.xyxy, wanted.xyxy)
            np.testing.assert_array_equal(found.labels, wanted.labels)
        return detector.runtime.name, notes


def test_nothing_of_nvidia_is_here(bundle):
    with fake_cuda.installed(pycuda=False, bindings=False):
        name, notes = opened(bundle)
    assert name == "ort"
    assert notes == ["running on ort, the CPU; not tensorrt or tensorrt_rtx: running on TensorRT needs pycuda"]


def test_a_gpu_without_tensorrt(bundle, gpu):
    name, notes = opened(bundle)
    assert name == "ort"
    reasons = [f"not {target}: {target} is not installed" for target in ("tensorrt", "tensorrt_rtx")]
    assert notes == ["; ".join(["running on ort, the CPU", *reasons])]


def test_the_cpu_by_name_asks_nobody(bundle):
    assert opened(bundle, "ort") == ("ort", [])


@pytest.mark.parametrize("version", ["10.3.0", "10.13.0", "10.16.2", "11.4.1"])
def test_tensorrt_is_taken_and_its_plan_compiled_once(bundle, gpu, monkeypatch, version):
    install(monkeypatch, version)
    compiling = f"no plan for Fake Orin and tensorrt {version} yet: compiling, once"
    assert opened(bundle) == ("tensorrt", [NO_PLUGIN, compiling, "running on tensorrt"])
    assert opened(bundle) == ("tensorrt", [NO_PLUGIN, "running on tensorrt"])
    assert opened(bundle, plugin=False) == ("tensorrt", ["running on tensorrt"])
    (plan,) = list_plans()
    assert (plan.key.target, plan.key.version, plan.key.bundle) == ("tensorrt", version, bundle.digest)
    assert plan.about["model"] == "m.edge"
    assert plan.about["shares"]["fp32"] == 1


def test_rtx_where_tensorrt_is_not(bundle, monkeypatch):
    install(monkeypatch, "1.7.1", rtx=True)
    with fake_cuda.installed(name="Fake RTX", capability=(8, 6), integrated=False):
        name, notes = opened(bundle)
    assert name == "tensorrt_rtx"
    assert notes[-1] == "running on tensorrt_rtx; not tensorrt: tensorrt is not installed"
    (plan,) = list_plans()
    assert (plan.key.gpu, plan.key.compute_capability) == ("", "SM86")  # it runs on any of these


def test_rtx_is_not_for_a_jetson(bundle, gpu, monkeypatch):
    install(monkeypatch, "1.7.1", rtx=True)
    name, notes = opened(bundle)
    assert name == "ort"
    assert re.search(r"not tensorrt_rtx: tensorrt_rtx 1\.7\.1 knows .*, found SM87$", notes[-1])


def test_a_tensorrt_that_does_not_load(bundle, gpu, monkeypatch, tmp_path):
    (tmp_path / "tensorrt.py").write_text("raise OSError('libnvinfer.so.10: cannot open shared object file')")
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(RuntimeFailure, match=r"installed and does not load: libnvinfer\.so\.10"):
        open_runtime(bundle, "tensorrt")


def test_a_folder_of_its_name_is_no_tensorrt(bundle, gpu, monkeypatch, tmp_path):
    (tmp_path / "tensorrt").mkdir()
    monkeypatch.delitem(sys.modules, "tensorrt")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(MissingPackage, match="tensorrt is not installed, only something of its name"):
        open_runtime(bundle, "tensorrt")


def test_asked_for_by_name_and_not_there(bundle, gpu):
    with pytest.raises(MissingPackage, match=r"tensorrt is not installed; run: pip install 'edge-retina\[tensorrt\]'"):
        open_runtime(bundle, "tensorrt")


@pytest.mark.parametrize("precision", ["fp32", "fp16"])
def test_with_the_plugin(gpu, monkeypatch, tmp_path, precision):
    tiny_model(tmp_path / "m.onnx")
    bundle = build(tmp_path / "m.onnx", precision=precision)
    (library := tmp_path / "plugin.so").write_bytes(b"\x7fELF library")
    monkeypatch.setenv("EDGE_RETINA_PLUGIN", str(library))
    install(monkeypatch)
    with (
        Detector.load(bundle.path, target="ort") as reference,
        Detector.load(bundle.path, target="tensorrt") as detector,
    ):
        wanted, found = reference(FRAME), detector(FRAME)
    assert abs(len(found) - len(wanted)) <= 2
    assert np.abs(found.scores[:4] - wanted.scores[:4]).max() < 0.005  # float16 has 11 bits
    (plan,) = list_plans()
    assert plan.key.plugin == hashlib.sha256(b"\x7fELF library").hexdigest()
    assert plan.key.options.endswith(" plugin")


def test_another_version_or_gpu_is_a_miss(bundle, monkeypatch):
    for version, name in (("10.3.0", "Fake Orin"), ("10.7.0", "Fake Orin"), ("10.3.0", "Other")):
        with fake_cuda.installed(name=name):
            install(monkeypatch, version)
            opened(bundle)
    assert len(list_plans()) == 3


def test_a_corrupt_plan_is_compiled_anew_and_said(bundle, gpu, monkeypatch):
    install(monkeypatch)
    opened(bundle)
    path = list_plans()[0].path
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)
    _, notes = opened(bundle)
    assert "not used, the plan is compiled anew" in notes[1]
    assert notes[2].endswith("compiling, once")


def test_a_plan_that_tensorrt_refuses_is_compiled_anew_and_said(bundle, gpu, monkeypatch):
    install(monkeypatch)
    opened(bundle)
    (known,) = list_plans()
    write_plan(known.key, b"of another build", host_code=False, about={})
    name, notes = opened(bundle)
    assert name == "tensorrt"
    assert re.search(r"\.plan: TensorRT 10\.3\.0 refuses the plan: .*; compiling anew$", notes[1])
    (again,) = list_plans()
    assert again.about["precision"] == "fp32"
    write_bare(again.path.with_name("out.plan"), Plan(again.key, b"damaged", False, {}, again.path))
    with pytest.raises(PlanRefused):  # a file that was named is not the cache's to replace
        opened(bundle, "tensorrt", plan=again.path.with_name("out.plan"))


def test_a_plan_for_larger_frames_serves_smaller_ones(bundle, gpu, monkeypatch):
    install(monkeypatch)
    opened(bundle, batch=4)
    assert opened(bundle) == ("tensorrt", [NO_PLUGIN, "running on tensorrt"])
    opened(bundle, batch=8)
    assert len(list_plans()) == 2


def test_a_plan_for_smaller_frames_serves_where_nobody_asked_for_larger(bundle, gpu, monkeypatch):
    install(monkeypatch)
    opened(bundle, largest=(480, 640))
    _, notes = opened(bundle)
    assert notes[1] == "this plan takes frames up to 640x480; for larger ones: --largest-frame WxH"
    assert opened(bundle, largest=(100, 100))[1] == [NO_PLUGIN, "running on tensorrt"]
    assert len(list_plans()) == 1
    opened(bundle, largest=(720, 1280))
    opened(bundle, batch=2)
    assert len(list_plans()) == 3


def test_two_workers_at_most(bundle, gpu, monkeypatch):
    install(monkeypatch)
    with open_runtime(bundle, "tensorrt", parallel=4) as runtime:
        assert runtime.parallel == 2
        assert gpu.contexts == 2


def test_one_worker_where_memory_is_short_for_two(bundle, gpu, monkeypatch):
    install(monkeypatch)
    opened(bundle)
    notes: list[str] = []
    gpu.fail_allocation(2)  # the second worker's outputs
    with open_runtime(bundle, "tensorrt", parallel=2, gpu=Gpu(on_note=notes.append)) as runtime:
        assert runtime.parallel == 1
    assert notes[-1].startswith("one frame at a time: out of memory on Fake Orin")


def test_a_plan_of_a_file_wants_its_target(bundle, tmp_path):
    with pytest.raises(UsageError, match="give the target too"):
        open_runtime(bundle, gpu=Gpu(plan=tmp_path / "x.plan"))


def test_a_plan_of_a_file_and_a_key_that_must_have_signed_it(bundle, gpu, monkeypatch, tmp_path):
    install(monkeypatch)
    opened(bundle)
    plan = read_plan(list_plans()[0].key)
    assert plan is not None
    write_bare(out := tmp_path / "out.plan", plan)
    public = make_key(key := tmp_path / "key.pem")
    assert opened(bundle, "tensorrt", plan=out) == ("tensorrt", [])
    with pytest.raises(BundleCorrupt, match="not signed by the trusted key"):
        opened(bundle, "tensorrt", plan=out, trusted=public)
    sign(bundle.path, key)
    with pytest.raises(BundleCorrupt, match=r"out\.plan"):
        opened(bundle, "tensorrt", plan=out, trusted=public)
    sign(out, key)
    assert opened(bundle, "tensorrt", plan=out, trusted=public) == ("tensorrt", [])


def test_host_code_runs_only_when_it_is_asked_for_by_name(bundle, gpu, monkeypatch, tmp_path):
    from edge_retina.commands.plan import Planned, compile_at, find_place

    install(monkeypatch)
    planned = Planned("tensorrt", plan=tmp_path / "out.plan", version_compatible=True)
    place = find_place(planned)
    assert place is not None
    compile_at(bundle, place, planned, lambda _: None, lambda *_: None, lambda _: None)
    with pytest.raises(RuntimeFailure, match=r"holds code that runs on the CPU.*--allow-host-code"):
        opened(bundle, "tensorrt", plan=planned.plan)
    assert opened(bundle, "tensorrt", plan=planned.plan, allow_host_code=True)[0] == "tensorrt"
    # Of the cache it is passed over, and taken where it is allowed.
    assert opened(bundle, allow_host_code=True)[1] == [NO_PLUGIN, "running on tensorrt"]
    assert opened(bundle)[1][1].endswith("compiling, once")
