"""The pictures of the page: a run of three cameras, one of which is down, as headless Chromium shows it.

    python docs/dashboard.py [--out docs] [--seconds 30] [--all]

Writes dashboard.png (desktop, light) and dashboard-phone.png (phone, dark); with --all the other two as well.
"""

from __future__ import annotations

import argparse
import base64
import itertools
import json
import os
import shutil
import subprocess
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

from edge_retina import Detector, Frame, build, open_source
from edge_retina.events import Event
from edge_retina.sinks import open_sink
from edge_retina.tracking import Tracker
from edge_retina.web.sink import WebSink

DIGITS = Path(__file__).resolve().parent.parent / "samples" / "digits"
SIZES = {"": (1280, 1250), "-phone": (390, 2350)}
LOOKS_S = 8
CAMERAS = {"hall": 0, "gate": 190, "yard": 340}  # frame of the video each begins with


def write(sink: WebSink, detector: Detector, frames: list[Frame], stop: threading.Event, seconds: float) -> None:
    """Three cameras until told to stop; the last one is gone after that long."""
    tracker, begun, told = Tracker(), time.monotonic(), set[str]()
    for name in CAMERAS:
        sink.event(Event("connecting", name))
        sink.event(Event("live", name))
    for index in itertools.count():
        for name, first in CAMERAS.items():
            if stop.is_set():
                return
            gone_s = time.monotonic() - begun - seconds if name == "yard" else -1
            if gone_s > 0:
                kind = "down" if gone_s > 5 else "stale"
                if kind not in told and gone_s > 2:
                    told.add(kind)
                    reason, data = ("no frame for 5.0 s", {"retry_s": 8.0}) if kind == "down" else ("", {})
                    sink.event(Event(kind, name, reason=reason, data=data))
                continue
            captured_ns, image = time.monotonic_ns(), frames[(first + index) % len(frames)].image
            shown = Frame(image, index, captured_ns, live=True, camera=name)
            sink.write(shown, tracker.update(shown, detector(image)).mask(min_score=0.3))


class Browser:
    """Chromium without a window, spoken to through pipes: its own --screenshot does not wait for what streams in."""

    def __init__(self, folder: str) -> None:
        chromium = shutil.which("chromium") or shutil.which("chromium-browser") or "google-chrome"
        (asks, self._ask), (self._answer, answers) = os.pipe(), os.pipe()
        command = f'exec "{chromium}" --headless --no-sandbox --remote-debugging-pipe --user-data-dir="{folder}" '
        command += f"3<&{asks} 4>&{answers} 2>/dev/null"
        self._process = subprocess.Popen(["bash", "-c", command], pass_fds=(asks, answers))
        self._number, self._rest = 0, b""

    def call(self, method: str, session: str | None = None, **params: Any) -> dict[str, Any]:
        """The answer to a command of the Chrome DevTools Protocol."""
        self._number += 1
        row = {"id": self._number, "method": method, "params": params} | ({"sessionId": session} if session else {})
        os.write(self._ask, json.dumps(row).encode() + b"\0")
        while True:
            while b"\0" not in self._rest:
                self._rest += os.read(self._answer, 1 << 20)
            text, _, self._rest = self._rest.partition(b"\0")
            if (found := json.loads(text)).get("id") == self._number:
                return dict(found["result"])

    def photograph(self, url: str, path: Path, size: tuple[int, int], *, dark: bool) -> None:
        """What it shows after some seconds."""
        target = self.call("Target.createTarget", url="about:blank")["targetId"]
        page = self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        metrics = {"width": size[0], "height": size[1], "deviceScaleFactor": 1, "mobile": size[0] < 500}
        self.call("Emulation.setDeviceMetricsOverride", page, **metrics)
        self.call("Emulation.setScrollbarsHidden", page, hidden=True)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", page, features=[scheme])
        self.call("Page.navigate", page, url=url)
        time.sleep(LOOKS_S)
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot", page, format="png")["data"]))
        self.call("Target.closeTarget", targetId=target)

    def close(self) -> None:
        """End it."""
        self._process.terminate()
        self._process.wait()


def main() -> None:
    """Run, and photograph towards the end."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path(__file__).resolve().parent)
    parser.add_argument("--seconds", type=float, default=30.0, help="to run before the first picture")
    parser.add_argument("--all", action="store_true")
    options = parser.parse_args()
    frames, stop = list(open_source(DIGITS / "pan.mp4")), threading.Event()
    with tempfile.TemporaryDirectory() as folder, open_sink("http://127.0.0.1:0") as sink:
        assert isinstance(sink, WebSink)
        with Detector.load(build(DIGITS / "digits.onnx", Path(folder) / "digits.edge").path) as detector:
            writer = threading.Thread(target=write, args=(sink, detector, frames, stop, options.seconds * 0.6))
            writer.start()
            browser = Browser(folder)
            try:
                time.sleep(options.seconds)
                for name, size in SIZES.items():
                    for dark in (False, True):
                        usual = dark == (name == "-phone")
                        if usual or options.all:
                            path = options.out / f"dashboard{name}{'' if usual else '-dark' if dark else '-light'}.png"
                            browser.photograph(sink.url, path, size, dark=dark)
                            print(path)
            finally:
                browser.close()
                stop.set()
                writer.join()


if __name__ == "__main__":
    main()
