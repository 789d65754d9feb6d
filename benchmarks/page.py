"""What viewers of the page cost a run: their own share, which is another machine's in real use, apart from ours.

    python benchmarks/page.py [--viewers 20] [--seconds 10] [--rounds 3]

The digits model on all cores works on 640x480 frames as fast as it can, with nobody looking and with viewers of
/stream.mjpg, in turn. The viewers are processes of their own that read and throw away, once of the priority of the run
and once of the lowest, where they take little from it. Then one that asks and reads nothing. A line of JSON each:

fps: of the run; ratio: to that with nobody in the same round, median; page_cpu: seconds of processor a second of the
threads that serve and encode; viewers_cpu: of the viewers; pictures: a second that each viewer got.
"""

from __future__ import annotations

import argparse
import json
import os
import selectors
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path

from edge_retina import Detector, build, open_source
from edge_retina.sinks import open_sink
from edge_retina.stream import infer
from edge_retina.types import Frame
from edge_retina.web.sink import WebSink

DIGITS = Path(__file__).resolve().parent.parent / "samples" / "digits" / "digits.onnx"
TICKS = os.sysconf("SC_CLK_TCK")
REQUEST = b"GET /stream.mjpg HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
PICTURE = b"\r\nX-Frame: "


def look(port: int, count: int, nice: int, *, reads: bool) -> None:
    """Be `count` viewers until standard input ends; then print the pictures they got and the processor's seconds."""
    os.nice(nice)
    selector, pictures = selectors.DefaultSelector(), 0
    for _ in range(count):
        connection = socket.create_connection(("127.0.0.1", port))
        connection.sendall(REQUEST)
        if reads:
            selector.register(connection, selectors.EVENT_READ)
    selector.register(sys.stdin, selectors.EVENT_READ)
    print("looking", flush=True)
    while True:
        for key, _ in selector.select():
            if key.fileobj is sys.stdin:
                print(json.dumps([pictures, time.process_time()]))
                return
            assert isinstance(key.fileobj, socket.socket)
            pictures += key.fileobj.recv(1 << 20).count(PICTURE)


def page_cpu() -> float:
    """Seconds of processor that the page's threads have used."""
    total = 0.0
    for thread in threading.enumerate():
        number = thread.native_id  # None while it begins
        if number is not None and thread.name.startswith(("edge-retina-web", "edge-retina-jpeg")):
            fields = Path(f"/proc/self/task/{number}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[11]) + int(fields[12])) / TICKS
    return total


def measure(detector: Detector, frames: list[Frame], seconds: float, viewers: tuple[str, ...]) -> dict[str, float]:
    """Detect for that long with these viewers: the arguments of look()."""
    with open_sink("http://127.0.0.1:0") as sink:
        assert isinstance(sink, WebSink)
        sink.write(frames[0], detector(frames[0].image))
        child = None
        if viewers:
            command = [sys.executable, __file__, "--look", sink.url.rpartition(":")[2], *viewers]
            child = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
            assert child.stdout is not None
            assert child.stdout.readline() == "looking\n"
        begun, cpu, count = time.perf_counter(), page_cpu(), 0
        while time.perf_counter() - begun < seconds:
            for frame, detections, _ in infer(detector, frames):
                sink.write(frame, detections)
                count += 1
        took = time.perf_counter() - begun
        row = {"fps": count / took, "page_cpu": (page_cpu() - cpu) / took}
        if child is not None:
            pictures, viewers_cpu = json.loads(child.communicate()[0])
            row |= {"viewers_cpu": viewers_cpu / took, "pictures": pictures / took / int(viewers[0])}
    return row


def main() -> None:
    """Measure in turn, and print medians."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--viewers", type=int, default=20)
    parser.add_argument("--seconds", type=float, default=10.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--look", nargs=4, metavar=("PORT", "COUNT", "NICE", "READS"), help="be viewers")
    options = parser.parse_args()
    if options.look:
        port, count, nice, reads = map(int, options.look)
        look(port, count, nice, reads=bool(reads))
        return
    many = str(options.viewers)
    cases = {"nobody": (), f"{many} viewers": (many, "0", "1"), f"{many} viewers, lowest priority": (many, "19", "1")}
    cases["one that reads nothing"] = ("1", "0", "0")
    rows: dict[str, list[dict[str, float]]] = {name: [] for name in cases}
    with tempfile.TemporaryDirectory() as folder:
        bundle = build(DIGITS, Path(folder) / "digits.edge")
        with Detector.load(bundle.path) as detector:
            frames = list(open_source("test://?size=640x480&frames=8"))
            for _ in range(options.rounds):
                for name, viewers in cases.items():
                    rows[name].append(measure(detector, frames, options.seconds, viewers))
    for name, found in rows.items():
        ratios = [row["fps"] / alone["fps"] for row, alone in zip(found, rows["nobody"], strict=True)]
        medians = {key: round(statistics.median(row[key] for row in found), 3) for key in found[0]}
        print(json.dumps({"who": name, "ratio": round(statistics.median(ratios), 3), **medians}))


if __name__ == "__main__":
    main()
