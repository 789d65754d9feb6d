"""Draws the training curve of the digits model, and the ablation where there is one.

    python samples/digits/curve.py    # training.history.json -> curve.png, ablation.json -> ablation.png

Install: pip install 'edge-retina[digits]'.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
from matplotlib.axes import Axes
from matplotlib.figure import Figure

HERE = Path(__file__).resolve().parent
# Okabe and Ito's colours, which the colour-blind tell apart.
BLUE, ORANGE, GREEN, SKY = "#0072b2", "#d55e00", "#009e73", "#56b4e9"
STYLE = {
    "figure.facecolor": "white",
    "axes.facecolor": "white",
    "axes.edgecolor": "#888888",
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": "#e4e4e4",
    "axes.spines.top": False,
    "axes.spines.right": False,
    "font.size": 11,
    "legend.frameon": False,
}


def draw_curve(history: Sequence[dict[str, float]]) -> Figure:
    """Running losses above, validation AP below, over training steps."""
    figure = Figure(figsize=(9, 6.5), layout="constrained")
    losses, precision = figure.subplots(2, 1, sharex=True)
    notes = [row for row in history if "classification" in row]
    steps = [row["step"] for row in notes]
    losses.plot(steps, [row["classification"] for row in notes], color=BLUE, label="focal loss (classes)")
    losses.plot(steps, [row["regression"] for row in notes], color=ORANGE, label="smooth L1 (boxes)")
    losses.set_yscale("log")
    losses.yaxis.set_major_formatter(mpl.ticker.FormatStrFormatter("%g"))
    losses.yaxis.set_minor_formatter(mpl.ticker.NullFormatter())
    losses.set_yticks(ticks([row[name] for row in notes for name in ("classification", "regression")]))
    losses.set_ylabel("training loss, running mean")
    losses.legend()
    marks = [row for row in history if "ap" in row]
    precision.set_ylim(0, 1)
    precision.set_ylabel("on held-out scenes")
    precision.set_xlabel("training step")
    lines = {"ap50": ("AP at IoU 0.5", SKY), "ap": ("AP at IoU 0.50 to 0.95", GREEN)}
    for name, (label, colour) in lines.items():
        points = [(row["step"], row[name]) for row in marks if name in row]
        if points:
            precision.plot(*zip(*points, strict=True), color=colour, marker="o", markersize=4, label=label)
    if marks:
        best = max(marks, key=lambda row: row["ap"])
        place = {"xytext": (0, -16), "textcoords": "offset points", "ha": "right", "color": GREEN}
        precision.annotate(f"{best['ap']:.3f}", (best["step"], best["ap"]), **place)
        precision.legend(loc="lower right")
    minutes = history[-1]["elapsed"] / 60
    figure.suptitle(f"Training of the digits model: {int(history[-1]['step'])} steps in {minutes:.0f} minutes")
    return figure


def ticks(values: Sequence[float]) -> list[float]:
    """1, 2 and 5 times powers of ten within the range of the values."""
    candidates = [digit * 10.0**power for power in range(-4, 3) for digit in (1, 2, 5)]
    return [tick for tick in candidates if min(values) * 0.8 <= tick <= max(values) * 1.2]


def draw_ablation(rows: Sequence[dict[str, Any]], budget: dict[str, Any]) -> Figure:
    """AP of each loss as bars; of small, medium and large digits beside it."""
    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes: Axes = figure.subplots()
    groups = (("ap", "all", BLUE), ("aps", "small", SKY), ("apm", "medium", GREEN), ("apl", "large", ORANGE))
    width = 0.8 / len(groups)
    for i, (name, label, colour) in enumerate(groups):
        places = [place + (i - (len(groups) - 1) / 2) * width for place in range(len(rows))]
        heights = [max(0.0, row[name]) for row in rows]
        bars = axes.bar(places, heights, width * 0.92, color=colour, label=label)
        axes.bar_label(bars, [f"{height:.2f}" for height in heights], fontsize=8, padding=2)
    axes.set_xticks(range(len(rows)), [name_of(row) for row in rows])
    axes.tick_params(axis="x", length=0)
    axes.grid(axis="x", visible=False)
    axes.set_ylabel("AP at IoU 0.50 to 0.95")
    axes.set_ylim(0, max(0.1, *(row[name] for row in rows for name, _, _ in groups)) * 1.12)
    axes.legend(title="digits", ncols=len(groups), loc="upper left", bbox_to_anchor=(0, 1.16))
    side = "x".join(map(str, budget["size"]))
    axes.set_title(f"{budget['steps']} steps of {budget['batch']} scenes at {side}", loc="right", fontsize=11)
    return figure


def name_of(row: dict[str, Any]) -> str:
    """The loss in two short lines."""
    alpha = "no $\\alpha$" if row["alpha"] is None else f"$\\alpha$ = {row['alpha']:g}"
    first = "cross entropy" if row["gamma"] == 0 else f"focal, $\\gamma$ = {row['gamma']:g}"
    return f"{first}\n{alpha}"


def main() -> None:
    """Draw what there is."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--history", type=Path, default=HERE / "training.history.json")
    parser.add_argument("--ablation", type=Path, default=HERE / "ablation.json")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the pictures")
    given = parser.parse_args()
    with mpl.rc_context(STYLE):
        if given.history.is_file():
            save(draw_curve(json.loads(given.history.read_text())["history"]), given.out / "curve.png")
        else:
            print(f"{given.history}: no such file, so no curve.png", file=sys.stderr)
        if given.ablation.is_file():
            found = json.loads(given.ablation.read_text())
            save(draw_ablation(found["rows"], found["budget"]), given.out / "ablation.png")
        else:
            print(f"{given.ablation}: no such file, so no ablation.png; run ablation.py", file=sys.stderr)


def save(figure: Figure, path: Path) -> None:
    """Write the picture and say where it is; without a date in it, so that the same numbers give the same file."""
    figure.savefig(path, dpi=110, metadata={"Software": None})
    print(path)


if __name__ == "__main__":
    main()
