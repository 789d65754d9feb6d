"""A bundle as a model of a Triton Inference Server repository: frames in, detections out, as everywhere else.

    REPOSITORY/NAME/config.pbtxt            tensors, batching, instances; whoever runs the server may change it
    REPOSITORY/NAME/labels.txt              a name a line; the same list is in the configuration, for clients
    REPOSITORY/NAME/VERSION/model.onnx      for the ONNX Runtime backend: the bundle's own, standard operators
    REPOSITORY/NAME/VERSION/model.plan      or for the TensorRT backend: a compiled plan
    REPOSITORY/NAME/VERSION/edge-retina.json  what it was made of

Source: server/docs/user_guide/model_repository.md and model_configuration.md of triton-inference-server.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_retina.errors import BundleError, MissingPackage, UsageError
from edge_retina.export.folder import write_folder
from edge_retina.export.pbtxt import Name, Value, to_pbtxt
from edge_retina.plugin import LIBRARY
from edge_retina.profile import Profile

if TYPE_CHECKING:
    from edge_retina.bundle import Bundle
    from edge_retina.plans import Plan

__all__ = ["Exported", "Serving", "export_triton", "model_config"]

ABOUT, CONFIG, LABELS = "edge-retina.json", "config.pbtxt", "labels.txt"
REGISTER = "register_plugin.cpp"
# Frames that run together where the bundle takes any number.
_USUAL_BATCH = 8
# The first frame of a model that takes any size, (H, W).
_WARM_UP = (480, 640)


@dataclass(frozen=True)
class Serving:
    """How the server is to run the model.

    max_batch: frames that run together at most; None for the plan's most, or 8, or 1 where the bundle takes no more.
    instances: of the model, at work at the same time. threads: of each instance on the CPU; 0 for all cores.
    gpu: the ONNX Runtime backend uses the GPU. max_delay_us: how long a frame may wait for others, microseconds.
    frame: (H, W) of the frame that warms the model up; None for the bundle's or plan's, or 480x640.
    Raises UsageError.
    """

    max_batch: int | None = None
    instances: int = 1
    threads: int = 0
    gpu: bool = False
    max_delay_us: int = 0
    frame: tuple[int, int] | None = None

    def __post_init__(self) -> None:
        for name, least in (("max_batch", 1), ("instances", 1), ("threads", 0), ("max_delay_us", 0)):
            if (value := getattr(self, name)) is not None and value < least:
                raise UsageError(f"{name} wants {least} or more, found {value}")
            if value is not None and value >= 1 << 31:  # Triton's int32
                raise UsageError(f"{name} wants a number below {1 << 31}, found {value}")


@dataclass(frozen=True)
class Exported:
    """A model in a repository. model: its folder. version: number of what was written. config_kept: was there before.

    plugin: the library beside the configuration that the plan needs; None where it needs none.
    """

    model: Path
    version: int
    config_kept: bool
    plugin: Path | None


def export_triton(
    bundle: Bundle,
    repository: Path,
    *,
    name: str | None = None,
    version: int | None = None,
    serving: Serving | None = None,
    plan: Plan | None = None,
    plugin: Path | None = None,
) -> Exported:
    """Write a bundle into a model repository, the whole model or, of a model that is there, one more version.

    name: of the model, by default the bundle's file name. version: 1 or more, by default 1; of a model that is there
    it must be given and new. Another model of that name is never touched, and neither is a configuration that is
    there. plan: for the TensorRT backend, of this bundle. plugin: the library with which the plan was compiled.
    Raises UsageError, BundleError, MissingPackage, OutputError.
    """
    name = _checked_name(bundle.path.stem if name is None else name)
    if version is not None and version < 1:
        raise UsageError(f"a version wants a number from 1 on, found {version}")
    asked = serving or Serving()
    interface = _interface(bundle, plan)
    config = model_config(bundle, name, asked, plan)
    about = {"bundle": bundle.digest, "precision": bundle.manifest.precision, "interface": interface}
    files = {"model.onnx": bundle.model()} if plan is None else {"model.plan": plan.data}
    beside = {} if plan is None else _plugin_files(plan, plugin)
    if plan is not None:
        about["plan"] = hashlib.sha256(plan.data).hexdigest()
    files[ABOUT] = (json.dumps(about, indent=1, sort_keys=True) + "\n").encode()
    model = repository / name
    kept = model.exists()
    if kept:
        number = _next_version(model, version, about)
        if (model / str(number)).exists():
            return Exported(model, number, True, _library(model))
        write_folder(model / str(number), files, draft_in=repository.absolute().parent)
    else:
        number = version or 1
        whole = {CONFIG: config.encode(), LABELS: bundle.read(LABELS), **beside}
        whole |= {f"{number}/{file}": data for file, data in files.items()}
        write_folder(model, whole, draft_in=repository.absolute().parent)
    return Exported(model, number, kept, _library(model))


def model_config(bundle: Bundle, name: str, serving: Serving, plan: Plan | None = None) -> str:
    """The text of config.pbtxt. Raises UsageError where batch or frame do not fit the bundle or the plan."""
    profile = None if plan is None else _profile(plan)
    most, sides, frame = _limits(bundle, serving, profile)
    detections = bundle.spec.max_detections
    config: dict[str, Value] = {
        "name": name,
        "backend": "onnxruntime" if plan is None else "tensorrt",
        "default_model_filename": "model.onnx" if plan is None else "model.plan",
        "max_batch_size": most,
        "input": [_tensor("frames", "UINT8", [*sides, 3])],
        "output": [
            _tensor("boxes", "FP32", [detections, 4]),
            _tensor("scores", "FP32", [detections]),
            _tensor("labels", "INT32", [detections]),
            # One number a frame: Triton has no tensor without dimensions, so it is [1] on the wire.
            {**_tensor("count", "INT32", [1]), "reshape": {"shape": []}},
        ],
        "version_policy": {"latest": {"num_versions": 1}},
        "instance_group": [
            {"count": serving.instances, "kind": Name("KIND_GPU" if plan or serving.gpu else "KIND_CPU")}
        ],
    }
    if most > 1:
        config["dynamic_batching"] = {"max_queue_delay_microseconds": serving.max_delay_us}
    # For clients: Triton's own label file names places of a vector of class scores, which we have none of.
    parameters = {"labels": json.dumps(list(bundle.labels))}
    if plan is None:
        parameters["intra_op_thread_count"] = str(serving.threads)
    config["parameters"] = [{"key": key, "value": {"string_value": value}} for key, value in parameters.items()]
    config["model_warmup"] = [_warm_up(batch, frame) for batch in sorted({1, most})]
    return "".join(f"# {line}\n" for line in _notes(bundle, plan)) + to_pbtxt(config)


def _notes(bundle: Bundle, plan: Plan | None) -> list[str]:
    notes = [
        f"{bundle.spec.family}, {bundle.manifest.precision}, written by `edge-retina export triton`. Yours to change.",
        "frames: BGR, as OpenCV reads them. boxes: x1 y1 x2 y2 in pixels of the frame. Rows from `count` on are empty.",
        "Frames run together only where they have the same size.",
    ]
    if plan is not None:
        notes.append(f"The plan loads in TensorRT {plan.key.version} on {plan.key.gpu or plan.key.compute_capability}.")
    return notes


def _tensor(name: str, kind: str, dims: list[int]) -> dict[str, Value]:
    return {"name": name, "data_type": Name(f"TYPE_{kind}"), "dims": dims}


def _warm_up(batch: int, frame: tuple[int, int]) -> dict[str, Value]:
    """Noise, so that the whole way is gone: of a black frame nothing passes the threshold."""
    noise: Value = {"data_type": Name("TYPE_UINT8"), "dims": [*frame, 3], "random_data": True}
    return {"name": f"batch_{batch}", "batch_size": batch, "inputs": [{"key": "frames", "value": noise}]}


def _limits(bundle: Bundle, serving: Serving, profile: Profile | None) -> tuple[int, tuple[int, int], tuple[int, int]]:
    """Most frames at once, (H, W) of the input with -1 for any, and (H, W) of the first frame. Raises UsageError."""
    limit, sides = _takes(bundle, profile)
    usual = _WARM_UP if profile is None else profile.usual[1:]
    frame = serving.frame or (usual if -1 in sides else sides)
    fits = all(side in (-1, mine) for side, mine in zip(sides, frame, strict=True))
    if not fits or (profile is not None and not profile.holds(1, *frame)):
        takes = f"frames of {sides[1]}x{sides[0]} only" if profile is None else f"what its profile has, {profile.text}"
        raise UsageError(f"a first frame of {frame[1]}x{frame[0]}: this model takes {takes}; give another --frame-size")
    usual_batch = _USUAL_BATCH if profile is None else profile.most[0]
    most = serving.max_batch or min(usual_batch, limit or usual_batch)
    if limit is not None and most > limit:
        raise UsageError(f"batches of {most}: this model takes {limit} at most; give --max-batch {limit} or less")
    return most, sides, frame


def _takes(bundle: Bundle, profile: Profile | None) -> tuple[int | None, tuple[int, int]]:
    """The most frames that the model can take, None for any, and (H, W) of its input, -1 for any."""
    if profile is None:
        return bundle.manifest.batch_max, bundle.manifest.frame_size or (-1, -1)
    height, width = (a if a == b else -1 for a, b in zip(profile.least[1:], profile.most[1:], strict=True))
    return profile.most[0], (height, width)


def _interface(bundle: Bundle, plan: Plan | None) -> Mapping[str, Any]:
    """What a client and the configuration know of the model: the same for all its versions."""
    limit, sides = _takes(bundle, None if plan is None else _profile(plan))
    return {
        "backend": "onnxruntime" if plan is None else "tensorrt",
        "plugin": "" if plan is None else plan.key.plugin,
        "frames": list(sides),
        "batch": limit,
        "detections": bundle.spec.max_detections,
        "labels": list(bundle.labels),
    }


def _checked_name(name: str) -> str:
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}", name):
        raise UsageError(f"a model's name wants letters, digits, '.', '-' and '_', found {name[:80]!r}; give --name")
    return name


def _next_version(model: Path, version: int | None, about: Mapping[str, Any]) -> int:
    """The version to add to a model that is there, or one of it that is this very export. Raises UsageError."""
    versions = sorted(int(path.name) for path in model.iterdir() if path.name.isdecimal()) if model.is_dir() else []
    known = {number: _read_about(model / str(number) / ABOUT) for number in versions}
    if not versions or any(facts is None for facts in known.values()):
        raise UsageError(f"{model}: is there, and not written by edge-retina; choose another with --name")
    for facts in known.values():
        if facts is not None and facts.get("interface") != about["interface"]:
            differs = [key for key, value in about["interface"].items() if facts.get("interface", {}).get(key) != value]
            what = ", ".join(differs) or "interface"
            raise UsageError(f"{model}: is another model, it differs in {what}; choose another with --name")
    following = f"--version {versions[-1] + 1}"
    if version is None:
        same = [number for number, facts in known.items() if facts == about]
        if not same:
            raise UsageError(f"{model}: has version {versions[-1]}, of another bundle; add this one: {following}")
        return same[-1]
    if version in known and known[version] != about:
        raise UsageError(f"{model}: version {version} is of another bundle or plan; add this one: {following}")
    return version


def _read_about(path: Path) -> dict[str, Any] | None:
    try:
        facts = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    return facts if isinstance(facts, dict) and isinstance(facts.get("interface"), dict) else None


def _profile(plan: Plan) -> Profile:
    """The profile of a plan that Triton's TensorRT backend can serve. Raises BundleError, UsageError."""
    if plan.key.target != "tensorrt":
        raise BundleError(
            f"{plan.path}: a plan of {plan.key.target}; Triton's TensorRT backend loads TensorRT's only: "
            "edge-retina build MODEL.onnx --target tensorrt --plan OUT.plan"
        )
    profile = Profile.from_text(plan.key.profile)
    if profile.least[0] != 1:
        raise BundleError(f"{plan.path}: takes {profile.least[0]} frames or more; a server's batch starts at 1")
    return profile


def _plugin_files(plan: Plan, plugin: Path | None) -> dict[str, bytes]:
    """The plugin library and the source of what registers it, where the plan needs them.

    Raises MissingPackage where it is needed and not given, UsageError where another is.
    """
    if not plan.key.plugin:
        if plugin is not None:
            raise UsageError(f"{plan.path}: was compiled without the plugin; leave --plugin out")
        return {}
    if plugin is None:
        raise MissingPackage(
            f"{plan.path}: needs the plugin it was compiled with, which is not here; name the library: --plugin FILE, "
            "or compile a plan without: edge-retina build MODEL.onnx --no-plugin --plan OUT.plan"
        )
    try:
        data = plugin.read_bytes()
    except OSError as exc:
        raise UsageError(f"{plugin}: cannot be read: {exc.strerror or exc}; give --plugin {LIBRARY}") from exc
    if (found := hashlib.sha256(data).hexdigest()) != plan.key.plugin:
        raise UsageError(
            f"{plugin}: is not what {plan.path} was compiled with: wants sha256 {plan.key.plugin[:12]}, found "
            f"{found[:12]}; give that one, or compile the plan anew"
        )
    return {LIBRARY: data, REGISTER: (Path(__file__).with_name("sources") / REGISTER).read_bytes()}


def _library(model: Path) -> Path | None:
    path = model / LIBRARY
    return path if path.is_file() else None
