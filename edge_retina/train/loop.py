"""The training loop: one function from a COCO set to a trained RetinaNet, resumable at any moment."""

from __future__ import annotations

import json
import math
import os
import time
from collections.abc import Callable
from contextlib import nullcontext
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from edge_retina.boxes import make_anchors
from edge_retina.errors import InputError, OutputError, UsageError
from edge_retina.evaluate import average_precision
from edge_retina.spec import DetectorSpec
from edge_retina.train.data import Augmentation, CocoDataset, EpochSampler, Example, collate, load_coco
from edge_retina.train.loss import retinanet_loss
from edge_retina.train.model import PRESETS, RetinaNet, make_spec
from edge_retina.train.predict import coco_results, flatten

__all__ = ["Progress", "TrainOptions", "Trained", "train"]


@dataclass(frozen=True)
class TrainOptions:
    """What `train` is asked to do.

    data, images, val, val_images: see load_coco; without val a seeded twentieth of data is held out. out: the ONNX to
    be; checkpoint and history lie beside it (.pt, .history.json). size: network input (H, W). epochs: passes over the
    data; minutes: ends earlier, the learning rate annealed by the clock. batch: images per step and process. loss
    parameters: gamma, alpha (None: unweighted), beta of smooth L1. amp: bfloat16 autocast. ema: decay of the weight
    average that is evaluated and exported. checkpoint_steps: steps between checkpoints.
    """

    data: Path
    out: Path
    images: Path | None = None
    val: Path | None = None
    val_images: Path | None = None
    preset: str = "narrow"
    size: tuple[int, int] = (320, 320)
    epochs: int = 12
    minutes: float | None = None
    batch: int = 16
    lr: float = 2e-3
    weight_decay: float = 0.05
    warmup_steps: int = 200
    gamma: float = 2.0
    alpha: float | None = 0.25
    beta: float = 0.1
    augmentation: Augmentation = field(default_factory=Augmentation)
    amp: bool = True
    ema: float = 0.998
    workers: int = 1
    seed: int = 0
    device: str = "auto"
    resume: bool = False
    checkpoint_steps: int = 200

    @property
    def checkpoint(self) -> Path:
        """Where the state of the run is kept."""
        return self.out.with_suffix(".pt")


@dataclass(frozen=True)
class Progress:
    """Told to the caller after each step: position, running losses, learning rate, last validation AP."""

    epoch: int
    step: int
    fraction: float
    classification: float
    regression: float
    lr: float
    ap: float | None


@dataclass(frozen=True, eq=False)
class Trained:
    """Result of a run: the averaged model in eval mode on the CPU, its spec, and the history (one row per note)."""

    model: RetinaNet
    spec: DetectorSpec
    history: list[dict[str, float]]


def _split(options: TrainOptions) -> tuple[list[Example], list[Example], list[str], list[int]]:
    examples, labels, ids = load_coco(options.data, options.images)
    if options.val is not None:
        validation, val_labels, _ = load_coco(options.val, options.val_images)
        if val_labels != labels:
            raise InputError(f"{options.val}: wanted the categories of {options.data} {labels}, found {val_labels}")
        return examples, validation, labels, ids
    order = np.random.default_rng(options.seed).permutation(len(examples))
    held_out = len(examples) // 20
    chosen = [examples[i] for i in order]
    return chosen[held_out:], chosen[:held_out], labels, ids


def _truth(examples: list[Example], labels: list[str], ids: list[int]) -> dict[str, Any]:
    """COCO annotations of these examples alone, for validation."""
    rows: list[dict[str, Any]] = []
    for e in examples:
        for (x1, y1, x2, y2), label in zip(e.boxes.tolist(), e.labels.tolist(), strict=True):
            box, area = [x1, y1, x2 - x1, y2 - y1], (x2 - x1) * (y2 - y1)
            row = {"id": len(rows) + 1, "image_id": e.image_id, "category_id": ids[label], "bbox": box, "area": area}
            rows.append({**row, "iscrowd": 0})
    categories = [{"id": i, "name": name} for i, name in zip(ids, labels, strict=True)]
    return {"images": [{"id": e.image_id} for e in examples], "annotations": rows, "categories": categories}


def _save(path: Path, state: dict[str, Any]) -> None:
    """Write a checkpoint whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        torch.save(state, temporary)
        os.replace(temporary, path)
    except (OSError, RuntimeError) as exc:
        temporary.unlink(missing_ok=True)
        raise OutputError(f"{path}: checkpoint not written: {exc}") from exc


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay on convolution kernels only, not on biases and BatchNorm."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


@torch.no_grad()  # type: ignore[untyped-decorator]  # mypy does not follow torch
def _average(ema: nn.Module, model: nn.Module, decay: float) -> None:
    for old, new in zip(ema.state_dict().values(), model.state_dict().values(), strict=True):
        if old.dtype.is_floating_point:
            old.lerp_(new, 1 - decay)
        else:
            old.copy_(new)


def _distributed() -> tuple[int, int]:
    """(rank, world size); joins the group that torchrun made, if it did."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not distributed.is_initialized():
        distributed.init_process_group("nccl" if torch.cuda.is_available() else "gloo")
    return int(os.environ.get("RANK", "0")), world


def train(options: TrainOptions, on_step: Callable[[Progress], None] = lambda _: None) -> Trained:
    """Train a RetinaNet on a COCO set; under torchrun on several devices.

    A run that is stopped goes on where its last checkpoint stood with resume=True, on the same batches.
    Raises InputError, UsageError, OutputError.
    """
    rank, world = _distributed()
    if options.preset not in PRESETS:
        raise UsageError(f"unknown model {options.preset!r}; use one of {', '.join(PRESETS)}")
    if options.device == "auto":
        on_gpu = torch.cuda.is_available()
        device = torch.device("cuda", rank % torch.cuda.device_count()) if on_gpu else torch.device("cpu")
    else:
        device = torch.device(options.device)
    examples, validation, labels, ids = _split(options)
    spec = make_spec(PRESETS[options.preset], tuple(labels), options.size)
    truth = _truth(validation, labels, ids)
    torch.manual_seed(options.seed)
    model = RetinaNet(PRESETS[options.preset], len(labels)).to(device)
    ema = deepcopy(model).eval()
    optimizer = torch.optim.AdamW(_parameter_groups(model, options.weight_decay), lr=options.lr)
    epoch, batch_index, step, elapsed = 0, 0, 0, 0.0
    history: list[dict[str, float]] = []
    if options.resume:
        if not options.checkpoint.is_file():
            raise InputError(f"{options.checkpoint}: no checkpoint to resume from; leave out --resume")
        state = torch.load(options.checkpoint, map_location=device, weights_only=True)
        if state["preset"] != options.preset or state["labels"] != labels or tuple(state["size"]) != options.size:
            raise UsageError(f"{options.checkpoint}: made for another model, label set or size; leave out --resume")
        model.load_state_dict(state["model"])
        ema.load_state_dict(state["ema"])
        optimizer.load_state_dict(state["optimizer"])
        epoch, batch_index, step, elapsed = state["epoch"], state["batch_index"], state["step"], state["elapsed"]
        history = state["history"]
    wrapped = DistributedDataParallel(model) if world > 1 else model
    sampler = EpochSampler(len(examples), options.batch, options.seed, rank, world)
    dataset = CocoDataset(examples, spec, options.augmentation, options.seed)
    loader = DataLoader(dataset, batch_sampler=sampler, num_workers=options.workers, collate_fn=collate)
    anchors = torch.cat([torch.from_numpy(make_anchors(spec, level)) for level in range(spec.num_levels)]).to(device)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (spec.mean, spec.std))
    total = options.epochs * len(sampler)
    smooth, ap = [0.0, 0.0], next((row["ap"] for row in reversed(history) if "ap" in row), None)

    def save() -> None:
        if rank == 0:
            shape = {"preset": options.preset, "labels": labels, "size": list(options.size)}
            weights = {"model": model.state_dict(), "ema": ema.state_dict(), "optimizer": optimizer.state_dict()}
            position = {"epoch": epoch, "batch_index": batch_index, "step": step, "elapsed": elapsed}
            _save(options.checkpoint, {**shape, **weights, **position, "history": history})
            plain = json.dumps({"options": _plain(asdict(options)), "history": history}, indent=0)
            options.out.with_suffix(".history.json").write_text(plain + "\n")

    finished = False
    while epoch < options.epochs and not finished:
        sampler.epoch, sampler.first_batch = epoch, batch_index
        model.train()
        clock = time.monotonic()
        for images, boxes, classes in loader:
            fraction = step / total
            if options.minutes is not None:
                fraction = max(fraction, elapsed / (60 * options.minutes))
            warm = options.lr * min(1.0, (step + 1) / options.warmup_steps)
            lr = warm * 0.5 * (1 + math.cos(math.pi * min(1, fraction)))
            for group in optimizer.param_groups:
                group["lr"] = lr
            amp = torch.autocast(device.type, torch.bfloat16) if options.amp else nullcontext()
            with amp:
                heads = wrapped((images.to(device).float() - mean) / std)
            logits, deltas = flatten(heads[0], len(labels)).float(), flatten(heads[1], 4).float()
            boxes, classes = [b.to(device) for b in boxes], [c.to(device) for c in classes]
            losses = retinanet_loss(
                logits, deltas, anchors, boxes, classes, gamma=options.gamma, alpha=options.alpha, beta=options.beta
            )
            _step(optimizer, wrapped, losses)
            step, batch_index = step + 1, batch_index + 1
            _average(ema, model, min(options.ema, step / (step + 10)))
            now = time.monotonic()
            elapsed, clock = elapsed + now - clock, now
            for i, loss in enumerate(losses):
                smooth[i] += (float(loss.detach()) - smooth[i]) * max(0.02, 1 / step)
            on_step(Progress(epoch, step, min(1.0, fraction), smooth[0], smooth[1], lr, ap))
            if step % 20 == 0:
                row = {"step": step, "elapsed": round(elapsed, 1), "classification": smooth[0], "regression": smooth[1]}
                history.append({**row, "lr": lr})
            finished = _agreed(fraction >= 1 and options.minutes is not None, world, device)
            if step % options.checkpoint_steps == 0:
                save()
            if finished:
                break
        epoch, batch_index = epoch + 1, 0
        if rank == 0 and validation:
            ap = average_precision(truth, coco_results(ema, validation, spec, ids, device))["AP"]
            history.append({"step": step, "elapsed": round(elapsed, 1), "ap": ap})
            on_step(Progress(epoch, step, 1.0 if finished else min(1.0, step / total), smooth[0], smooth[1], lr, ap))
        save()
        if world > 1:
            distributed.barrier()
    return Trained(ema.cpu().eval(), spec, history)


def _step(optimizer: torch.optim.Optimizer, model: nn.Module, losses: tuple[Tensor, Tensor]) -> None:
    """One update; gradients are clipped, so that one bad batch does not undo an hour."""
    total = losses[0] + losses[1]
    if not torch.isfinite(total):
        raise UsageError(f"training diverged (loss {float(total)}); lower --lr or leave out --amp, then --resume")
    optimizer.zero_grad(set_to_none=True)
    total.backward()
    nn.utils.clip_grad_norm_(model.parameters(), 10.0)
    optimizer.step()


def _agreed(mine: bool, world: int, device: torch.device) -> bool:
    """True on every rank as soon as one rank says so; clocks differ, the number of steps must not."""
    if world == 1:
        return mine
    flag = torch.tensor(float(mine), device=device)
    distributed.all_reduce(flag, distributed.ReduceOp.MAX)
    return bool(flag > 0)


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {k: _plain(v) for k, v in value.items()}
    return str(value) if isinstance(value, Path) else value
