"""The command from its first instruction: what it needs may be missing or broken, and then the doctor says so."""

from __future__ import annotations

import os
import sys

__all__ = ["main"]

_MISSING_PACKAGE = 8  # errors.MissingPackage.exit_code


def main() -> None:
    """Run the command line; where click cannot be imported, the doctor without it."""
    try:
        from edge_retina.cli import main as run
    except Exception as exc:  # whatever a broken package raises
        broken = f"{type(exc).__name__}: {exc}"
    else:
        run()
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


if __name__ == "__main__":
    main()
