"""Makes docs/doctor.png: python docs/doctor_picture.py. Wants Chromium; the findings are this machine's own.

An OpenCV without its libGL is put in front of the real one, so that the picture shows a fault as well.
"""

from __future__ import annotations

import io
import subprocess
import sys
import tempfile
from pathlib import Path

from rich.console import Console

from edge_retina.commands.doctor import show
from edge_retina.doctor.examine import examine
from edge_retina.doctor.machine import Machine

WIDTH, SCALE = 100, 1
BROKEN_CV2 = "raise ImportError('libGL.so.1: cannot open shared object file: No such file or directory')"


def main(target: Path) -> None:
    """Examine this machine, draw what the terminal shows, and photograph it."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "cv2.py").write_text(BROKEN_CV2)
        sys.path.insert(0, name)
        console = Console(record=True, width=WIDTH, force_terminal=True, color_system="truecolor", file=io.StringIO())
        console.print("[bold]$[/bold] edge-retina doctor", highlight=False)
        show(console, examine(Machine()))
        lines = console.export_text(clear=False).count("\n")
        page = folder / "page.html"
        svg = console.export_svg(title="edge-retina doctor")
        page.write_text(f"<body style='margin:0'>{svg}</body>", encoding="utf-8")
        size = f"--window-size={int(WIDTH * 12.3) + 20},{int(lines * 24.4) + 58}"
        command = [
            "chromium",
            "--headless",
            "--no-sandbox",
            "--hide-scrollbars",
            f"--force-device-scale-factor={SCALE}",
        ]
        subprocess.run([*command, size, f"--screenshot={target}", str(page)], check=True, capture_output=True)


if __name__ == "__main__":
    main(Path(__file__).with_name("doctor.png"))
