"""`edge-retina batch` against `run`: the same detections, its throughput, and what it does when a worker is killed.

    python benchmarks/batch.py [throughput] [killed] [cluster] [listing]

2,000 frames of the digits sample: 1,000 pictures and a video of 500 frames twice; the bundle is built here.
throughput: two workers against two processes that each run half of the frames by themselves, one CPU thread each.
killed: `kill -9` of a worker in the middle. cluster: the same on a Ray cluster of two nodes, simulated on this machine.
"""

from __future__ import annotations

import json
import os
import pickle
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import cv2
import numpy as np

import edge_retina

DIGITS = Path(__file__).resolve().parent.parent / "samples" / "digits"
PICTURES, FRAMES = 1000, 2000
# Ray's workers have a niceness of 15 by default; here they are compared with processes that have none.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
PARTS = ("throughput", "killed", "cluster", "listing")


def make_frames(folder: Path) -> None:
    """1,000 pictures, the sample's own and mirrored, brighter and darker ones, and its video twice."""
    originals = sorted((DIGITS / "test").glob("*.jpg"))
    (folder / "pictures").mkdir(parents=True)
    for i in range(PICTURES):
        image = cv2.imread(str(originals[i % len(originals)]))
        image = cv2.flip(image, 1) if i // len(originals) % 2 else image
        image = cv2.convertScaleAbs(image, alpha=(1.0, 1.0, 0.8, 1.2)[i // len(originals)])
        cv2.imwrite(str(folder / "pictures" / f"{i:04d}.jpg"), image)
    for name in ("ride-a.mp4", "ride-b.mp4"):
        shutil.copy(DIGITS / "pan.mp4", folder / name)


def run_half(bundle: str, out: str, sources: list[str]) -> None:
    """What `edge-retina run --threads 1` does with some sources, one after the other; rows and seconds as a pickle."""
    from edge_retina.stream import run

    rows: dict[tuple[str, int], tuple[bytes, bytes, bytes]] = {}

    def keep(frame: Any, found: Any) -> None:
        key = (frame.path, 0 if frame.name else frame.index)
        rows[key] = (found.xyxy.tobytes(), found.scores.tobytes(), found.labels.tobytes())

    with edge_retina.Detector.load(bundle, target="ort", threads=1) as detector:
        print("ready", flush=True)
        sys.stdin.readline()
        start = time.perf_counter()
        for source in sources:
            run(detector, source, [f"{out}.{Path(source).name}.jsonl"], min_score=0.3, on_frame=keep)
        seconds = time.perf_counter() - start
    Path(out).write_bytes(pickle.dumps((rows, seconds)))


def two_alone(folder: Path, bundle: Path) -> tuple[dict[Any, Any], float]:
    """Rows of all frames, and frames per second of two independent processes together, each over half of them."""
    for half in ("a", "b"):
        (folder / f"half-{half}").mkdir()
    pictures = sorted((folder / "set" / "pictures").iterdir())
    for i, path in enumerate(pictures):
        (folder / f"half-{'ab'[i % 2]}" / path.name).symlink_to(path)
    processes = []
    for half in ("a", "b"):
        words = ["--half", str(bundle), str(folder / f"{half}.pickle"), str(folder / f"half-{half}")]
        words.append(str(folder / "set" / f"ride-{half}.mp4"))
        command, pipe = [sys.executable, __file__, *words], subprocess.PIPE
        processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, text=True))
    for process in processes:
        process.stdout.readline()
    for process in processes:
        process.stdin.write("go\n")
        process.stdin.flush()
    assert all(process.wait() == 0 for process in processes)
    rows: dict[Any, Any] = {}
    rate = 0.0
    for half in ("a", "b"):
        found, seconds = pickle.loads((folder / f"{half}.pickle").read_bytes())
        rate += len(found) / seconds
        rows |= {(str(Path(path).resolve()), index): row for (path, index), row in found.items()}
    return rows, rate


def rows_of(parquet: Path) -> list[tuple[tuple[str, int], tuple[bytes, bytes, bytes]]]:
    """Rows of a batch as those of `two_alone`, a list, so that one that came twice is seen."""
    import pyarrow.parquet as pq

    rows = []
    for row in pq.read_table(parquet).to_pylist():
        arrays = (np.float32(row["boxes"]), np.float32(row["scores"]), np.int32(row["labels"]))
        rows.append(((row["source"], row["frame_index"]), tuple(array.tobytes() for array in arrays)))
    return rows


def workers_below(pid: int) -> list[int]:
    """Processes of Ray's workers among the descendants of a process."""
    parents = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    below, found = {pid}, set()
    while below:
        below = {child for child, parent in parents.items() if parent in below}
        found |= below
    return [p for p in found if "MapWorker" in Path(f"/proc/{p}/cmdline").read_text()]


def batch(bundle: Path, folder: Path, out: Path, *more: str, kill: int | None = None) -> tuple[dict[str, Any], float]:
    """What `edge-retina batch --json` says, and its seconds; kill: a process among whose workers one is killed."""
    command = [sys.executable, "-m", "edge_retina", "batch", str(bundle), str(folder), "-o", str(out), "--json", *more]
    start = time.perf_counter()
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    if kill is not None:
        parts = out.with_name(f"{out.name}.parts")
        while len(list(parts.glob("*-last.parquet"))) < 40:  # of 127 units
            assert process.poll() is None
            time.sleep(0.05)
        victim = workers_below(kill or process.pid)[0]
        os.kill(victim, signal.SIGKILL)
        print(f"  killed worker {victim}")
    said = process.communicate()[0]
    assert process.returncode == 0
    return json.loads(said), time.perf_counter() - start


def compare(out: Path, wanted: dict[Any, Any]) -> str:
    """Whether a batch gave each frame once, and all bits of its detections."""
    rows = rows_of(out)
    twice = len(rows) - len(dict(rows))
    lost = len(wanted.keys() - dict(rows).keys())
    differ = sum(wanted.get(key) != row for key, row in rows)
    return f"{len(rows)} frames: {lost} lost, {twice} twice, {differ} with other detections"


def main(parts: list[str]) -> None:
    """Measure and print."""
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        bundle = edge_retina.build(DIGITS / "digits.onnx", out=folder / "digits.edge").path
        frames = folder / "set"
        make_frames(frames)
        if set(parts) - {"listing"}:
            wanted, alone = two_alone(folder, bundle)
            detections = sum(len(row[1]) for row in wanted.values()) // 4
            print(f"two processes of their own: {len(wanted)} frames, {detections} detections, {alone:.1f} frames/s")
        if "throughput" in parts:
            out = folder / "a.parquet"
            said, seconds = batch(bundle, frames, out, "--concurrency", "2")
            rate = said["frames"] / said["seconds"]
            print(f"batch, two workers: {compare(out, wanted)}; {rate:.1f} frames/s = {rate / alone:.3f} x the two")
            other = seconds - said["seconds"]
            print(f"  {seconds:.1f} s in all, {other:.1f} s of them Ray's start, its end and the merge")
            print(f"  {out.stat().st_size / len(wanted):.0f} bytes of Parquet a frame, {2000 / rate:.1f} ms of a core")
        if "killed" in parts:
            said, _ = batch(bundle, frames, folder / "b.parquet", "--concurrency", "2", kill=0)
            found = compare(folder / "b.parquet", wanted)
            print(f"  one of two workers killed: {found}; units repeated: {said['units_repeated']}")
        if "cluster" in parts:
            os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
            from ray.cluster_utils import Cluster

            node = {"num_cpus": 1, "object_store_memory": 100 << 20, "include_dashboard": False}
            cluster = Cluster(initialize_head=True, head_node_args=node)
            cluster.add_node(num_cpus=1, object_store_memory=100 << 20)
            try:
                more = ("--ray-address", cluster.address)
                said, _ = batch(bundle, frames, folder / "c.parquet", *more, kill=os.getpid())
            finally:
                cluster.shutdown()
            found = compare(folder / "c.parquet", wanted)
            print(f"  two nodes, a worker of one killed: {found}; units repeated: {said['units_repeated']}")
        if "listing" in parts:
            listing(folder / "many")


def listing(folder: Path) -> None:
    """What a file costs before anything is done with it."""
    from edge_retina.batch.listing import list_sources
    from edge_retina.batch.units import make_units

    for i in range(50_000):
        path = folder / f"{i // 1000:02d}" / f"{i:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    start = time.perf_counter()
    files = list_sources([str(folder)])
    units = make_units(files, "x")
    seconds = time.perf_counter() - start
    size = sum(len(unit.to_json()) for unit in units) / len(files)
    each = f"{seconds * 1e6 / len(files):.0f} us, {size:.0f} bytes each"
    print(f"listing {len(files)} files into {len(units)} units: {each}")


if __name__ == "__main__":
    if sys.argv[1:2] == ["--half"]:
        run_half(sys.argv[2], sys.argv[3], sys.argv[4:])
    else:
        main(sys.argv[1:] or list(PARTS))
