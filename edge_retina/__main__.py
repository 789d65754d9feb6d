"""The command from its first instruction: what it needs may be missing or broken, and then the doctor says so."""

from __future__ import annotations

import contextlib
import os
import sys
import threading

__all__ = ["main"]

_MISSING_PACKAGE = 8  # errors.MissingPackage.exit_code


def main() -> None:
    """Run the command line; where click cannot be imported, the doctor without it."""
    try:
        from edge_retina.cli import main as run
    except Exception as exc:  # whatever a broken package raises
        broken = f"{type(exc).__name__}: {exc}"
    else:
        try:
            run()
        except SystemExit as exc:
            _leave_held_threads(exc.code)
            raise
        return
    if sys.argv[1:2] != ["doctor"]:
        print(f"edge-retina: cannot start: {broken}; run: edge-retina doctor", file=sys.stderr)
        sys.exit(_MISSING_PACKAGE)
    from edge_retina.doctor.plain import main as examine

    try:
        code = examine(sys.argv[2:])
        sys.stdout.flush()
    except BrokenPipeError:
        # What is left in the buffer would raise once more when Python exits.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 1
    sys.exit(code)


def _leave_held_threads(code: object) -> None:
    """End the process here where a thread of a run is still held by a driver, a server or a disk.

    Python would end that thread in the midst of native code at its exit, and C++ then aborts the process.
    """
    if any(thread.daemon and thread.name.startswith("edge-retina") for thread in threading.enumerate()):
        for stream in (sys.stdout, sys.stderr):
            with contextlib.suppress(OSError, ValueError):
                stream.flush()
        os._exit(code if isinstance(code, int) else 1)


if __name__ == "__main__":
    main()
