"""What changes while training, kept in a file so that a run that was stopped goes on as if it had not been."""

from __future__ import annotations

import json
import pickle
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import nn

from edge_retina.drafts import Draft, as_output_error
from edge_retina.errors import InputError, OutputError, UsageError
from edge_retina.train.model import RetinaNet
from edge_retina.train.options import TrainOptions

__all__ = ["Run", "new_run", "resume", "save", "whole"]

# Section 4.1, "Optimization".
_MOMENTUM = 0.9


@dataclass(eq=False)
class Run:
    """The state of a run; between two updates it is whole and may be saved.

    model: what is trained; ema: its running average. epoch: epochs done; batch_index: batches done in the current one.
    global_batch: images per step, all processes together. elapsed: seconds of training, the same on every rank.
    smooth: running classification and box loss. history: one row per 20 steps and per validation.
    """

    model: RetinaNet
    ema: RetinaNet
    optimizer: torch.optim.Optimizer
    global_batch: int
    epoch: int = 0
    batch_index: int = 0
    step: int = 0
    elapsed: float = 0.0
    smooth: list[float] = field(default_factory=lambda: [0.0, 0.0])
    history: list[dict[str, float]] = field(default_factory=list)

    @property
    def ap(self) -> float | None:
        """AP of the last validation."""
        return next((row["ap"] for row in reversed(self.history) if "ap" in row), None)


def _parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """Decay on convolution kernels only, not on biases and BatchNorm."""
    kernels = [p for p in model.parameters() if p.ndim > 1]
    others = [p for p in model.parameters() if p.ndim <= 1]
    return [{"params": kernels, "weight_decay": weight_decay}, {"params": others, "weight_decay": 0.0}]


def _adamw(groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW(groups, lr=lr)


def _sgd(groups: list[dict[str, Any]], lr: float) -> torch.optim.Optimizer:
    return torch.optim.SGD(groups, lr=lr, momentum=_MOMENTUM)


_OPTIMIZERS: dict[str, Callable[[list[dict[str, Any]], float], torch.optim.Optimizer]] = {"adamw": _adamw, "sgd": _sgd}


def new_run(model: RetinaNet, options: TrainOptions, world: int) -> Run:
    """A run that stands at its beginning; the average starts as a copy of the model."""
    groups = _parameter_groups(model, options.decay)
    optimizer = _OPTIMIZERS[options.optimizer](groups, options.peak_lr)
    return Run(model, deepcopy(model).eval(), optimizer, options.batch * world)


def save(run: Run, options: TrainOptions, labels: list[str]) -> None:
    """Write checkpoint and history, each whole or not at all. Raises OutputError."""
    state = {
        "preset": options.preset,
        "labels": labels,
        "size": list(options.size),
        "seed": options.seed,
        "optimizer_name": options.optimizer,
        "model": run.model.state_dict(),
        "ema": run.ema.state_dict(),
        "optimizer": run.optimizer.state_dict(),
        "epoch": run.epoch,
        "batch_index": run.batch_index,
        "global_batch": run.global_batch,
        "step": run.step,
        "elapsed": run.elapsed,
        "smooth": run.smooth,
        "history": run.history,
    }
    text = json.dumps({"options": options.to_dict(), "history": run.history}, indent=0) + "\n"
    with whole():
        _replace(options.checkpoint, lambda path: torch.save(state, path))
        _replace(options.history, lambda path: path.write_text(text, encoding="utf-8"))


def _replace(target: Path, write: Callable[[Path], object]) -> None:
    draft = Draft(target)
    try:
        with as_output_error(target):
            write(draft.path)
        draft.publish()
    except RuntimeError as exc:  # what torch.save says when the disk is full
        reason = str(exc).partition("\n")[0]
        raise OutputError(f"cannot write {target}: {reason}; check folder, permissions and disk space") from exc
    finally:
        draft.discard()


def resume(run: Run, options: TrainOptions, labels: list[str], device: torch.device) -> None:
    """Put the run, fresh from new_run, where its checkpoint stands.

    With another batch size or number of processes it goes on from about the same image of the same epoch; with another
    input size, which a fully convolutional network takes, it is finished at that (large at the end saves time).
    Raises InputError when there is no checkpoint or something else, UsageError when it is another model's
    or another seed's, which would hold other images out.
    """
    path = options.checkpoint
    if not path.is_file():
        raise InputError(f"{path}: no checkpoint to resume from; leave out --resume")
    try:
        state = torch.load(path, map_location=device, weights_only=True)
        found = (state["preset"], state["labels"], state.get("optimizer_name", "adamw"))
        if found != (options.preset, labels, options.optimizer):
            raise UsageError(f"{path}: made for another model, label set or optimizer; give another --out")
        # Checkpoints of version 0.1.0's first days have neither seed, global_batch nor smooth.
        seed = state.get("seed", options.seed)
        if seed != options.seed:
            raise UsageError(f"{path}: made with seed {seed}, found seed {options.seed}; give --seed {seed}")
        run.model.load_state_dict(state["model"])
        run.ema.load_state_dict(state["ema"])
        run.optimizer.load_state_dict(state["optimizer"])
        run.epoch, run.step, run.elapsed = state["epoch"], state["step"], state["elapsed"]
        run.batch_index = state["batch_index"] * state.get("global_batch", run.global_batch) // run.global_batch
        run.history = state["history"]
        last = next((row for row in reversed(run.history) if "classification" in row), None)
        losses = [0.0, 0.0] if last is None else [last["classification"], last["regression"]]
        run.smooth = state.get("smooth", losses)
    except (OSError, EOFError, RuntimeError, pickle.UnpicklingError, KeyError, TypeError, ValueError) as exc:
        reason = str(exc).partition("\n")[0]
        raise InputError(
            f"{path}: wanted a training checkpoint, found: {type(exc).__name__} {reason}; "
            "give --overwrite in place of --resume"
        ) from exc


@contextmanager
def whole() -> Iterator[None]:
    """Hold Ctrl-C and SIGTERM back until the block is done, so that it happens as a whole or not at all."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    held: list[int] = []
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    for number in before:
        signal.signal(number, lambda found, _: held.append(found))
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, signal.SIG_DFL if handler is None else handler)
    for found in held:
        signal.raise_signal(found)
