"""Ray Data: workers that hold a detector each, units to them and parts from them."""

from __future__ import annotations

import json
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import ray
import ray.data

from edge_retina import errors
from edge_retina.batch.parts import Part
from edge_retina.batch.session import first_line
from edge_retina.batch.units import Unit
from edge_retina.batch.worker import Settings, work
from edge_retina.detector import Detector
from edge_retina.errors import EdgeRetinaError, RuntimeFailure, UsageError
from edge_retina.runtime import Gpu

__all__ = ["Pool", "detect", "pool_for"]

# Units handed to a worker ahead of its work, the one it works on included: it never waits, and little is lost with it.
_AHEAD = 2
# A file that was being worked on each time so many workers died is left out.
_DEATHS = 2


@dataclass(frozen=True, slots=True)
class Pool:
    """workers: how many. threads: CPU threads of each. gpus: GPUs of each, which may be a share of one.

    target: see open_runtime. batch: most frames in one run.
    """

    workers: int
    threads: int
    gpus: float
    target: str
    batch: int


def pool_for(*, concurrency: int | None, threads: int, gpus: float | None, target: str, batch: int | None) -> Pool:
    """As many workers as there are GPUs, or cores for their threads; what is given is kept. Raises UsageError."""
    there = ray.cluster_resources()
    cpus, cards = int(there.get("CPU", 1)), there.get("GPU", 0.0)
    if gpus is None:
        gpus = 1.0 if cards >= 1 and target != "ort" else 0.0
    if gpus > cards:
        raise UsageError(f"--gpus-per-worker {gpus:g}: Ray knows of {cards:g} GPUs; leave it out to run on the CPU")
    if threads > cpus:
        raise UsageError(f"--threads {threads}: Ray has {cpus} CPUs")
    if gpus == 0 and target.startswith("tensorrt"):
        raise UsageError(f"--target {target} wants GPUs, and Ray knows of {cards:g}; use --target ort")
    most = max(1, min(cpus // threads, int(cards / gpus) if gpus else cpus))
    if concurrency is not None and concurrency > most:
        what = f"{threads} CPU threads" + (f" and {gpus:g} GPUs" if gpus else "")
        raise UsageError(f"--concurrency {concurrency}: workers of {what} each; Ray has {cpus} CPUs, {cards:g} GPUs")
    return Pool(concurrency or most, threads, gpus, target, batch or (8 if gpus else 1))


def detect(
    bundle: Path, units: Sequence[Unit], have: Mapping[str, int], min_score: float, pool: Pool
) -> Iterator[Part]:
    """Every part of the units, as workers finish them, in no order; a worker that dies is replaced, its unit repeated.

    bundle: sent to the workers, who need not see this machine's files. have: parts of a unit that are there already.
    Parts may come twice after a death. Raises what opening the bundle raises on a worker, RuntimeFailure.
    """
    here = ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
        ray.get_runtime_context().get_node_id(), soft=False
    )
    deaths = ray.remote(_Deaths).options(num_cpus=0, scheduling_strategy=here).remote()
    sent = ray.put(bundle.read_bytes())
    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    # A part is handed over as soon as it is there, not when a block of many is full.
    context.target_max_block_size = 1
    items = [{"unit": unit.to_json(), "have": have.get(unit.key, 0)} for unit in units]
    results = ray.data.from_items(items, override_num_blocks=len(items)).map_batches(
        _Worker,
        batch_size=1,
        compute=ray.data.ActorPoolStrategy(size=pool.workers, max_tasks_in_flight_per_actor=_AHEAD),
        num_cpus=pool.threads,
        num_gpus=pool.gpus,
        fn_constructor_args=(sent, min_score, pool, deaths),
    )
    try:
        for row in results.iter_rows():
            part = _part(row)
            yield part
            deaths.deliver.remote(part.unit, part.number + 1)
    except EdgeRetinaError:
        raise
    except Exception as exc:  # Ray's errors have no common base
        raise RuntimeFailure(f"Ray gave up: {first_line(exc)}") from exc


class _Worker:
    """One detector, of one process; called with a unit at a time."""

    def __init__(self, sent: Any, min_score: float, pool: Pool, deaths: Any) -> None:
        self._deaths, self._failure = deaths, ""
        self._settings = Settings(min_score, pool.batch)
        with tempfile.TemporaryDirectory(prefix="edge-retina-") as folder:
            path = Path(folder, "model.edge")
            path.write_bytes(ray.get(sent))
            try:
                self._detector = Detector.load(
                    path, target=pool.target, threads=pool.threads, gpu=Gpu(batch=pool.batch)
                )
            except EdgeRetinaError as exc:
                self._failure = json.dumps([type(exc).__name__, str(exc)])

    def __call__(self, batch: dict[str, Any]) -> Iterator[dict[str, Any]]:
        if self._failure:
            yield {"facts": [""], "data": [b""], "failure": [self._failure]}
            return
        unit = Unit.from_json(str(batch["unit"][0]))
        starts, delivered = ray.get(self._deaths.begin.remote(unit.key))
        have = max(int(batch["have"][0]), delivered)
        watch = (lambda name: ray.get(self._deaths.enter.remote(unit.key, name))) if starts > 1 else None
        for part in work(self._detector, unit, self._settings, have=have, watch=watch):
            facts = {name: value for name, value in asdict(part).items() if name != "data"} | {"again": starts > 1}
            yield {"facts": [json.dumps(facts)], "data": [part.data], "failure": [""]}
        self._deaths.end.remote(unit.key)


class _Deaths:
    """Which files workers died of, for those who replace them; one actor, beside the process that began the batch."""

    def __init__(self) -> None:
        self._starts: Counter[str] = Counter()
        self._delivered: dict[str, int] = {}
        self._inside: dict[str, str] = {}
        self._died: Counter[str] = Counter()

    def begin(self, unit: str) -> tuple[int, int]:
        """How often this unit was begun, and how many of its parts have arrived."""
        self._starts[unit] += 1
        if name := self._inside.pop(unit, ""):
            self._died[name] += 1
        return self._starts[unit], self._delivered.get(unit, 0)

    def enter(self, unit: str, name: str) -> str | None:
        """A worker is about to open a file; the reason not to, if there is one."""
        if (count := self._died[name]) >= _DEATHS:
            return f"{name}: {count} workers died of it (a decoder that crashes, or memory); look at it by itself"
        self._inside[unit] = name
        return None

    def end(self, unit: str) -> None:
        """The unit is done."""
        self._inside.pop(unit, None)

    def deliver(self, unit: str, parts: int) -> None:
        """So many parts of a unit have arrived, from its first on."""
        self._delivered[unit] = parts


def _part(row: Mapping[str, Any]) -> Part:
    """What a worker sent; raises what it could not begin for."""
    if row["failure"]:
        name, message = json.loads(row["failure"])
        raise getattr(errors, name, RuntimeFailure)(message)
    return Part(data=row["data"], **json.loads(row["facts"]))
