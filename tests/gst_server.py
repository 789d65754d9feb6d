"""An RTSP server of GStreamer's, for the tests: run by the system's Python, which has its bindings.

    python3 gst_server.py [--fps 30] [--size 320x240] [--codec h264|jpeg]

Prints its port, serves rtsp://127.0.0.1:PORT/camera with pictures as stamped.py makes them, and reads commands from
standard input: "size WxH", "freeze", "thaw". Ends when standard input does.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time

import gi

gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer  # noqa: E402

BLOCK = 16
ENCODERS = {
    "h264": "x264enc tune=zerolatency speed-preset=ultrafast key-int-max=10 bitrate=2000 ! "
    "rtph264pay name=pay0 pt=96 config-interval=-1",
    "jpeg": "jpegenc quality=90 ! rtpjpegpay name=pay0 pt=26",
}


def picture(width: int, height: int, value: int) -> bytes:
    """Grey, eight bits a pixel, with that number in blocks."""
    bits = [(value >> (31 - i)) & 1 for i in range(32)]
    rows = []
    for row in range(4):
        line = b"".join((b"\xff" if bit else b"\0") * BLOCK for bit in bits[row * 8 : row * 8 + 8])
        rows.append((line + b"\x60" * (width - len(line))) * BLOCK)
    top = b"".join(rows)
    return top + b"\x60" * (width * height - len(top))


class Factory(GstRtspServer.RTSPMediaFactory):
    """One stream for all who look on."""

    def __init__(self, size: tuple[int, int], fps: int, codec: str) -> None:
        super().__init__()
        self.size, self.fps, self.frozen, self.codec = size, fps, False, codec
        self.set_shared(True)

    def do_create_element(self, _url: object) -> Gst.Element:
        made = Gst.parse_launch(
            f"( appsrc name=source is-live=true do-timestamp=true format=time block=true max-bytes=2000000 "
            f"! videoconvert ! video/x-raw,format=I420 ! {ENCODERS[self.codec]} )"
        )
        source = made.get_by_name("source")
        threading.Thread(target=self.push, args=(source,), daemon=True).start()
        return made

    def push(self, source: Gst.Element) -> None:
        size, stamp, due = None, 0, time.monotonic()
        while True:
            due += 1 / self.fps
            time.sleep(max(0.0, due - time.monotonic()))
            if self.frozen:
                continue
            if size != self.size:
                size = self.size
                caps = f"video/x-raw,format=GRAY8,width={size[0]},height={size[1]},framerate={self.fps}/1"
                source.set_property("caps", Gst.Caps.from_string(caps))
            stamp = max(stamp + 1, time.monotonic_ns() // 1_000_000)  # no two alike, though they be made in haste
            flow = source.emit("push-buffer", Gst.Buffer.new_wrapped(picture(*size, stamp & 0xFFFFFFFF)))
            if flow not in (Gst.FlowReturn.OK,):
                return


def listen(factory: Factory, loop: GLib.MainLoop) -> None:
    for line in sys.stdin:
        command, _, value = line.strip().partition(" ")
        if command == "size":
            width, _, height = value.partition("x")
            factory.size = int(width), int(height)
        factory.frozen = command == "freeze" or (factory.frozen and command != "thaw")
    loop.quit()


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--fps", type=int, default=30)
    parser.add_argument("--size", default="320x240")
    parser.add_argument("--codec", choices=ENCODERS, default="h264")
    options = parser.parse_args()
    Gst.init(None)
    width, _, height = options.size.partition("x")
    factory = Factory((int(width), int(height)), options.fps, options.codec)
    server = GstRtspServer.RTSPServer.new()
    server.set_address("127.0.0.1")
    server.set_service("0")
    server.get_mount_points().add_factory("/camera", factory)
    server.attach(None)
    print(server.get_bound_port(), flush=True)
    loop = GLib.MainLoop()
    threading.Thread(target=listen, args=(factory, loop), daemon=True).start()
    loop.run()


if __name__ == "__main__":
    main()
