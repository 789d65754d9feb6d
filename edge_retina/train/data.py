"""COCO-format training data: reading, augmentation, and a sampler that a resumed run can follow."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.utils.data import Dataset, Sampler

from edge_retina.errors import InputError
from edge_retina.evaluate import read_coco
from edge_retina.geometry import fit_frame
from edge_retina.images import read_image
from edge_retina.spec import DetectorSpec

__all__ = [
    "Augmentation",
    "CocoDataset",
    "EpochSampler",
    "Example",
    "augment",
    "collate",
    "load_coco",
    "use_one_thread",
]

F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]
# A cropped object counts as long as this share of its area is left.
_LEAST_VISIBLE = 0.4


@dataclass(frozen=True)
class Augmentation:
    """What training does to images. All zero means nothing.

    flip: probability of a left-right flip. scale: log2 of the largest zoom in or out. colour: 0..1, strength of
    brightness, contrast, saturation and hue changes.
    """

    flip: float = 0.5
    scale: float = 0.5
    colour: float = 0.5


@dataclass(frozen=True)
class Example:
    """One annotated image: its file, boxes float32 (N, 4) xyxy in its pixels, labels int64 (N,), COCO image id."""

    path: Path
    boxes: F32
    labels: npt.NDArray[np.int64]
    image_id: int


def load_coco(data: Path, images: Path | None = None) -> tuple[list[Example], list[str], list[int]]:
    """Examples, label names and category ids of a COCO set.

    data: the annotations file, or a folder that holds annotations.json. images: the folder of the pictures,
    else `images/` beside the annotations where it exists, else their folder. Labels follow the order of the
    category ids. Crowd and empty boxes are left out. Raises InputError.
    """
    path = data / "annotations.json" if data.is_dir() else data
    coco = read_coco(path)
    folder = images or (path.parent / "images" if (path.parent / "images").is_dir() else path.parent)
    try:
        categories = sorted(coco["categories"], key=lambda c: c["id"])
        ids, labels = [int(c["id"]) for c in categories], [str(c["name"]) for c in categories]
        label_of = {category_id: label for label, category_id in enumerate(ids)}
        per_image: dict[int, list[tuple[list[float], int]]] = {image["id"]: [] for image in coco["images"]}
        for a in coco["annotations"]:
            x, y, w, h = a["bbox"]
            if w > 0 and h > 0 and not a.get("iscrowd"):
                per_image[a["image_id"]].append(([x, y, x + w, y + h], label_of[a["category_id"]]))
        examples = [
            Example(
                folder / image["file_name"],
                np.array([box for box, _ in per_image[image["id"]]], np.float32).reshape(-1, 4),
                np.array([label for _, label in per_image[image["id"]]], np.int64),
                image["id"],
            )
            for image in coco["images"]
        ]
    except (KeyError, TypeError, ValueError) as exc:
        raise InputError(f"{path}: malformed COCO annotations: {type(exc).__name__} {exc}") from exc
    for e in examples:
        if not np.isfinite(e.boxes).all():
            raise InputError(f"{path}: malformed COCO annotations: a bbox of {e.path.name} is not finite")
    if not examples:
        raise InputError(f"{path}: wanted annotated images, found none")
    missing = next((e.path for e in examples if not e.path.is_file()), None)
    if missing is not None:
        raise InputError(f"{path}: image {missing} is missing; pass its folder with --images")
    return examples, labels, ids


def _recolour(image: F32, strength: float, rng: np.random.Generator) -> F32:
    """Random brightness, contrast, saturation and channel gains; float32 BGR 0..255."""
    image = image * rng.uniform(1 - 0.5 * strength, 1 + 0.5 * strength)
    mean = image.mean()
    image = (image - mean) * rng.uniform(1 - 0.6 * strength, 1 + 0.6 * strength) + mean
    grey = image.mean(2, keepdims=True)
    image = (image - grey) * rng.uniform(1 - strength, 1 + strength) + grey
    gains = rng.uniform(1 - 0.2 * strength, 1 + 0.2 * strength, 3)
    return np.clip(image * gains + rng.uniform(-20, 20) * strength, 0, 255).astype(np.float32)


def augment(
    image: U8, boxes: F32, spec: DetectorSpec, how: Augmentation, rng: np.random.Generator
) -> tuple[U8, F32, npt.NDArray[np.bool_]]:
    """Network-sized image (H, W, 3) BGR, its boxes, and which of the given boxes they are.

    image: any size, BGR; boxes (N, 4) xyxy in its pixels. The frame is fitted as at inference, zoomed about a random
    point, flipped, recoloured; boxes with too little left are dropped. With Augmentation(0, 0, 0): inference's fit.
    """
    net_h, net_w = spec.input_size
    geometry = fit_frame(spec, *image.shape[:2])
    scale_y, scale_x = geometry.content[0] / image.shape[0], geometry.content[1] / image.shape[1]
    zoom = 2 ** rng.uniform(-how.scale, how.scale)
    # Zoomed in, a random window; zoomed out, a random place.
    shift_x = geometry.offset[1] * zoom + rng.random() * (net_w - net_w * zoom)
    shift_y = geometry.offset[0] * zoom + rng.random() * (net_h - net_h * zoom)
    affine = np.array([[scale_x * zoom, 0, shift_x], [0, scale_y * zoom, shift_y]])
    if rng.random() < how.flip:
        affine[0] = -affine[0] + (0, 0, net_w)
    moved = boxes.reshape(-1, 2, 2) @ affine[:, :2].T + affine[:, 2]
    moved = np.concatenate([moved.min(1), moved.max(1)], 1)
    clipped = np.clip(moved, 0, [net_w, net_h, net_w, net_h])
    area, left = (m[:, 2:] - m[:, :2] for m in (moved, clipped))
    keep = left.prod(1) >= _LEAST_VISIBLE * area.prod(1)
    matrix = affine.copy()
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5  # warpAffine maps pixel centres
    pad = spec.pad_value[::-1] if spec.color_order == "rgb" else spec.pad_value
    warped = cv2.warpAffine(image, matrix, (net_w, net_h), flags=cv2.INTER_LINEAR, borderValue=pad)
    if how.colour:
        warped = _recolour(warped.astype(np.float32), how.colour, rng).astype(np.uint8)
    return np.asarray(warped, np.uint8), clipped[keep].astype(np.float32), keep


class CocoDataset(Dataset[tuple[Tensor, Tensor, Tensor]]):  # type: ignore[misc]  # mypy does not follow torch
    """Augmented examples; an item is keyed by (epoch, index) and depends on nothing but that and the seed.

    An item: image uint8 (3, H, W) in the spec's colour order, boxes float32 (N, 4), labels int64 (N,).
    """

    def __init__(self, examples: list[Example], spec: DetectorSpec, how: Augmentation, seed: int) -> None:
        self.examples, self.spec, self.how, self.seed = examples, spec, how, seed

    def __len__(self) -> int:
        return len(self.examples)

    def __getitem__(self, key: tuple[int, int]) -> tuple[Tensor, Tensor, Tensor]:
        epoch, index = key
        example = self.examples[index]
        image = read_image(example.path)
        rng = np.random.default_rng((self.seed, epoch, index))
        pixels, boxes, keep = augment(image, example.boxes, self.spec, self.how, rng)
        channels = pixels[..., ::-1] if self.spec.color_order == "rgb" else pixels
        tensor = torch.from_numpy(np.ascontiguousarray(channels.transpose(2, 0, 1)))
        return tensor, torch.from_numpy(boxes), torch.from_numpy(example.labels[keep])


def use_one_thread(_: int) -> None:
    """For DataLoader workers: OpenCV in one thread, as there is a worker per core already."""
    cv2.setNumThreads(0)


def collate(items: list[tuple[Tensor, Tensor, Tensor]]) -> tuple[Tensor, list[Tensor], list[Tensor]]:
    """A batch: images stacked, boxes and labels as lists."""
    images, boxes, labels = zip(*items, strict=True)
    return torch.stack(images), list(boxes), list(labels)


class EpochSampler(Sampler[list[tuple[int, int]]]):  # type: ignore[misc]  # mypy does not follow torch
    """Batches of (epoch, index) from a seeded permutation, this rank's share, starting at `first_batch`."""

    def __init__(self, count: int, batch: int, seed: int, rank: int = 0, world: int = 1) -> None:
        self.count, self.batch, self.seed, self.rank, self.world = count, batch, seed, rank, world
        self.epoch, self.first_batch = 0, 0

    def __len__(self) -> int:
        """Batches in a whole epoch; small sets are repeated up to one batch."""
        return max(1, self.count // (self.batch * self.world))

    def __iter__(self) -> Iterator[list[tuple[int, int]]]:
        order = np.random.default_rng((self.seed, self.epoch)).permutation(self.count)
        order = np.tile(order, math.ceil(self.batch * self.world / self.count))
        for i in range(self.first_batch, len(self)):
            start = (i * self.world + self.rank) * self.batch
            yield [(self.epoch, int(index)) for index in order[start : start + self.batch]]
