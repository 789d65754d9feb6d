"""The command from its first instruction: what it needs may be missing or broken, and then the doctor says so."""

from __future__ import annotations

import sys

__all__ = ["main"]

_MISSING_PACKAGE = 8  # errors.MissingPackage.exit_code


def main() -> None:
    """Run the command line; where click or rich cannot be imported, the doctor without them."""
    try:
        from edge_retina.cli import main as run
    except ImportError as exc:
        if sys.argv[1:2] == ["doctor"]:
            from edge_retina.doctor.plain import main as examine

            sys.exit(examine(sys.argv[2:]))
        print(f"edge-retina: cannot start: {exc}; run: edge-retina doctor", file=sys.stderr)
        sys.exit(_MISSING_PACKAGE)
    run()


if __name__ == "__main__":
    main()
