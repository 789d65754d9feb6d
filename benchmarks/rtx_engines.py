"""Engines of the real TensorRT-RTX, built by edge-retina on a machine without a GPU: sizes and seconds.

    EDGE_RETINA_RTX_PYTHON=.../bin/python python benchmarks/rtx_engines.py [--model digits|r50] [--precision fp16] ...

Each engine is compiled by compile_plan in a process of its own, which needs `tensorrt-rtx`. digits is the shipped
model, of 320x320 input; INT8 has the shipped calibration pictures' ranges, by `build`. r50 is a RetinaNet of ResNet-50
with random weights at 640x640, as torchvision has it in size; its INT8 has made-up ranges, which change no size that
matters and would detect nothing. Prints a table in Markdown.
"""

from __future__ import annotations

import argparse
import os
import platform
import sys
import tempfile
from collections.abc import Iterator
from functools import cache
from pathlib import Path

import onnx

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "tests"))

import rtx  # noqa: E402
from lowered import DIGITS, bundled  # noqa: E402

from edge_retina.build import build  # noqa: E402
from edge_retina.bundle import read_bundle  # noqa: E402
from edge_retina.compile import Options  # noqa: E402
from edge_retina.errors import EdgeRetinaError  # noqa: E402
from edge_retina.lowering import lower, lower_bundle  # noqa: E402
from edge_retina.profile import Profile  # noqa: E402
from edge_retina.rewrite.macs import conv_macs  # noqa: E402

MODELS = ("digits", "r50")
PRECISIONS = ("fp32", "fp16", "int8")
FIXED = (720, 1280)
# Profiles, all of batch 1: one frame size, and any from 64x64 to 4K.
FRAMES = {"720x1280": Profile.for_frames(FIXED), "64x64 to 2160x3840": Profile.for_frames(None)}
# Empty: TensorRT-RTX's own set, which is SM80, SM86, SM89, SM120 and later.
CAPABILITIES: tuple[tuple[str, ...], ...] = (("SM75",), ("SM86",), ("SM89",), ("SM120",), ())


@cache
def lowered(model: str, precision: str, frame: tuple[int, int] | None) -> bytes:
    """A bundle's model as TensorRT-RTX gets it."""
    if model == "r50":
        found, spec = bundled("r50", precision, frame)
        return lower(found, "tensorrt_rtx", spec, precision=precision)
    with tempfile.TemporaryDirectory() as folder:
        calib = ROOT / "calib" / "digits" if precision == "int8" else None
        made = build(DIGITS, Path(folder) / "m.edge", precision=precision, calib=calib, frame_size=frame)
        return lower_bundle(read_bundle(made.path), "tensorrt_rtx")


def rows(args: argparse.Namespace) -> Iterator[str]:
    """The table's rows, one for each engine."""
    yield "| model | precision | frames | GPUs | engine, MB | seconds | INT8 / FP16 / FP32 of the convolutions' work |"
    yield "|---|---|---|---|---:|---:|---|"
    for model in args.model:
        for precision in args.precision:
            for frames, profile in FRAMES.items():
                found = lowered(model, precision, FIXED if frames == "720x1280" else None)
                macs = conv_macs(onnx.load_from_string(found))
                for names in CAPABILITIES:
                    options = Options(profile, precision, compute_capabilities=names)
                    gpus = ", ".join(names) or "default"
                    try:
                        made = rtx.compiled(found, options, macs, timeout=1800)
                    except EdgeRetinaError as refused:
                        yield f"| {model} | {precision} | {frames} | {gpus} | - | - | {refused} |"
                        continue
                    shares = " / ".join(f"{made['shares'][kind]:.1%}" for kind in ("int8", "fp16", "fp32"))
                    size, seconds = made["plan_bytes"] / 1e6, made["seconds"]
                    yield f"| {model} | {precision} | {frames} | {gpus} | {size:.1f} | {seconds:.1f} | {shares} |"


def main() -> None:
    """Build what the command line names and print the table, row by row."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", choices=MODELS, action="append", help="all without")
    parser.add_argument("--precision", choices=PRECISIONS, action="append", help="all without")
    args = parser.parse_args()
    args.model, args.precision = args.model or MODELS, args.precision or PRECISIONS
    print(f"{os.cpu_count()} CPU cores, {platform.machine()}, Python {platform.python_version()}\n")
    for row in rows(args):
        print(row, flush=True)


if __name__ == "__main__":
    main()
