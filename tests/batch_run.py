"""`edge-retina batch` in a process of its own, whose workers can be killed.

    python batch_run.py PARTS BUNDLE SRC... -o OUT

On a Ray cluster of two nodes of this machine: waits until so many parts lie beside OUT, kills a worker, and ends as the
command did.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

PATIENCE_S = 240.0
# Ray's workers would wait behind everything else that runs here.
os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112


def below(pid: int) -> dict[int, str]:
    """Processes that a process has begun, and those that these have, with their command lines."""
    parents, found, new = {}, {}, {pid}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            parents[int(path.name)] = int((path / "stat").read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue
    while new:
        new = {child for child, parent in parents.items() if parent in new}
        found |= {child: command(child) for child in new}
    return found


def command(pid: int) -> str:
    """Command line of a process; "" where there is none, or only its remains."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def begin(words: list[str]) -> subprocess.Popen[str]:
    """The command, its output in pipes."""
    pipe = subprocess.PIPE
    return subprocess.Popen([sys.executable, "-m", "edge_retina", "batch", *words], stdout=pipe, stderr=pipe, text=True)


def wait_for_parts(process: subprocess.Popen[str], out: Path, count: int) -> None:
    """Until so many parts lie beside OUT."""
    end = time.monotonic() + PATIENCE_S
    while len(list(out.with_name(f"{out.name}.parts").glob("*-*.parquet"))) < count:
        if process.poll() is not None or time.monotonic() > end:
            sys.exit(
                f"no {count} parts; {process.poll()}: {process.communicate() if process.poll() is not None else ''}"
            )
        time.sleep(0.02)


def kill_a_worker(pid: int) -> None:
    """SIGKILL to that one of Ray's workers below a process that has worked most."""
    workers = [child for child, line in below(pid).items() if "MapWorker" in line]
    os.kill(max(workers, key=cpu_ticks), signal.SIGKILL)


def cpu_ticks(pid: int) -> int:
    """CPU time that a process has used, user and system."""
    facts = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return int(facts[11]) + int(facts[12])


def on_two_nodes(parts: int, words: list[str]) -> int:
    """The command on a cluster of two nodes with a CPU each, where a worker is killed."""
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "object_store_memory": 100 << 20}
    cluster = Cluster(initialize_head=True, head_node_args={**node, "include_dashboard": False})
    try:
        cluster.add_node(**node)
        process = begin([*words, "--ray-address", cluster.address])
        wait_for_parts(process, Path(words[words.index("-o") + 1]), parts)
        kill_a_worker(os.getpid())
        said, told = process.communicate(timeout=PATIENCE_S)
    finally:
        left = cluster.head_node.get_session_dir_path()
        cluster.shutdown()
        shutil.rmtree(left, ignore_errors=True)
    sys.stdout.write(said)
    sys.stderr.write(told)
    return process.returncode


if __name__ == "__main__":
    sys.exit(on_two_nodes(int(sys.argv[1]), sys.argv[2:]))
