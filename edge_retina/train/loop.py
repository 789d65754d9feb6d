"""The training loop: one function from a COCO set to a trained RetinaNet, resumable at any moment."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, distributed, nn
from torch.nn.parallel import DistributedDataParallel
from torch.utils.data import DataLoader

from edge_retina.boxes import make_anchors
from edge_retina.errors import InputError, MissingPackage, RuntimeFailure, UsageError
from edge_retina.evaluate import average_precision
from edge_retina.spec import DetectorSpec
from edge_retina.train.checkpoint import Run, new_run, resume, save, whole
from edge_retina.train.data import CocoDataset, EpochSampler, Example, collate, load_coco, use_one_thread
from edge_retina.train.loss import retinanet_loss
from edge_retina.train.model import PRESETS, RetinaNet, make_spec
from edge_retina.train.options import Progress, TrainOptions
from edge_retina.train.predict import coco_results, flatten
from edge_retina.train.pretrained import load_backbone
from edge_retina.train.ranks import latest, pick_device, process_group, share

__all__ = ["Progress", "TrainOptions", "Trained", "train"]

# Share of a new loss in the running one, and steps between two history rows.
_SMOOTHING, _HISTORY_STEPS = 0.02, 20
_MAX_GRADIENT_NORM = 10.0
# Up to this width P6 is one cell wide, and on a CPU the bfloat16 weight gradient of P7, a conv of stride 2, is
# uninitialised memory (PyTorch 2.13, oneDNN, AVX-512).
_NO_BFLOAT16_WIDTH = 64

Batch = tuple[Tensor, list[Tensor], list[Tensor]]


@dataclass(frozen=True, eq=False)
class Trained:
    """Result of a run: the averaged model in eval mode on the CPU, its spec, and the history (one row per note)."""

    model: RetinaNet
    spec: DetectorSpec
    history: list[dict[str, float]]


@dataclass(frozen=True, eq=False)
class _Task:
    """What stays the same during a run. rank, world: this process among those of torchrun."""

    options: TrainOptions
    device: torch.device
    rank: int
    world: int
    examples: list[Example]
    validation: list[Example]
    labels: list[str]
    ids: list[int]
    spec: DetectorSpec


def train(options: TrainOptions, on_step: Callable[[Progress], None] = lambda _: None) -> Trained:
    """Train a RetinaNet on a COCO set; under torchrun on several devices.

    A run that is stopped goes on where its last checkpoint stood with resume=True, on the same batches; Ctrl-C makes
    one before it ends the run. Only overwrite=True replaces a checkpoint that is there. Raises InputError, UsageError,
    OutputError, RuntimeFailure.
    """
    if options.checkpoint.exists() and not (options.resume or options.overwrite):
        raise UsageError(f"{options.checkpoint}: holds a run; go on with it: --resume, or replace it: --overwrite")
    device = pick_device(options.device)
    with process_group(device) as (rank, world):
        examples, validation, labels, ids = _split(options)
        spec = make_spec(PRESETS[options.preset], tuple(labels), options.size)
        task = _Task(options, device, rank, world, examples, validation, labels, ids, spec)
        run = _start(task)
        try:
            _epochs(task, run, on_step)
        except torch.OutOfMemoryError as exc:
            raise RuntimeFailure(f"{device}: out of memory; lower --batch or --size, then --resume") from exc
        except (KeyboardInterrupt, RuntimeError, InputError, MissingPackage):
            # Stopped, or a picture or another process is broken; the state between two updates is good.
            _keep(task, run)
            raise
        # Every rank has its own BatchNorm statistics; rank 0's are the ones that were evaluated.
        share(run.ema)
    return Trained(run.ema.cpu().eval(), spec, run.history)


def _split(options: TrainOptions) -> tuple[list[Example], list[Example], list[str], list[int]]:
    """Examples to train on, examples to validate on, label names, category ids."""
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


def _start(task: _Task) -> Run:
    """A new run, or the one that its checkpoint holds."""
    options = task.options
    torch.manual_seed(options.seed)
    model = RetinaNet(PRESETS[options.preset], len(task.labels))
    if options.pretrained is not None and not options.resume:
        load_backbone(model, options.pretrained)
    run = new_run(model.to(task.device), options, task.world)
    if options.resume:
        resume(run, options, task.labels, task.device)
    return run


def _keep(task: _Task, run: Run) -> None:
    if task.rank == 0:
        save(run, task.options, task.labels)


def _fraction(options: TrainOptions, run: Run, per_epoch: int) -> float:
    """Share of the run that is done, by whichever of its limits comes first; at 1 it ends."""
    done = [(run.epoch * per_epoch + run.batch_index) / (options.epochs * per_epoch)]
    if options.steps is not None:
        done.append(run.step / options.steps)
    if options.minutes is not None:
        done.append(run.elapsed / (60 * options.minutes))
    return min(1.0, max(done))


def _learning_rate(options: TrainOptions, step: int, fraction: float) -> float:
    """Linear warm-up, then half a cosine down to 0."""
    warm = min(1.0, (step + 1) / max(1, options.warmup_steps))
    return options.peak_lr * warm * 0.5 * (1 + math.cos(math.pi * fraction))


def _epochs(task: _Task, run: Run, on_step: Callable[[Progress], None]) -> None:
    """Train to the end, epoch by epoch, with a validation and a checkpoint after each."""
    options, world = task.options, task.world
    sampler = EpochSampler(len(task.examples), options.batch, options.seed, task.rank, world)
    dataset = CocoDataset(task.examples, task.spec, options.augmentation, options.seed)
    loader = DataLoader(
        dataset,
        batch_sampler=sampler,
        num_workers=options.workers,
        collate_fn=collate,
        worker_init_fn=use_one_thread,
    )
    wrapped = DistributedDataParallel(run.model) if world > 1 else run.model
    losses_of = _loss_function(task, wrapped)
    while _fraction(options, run, len(sampler)) < 1:
        sampler.epoch, sampler.first_batch = run.epoch, run.batch_index
        run.model.train()
        _epoch(task, run, loader, losses_of, on_step)
        metrics = _validate(task, run)
        if run.batch_index >= len(sampler):
            run.epoch, run.batch_index = run.epoch + 1, 0
        _keep(task, run)
        fraction = _fraction(options, run, len(sampler))
        on_step(_progress(task, run, fraction, _learning_rate(options, run.step, fraction), metrics))
        if world > 1:
            distributed.barrier()


def _epoch(
    task: _Task,
    run: Run,
    loader: DataLoader[Any],
    losses_of: Callable[[Batch], tuple[Tensor, Tensor]],
    on_step: Callable[[Progress], None],
) -> None:
    """Train on what is left of the current epoch, or until the run's other limits end it."""
    options, per_epoch = task.options, len(loader)
    clock = time.monotonic()
    for batch in _batches(loader):
        fraction = _fraction(options, run, per_epoch)
        lr = _learning_rate(options, run.step, fraction)
        losses = losses_of(batch)
        _backward(run, losses)
        now = time.monotonic()
        elapsed, clock = latest(run.elapsed + now - clock, task.device), now
        values = [float(loss.detach()) for loss in losses]
        with whole():
            _update(run, lr, options.ema)
            run.elapsed = elapsed
            _note(run, values, lr)
        fraction = _fraction(options, run, per_epoch)
        on_step(_progress(task, run, fraction, lr))
        if run.step % options.checkpoint_steps == 0:
            _keep(task, run)
        if fraction >= 1:
            break


def _batches(loader: DataLoader[Any]) -> Iterator[Batch]:
    """The loader's batches; an error of a worker process comes without the traceback that PyTorch puts in its text."""
    try:
        yield from loader
    except InputError as exc:
        raise InputError(str(exc).strip().splitlines()[-1].rpartition("InputError: ")[2]) from exc


def _loss_function(task: _Task, model: nn.Module) -> Callable[[Batch], tuple[Tensor, Tensor]]:
    """Classification and box loss of a batch as the loader gives it."""
    options, spec, device = task.options, task.spec, task.device
    anchors = torch.cat([torch.from_numpy(make_anchors(spec, level)) for level in range(spec.num_levels)]).to(device)
    mean, std = (torch.tensor(v, device=device).view(1, 3, 1, 1) for v in (spec.mean, spec.std))

    amp = options.amp and not (device.type == "cpu" and spec.input_size[1] <= _NO_BFLOAT16_WIDTH)

    def losses_of(batch: Batch) -> tuple[Tensor, Tensor]:
        images, boxes, labels = batch
        with torch.autocast(device.type, torch.bfloat16) if amp else nullcontext():
            heads = model((images.to(device).float() - mean) / std)
        logits, deltas = flatten(heads[0], spec.num_classes).float(), flatten(heads[1], 4).float()
        boxes, labels = [b.to(device) for b in boxes], [c.to(device) for c in labels]
        return retinanet_loss(
            logits, deltas, anchors, boxes, labels, gamma=options.gamma, alpha=options.alpha, beta=options.beta
        )

    return losses_of


def _backward(run: Run, losses: tuple[Tensor, Tensor]) -> None:
    """Gradients of one batch, clipped, so that one bad batch does not undo an hour. Raises UsageError if not finite."""
    total = losses[0] + losses[1]
    run.optimizer.zero_grad(set_to_none=True)
    total.backward()
    norm = nn.utils.clip_grad_norm_(run.model.parameters(), _MAX_GRADIENT_NORM)
    # The gradient is the same on every rank, so all of them stop here.
    if not (torch.isfinite(total) and torch.isfinite(norm)):
        facts = f"loss {float(total.detach())}, gradient {float(norm)}"
        raise UsageError(f"training diverged ({facts}); lower --lr or add --no-amp, then --resume")


def _update(run: Run, lr: float, decay: float) -> None:
    """One optimiser step and one step of the running average."""
    for group in run.optimizer.param_groups:
        group["lr"] = lr
    run.optimizer.step()
    run.step, run.batch_index = run.step + 1, run.batch_index + 1
    weight = 1 - min(decay, run.step / (run.step + 10))
    with torch.no_grad():
        for old, new in zip(run.ema.state_dict().values(), run.model.state_dict().values(), strict=True):
            if old.dtype.is_floating_point:
                old.lerp_(new, weight)
            else:
                old.copy_(new)


def _note(run: Run, losses: list[float], lr: float) -> None:
    """Running losses, and now and then a history row."""
    for i, loss in enumerate(losses):
        run.smooth[i] += (loss - run.smooth[i]) * max(_SMOOTHING, 1 / run.step)
    if run.step % _HISTORY_STEPS == 0:
        row = {"step": run.step, "elapsed": round(run.elapsed, 1)}
        run.history.append({**row, "classification": run.smooth[0], "regression": run.smooth[1], "lr": lr})


def _progress(task: _Task, run: Run, fraction: float, lr: float, metrics: dict[str, float] | None = None) -> Progress:
    images = len(task.validation)
    return Progress(run.epoch, run.step, fraction, run.smooth[0], run.smooth[1], lr, run.ap, images, metrics)


def _validate(task: _Task, run: Run) -> dict[str, float] | None:
    """AP and its kin of the running average, noted in the history; None on other ranks and without validation set."""
    if task.rank != 0 or not task.validation:
        return None
    results = coco_results(run.ema, task.validation, task.spec, task.ids, task.device)
    metrics = average_precision(_truth(task), results)
    row = {"step": run.step, "elapsed": round(run.elapsed, 1), "ap": metrics["AP"]}
    run.history.append({**row, **{name.lower(): value for name, value in metrics.items()}})
    return metrics


def _truth(task: _Task) -> dict[str, Any]:
    """COCO annotations of the validation examples alone."""
    rows: list[dict[str, Any]] = []
    for e in task.validation:
        for (x1, y1, x2, y2), label in zip(e.boxes.tolist(), e.labels.tolist(), strict=True):
            size = {"bbox": [x1, y1, x2 - x1, y2 - y1], "area": (x2 - x1) * (y2 - y1), "iscrowd": 0}
            rows.append({"id": len(rows) + 1, "image_id": e.image_id, "category_id": task.ids[label], **size})
    categories = [{"id": i, "name": name} for i, name in zip(task.ids, task.labels, strict=True)]
    return {"images": [{"id": e.image_id} for e in task.validation], "annotations": rows, "categories": categories}
