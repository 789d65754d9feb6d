"""What live streams must hold over a long time, against real servers on this machine that fail on purpose.

    python benchmarks/streams.py lag [--seconds 600]         a detector of 5 fps on an RTSP stream of 30
    python benchmarks/streams.py reconnects [--count 1000]   cut, frozen, refused, garbage, killed, another size
    python benchmarks/streams.py cameras [--seconds 120]     8 cameras at 15 fps, one of which dies half-way
    python benchmarks/streams.py overlap [--frames 300]      throughput and added latency of the loop
    python benchmarks/streams.py soak [--seconds 1800]       faults all the time: captured == processed + dropped

Each prints one JSON line, and ends with code 1 where a bound is not met. RTSP wants GStreamer's server, see
tests/faults.py; without it the streams are MJPEG over HTTP.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import random
import statistics
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

from faults import MjpegCamera, RtspServer, Wire, missing_rtsp  # noqa: E402
from models import tiny_model  # noqa: E402
from stamped import age_ms, read_stamp  # noqa: E402

from edge_retina import Detections, Detector, Frame, build  # noqa: E402
from edge_retina.backoff import Backoff  # noqa: E402
from edge_retina.capture import Patience  # noqa: E402
from edge_retina.live import Camera  # noqa: E402
from edge_retina.stream import Named, run  # noqa: E402

HASTY = Patience(open_s=2.5, silence_s=0.3, stale_s=0.15)
PAGE = os.sysconf("SC_PAGE_SIZE")
# A soak's connections come and go while its threads and descriptors are counted, those of its HTTP server among them.
MOST_MORE = 10
# The decoder's threads of one connection.
MOST_MORE_OF_ONE = 3


class Slowed:
    """A detector that takes at least so long for a call, and counts the seconds."""

    def __init__(self, detector: Detector, call_s: float = 0.0) -> None:
        self.bundle, self.runtime, self._detector, self._call_s = detector.bundle, detector.runtime, detector, call_s
        self.busy_s = 0.0

    def __call__(self, image: Any) -> Detections:
        """Detections of one picture, as a Detector gives them."""
        start = time.perf_counter()
        found = self._detector(image)
        time.sleep(max(0.0, self._call_s - (time.perf_counter() - start)))
        self.busy_s += time.perf_counter() - start
        return found


def tiny(folder: str) -> Detector:
    """A detector that costs next to nothing."""
    tiny_model(Path(folder) / "m.onnx")
    return Detector.load(build(Path(folder) / "m.onnx", Path(folder) / "m.edge").path, threads=1)


def percentile(values: list[float], share: float) -> float:
    """The value below which that share of them lies."""
    return round(float(np.percentile(values, share)), 1) if values else float("nan")


def open_server(fps: int = 30) -> tuple[RtspServer | MjpegCamera, str]:
    """A server, and what follows its port in a URI."""
    if missing_rtsp():
        return MjpegCamera(fps=fps), "http"
    return RtspServer(fps=fps), "rtsp"


def uri_of(scheme: str, port: int) -> str:
    """Where the camera is, behind that port."""
    return f"{scheme}://127.0.0.1:{port}/camera"


def lag(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Age of results with a detector of 5 fps on 30 fps, as the stamps in the pictures tell it."""
    server, scheme = open_server()
    ages: list[float] = []
    end = threading.Event()
    threading.Timer(options.seconds, end.set).start()

    def on_frame(frame: Frame, _: Detections) -> None:
        ages.append(float(age_ms(frame.image)))

    with tempfile.TemporaryDirectory() as folder:
        detector = Slowed(tiny(folder), 0.2)
        summary = run(detector, uri_of(scheme, server.port), [], on_frame=on_frame, stop=end)  # type: ignore[arg-type]
    server.close()
    steady = ages[5:]
    slope = float(np.polyfit(np.arange(len(steady)), steady, 1)[0]) * 300  # ms a minute at 5 fps
    bound = 1.5 * 200 + 100
    facts = {
        "scheme": scheme,
        "seconds": options.seconds,
        "results": len(steady),
        "age_ms_p50": percentile(steady, 50),
        "age_ms_p99": percentile(steady, 99),
        "age_ms_max": max(steady),
        "age_ms_last_tenth_p50": percentile(steady[-len(steady) // 10 :], 50),
        "slope_ms_per_minute": round(slope, 2),
        "bound_ms": bound,
        "counts": summary.to_json()["cameras"],
    }
    return facts, max(steady) < bound


def resources() -> tuple[int, int, int]:
    """Resident KiB, threads of any kind, file descriptors of this process."""
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * PAGE // 1024, len(os.listdir("/proc/self/task")), len(os.listdir("/proc/self/fd"))


def slopes(at: list[float], held: list[tuple[int, int, int]]) -> dict[str, float]:
    """Growth of each of resources() per unit of `at`, by least squares."""
    names = "rss_kib", "threads", "file_descriptors"
    return {name: round(float(np.polyfit(at, [row[i] for row in held], 1)[0]), 3) for i, name in enumerate(names)}


class Broken:
    """A server behind a wire, and every way in which its stream stops."""

    kinds = ("cut", "freeze", "refuse", "garbage", "size", "kill")

    def __init__(self, server: RtspServer | MjpegCamera, wire: Wire) -> None:
        self.server, self.wire, self._big = server, wire, False

    def begin(self, kind: str) -> None:
        """Have it stop; freeze: half open, nothing passes, and new connections get no answer."""
        if kind in ("freeze", "refuse", "garbage"):
            self.wire.mode = kind
        if kind == "kill":
            self.server.close()
        elif kind == "size":
            self._big = not self._big
            self._resize((192, 256) if self._big else (240, 320))
        if kind in ("cut", "refuse", "size"):
            self.wire.cut()

    def end(self) -> None:
        """Have it work again, over new connections."""
        if isinstance(self.server, RtspServer) and self.server.process.poll() is not None:
            self.server = RtspServer(size="256x192" if self._big else "320x240")
            self.wire.target = self.server.port
        elif isinstance(self.server, MjpegCamera) and self.server.closing:
            self.server = MjpegCamera(self.server.fps, self.server.shape)
            self.wire.target = self.server.port
        self.wire.mode = "pass"
        self.wire.cut()

    def _resize(self, shape: tuple[int, int]) -> None:
        if isinstance(self.server, RtspServer):
            self.server.tell(f"size {shape[1]}x{shape[0]}")
        else:
            self.server.shape = shape


def wait_for_first(camera: Camera) -> None:
    """Until it is live; a busy machine may need more than one attempt."""
    end = time.monotonic() + 60
    while camera.counts.captured == 0:
        if time.monotonic() > end:
            raise SystemExit(f"never a frame: {camera}")
        time.sleep(0.05)


def reconnects(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """A stream lost and found again and again; growth of what the process holds, per 100 times."""
    server, scheme = open_server()
    wire = Wire(server.port)
    broken = Broken(server, wire)
    # Counted and not kept: what the list would weigh counts as a leak.
    downs: Counter[str] = Counter()
    # A freeze and a new server take their time, so there are fewer of them.
    order = ["cut", "refuse", "garbage", "cut", "size", "refuse", "freeze", "cut", "refuse", "garbage", "size", "kill"]
    took: dict[str, list[float]] = {kind: [] for kind in Broken.kinds}
    held: list[tuple[int, int, int]] = []
    at: list[float] = []
    frames = twice = disorder = unread = 0
    last = -1
    with Camera(
        uri_of(scheme, wire.port),
        patience=HASTY,
        backoff=Backoff(0.01, 0.02),
        on_event=lambda event: downs.update([event.kind]),
    ) as camera:
        wait_for_first(camera)
        for done in range(options.count):
            for _ in range(2):
                frame = camera.next(10)
                if frame is None:
                    raise SystemExit(f"no frame within 10 s after {done} reconnects: {camera}")
                frames += 1
                try:
                    stamp = read_stamp(frame.image)
                except ValueError:
                    unread += 1
                    continue
                twice += stamp == last
                disorder += stamp < last
                last = stamp
            kind = order[done % len(order)]
            before, start = camera.counts, time.monotonic()
            broken.begin(kind)
            while camera.counts.outages == before.outages and time.monotonic() - start < 10:
                camera.take()
                time.sleep(0.002)
            broken.end()
            while camera.counts.reconnects == before.reconnects and time.monotonic() - start < 20:
                time.sleep(0.002)
            took[kind].append(time.monotonic() - start)
            if done >= options.count * 0.2 and done % 5 == 0:
                held.append(resources())
                at.append(done / 100)
        counts = camera.counts
    wire.close()
    broken.server.close()
    slope = slopes(at, held)
    facts = {
        "scheme": scheme,
        "reconnects": counts.reconnects,
        "kinds": {kind: len(times) for kind, times in took.items()},
        "outages": counts.outages,
        "down_events": downs["down"],
        "frames": frames,
        "frames_twice": twice,
        "frames_torn": unread,
        "frames_out_of_order": disorder,
        "seconds_p50": {kind: round(statistics.median(times), 2) for kind, times in took.items() if times},
        "seconds_max": round(max(map(max, filter(None, took.values()))), 2),
        "held_first": held[0],
        "held_last": held[-1],
        "slope_per_100": slope,
    }
    more = max(slope["threads"], slope["file_descriptors"]) * (at[-1] - at[0])
    flat = slope["rss_kib"] < options.most_kib and more < MOST_MORE_OF_ONE
    right = twice == disorder == unread == 0
    # More than were forced where the machine is too busy to send in time.
    told = downs["down"] >= counts.outages == counts.reconnects >= options.count
    return facts, flat and right and told


def cameras(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """8 cameras at 15 fps over HTTP, a detector fast enough; half-way one dies."""
    servers = [MjpegCamera(fps=15) for _ in range(8)]
    half, end = threading.Event(), threading.Event()
    ages: dict[bool, dict[str, list[float]]] = {False: {}, True: {}}

    def on_frame(frame: Frame, _: Detections) -> None:
        ages[half.is_set()].setdefault(frame.camera, []).append(float(age_ms(frame.image)))

    def die() -> None:
        servers[0].close()
        half.set()

    threading.Timer(options.seconds / 2, die).start()
    threading.Timer(options.seconds, end.set).start()
    with tempfile.TemporaryDirectory() as folder:
        sources = [Named(server.url, f"c{i}") for i, server in enumerate(servers)]
        summary = run(
            Slowed(tiny(folder), options.call_ms / 1000),  # type: ignore[arg-type]
            sources,
            [],
            on_frame=on_frame,
            stop=end,
            batch=1,
        )
    for server in servers[1:]:
        server.close()
    alive = [f"c{i}" for i in range(1, 8)]
    before = {name: percentile(ages[False][name], 95) for name in alive}
    after = {name: percentile(ages[True][name], 95) for name in alive}
    served = Counter({name: counts.processed for name, counts in summary.cameras.items() if name in alive})
    spread = (max(served.values()) - min(served.values())) / statistics.mean(served.values())
    change = statistics.median(after.values()) / statistics.median(before.values()) - 1
    facts = {
        "seconds": options.seconds,
        "detector_ms": options.call_ms,
        "processed": dict(served),
        "spread": round(spread, 4),
        "age_ms_p95_before": statistics.median(before.values()),
        "age_ms_p95_after_one_died": statistics.median(after.values()),
        "change": round(change, 4),
        "change_largest": round(max(after[name] / before[name] - 1 for name in alive), 4),
        "exact": all(c.captured == c.processed + c.dropped for c in summary.cameras.values()),
    }
    return facts, spread < 0.1 and change < 0.1 and bool(facts["exact"])


def overlap(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Throughput of a run over a video with a JSONL sink, against the detector alone; latency that the loop adds."""
    from edge_retina import open_source

    samples = ROOT / "samples" / "digits"
    video = samples / "pan.mp4"
    with tempfile.TemporaryDirectory() as folder:
        bundle = build(samples / "digits.onnx", Path(folder) / "digits.edge").path
        detector = Detector.load(bundle, threads=1)
        images = [frame.image for frame in open_source(video, max_frames=options.frames)]
        ratios = []
        for _ in range(options.rounds):
            start = time.perf_counter()
            for image in images:
                detector(image)
            alone = len(images) / (time.perf_counter() - start)
            ratios.append(run(detector, video, [Path(folder) / "o.jsonl"], max_frames=len(images)).fps / alone)
        # When a frame was made available, found again by its array.
        latest: dict[int, int] = {}
        fast = tiny(folder)
        handed: list[float] = []

        class Timed(Slowed):
            def __call__(self, image: Any) -> Detections:
                handed.append((time.monotonic_ns() - latest.pop(id(image), time.monotonic_ns())) / 1e6)
                return super().__call__(image)

        import edge_retina.newest as newest

        put = newest.Newest.put

        def noting_put(self: Any, frame: Frame) -> Any:
            latest[id(frame.image)] = time.monotonic_ns()
            return put(self, frame)

        newest.Newest.put = noting_put  # type: ignore[method-assign]
        try:
            run(Timed(fast, 0.005), "test://?size=320x240&fps=30&live=1&frames=300", [])  # type: ignore[arg-type]
        finally:
            newest.Newest.put = put  # type: ignore[method-assign]
    ratio = statistics.median(ratios)
    facts = {
        "ratio": round(ratio, 3),
        "ratios": [round(r, 3) for r in ratios],
        "frames": len(images),
        "added_ms_p50": round(float(np.percentile(handed, 50)), 3),
        "added_ms_p99": round(float(np.percentile(handed, 99)), 3),
        "handed": len(handed),
    }
    return facts, ratio >= 0.97 and facts["added_ms_p99"] < 5


def soak(options: argparse.Namespace) -> tuple[dict[str, Any], bool]:
    """Three cameras behind wires that fail at random, one detector, a sink; the account at the end."""
    server, scheme = open_server()
    http = MjpegCamera()
    wires = [Wire(server.port), Wire(http.port), Wire(http.port)]
    end, chance, faults = threading.Event(), random.Random(options.seed), Counter[str]()
    first = Broken(server, wires[0])
    others = [Broken(http, wire) for wire in wires[1:]]
    held: list[tuple[int, int, int]] = []
    at: list[float] = []
    begun = time.monotonic()
    threading.Timer(options.seconds, end.set).start()

    def break_things() -> None:
        while not end.wait(chance.uniform(0.5, 2.0)):
            broken = chance.choice([first, *others])
            # The HTTP server is that of two cameras, and changes its size for both.
            kind = chance.choice(Broken.kinds if broken is first else Broken.kinds[:-1])
            faults[kind] += 1
            broken.begin(kind)
            end.wait(chance.uniform(0.1, 2.0))
            broken.end()
            if time.monotonic() - begun > options.seconds * 0.2:
                held.append(resources())
                at.append((time.monotonic() - begun) / 60)

    breaker = threading.Thread(target=break_things)
    breaker.start()
    with tempfile.TemporaryDirectory() as folder:
        schemes = scheme, "http", "http"
        sources = [Named(uri_of(s, wire.port), n) for s, wire, n in zip(schemes, wires, "abc", strict=True)]
        out = Path(folder) / "o.jsonl"
        events: Counter[str] = Counter()
        summary = run(
            tiny(folder),
            sources,
            [out],
            patience=HASTY,
            stop=end,
            on_event=lambda event: events.update([event.kind]),
        )
        written = 0
        last: dict[str, int] = {}
        ordered = True
        with out.open() as lines:
            for line in lines:
                row = json.loads(line)
                if "frame" in row:
                    written += 1
                    ordered &= row["frame"] > last.get(row["camera"], -1)
                    last[row["camera"]] = row["frame"]
    breaker.join()
    for each in (*wires, first.server, http):
        each.close()
    exact = all(c.captured == c.processed + c.dropped and c.waiting == 0 for c in summary.cameras.values())
    lost = sum(summary.lost.values())
    slope = slopes(at, held)
    facts = {
        "seconds": options.seconds,
        "scheme": scheme,
        "faults": dict(faults),
        "events": dict(events),
        "cameras": summary.to_json()["cameras"],
        "frames": summary.frames,
        "written": written,
        "lost_to_sinks": lost,
        "in_order": ordered,
        "held_first": held[0],
        "held_last": held[-1],
        "slope_per_minute": slope,
        "exact": exact,
    }
    minutes = at[-1] - at[0]
    flat = max(slope["threads"], slope["file_descriptors"]) * minutes < MOST_MORE
    account = written + lost == summary.frames == sum(c.processed for c in summary.cameras.values())
    return facts, exact and ordered and account and flat and sum(c.outages for c in summary.cameras.values()) > 0


def main() -> None:
    """Run one of them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parts = parser.add_subparsers(required=True)
    for part, usual in ((lag, 600.0), (cameras, 120.0), (soak, 1800.0)):
        sub = parts.add_parser(part.__name__)
        sub.add_argument("--seconds", type=float, default=usual)
        sub.set_defaults(part=part)
        if part is cameras:
            sub.add_argument("--call-ms", type=float, default=5.0)
        if part is soak:
            sub.add_argument("--seed", type=int, default=1)
    sub = parts.add_parser("reconnects")
    sub.add_argument("--count", type=int, default=1000)
    sub.add_argument("--most-kib", type=float, default=256.0, help="growth of memory per 100")
    sub.set_defaults(part=reconnects)
    sub = parts.add_parser("overlap")
    sub.add_argument("--frames", type=int, default=300)
    sub.add_argument("--rounds", type=int, default=5)
    sub.set_defaults(part=overlap)
    options = parser.parse_args()
    facts, met = options.part(options)
    print(json.dumps({"what": options.part.__name__, "met": met, **facts}))
    sys.exit(not met)


if __name__ == "__main__":
    main()
