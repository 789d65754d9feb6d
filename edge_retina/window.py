"""One window on the screen, and none where a window would end the process."""

from __future__ import annotations

import contextlib
import os
import re
import subprocess
import sys
from collections.abc import Iterator

import cv2

from edge_retina.errors import OutputError
from edge_retina.types import U8

__all__ = ["close_window", "open_window", "require_display", "show"]

_MAX_WINDOW = (720, 1280)  # (H, W); a larger frame is shown smaller
_STOP_KEYS = (ord("q"), ord("Q"), 27)  # 27: Esc
_REMEDY = "write to a file instead, such as out.mp4, or to - for JSON lines"
_DISPLAY_CHECK_S = 30
_OPEN_WINDOW = "import cv2; cv2.namedWindow('edge-retina'); cv2.waitKey(1); cv2.destroyAllWindows()"


def require_display() -> None:
    """Raise OutputError unless a window can be opened; Qt and GTK end the process where it cannot."""
    gui = re.search(r"GUI:[ \t]+(\S+)", cv2.getBuildInformation())
    if gui is None or gui.group(1) == "NONE":
        raise OutputError(f"this OpenCV is built without windows (opencv-python-headless?); {_REMEDY}")
    if sys.platform != "linux":
        return
    if not (os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")):
        raise OutputError(f"no display: neither DISPLAY nor WAYLAND_DISPLAY is set; {_REMEDY}, or log in with: ssh -X")
    try:  # a variable is no display; so a child tries first
        subprocess.run([sys.executable, "-c", _OPEN_WINDOW], check=True, timeout=_DISPLAY_CHECK_S, capture_output=True)
    except (OSError, subprocess.SubprocessError) as exc:
        shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
        raise OutputError(f"no window can be opened on display {shown!r}; {_REMEDY}") from exc


def open_window(title: str, shape: tuple[int, int]) -> None:
    """A window for images of `shape` (H, W), which the user may resize. Raises OutputError."""
    scale = min(1.0, _MAX_WINDOW[0] / shape[0], _MAX_WINDOW[1] / shape[1])
    with _as_output_error():
        cv2.namedWindow(title, cv2.WINDOW_NORMAL | cv2.WINDOW_KEEPRATIO)
        cv2.resizeWindow(title, max(1, round(shape[1] * scale)), max(1, round(shape[0] * scale)))


def show(title: str, image: U8) -> bool:
    """Put a BGR image into the window; False once the user pressed q or Esc or closed it. Raises OutputError."""
    with _as_output_error():
        cv2.imshow(title, image)
        key = cv2.waitKey(1) & 0xFF
        return key not in _STOP_KEYS and cv2.getWindowProperty(title, cv2.WND_PROP_VISIBLE) >= 1


def close_window(title: str) -> None:
    """Close it, if the user has not done so."""
    with contextlib.suppress(cv2.error):
        cv2.destroyWindow(title)
        cv2.waitKey(1)


@contextlib.contextmanager
def _as_output_error() -> Iterator[None]:
    try:
        yield
    except cv2.error as exc:
        raise OutputError(f"cannot show a window: {exc}; {_REMEDY}") from exc
