"""A Python environment for one release, beside those of the others."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path

from edge_retina.errors import RuntimeFailure
from edge_retina.service.systemd import call

__all__ = ["make_environment"]

_PIP_S = 3600.0


def make_environment(folder: Path, package: str, wheels: Path | None) -> Path:
    """Make an environment and install edge-retina in it; its command's path.

    package: what pip takes, a bare version such as ==0.2.0 means edge-retina's. wheels: a folder to take everything
    from. The system's packages are seen in it: JetPack's TensorRT is one. Raises RuntimeFailure, and leaves nothing.
    """
    wanted = f"edge-retina{package}" if package[:1] in "=<>~!" else package
    source = [] if wheels is None else ["--no-index", "--find-links", str(wheels.resolve())]
    python, program = folder / "bin" / "python", folder / "bin" / "edge-retina"
    try:
        call([sys.executable, "-m", "venv", "--system-site-packages", str(folder)], timeout_s=_PIP_S)
        pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *source, wanted]
        # The system may have an edge-retina of its own, which would do for pip; what that needs may be the system's.
        call([*pip, "--no-deps", "--ignore-installed"], timeout_s=_PIP_S)
        call(pip, timeout_s=_PIP_S)
        if not program.is_file():
            raise RuntimeFailure(f"{wanted} brings no command edge-retina; give a wheel of edge-retina")  # noqa: TRY301
        call([str(program), "--version"])
    except RuntimeFailure:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return program
