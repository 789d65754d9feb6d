"""A wheel in a bare environment of each interpreter given, doing what a user does first; `make wheel` runs it.

    python tests/wheel_smoke.py dist/edge_retina-0.1.0-py3-none-any.whl python3.10 python3.13

Each environment holds the wheel and what pip takes with it from the index, nothing of the repository, and everything
runs in an empty folder. Ends with 1 where a step failed on any of them.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
from pathlib import Path

# What it proves, what is typed, the exit codes that are right. doctor ends with 11 where it has found a fault.
STEPS: tuple[tuple[str, str, tuple[int, ...]], ...] = (
    ("version", "edge-retina --version", (0,)),
    ("import", "python -W error -c 'import edge_retina; print(edge_retina.__file__)'", (0,)),
    ("demo", "edge-retina demo --max-frames 20", (0,)),
    ("build", "edge-retina build $FILES/digits.onnx -o model.edge", (0,)),
    ("run", "edge-retina run model.edge --source $FILES/pan.mp4 --out out.jsonl --max-frames 5", (0,)),
    ("found", "grep -q '\"score\"' out.jsonl", (0,)),
    ("inspect", "edge-retina inspect model.edge --json", (0,)),
    ("report", "edge-retina report model.edge -o page.html || test $? -eq 5", (0,)),
    ("doctor", "edge-retina doctor", (0, 11)),
    (
        "plugin",
        "python -c 'from edge_retina.plugin import sources; assert sources()' && edge-retina plugin status",
        (0,),
    ),
    ("triton", "edge-retina export triton model.edge -o repository", (0,)),
    ("types", "test -f $FILES/../py.typed", (0,)),
)


def smoke(wheel: Path, python: str, folder: Path) -> list[str]:
    """The names of the steps that failed; none is as it should be."""
    environment = folder / "venv"
    subprocess.run([python, "-m", "venv", str(environment)], check=True)
    subprocess.run([str(environment / "bin/pip"), "install", "--quiet", str(wheel)], check=True)
    where = "import edge_retina, pathlib; print(pathlib.Path(edge_retina.__file__).parent / 'demo_files')"
    files = subprocess.run([str(environment / "bin/python"), "-c", where], capture_output=True, text=True, check=True)
    work = folder / "work"
    work.mkdir()
    variables = {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "EDGE_RETINA"))}
    variables |= {
        "PATH": f"{environment / 'bin'}{os.pathsep}{os.environ['PATH']}",
        "FILES": files.stdout.strip(),
        "EDGE_RETINA_CACHE": str(folder / "cache"),
    }
    failed = []
    for name, command, codes in STEPS:
        done = subprocess.run(
            ["sh", "-c", command], cwd=work, env=variables, capture_output=True, text=True, check=False
        )
        right = done.returncode in codes and "Traceback" not in done.stderr
        print(
            f"{python}: {name:8} {'ok' if right else f'FAILED, {done.returncode}: {done.stderr.strip()[-600:]}'}",
            flush=True,
        )
        if not right:
            failed.append(f"{python}: {name}")
    return failed


def main(wheel: str, *pythons: str) -> int:
    failed = []
    for python in pythons or (sys.executable,):
        with tempfile.TemporaryDirectory(prefix="edge-retina-") as folder:
            version = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout.strip()
            print(f"{python}: {version}", flush=True)
            failed += smoke(Path(wheel).absolute(), python, Path(folder))
    print("\n".join(["failed:", *failed] if failed else ["all steps are ok"]))
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
