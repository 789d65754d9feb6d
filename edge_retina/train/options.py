"""What a training run is asked to do, and what it says while it runs."""

from __future__ import annotations

import os
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from edge_retina.errors import UsageError
from edge_retina.train.data import Augmentation
from edge_retina.train.model import LEVELS, PRESETS

__all__ = ["RATES", "Progress", "TrainOptions"]

# Peak learning rate and weight decay of each optimiser where none are given. SGD: section 4.1, "Optimization".
RATES: dict[str, tuple[float, float]] = {"adamw": (2e-3, 0.05), "sgd": (0.01, 1e-4)}


@dataclass(frozen=True)
class TrainOptions:
    """What `train` is asked to do. Raises UsageError for values that make no sense.

    data, images, val, val_images: see load_coco; without val a seeded twentieth of data is held out. out: the ONNX to
    be; checkpoint and history lie beside it (.pt, .history.json); none of the three may be a file that is read.
    resume: go on from the checkpoint; overwrite: start anew although there is one. pretrained: ResNet weights to
    start from, see load_backbone. size: network input (H, W). epochs: passes over the data; minutes, steps: end
    earlier, the learning rate annealed accordingly. batch: images per step and process. optimizer: one of RATES, which
    has the lr and weight_decay of None. loss parameters: gamma, alpha (None: unweighted), beta of smooth L1.
    amp: bfloat16 autocast. ema: decay of the weight average that is evaluated and exported. checkpoint_steps: steps
    between checkpoints.
    """

    data: Path
    out: Path
    images: Path | None = None
    val: Path | None = None
    val_images: Path | None = None
    preset: str = "narrow"
    pretrained: Path | None = None
    size: tuple[int, int] = (320, 320)
    epochs: int = 12
    minutes: float | None = None
    steps: int | None = None
    batch: int = 16
    optimizer: str = "adamw"
    lr: float | None = None
    weight_decay: float | None = None
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
    overwrite: bool = False
    checkpoint_steps: int = 200

    def __post_init__(self) -> None:
        if self.preset not in PRESETS:
            raise UsageError(f"unknown model {self.preset!r}; use one of {', '.join(PRESETS)}")
        if self.optimizer not in RATES:
            raise UsageError(f"unknown optimizer {self.optimizer!r}; use one of {', '.join(RATES)}")
        for name in ("epochs", "batch", "checkpoint_steps", "steps", "minutes", "lr"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise UsageError(f"{name} wants a number above 0, found {value}")
        for name in ("gamma", "beta", "weight_decay", "workers", "seed", "warmup_steps"):
            value = getattr(self, name)
            if value is not None and not value >= 0:
                raise UsageError(f"{name} wants 0 or more, found {value}")
        if self.batch == 1 and max(self.size) <= 2 ** LEVELS[-1]:
            # P7 would be one cell of one image, of which BatchNorm can take no variance.
            raise UsageError(f"batch 1 wants a size above {2 ** LEVELS[-1]} pixels, found {self.size}; raise --batch")
        for name in ("alpha", "ema"):
            value = getattr(self, name)
            if value is not None and not 0 <= value <= 1:
                raise UsageError(f"{name} wants 0 to 1, found {value}")
        if self.resume and self.overwrite:
            raise UsageError("resume and overwrite exclude each other; give one of them")
        if self.out.suffix != ".onnx":
            raise UsageError(f"out wants a name that ends in .onnx, found {self.out}")
        self._keep_what_is_read()

    def _keep_what_is_read(self) -> None:
        """Raises UsageError when a file that is read is one that is written, be it through a link."""
        written = {os.path.realpath(path) for path in (self.out, self.checkpoint, self.history)}
        for name in ("data", "val", "pretrained"):
            given = getattr(self, name)
            for path in () if given is None else (given, given / "annotations.json"):
                if os.path.realpath(path) in written:
                    raise UsageError(f"{name} {path} is a file that this run writes; give another --out")

    @property
    def peak_lr(self) -> float:
        """The learning rate given, else the optimiser's own."""
        return RATES[self.optimizer][0] if self.lr is None else self.lr

    @property
    def decay(self) -> float:
        """The weight decay given, else the optimiser's own."""
        return RATES[self.optimizer][1] if self.weight_decay is None else self.weight_decay

    @property
    def checkpoint(self) -> Path:
        """Where the state of the run is kept."""
        return self.out.with_suffix(".pt")

    @property
    def history(self) -> Path:
        """Where losses and validation AP are noted."""
        return self.out.with_suffix(".history.json")

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON, defaults of the optimiser filled in."""
        values = {name: str(v) if isinstance(v, Path) else v for name, v in asdict(self).items()}
        return {**values, "lr": self.peak_lr, "weight_decay": self.decay}


@dataclass(frozen=True)
class Progress:
    """Told to the caller after each step: position, running losses, learning rate, last validation AP.

    epoch: epochs done. fraction: share of the run that is done. validation_images: how many there are; with none there
    is no AP. metrics: all that average_precision says, in the one report that follows a validation, else None.
    """

    epoch: int
    step: int
    fraction: float
    classification: float
    regression: float
    lr: float
    ap: float | None
    validation_images: int
    metrics: dict[str, float] | None = None
