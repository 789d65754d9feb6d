"""The ablation of the paper at this scale: focal loss against cross entropy, with equal budget.

    python samples/digits/ablation.py                        # four losses, 850 steps each at 192x192, on one thread
    python samples/digits/ablation.py --all                  # gamma 0.5 and 5 as well
    python samples/digits/ablation.py --only focal-2 --steps 100

Every loss gets the same scenes in the same order, the same initial weights, the same number of steps and the same
held-out scenes of runs/digits (python samples/digits/scenes.py train). Writes ablation.json after each loss and prints
a markdown table. A run that was stopped goes on; runs/ablation keeps the checkpoints. Source: Lin et al. 2017, table 1.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.progress import Progress as Bar

from edge_retina.evaluate import read_coco
from edge_retina.train.data import Augmentation
from edge_retina.train.loop import train
from edge_retina.train.options import Progress, TrainOptions

HERE = Path(__file__).resolve().parent


@dataclass(frozen=True)
class Loss:
    """A classification loss: its name in the table, gamma, alpha (None: unweighted)."""

    name: str
    gamma: float
    alpha: float | None


# Alpha as the paper found best for each gamma: table 1b.
LOSSES = {
    "ce": Loss("cross entropy", 0.0, None),
    "balanced": Loss("alpha-balanced cross entropy", 0.0, 0.75),
    "focal-1": Loss("focal loss", 1.0, 0.25),
    "focal-2": Loss("focal loss", 2.0, 0.25),
}
MORE = {"focal-0.5": Loss("focal loss", 0.5, 0.5), "focal-5": Loss("focal loss", 5.0, 0.25)}
# The digits stay readable: no flip; otherwise as the shipped model was trained.
AUGMENTATION = Augmentation(flip=0.0, scale=0.3, colour=0.4)
METRICS = {"ap": "AP", "ap50": "AP50", "ap75": "AP75", "aps": "AP small", "apm": "AP medium", "apl": "AP large"}


def subset(coco: dict[str, Any], images: Sequence[dict[str, Any]], path: Path) -> Path:
    """Write the annotations of some images alone."""
    chosen = {image["id"] for image in images}
    annotations = [row for row in coco["annotations"] if row["image_id"] in chosen]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**coco, "images": list(images), "annotations": annotations}))
    return path


def run(key: str, loss: Loss, given: argparse.Namespace, sets: tuple[Path, Path], work: Path) -> dict[str, Any]:
    """Train with one loss, or go on where that stopped; its row of the table."""
    training, validation = sets
    options = TrainOptions(
        data=training,
        images=given.data,
        val=validation,
        val_images=given.data,
        out=work / key / "model.onnx",
        size=given.size,
        epochs=math.ceil(given.steps / max(1, given.train // given.batch)),
        steps=given.steps,
        batch=given.batch,
        warmup_steps=min(200, given.steps // 5),
        gamma=loss.gamma,
        alpha=loss.alpha,
        augmentation=AUGMENTATION,
        workers=0,
        seed=given.seed,
        device=given.device,
    )
    started = time.monotonic()
    with Bar(*Bar.get_default_columns(), console=Console(stderr=True)) as bar:
        task = bar.add_task(key, total=given.steps)

        def show(step: Progress) -> None:
            ap = "" if step.ap is None else f" AP {step.ap:.3f}"
            bar.update(task, completed=step.step, description=f"{key}{ap}")

        trained = train(replace(options, resume=options.checkpoint.is_file()), show)
    last = next(row for row in reversed(trained.history) if "ap" in row)
    metrics = {name: round(last[name], 4) for name in METRICS}
    print(f"{key}: AP {metrics['ap']:.3f}, {time.monotonic() - started:.0f} s", file=sys.stderr)
    return {"key": key, "loss": loss.name, "gamma": loss.gamma, "alpha": loss.alpha, "steps": last["step"], **metrics}


def table(rows: Sequence[dict[str, Any]]) -> str:
    """The rows as a markdown table."""
    head = ["loss", "gamma", "alpha", *METRICS.values()]
    lines = [head, ["---"] * len(head)]
    for row in rows:
        alpha = "none" if row["alpha"] is None else f"{row['alpha']:g}"
        # -1 is COCO's word for a size of which there is no object.
        metrics = ["none" if row[name] < 0 else f"{row[name]:.3f}" for name in METRICS]
        lines.append([row["loss"], f"{row['gamma']:g}", alpha, *metrics])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT as (H, W)."""
    width, _, height = text.lower().partition("x")
    return int(height), int(width)


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, default=Path("runs/digits"), help="scenes with their annotations.json")
    parser.add_argument("--work", type=Path, default=Path("runs/ablation"), help="where checkpoints are kept")
    parser.add_argument("--out", type=Path, default=HERE / "ablation.json")
    parser.add_argument("--train", type=int, default=3000, help="scenes to train on, the first ones")
    parser.add_argument("--val", type=int, default=200, help="scenes to evaluate on, the last ones")
    parser.add_argument("--steps", type=int, default=850)
    parser.add_argument("--batch", type=int, default=8)
    parser.add_argument("--size", type=size, default=(192, 192), metavar="WxH", help="network input, multiples of 32")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--all", action="store_true", help="gamma 0.5 and 5 as well")
    parser.add_argument("--only", choices=[*LOSSES, *MORE], action="append", help="these losses and no others")
    return parser.parse_args()


def main() -> None:
    """Train with each loss and print the table."""
    given = arguments()
    torch.set_num_threads(given.threads)
    coco = read_coco(given.data / "annotations.json")
    images = coco["images"]
    if given.train + given.val > len(images):
        sys.exit(
            f"{given.data}: wanted {given.train} + {given.val} scenes, found {len(images)}; lower --train or --val"
        )
    height, width = given.size
    # Another budget is another experiment, with checkpoints of its own.
    budget = f"{given.train}+{given.val}-{width}x{height}-{given.steps}x{given.batch}-seed{given.seed}"
    work = given.work / budget
    sets = (
        subset(coco, images[: given.train], work / "train.json"),
        subset(coco, images[len(images) - given.val :], work / "val.json"),
    )
    everything = {**LOSSES, **MORE}
    keys = given.only or [*(everything if given.all else LOSSES)]
    facts = {name: getattr(given, name) for name in ("train", "val", "steps", "batch", "seed")}
    rows: list[dict[str, Any]] = []
    for key in keys:
        rows.append(run(key, everything[key], given, sets, work))
        result = {"budget": {**facts, "size": [width, height], "model": "narrow"}, "rows": rows}
        given.out.write_text(json.dumps(result, indent=1) + "\n")
    print(table(rows))


if __name__ == "__main__":
    main()
