"""Compiling against strict fakes of TensorRT 10.3 to 11.4 and RTX; the real TensorRT-RTX where there is one."""

from __future__ import annotations

import gc
import json
import signal
import threading
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import onnx
import pytest
import rtx
from fakes import fake_builder
from fakes.fake_builder import RTX_VERSION, VERSIONS, Error
from fakes.fake_cuda import Misuse
from lowered import bundled

from edge_retina import compile as compile_module
from edge_retina.compile import Compiled, Options, compile_plan, workspace_limit
from edge_retina.errors import ModelError, RuntimeFailure, UsageError
from edge_retina.lowering import lower
from edge_retina.monitor import STEPS, open_log
from edge_retina.profile import Profile
from edge_retina.rewrite.macs import conv_macs

PROFILE = Profile.for_frames(None, 4)
FIXED = (48, 80)


@cache
def lowered(
    target: str = "tensorrt", precision: str = "fp32", plugin: bool = False, frame: tuple[int, int] | None = None
) -> tuple[bytes, dict[str, int]]:
    model, spec = bundled("tiny", precision, frame)
    found = lower(model, target, spec, precision=precision, plugin=plugin)
    return found, conv_macs(onnx.load_from_string(found))


def compiled(trt: ModuleType, precision: str = "fp32", model: bytes | None = None, **more: Any) -> Compiled:
    """Compile the tiny model; `more` goes to Options where that has such a field, to compile_plan otherwise."""
    target = trt.__name__
    options = {name: more.pop(name) for name in list(more) if name in Options.__dataclass_fields__}
    found, macs = lowered(target, precision, options.get("plugin", False))
    options.setdefault("profile", PROFILE)
    return compile_plan(trt, model or found, Options(precision=precision, **options), macs=macs, **more)


def header(plan: bytes) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(plan.split(b"\n")[1])
    return found


@pytest.fixture(params=[*VERSIONS, RTX_VERSION])
def trt(request: pytest.FixtureRequest) -> ModuleType:
    return fake_builder.module(request.param, rtx=request.param == RTX_VERSION)


@pytest.fixture(params=VERSIONS)
def tensorrt(request: pytest.FixtureRequest) -> ModuleType:
    return fake_builder.module(request.param)


@pytest.fixture
def one() -> ModuleType:
    return fake_builder.module(VERSIONS[0])


@pytest.fixture
def rtx_module() -> ModuleType:
    return fake_builder.module(RTX_VERSION, rtx=True)


# --- options


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"precision": "int4"}, "unknown precision 'int4'; use one of fp32, fp16, int8"),
        ({"workspace": 0}, "1 byte or more, found 0"),
        ({"optimization_level": 6}, "0 to 5, found 6"),
        ({"optimization_level": -1}, "0 to 5, found -1"),
        ({"compute_capabilities": ("8.6",)}, "looks like SM86, found '8.6'"),
        ({"compute_capabilities": ("SM86", "SM86")}, "given twice"),
    ],
)
def test_options_that_make_no_sense(wrong, told):
    with pytest.raises(UsageError, match=told):
        Options(PROFILE, **wrong)


def test_the_text_of_options_tells_what_changes_the_plan():
    assert Options(PROFILE).text == "fp32 workspace=auto level=auto"
    most = Options(PROFILE, "int8", 1 << 20, 5, True, True, True, ("SM89", "SM86"), True)
    flags = "version_compatible hardware_compatible refit plugin"
    assert most.text == f"int8 workspace=1048576 level=5 {flags} SM86 SM89"
    assert Options(Profile.for_frames(FIXED)).text == Options(PROFILE).text  # the profile has a text of its own


@pytest.mark.parametrize(
    ("workspace", "free", "limit"),
    [(None, None, None), (None, 3 << 30, 3 << 29), (None, 64 << 30, 4 << 30), (5, None, 5), (5, 6, 5)],
)
def test_the_workspace_is_half_of_what_is_free_and_4_gib_at_most(workspace, free, limit):
    assert workspace_limit(Options(PROFILE, workspace=workspace), free) == limit


def test_more_workspace_than_is_free_is_an_error():
    with pytest.raises(UsageError, match="wants 7 bytes, found 6 free"):
        workspace_limit(Options(PROFILE, workspace=7), 6)


# --- what the builder is told


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_every_version_compiles_every_precision(trt, precision):
    found = compiled(trt, precision)
    assert found.shares == pytest.approx({"int8": 0, "fp16": 0, "fp32": 0, "other": 0} | {precision: 1})
    assert header(found.plan)["version"] == trt.__version__
    assert len(found.layers) >= 5
    assert found.seconds > 0
    assert not found.host_code


def test_what_is_set_when_nothing_is_asked_for(trt):
    compiled(trt)
    [config] = trt.fake.configs
    assert config == {
        "flags": set(),  # TF32 is on by default
        "pools": {},
        "level": 3,
        "verbosity": "DETAILED",
        "hardware": "NONE",
        "profiles": [{"frames": PROFILE.shapes()}],
        "capabilities": [],
    }


def test_what_is_set_when_all_is_asked_for(tensorrt):
    found = compiled(
        tensorrt,
        workspace=1 << 29,
        optimization_level=5,
        version_compatible=True,
        hardware_compatible=True,
        refit=True,
        free_memory=1 << 30,
    )
    [config] = tensorrt.fake.configs
    assert config["flags"] == {"VERSION_COMPATIBLE", "REFIT"}
    assert config["pools"] == {"WORKSPACE": 1 << 29}
    assert (config["level"], config["hardware"]) == (5, "AMPERE_PLUS")
    assert found.host_code
    assert header(found.plan)["host_code"]


def test_free_memory_limits_the_workspace(tensorrt):
    compiled(tensorrt, free_memory=1 << 30)
    assert tensorrt.fake.configs[0]["pools"] == {"WORKSPACE": 1 << 29}


def test_rtx_is_told_its_compute_capabilities(rtx_module):
    compiled(rtx_module, compute_capabilities=("SM86", "SM120"), refit=True)
    assert rtx_module.fake.configs[0]["capabilities"] == ["SM86", "SM120"]
    assert rtx_module.fake.configs[0]["flags"] == {"REFIT"}


def test_unknown_compute_capability_names_the_known_ones(rtx_module):
    with pytest.raises(UsageError, match="knows SM120, SM121, SM75, SM80, SM86, SM89, found SM87"):
        compiled(rtx_module, compute_capabilities=("SM86", "SM87"))


def test_compute_capabilities_are_for_rtx_only(tensorrt):
    with pytest.raises(UsageError, match="for tensorrt_rtx"):
        compiled(tensorrt, compute_capabilities=("SM86",))


@pytest.mark.parametrize("wrong", [{"version_compatible": True}, {"hardware_compatible": True}])
def test_rtx_has_neither_kind_of_compatibility(rtx_module, wrong):
    with pytest.raises(UsageError, match="one version and for several GPUs"):
        compiled(rtx_module, **wrong)


# --- profiles


def test_a_fixed_frame_size_and_any_batch(trt):
    model, macs = lowered(trt.__name__, frame=FIXED)
    found = compile_plan(trt, model, Options(Profile.for_frames(FIXED, 3)), macs=macs)
    assert trt.fake.configs[0]["profiles"] == [{"frames": ((1, *FIXED, 3), (1, *FIXED, 3), (3, *FIXED, 3))}]
    assert found.shares["fp32"] == 1


def test_a_model_without_any_open_size(trt):
    model, macs = lowered(trt.__name__, frame=FIXED)
    proto = onnx.load_from_string(model)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    fixed = proto.SerializeToString()
    assert compile_plan(trt, fixed, Options(Profile.for_frames(FIXED)), macs=macs).shares["fp32"] == 1
    assert trt.fake.configs[0]["profiles"] == []
    with pytest.raises(UsageError, match=r"takes frames of \(1, 48, 80, 3\).*profile wants \(2, 48, 80, 3\)"):
        compile_plan(trt, fixed, Options(Profile.for_frames(FIXED, 2)), macs=macs)


def test_a_profile_of_another_frame_size_than_the_models(trt):
    model, macs = lowered(trt.__name__, frame=FIXED)
    with pytest.raises(UsageError, match=r"takes frames of \(-1, 48, 80, 3\) .* the profile wants \(1, 64, 64, 3\)"):
        compile_plan(trt, model, Options(PROFILE), macs=macs)


def test_a_model_that_takes_no_frames(one):
    x = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Relu", ["x"], ["y"])], "g", [x], [])
    with pytest.raises(ModelError, match=r"one input 'frames', found \['x'\]"):
        compile_plan(one, onnx.helper.make_model(graph).SerializeToString(), Options(PROFILE), macs={})


def test_a_profile_that_tensorrt_refuses(one, monkeypatch):
    monkeypatch.setattr(one.IBuilderConfig, "add_optimization_profile", lambda *_: -1)
    with pytest.raises(RuntimeFailure, match="refuses the profile 1x64x64"):
        compiled(one)


# --- timing cache


def test_the_timing_cache_is_kept_and_used_again(tensorrt):
    first = compiled(tensorrt)
    assert first.timing_cache is not None
    notes: list[str] = []
    second = compiled(tensorrt, timing_cache=first.timing_cache, on_note=notes.append)
    assert second.timing_cache == first.timing_cache + b" conv"
    assert notes == []


@pytest.mark.parametrize("old", [b"garbage", b"CACHE Other GPU 10.3.0 conv"])
def test_a_timing_cache_of_elsewhere_is_left_with_a_note(tensorrt, old):
    notes: list[str] = []
    found = compiled(tensorrt, timing_cache=old, on_note=notes.append)
    assert found.timing_cache == f"CACHE Fake Orin {tensorrt.__version__} conv".encode()
    assert [note.split(",")[0] for note in notes] == ["the timing cache is of another GPU or TensorRT"]


def test_rtx_never_gets_a_timing_cache(rtx_module):
    assert compiled(rtx_module, timing_cache=b"CACHE ").timing_cache is None


# --- the plugin


@pytest.fixture
def library(tmp_path: Path) -> Path:
    path = tmp_path / "libplugin.so"
    path.write_bytes(b"\x7fELF")
    return path


def test_the_plugin_is_loaded_before_parsing(tensorrt, library):
    assert compiled(tensorrt, plugin=True, plugin_library=library).shares["fp32"] == 1
    assert tensorrt.get_plugin_registry().loaded == [str(library)]
    compiled(tensorrt, plugin=True, plugin_library=library)  # a second load would give None
    assert tensorrt.get_plugin_registry().loaded == [str(library)]


def test_what_tensorrt_logs_while_the_plugin_is_looked_for_explains_no_later_failure(tensorrt, library, monkeypatch):
    registry = tensorrt.get_plugin_registry()
    found = registry.get_creator

    def get_creator(*creator):
        if (maker := found(*creator)) is None:  # as TensorRT-RTX 1.7.1 does
            told = "IPluginRegistry::getCreator: Error Code 4: API Usage Error (Cannot find plugin: AnchorDecode)"
            log.log(tensorrt.ILogger.ERROR, told)
        return maker

    log = open_log(tensorrt)
    monkeypatch.setattr(compile_module, "open_log", lambda _: log)
    monkeypatch.setattr(registry, "get_creator", get_creator)
    tensorrt.fake.build_errors = ["something new"]
    with pytest.raises(RuntimeFailure, match="gave no plan: something new"):
        compiled(tensorrt, plugin=True, plugin_library=library)


def test_a_library_that_is_none(tensorrt, tmp_path):
    (path := tmp_path / "lib.so").write_bytes(b"text")
    with pytest.raises(RuntimeFailure, match=r"lib\.so: wanted a library with AnchorDecode version 1 .*--no-plugin"):
        compiled(tensorrt, plugin=True, plugin_library=path)


def test_a_plugin_that_is_not_there_is_a_sentence(tensorrt):
    told = r"AnchorDecode 'AnchorDecode', which edge-retina put next to your layer 'logits_3': the AnchorDecode plugin"
    with pytest.raises(ModelError, match=told):
        compiled(tensorrt, plugin=True)


def test_a_body_in_the_plugins_place_is_an_error(tensorrt):
    body, _ = lowered("tensorrt", plugin=False)
    with pytest.raises(RuntimeFailure, match="wanted the AnchorDecode plugin to give 'boxes', found SELECT 'Anchor"):
        compiled(tensorrt, model=body, plugin=True)


def test_with_body_and_plugin_the_version_decides_and_the_loser_is_noticed(tensorrt, library):
    proto = onnx.load_from_string(lowered("tensorrt", plugin=False)[0])
    call = next(node for node in proto.graph.node if node.op_type == "AnchorDecode")
    call.attribute.append(onnx.helper.make_attribute("plugin_namespace", "edge_retina"))
    options = {"model": proto.SerializeToString(), "plugin": True, "plugin_library": library}
    if tensorrt.__version__ != "10.3.0":
        assert compiled(tensorrt, **options).shares["fp32"] == 1
        return
    with pytest.raises(RuntimeFailure, match="found SELECT"):
        compiled(tensorrt, **options)


@pytest.mark.parametrize("how", ["plugin", "library"])
def test_rtx_is_never_told_of_a_plugin(rtx_module, library, how):
    with pytest.raises(UsageError, match="TensorRT-RTX has no plugins"):
        compiled(rtx_module, plugin=how == "plugin", plugin_library=library if how == "library" else None)
    assert rtx_module.get_plugin_registry().loaded == []


# --- what goes wrong


def test_no_gpu(tensorrt):
    tensorrt.fake.gpu = None
    with pytest.raises(RuntimeFailure, match=r"tensorrt cannot start: .*only where an NVIDIA GPU .*nvidia-smi"):
        compiled(tensorrt)


def test_parser_errors_name_the_layer(trt):
    told = "Invalid Node - stem\nAPI Usage Error (stem: `input` and `bias` must be of same type)"
    trt.fake.parser_errors = [Error(told, 3, "stem", "Conv")]
    with pytest.raises(ModelError, match="refuses Conv 'stem', a layer of your model: data of different types"):
        compiled(trt)
    assert trt.fake.calls == []


@pytest.mark.parametrize(
    ("logged", "error", "told"),
    [
        ("Requested amount of GPU memory (1 bytes) could not be allocated: out of memory", RuntimeFailure, "512 MiB"),
        ("[utils.cpp] Error Code 6: Target GPU SM 5.3 is not supported by this release", RuntimeFailure, "install a"),
        ("Error Code 10: Could not find any implementation for node {x}.", RuntimeFailure, "--workspace"),
        ("ITopKLayer k: K exceeds the maximum value allowed (3840)", ModelError, "smaller top_k"),
        ("something new", RuntimeFailure, "gave no plan: something new"),
    ],
)
def test_a_build_without_a_plan_says_why(tensorrt, logged, error, told):
    tensorrt.fake.build_errors = [logged]
    with pytest.raises(error, match=told):
        compiled(tensorrt, free_memory=1 << 30)


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_plan_that_came_out_in_float_is_an_error(trt, precision):
    trt.fake.engine_type = "FLOAT"
    with pytest.raises(RuntimeFailure, match=rf"in {precision}, the engine has 0\.0% .*fp32 100\.0%"):
        compiled(trt, precision)


def test_kernels_that_tensorrt_does_not_name_are_noted_and_no_error(tensorrt):
    tensorrt.fake.fused = True
    notes: list[str] = []
    assert compiled(tensorrt, "int8", on_note=notes.append).shares["other"] == 1
    assert notes == ["100% of the convolutions' work is in kernels whose precision TensorRT does not name"]


def test_a_plan_that_cannot_be_loaded_is_an_error(tensorrt):
    tensorrt.fake.loads = False
    with pytest.raises(RuntimeFailure, match="a plan that it cannot load: deserializeCudaEngine: CUDA out of memory"):
        compiled(tensorrt)


def test_the_builder_is_gone_before_the_plan_is_loaded(tensorrt):
    """On a Jetson its memory is the engine's."""
    compiled(tensorrt, timing_cache=b"CACHE ")
    assert tensorrt.fake.calls == ["build_serialized_network", "deserialize_cuda_engine beside 0 builders"]


def test_the_fake_is_strict(one):
    """What compile_plan must not do, so that it is known to be noticed."""
    model, _ = lowered()
    log = one.ILogger.__new__(one.ILogger)
    with pytest.raises(TypeError, match="__init__"):
        one.Builder(log)
    log.__init__()
    log.log = lambda *_: None
    builder = one.Builder(log)
    config = builder.create_builder_config()
    with pytest.raises(RuntimeError, match="strongly typed"):
        config.set_flag(one.BuilderFlag.FP16)
    with pytest.raises(AttributeError):
        config.max_workspace_size = 1
    with pytest.raises(Misuse, match="a pool of"):
        config.set_memory_pool_limit(one.MemoryPoolType.WORKSPACE, 1 << 60)
    with pytest.raises(Misuse, match="weakly typed"):
        builder.build_serialized_network(builder.create_network(0), config)
    network = builder.create_network(1 << int(one.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = one.OnnxParser(network, log)
    assert parser.parse(model)
    with pytest.raises(Misuse, match="open sizes and no profile"):
        builder.build_serialized_network(network, config)
    config.set_timing_cache(config.create_timing_cache(b""), False)
    gc.collect()
    with pytest.raises(Misuse, match="timing cache is gone"):
        builder.build_serialized_network(network, config)
    del parser
    gc.collect()
    with pytest.raises(Misuse, match="owns the network's weights"):
        builder.build_serialized_network(network, config)
    assert not hasattr(one, "ComputeCapability")
    assert not hasattr(fake_builder.module("11.4.1").NetworkDefinitionCreationFlag, "EXPLICIT_BATCH")


# --- progress and Ctrl-C


def test_progress_grows_to_the_end(trt):
    steps: list[tuple[int, int]] = []
    stages: list[str] = []
    compiled(trt, on_step=lambda *step: steps.append(step), on_stage=stages.append)
    assert steps == [(done, STEPS) for done in (500, 625, 750, 875, 1000)]
    assert stages == ["parse", "compile", "inspect"]


def test_ctrl_c_stops_at_the_next_step(trt):
    seen: list[int] = []

    def at_step(number: int) -> None:
        seen.append(number)
        if number == 2:
            signal.raise_signal(signal.SIGINT)

    trt.fake.at_step = at_step
    with pytest.raises(KeyboardInterrupt):
        compiled(trt)
    assert seen == [0, 1, 2]
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    trt.fake.at_step = lambda _: None
    assert compiled(trt).shares["fp32"] == 1


def test_what_the_progress_bar_raises_stops_the_build_and_comes_out(trt):
    def on_step(done: int, total: int) -> None:
        raise OSError("the terminal is gone")

    with pytest.raises(OSError, match="terminal"):
        compiled(trt, on_step=on_step)


def test_compiling_in_another_thread_leaves_ctrl_c_alone(one):
    results: list[Compiled] = []
    thread = threading.Thread(target=lambda: results.append(compiled(one)))
    thread.start()
    thread.join()
    assert results[0].shares["fp32"] == 1


# --- the real builder


@pytest.mark.parametrize("precision", ["fp32", "fp16", "int8"])
def test_rtx_compiles_without_a_gpu_and_tells_the_shares(precision):
    model, macs = lowered("tensorrt_rtx", precision)
    found = rtx.compiled(model, Options(PROFILE, precision, compute_capabilities=("SM86",)), macs)
    assert found["shares"][precision] == pytest.approx(1)
    assert found["plan_bytes"] > 1e6
    assert found["layers"] > 5
    assert found["steps"][-1] == [STEPS, STEPS]
    assert found["timing_cache"] is None


def test_rtx_built_in_float_is_no_int8_plan():
    model, macs = lowered("tensorrt_rtx", "fp32")
    with pytest.raises(RuntimeFailure, match=r"engine has 0\.0% .*fp32 100\.0%"):
        rtx.compiled(model, Options(PROFILE, "int8", compute_capabilities=("SM86",)), macs)


def test_rtx_says_that_it_has_no_plugin():
    model, macs = lowered("tensorrt", plugin=True)
    with pytest.raises(ModelError, match=r"AnchorDecode 'AnchorDecode', which .* 'logits_3': .*not registered"):
        rtx.compiled(model, Options(PROFILE), macs)


def test_rtx_stops_at_ctrl_c():
    model, macs = lowered("tensorrt_rtx", "fp32")
    with pytest.raises(KeyboardInterrupt):
        rtx.compiled(model, Options(PROFILE, compute_capabilities=("SM86",)), macs, interrupt_at=100)
