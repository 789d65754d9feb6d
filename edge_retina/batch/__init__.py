"""Detections of a great many pictures and videos, by workers of Ray on this machine or on a cluster."""

from __future__ import annotations

import importlib.util
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_retina.bundle import Bundle, read_bundle
from edge_retina.errors import InputError, MissingPackage, RuntimeFailure, UsageError

if TYPE_CHECKING:
    from edge_retina.batch.parts import PartFolder
    from edge_retina.batch.units import Unit

__all__ = ["BatchSummary", "Progress", "Workers", "batch"]

_SUFFIXES = (".parquet", ".json")
# Changes when parts of an older version cannot be gone on with.
_FORMAT = 1
# What Ray reads when it is imported: it reports to nobody, and what it has to say goes to its log files. A container's
# /dev/shm is often smaller than what it insists on; little goes through its store here.
_QUIET = {
    "RAY_BACKEND_LOG_LEVEL": "fatal",
    "RAY_DATA_LOG_LEVEL": "CRITICAL",
    "RAY_DEDUP_LOGS": "0",
    "RAY_OBJECT_STORE_ALLOW_SLOW_STORAGE": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
# How often what Ray did not bring back is asked for again.
_PASSES = 3


@dataclass(frozen=True, slots=True)
class Workers:
    """Who does the work. concurrency: how many workers, None: one per GPU, else as many as the cores have threads for.

    threads: CPU threads of each; the last bits of an FP16 bundle's results depend on them on a CPU, others' do not.
    gpus: GPUs of each worker, or a share of one; None: 1 where Ray knows of any. target: see open_runtime. batch: most
    frames in one run, None: 8 on a GPU, else 1. address: HOST:PORT of a Ray cluster that this machine is part of; None
    starts Ray on this machine and ends it.
    """

    concurrency: int | None = None
    threads: int = 1
    gpus: float | None = None
    target: str = "auto"
    batch: int | None = None
    address: str | None = None


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a batch is. files, total: done and in all; frames, detections: of this run."""

    files: int
    total: int
    frames: int = 0
    detections: int = 0


@dataclass(frozen=True, slots=True)
class BatchSummary:
    """What a batch did. files: in all; resumed: of these, done by an earlier run; failed: of these, with an error.

    frames, detections: of this run. repeated: units begun again, for their worker died. seconds: from the
    beginning of the work, without Ray's own, to the last part.
    errors_table: which files failed, and why.
    """

    files: int
    resumed: int
    frames: int
    detections: int
    repeated: int
    seconds: float
    failed: int
    errors_table: Path


def batch(
    bundle: str | os.PathLike[str],
    sources: Sequence[str],
    out: str | os.PathLike[str],
    *,
    min_score: float = 0.3,
    workers: Workers | None = None,
    on_progress: Callable[[Progress], None] = lambda _: None,
) -> BatchSummary:
    """Run a bundle over folders, patterns, files and lists, and write OUT.parquet or COCO as OUT.json.

    The detections are those of `run`, bit for bit. What is done stays in OUT.parts until OUT is written, and a second
    call with the same bundle, files and min_score goes on there. A file that cannot be read is a row of
    OUT.errors.parquet. Raises UsageError, InputError (no files, or none that can be read), BundleError, OutputError,
    RuntimeFailure, MissingPackage.
    """
    target = Path(out)
    if target.suffix not in _SUFFIXES or "://" in str(out):
        raise UsageError(f"{out}: wanted a file of this machine that ends in {' or '.join(_SUFFIXES)}")
    if missing := [name for name in ("ray", "pyarrow", "pandas") if importlib.util.find_spec(name) is None]:
        raise MissingPackage(f"batch needs {', '.join(missing)}; run: pip install 'edge-retina[ray]'")
    opened = read_bundle(bundle)

    from edge_retina.batch.job import is_done, open_job, remove
    from edge_retina.batch.listing import list_sources
    from edge_retina.batch.results import count_errors, errors_path, write_coco, write_errors, write_parquet
    from edge_retina.batch.units import make_units, sources_digest

    if not sources:
        raise UsageError("batch wants at least one folder, pattern, file or list, such as photos/")
    files = list_sources(sources)
    about = _about(opened, min_score, sources_digest(files), len(files))
    if is_done(target, about):
        return BatchSummary(len(files), len(files), 0, 0, 0, 0.0, count_errors(target), errors_path(target))
    units = make_units(files, f"{opened.digest} {min_score!r}")
    with open_job(target, about) as folder:
        worked = _work(opened, units, folder, min_score, workers or Workers(), len(files), on_progress)
        keys = [unit.key for unit in units]
        write = write_parquet if target.suffix == ".parquet" else write_coco
        errors = [error for _, failed in folder.read(keys) for error in failed]
        write_errors(target, errors)
        if len({error.source for error in errors if not error.frames}) == len(files):
            remove(folder)
            raise InputError(f"none of {len(files)} files could be read; the first: {errors[0].message}")
        write(target, folder.read(keys), about)
        remove(folder)
    return BatchSummary(len(files), *worked, len(errors), errors_path(target))


def _about(bundle: Bundle, min_score: float, sources: str, files: int) -> dict[str, Any]:
    """What a batch is about, as its folder and its result say it."""
    return {
        "batch": _FORMAT,
        "bundle_digest": bundle.digest,
        "model_digest": bundle.manifest.model_digest,
        "labels": list(bundle.labels),
        "min_score": min_score,
        "sources": sources,
        "files": files,
    }


def _work(
    bundle: Bundle,
    units: Sequence[Unit],
    folder: PartFolder,
    min_score: float,
    workers: Workers,
    total: int,
    on_progress: Callable[[Progress], None],
) -> tuple[int, int, int, int, float]:
    """Do what is not done yet; returns BatchSummary's resumed to seconds.

    What counts is what lies in the folder, whatever Ray says that it did. Raises RuntimeFailure.
    """
    left = _left(units, folder)
    resumed = files = total - sum(len(unit.files) for unit in left)
    frames = detections = 0
    repeated: set[str] = set()
    on_progress(Progress(files, total))
    if not left:
        return resumed, 0, 0, 0, 0.0
    for name, value in _QUIET.items():
        os.environ.setdefault(name, value)
    from edge_retina.batch.cluster import detect, pool_for
    from edge_retina.batch.session import connected

    with connected(workers.address, (workers.concurrency or 1) * workers.threads):
        pool = pool_for(
            concurrency=workers.concurrency,
            threads=workers.threads,
            gpus=workers.gpus,
            target=workers.target,
            batch=workers.batch,
        )
        handed_out = time.time()
        began: list[float] = []
        for _ in range(_PASSES):
            sizes = {unit.key: len(unit.files) for unit in left}
            have = {unit: count for unit, (count, _) in folder.found().items()}
            arrived: set[str] = set()
            for part in detect(bundle.path, left, have, min_score, pool):
                began.append(part.began)
                if part.known or part.name in arrived:
                    continue
                folder.add(part)
                arrived.add(part.name)
                repeated.update([part.unit] if part.again else [])
                frames, detections = frames + part.frames, detections + part.detections
                files += sizes[part.unit] if part.last else 0
                on_progress(Progress(files, total, frames, detections))
            left = _left(units, folder)
            if not left:
                return resumed, frames, detections, len(repeated), time.time() - max(handed_out, min(began))
    raise RuntimeFailure(f"{len(left)} units did not come back, {_PASSES} times over; the same command goes on there")


def _left(units: Sequence[Unit], folder: PartFolder) -> list[Unit]:
    """Units that are not done, long ones first, so that none is begun when all others end."""
    whole = {unit for unit, (_, last) in folder.found().items() if last}
    left = [unit for unit in units if unit.key not in whole]
    return sorted(left, key=lambda unit: -sum(file.size for file in unit.files))
