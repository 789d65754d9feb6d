"""Digits in photographs: scenes composed from real handwriting over real photographs, seeded.

    python samples/digits/scenes.py train --out runs/digits --count 12000    # scenes to train on
    python samples/digits/scenes.py test                                     # the shipped test set, again
    python samples/digits/scenes.py calib                                    # the shipped calibration set, again
    python samples/digits/scenes.py pan                                      # the shipped video, again

Handwriting: scikit-learn's 1,797 digits (8x8 pixels); photographs: scikit-image's and scikit-learn's own.
Digits and photographs of test scenes never appear in training scenes. Install: pip install 'edge-retina[digits]'.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt
from rich.progress import track

HERE = Path(__file__).resolve().parent
SIDE = 320
GLYPH = 128  # side of an enlarged glyph
SMALLEST, LARGEST = 12.0, 128.0  # height of a digit, pixels
TRAIN_PHOTOS = ("astronaut", "coffee", "china", "motorcycle_left", "rocket", "brick", "grass", "coins", "retina")
TEST_PHOTOS = ("chelsea", "flower", "camera", "gravel", "ihc")
NAMES = tuple("0123456789")

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Ink:
    """The material of one split: enlarged glyphs (float32, 0..1, GLYPH x GLYPH), their digits, photographs (BGR)."""

    glyphs: list[F32]
    digits: list[int]
    photos: list[U8]


@dataclass(frozen=True)
class Scene:
    """image (H, W, 3) BGR; boxes float32 (N, 4) xyxy of the whole ink, hidden parts included; digits (N,)."""

    image: U8
    boxes: F32
    digits: list[int]


def photograph(name: str) -> U8:
    """A photograph that comes with scikit-image or scikit-learn, BGR."""
    if name in ("china", "flower"):
        from sklearn.datasets import load_sample_image

        image = load_sample_image(f"{name}.jpg")
    else:
        import skimage

        path = next((Path(skimage.__file__).parent / "data").glob(f"{name}.*"))
        image = cv2.cvtColor(cv2.imread(str(path)), cv2.COLOR_BGR2RGB)
    return np.ascontiguousarray(image[..., ::-1])


@cache
def load_ink(split: str) -> Ink:
    """The glyphs and photographs of "train" or "test"; a seeded fifth of each digit's glyphs is for testing."""
    from sklearn.datasets import load_digits

    data = load_digits()
    test = np.zeros(len(data.target), bool)
    for digit in range(10):
        rows = np.random.default_rng(digit).permutation(np.flatnonzero(data.target == digit))
        test[rows[: len(rows) // 5]] = True
    chosen = np.flatnonzero(test if split == "test" else ~test)
    glyphs = []
    for row in chosen:
        padded = np.pad(data.images[row].astype(np.float32) / 16, 1)
        large = cv2.resize(padded, (GLYPH, GLYPH), interpolation=cv2.INTER_CUBIC)
        # A steeper edge than the 8x8 scan has: ink, not fog.
        glyphs.append(np.clip((large - 0.3) / 0.35, 0, 1))
    names = TEST_PHOTOS if split == "test" else TRAIN_PHOTOS
    return Ink(glyphs, [int(data.target[row]) for row in chosen], [photograph(name) for name in names])


def background(ink: Ink, rng: np.random.Generator, width: int, height: int) -> F32:
    """A random piece of a random photograph, float32 BGR."""
    photo = ink.photos[rng.integers(len(ink.photos))]
    least = max(height / photo.shape[0], width / photo.shape[1])
    scale = least * 2 ** rng.uniform(0, 1.3)
    size = (max(width, round(photo.shape[1] * scale)), max(height, round(photo.shape[0] * scale)))
    large = cv2.resize(photo, size, interpolation=cv2.INTER_AREA if scale < 1 else cv2.INTER_LINEAR)
    x, y = rng.integers(size[0] - width + 1), rng.integers(size[1] - height + 1)
    piece = large[y : y + height, x : x + width].astype(np.float32)
    if rng.random() < 0.5:
        piece = piece[:, ::-1]
    return (piece - 128) * rng.uniform(0.6, 1.1) + 128 + rng.uniform(-30, 30)


def clutter(image: F32, rng: np.random.Generator, count: int) -> None:
    """Draw shapes that are no digits, in place."""
    height, width = image.shape[:2]
    for _ in range(count):
        colour = rng.uniform(0, 255, 3).tolist()
        x, y = int(rng.integers(width)), int(rng.integers(height))
        reach = int(2 ** rng.uniform(3, 6))
        kind = rng.integers(4)
        points = rng.integers(-reach, reach + 1, (int(rng.integers(3, 6)), 2)) + np.array((x, y))
        if kind == 0:
            cv2.fillPoly(image, [points.astype(np.int32)], colour, cv2.LINE_AA)
        elif kind == 1:
            cv2.polylines(image, [points.astype(np.int32)], False, colour, int(rng.integers(1, 5)), cv2.LINE_AA)
        elif kind == 2:
            axes = (reach, int(rng.integers(2, reach + 1)))
            thickness = -1 if rng.random() < 0.5 else int(rng.integers(1, 5))
            tilt, sweep = float(rng.uniform(0, 180)), float(rng.uniform(60, 240))
            cv2.ellipse(image, (x, y), axes, tilt, 0, sweep, colour, thickness)
        else:
            cv2.line(image, (x, y), tuple(points[0].tolist()), colour, int(rng.integers(1, 6)), cv2.LINE_AA)


def place(glyph: F32, rng: np.random.Generator, height: float, centre: tuple[float, float]) -> tuple[F32, F32]:
    """A random affine map glyph -> scene (2, 3), and the tight box of the mapped ink (4,) xyxy."""
    angle, shear = np.deg2rad(rng.uniform(-18, 18)), rng.uniform(-0.2, 0.2)
    aspect = rng.uniform(0.8, 1.2)
    turn = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    linear = turn @ np.array([[aspect, shear], [0, 1]])
    ys, xs = np.nonzero(glyph > 0.5)
    ink = np.stack([xs, ys]).astype(np.float64) + 0.5
    mapped = linear @ ink
    linear *= height / np.ptp(mapped[1])
    mapped = linear @ ink
    low, high = mapped.min(1), mapped.max(1)
    shift = np.asarray(centre) - (low + high) / 2
    # Half a glyph cell on each side: pixels have extent.
    cell = np.abs(linear).sum(1) / 2
    box = np.concatenate([low - cell + shift, high + cell + shift])
    return np.column_stack([linear, shift]).astype(np.float32), box.astype(np.float32)


def paint(image: F32, glyph: F32, affine: F32, rng: np.random.Generator, contrast: tuple[float, float]) -> None:
    """Ink the mapped glyph onto the image in a colour that differs from what is under it, in place."""
    height, width = image.shape[:2]
    # warpAffine maps pixel centres; the affine maps pixel corners.
    matrix = affine.astype(np.float64).copy()
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    shrink = float(np.sqrt(abs(np.linalg.det(matrix[:, :2]))))
    if shrink < 0.5:
        glyph = cv2.GaussianBlur(glyph, (0, 0), 0.35 / shrink)
    alpha = cv2.warpAffine(glyph, matrix, (width, height), flags=cv2.INTER_LINEAR)[..., None]
    weight = alpha.sum()
    if weight == 0:
        return
    under = (image * alpha).sum((0, 1)) / weight
    grey = float(under.mean())
    step = rng.uniform(*contrast) * (1 if grey < 128 else -1) * (1 if rng.random() < 0.85 else -0.8)
    colour = np.clip(under + step + rng.uniform(-35, 35, 3), 0, 255).astype(np.float32)
    image += alpha * rng.uniform(0.85, 1.0) * (colour - image)


def occlude(image: F32, box: F32, rng: np.random.Generator) -> None:
    """Cover up to a third of a digit with a bar, in place."""
    x1, y1, x2, y2 = box
    share = rng.uniform(0.1, 0.33)
    colour = rng.uniform(0, 255, 3).tolist()
    if rng.random() < 0.5:
        thick = share * (y2 - y1)
        y = rng.uniform(y1, y2 - thick)
        corners = (x1 - 3, y, x2 + 3, y + thick)
    else:
        thick = share * (x2 - x1)
        x = rng.uniform(x1, x2 - thick)
        corners = (x, y1 - 3, x + thick, y2 + 3)
    a, b, c, d = (round(float(v)) for v in corners)
    cv2.rectangle(image, (a, b), (max(a, c - 1), max(b, d - 1)), colour, -1)


def overlap(box: F32, others: Sequence[F32]) -> float:
    """Largest share of `box`, or of another box, that lies under the other."""
    worst = 0.0
    for other in others:
        side = np.minimum(box[2:], other[2:]) - np.maximum(box[:2], other[:2])
        if (side > 0).all():
            inter = float(side.prod())
            worst = max(worst, inter / float((box[2:] - box[:2]).prod()), inter / float((other[2:] - other[:2]).prod()))
    return worst


def compose(ink: Ink, seed: Sequence[int], *, side: int = SIDE, occlusion: bool = True) -> Scene:
    """One scene; the same seed gives the same scene."""
    rng = np.random.default_rng(list(seed))
    image = np.ascontiguousarray(background(ink, rng, side, side))
    clutter(image, rng, int(rng.integers(0, 9)))
    boxes: list[F32] = []
    digits: list[int] = []
    wanted = int(rng.integers(1, 11))
    for _ in range(wanted * 4):
        if len(boxes) == wanted:
            break
        row = int(rng.integers(len(ink.glyphs)))
        height = float(SMALLEST * (LARGEST / SMALLEST) ** rng.random())
        margin = height / 2 + 1
        centre = (rng.uniform(margin, side - margin), rng.uniform(margin, side - margin))
        affine, box = place(ink.glyphs[row], rng, height, centre)
        inside = box.min() >= 0 and box.max() <= side
        if not inside or overlap(box, boxes) > (0.25 if occlusion else 0.0):
            continue
        paint(image, ink.glyphs[row], affine, rng, (65, 160))
        if occlusion and rng.random() < 0.15:
            occlude(image, box, rng)
        boxes.append(box)
        digits.append(ink.digits[row])
    return Scene(camera(image, rng), np.array(boxes, np.float32).reshape(-1, 4), digits)


def camera(image: F32, rng: np.random.Generator) -> U8:
    """Uneven light, blur and noise, as a camera adds them."""
    height, width = image.shape[:2]
    direction = rng.uniform(-0.25, 0.25, 2)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    image = image * (1 + direction[0] * (x / width - 0.5) + direction[1] * (y / height - 0.5))[..., None]
    if rng.random() < 0.5:
        image = cv2.GaussianBlur(image, (0, 0), float(rng.uniform(0.3, 1.0)))
    noise = rng.normal(0, rng.uniform(0, 9), image.shape).astype(np.float32)
    return np.clip(image + noise, 0, 255).astype(np.uint8)


def coco(scenes: Sequence[tuple[str, Scene]], description: str) -> dict[str, object]:
    """COCO annotations; category ids are digit + 1, areas are box areas."""
    images, annotations = [], []
    for image_id, (name, scene) in enumerate(scenes, 1):
        height, width = scene.image.shape[:2]
        images.append({"id": image_id, "file_name": name, "width": width, "height": height})
        for (x1, y1, x2, y2), digit in zip(scene.boxes.tolist(), scene.digits, strict=True):
            w, h = x2 - x1, y2 - y1
            annotations.append(
                {
                    "id": len(annotations) + 1,
                    "image_id": image_id,
                    "category_id": digit + 1,
                    "bbox": [round(v, 2) for v in (x1, y1, w, h)],
                    "area": round(w * h, 2),
                    "iscrowd": 0,
                }
            )
    categories = [{"id": i + 1, "name": name} for i, name in enumerate(NAMES)]
    return {
        "info": {"description": description},
        "images": images,
        "annotations": annotations,
        "categories": categories,
    }


def write_scene(job: tuple[Path, str, int, bool]) -> tuple[str, Scene]:
    """Compose one scene and write it as JPEG; the scene comes back with one column of its image."""
    out, split, number, occlusion = job
    scene = compose(load_ink(split), (1 if split == "test" else 0, number), occlusion=occlusion)
    name = f"{split}_{number:05d}.jpg"
    cv2.imwrite(str(out / name), scene.image, [cv2.IMWRITE_JPEG_QUALITY, 92])
    return name, Scene(scene.image[..., :1], scene.boxes, scene.digits)


def write_set(out: Path, split: str, count: int, first: int, *, occlusion: bool = True, workers: int = 2) -> None:
    """Write `count` scenes, seeds first, first + 1, ..., as JPEG and annotations.json under `out`."""
    out.mkdir(parents=True, exist_ok=True)
    jobs = [(out, split, number, occlusion) for number in range(first, first + count)]
    with ProcessPoolExecutor(workers) as pool:
        scenes = list(track(pool.map(write_scene, jobs, chunksize=16), f"{split} scenes", total=count))
    (out / "annotations.json").write_text(json.dumps(coco(scenes, f"digits in photographs, {split}")) + "\n")


def main() -> None:
    """Make one of the sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "test", "calib", "pan"])
    parser.add_argument("--out", type=Path, help="folder to write to")
    parser.add_argument("--count", type=int, default=12000, help="training scenes (train only)")
    parser.add_argument("--no-occlusion", action="store_true", help="scenes without occlusion (train only)")
    options = parser.parse_args()
    if options.what == "train":
        out = options.out or Path("runs/digits")
        write_set(out, "train", options.count, 0, occlusion=not options.no_occlusion)
    elif options.what == "test":
        write_set(options.out or HERE / "test", "test", 320, 0)
    elif options.what == "calib":
        # Seeds far from the training scenes: training-side material, scenes never trained on.
        write_set(options.out or HERE.parents[1] / "calib" / "digits", "train", 128, 1_000_000)
    else:
        from pan import write_pan

        write_pan(options.out or HERE)


if __name__ == "__main__":
    main()
