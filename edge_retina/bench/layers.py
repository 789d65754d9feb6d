"""TensorRT's layers as its profiler told of them: their time by stage, and by the names of the user's model."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from edge_retina.bench.stages import LayerTime, Profile, stage_of, voted
from edge_retina.errors import RuntimeFailure
from edge_retina.plans import list_plans, read_plan
from edge_retina.runtime.trt import Pieces

__all__ = ["Nodes", "find_nodes", "read_pieces"]

# Name of a layer to its kind and the ONNX nodes in it.
Nodes = Mapping[str, tuple[str, tuple[str, ...]]]
# A node of a local function: "decode/TopK_4 | AnchorDecode (AnchorDecode)".
_INSIDE = re.compile(r"^(?P<node>.+) \| (?P<call>\S+) \(\w+\)$")
# Where TensorRT lists what it fused in a layer's own name: "a + b", "{ForeignNode[a...b]}".
_JOINTS = re.compile(r" \+ |\.\.\.|[\[\]{}]|ForeignNode")
_MOST_NAMED = 3


def find_nodes(bundle: str, target: str, names: Iterable[str]) -> Nodes:
    """The ONNX nodes in the layers of a bundle's plan, as its compilation found them; {} where no plan tells.

    bundle: its digest. names: of the layers that ran; of several plans the one that has most of them is it.
    """
    ran = set(names)
    best: dict[str, tuple[str, tuple[str, ...]]] = {}
    for known in list_plans():
        if (known.key.bundle, known.key.target) != (bundle, target) or (plan := read_plan(known.key)) is None:
            continue
        layers = {row["name"]: (row["type"], tuple(row["nodes"])) for row in plan.about.get("layers", ())}
        if len(ran & layers.keys()) > len(ran & best.keys()):
            best = layers
    return best


def read_pieces(runs: Sequence[Pieces], nodes: Nodes) -> Profile:
    """The profile of these runs. nodes: of find_nodes; a layer that is not there is known by its name alone.

    The network's time is dealt out to the stages as TensorRT's times of the layers are; a fused layer belongs to the
    stage most of its nodes do, one without nodes, as a copy or a wait, to that of the layer before it.
    Raises RuntimeFailure when no layer was told of.
    """
    if not runs or not all(run.layers for run in runs):
        raise RuntimeFailure("TensorRT's profiler told of no layer; compile the plan again: edge-retina plans --help")
    named = _named((name for name, _ in runs[0].layers), nodes)
    stages: dict[str, list[float]] = {
        stage: [0.0] * len(runs) for stage in ("upload", "preprocess", "trunk", "decode", "download")
    }
    layers: dict[tuple[str, str, str], float] = defaultdict(float)
    for number, run in enumerate(runs):
        stages["upload"][number], stages["download"][number] = run.upload, run.download
        scale = run.network / (sum(ms for _, ms in run.layers) or 1.0)
        for name, ms in run.layers:
            shown, kind, stage = named.get(name, (name, "", "trunk"))
            stages[stage][number] += ms * scale
            layers[shown, kind, stage] += ms / len(runs)
    return Profile(
        {stage: tuple(ms) for stage, ms in stages.items() if np.any(ms)},
        tuple(run.upload + run.network + run.download for run in runs),
        tuple(LayerTime(name, kind, stage, ms) for (name, kind, stage), ms in layers.items()),
    )


def _named(ran: Iterable[str], nodes: Nodes) -> dict[str, tuple[str, str, str]]:
    """What each layer is shown as, its kind and its stage."""
    found: dict[str, tuple[str, str, str]] = {}
    stage = "preprocess"
    for name in ran:
        kind, inside = nodes.get(name, ("", ()))
        inside = tuple(map(_own, inside)) or tuple(filter(None, map(str.strip, _JOINTS.split(name))))
        told = name in nodes and bool(nodes[name][1])
        if told or "frame/" in name or stage_of(name) != "trunk" or (name not in nodes and "__my" not in name):
            stage = voted(inside)
        more = f" + {len(inside) - _MOST_NAMED} more" if len(inside) > _MOST_NAMED else ""
        found[name] = (" + ".join(inside[:_MOST_NAMED]) + more if told else name, kind, stage)
    return found


def _own(node: str) -> str:
    """As ONNX Runtime's operators are called: the call, then the node in it."""
    inner = _INSIDE.match(node)
    return f"{inner['call']}/{inner['node']}" if inner else node
