"""Tree crowns from the air: crops of the annotated pictures inside the deepforest package, split by place.

    pip download deepforest==2.1.0 --no-deps -d runs
    python samples/crowns/crowns.py train runs/deepforest-2.1.0-py3-none-any.whl    # runs/crowns/train and val
    python samples/crowns/crowns.py test runs/deepforest-2.1.0-py3-none-any.whl     # the shipped test set, again
    python samples/crowns/crowns.py calib runs/deepforest-2.1.0-py3-none-any.whl    # the shipped calibration set, again

A pixel belongs to one split only: the regions below do not overlap, and a crop lies within a region. deepforest itself
is not imported and need not be installed; the wheel is read as the zip that it is.
"""

from __future__ import annotations

import argparse
import json
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from xml.etree import ElementTree

import cv2
import numpy as np
import numpy.typing as npt

HERE = Path(__file__).resolve().parent
WIDTH, HEIGHT = 288, 240  # of a crop, pixels
# A cropped tree counts as long as this share of its box is left, as in training; with less it is neither hit nor miss.
LEAST_VISIBLE = 0.4
MEADOW = "2019_YELL_2_528000_4978000_image_crop2"  # 2299x2472, Yellowstone
ROAD = "2019_YELL_2_541000_4977000_image_crop"  # 1249x1035, Yellowstone

U8 = npt.NDArray[np.uint8]
F32 = npt.NDArray[np.float32]


@dataclass(frozen=True)
class Region:
    """Part of a picture: left, top, right, bottom, in its pixels."""

    picture: str
    left: int
    top: int
    right: int
    bottom: int


REGIONS: dict[str, tuple[Region, ...]] = {
    "train": (
        Region(MEADOW, 0, 0, 2299, 1752),
        Region(MEADOW, 1435, 1752, 2299, 1992),
        Region(ROAD, 0, 0, 673, 1035),
        Region("OSBS_029", 0, 0, 400, 400),
        Region("SOAP_061", 0, 0, 400, 400),
    ),
    "val": (Region(MEADOW, 283, 1752, 1435, 1992),),
    "test": (Region(MEADOW, 283, 1992, 2299, 2472), Region(ROAD, 673, 0, 1249, 960)),
}


@dataclass(frozen=True)
class Crop:
    """image (HEIGHT, WIDTH, 3) BGR; boxes float32 (N, 4) xyxy; whole (N,): enough of the tree is in the picture."""

    name: str
    image: U8
    boxes: F32
    whole: npt.NDArray[np.bool_]


def read_picture(wheel: zipfile.ZipFile, name: str) -> tuple[U8, F32]:
    """A picture (H, W, 3) BGR and the boxes of its trees, dead ones too, float32 (N, 4) xyxy."""
    image = cv2.imdecode(np.frombuffer(wheel.read(f"deepforest/data/{name}.png"), np.uint8), cv2.IMREAD_COLOR)
    root = ElementTree.fromstring(wheel.read(f"deepforest/data/{name}.xml"))
    sides = ("xmin", "ymin", "xmax", "ymax")
    rows = [[float(box.findtext(side, "nan")) for side in sides] for box in root.iter("bndbox")]
    return np.asarray(image, np.uint8), np.array(rows, np.float32).reshape(-1, 4)


def cut(name: str, image: U8, boxes: F32, left: int, top: int) -> Crop:
    """The crop at a place; boxes are clipped to it, those with nothing in it left out."""
    moved = boxes - np.array([left, top, left, top], np.float32)
    clipped = np.clip(moved, 0, np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32))
    area, left_over = ((b[:, 2:] - b[:, :2]).prod(1) for b in (moved, clipped))
    inside = left_over > 0
    pixels = image[top : top + HEIGHT, left : left + WIDTH]
    return Crop(name, pixels, clipped[inside], (left_over >= LEAST_VISIBLE * area)[inside])


def crops(wheel: zipfile.ZipFile, regions: Sequence[Region], step: tuple[int, int]) -> Iterator[Crop]:
    """Crops of regions on a grid of `step` (x, y); named after picture and place."""
    for region in regions:
        image, boxes = read_picture(wheel, region.picture)
        for top in range(region.top, region.bottom - HEIGHT + 1, step[1]):
            for left in range(region.left, region.right - WIDTH + 1, step[0]):
                yield cut(f"{region.picture}_{left:04d}_{top:04d}", image, boxes, left, top)


def upside_down(crop: Crop) -> Crop:
    """Turned by 180 degrees; from above nothing is upright."""
    boxes = np.array([WIDTH, HEIGHT, WIDTH, HEIGHT], np.float32) - crop.boxes[:, [2, 3, 0, 1]]
    return Crop(f"{crop.name}_turned", np.ascontiguousarray(crop.image[::-1, ::-1]), boxes, crop.whole)


def coco(found: Sequence[Crop], description: str) -> dict[str, object]:
    """COCO annotations of one class, Tree; trees that are hardly in the picture are crowd, which evaluators skip."""
    images, annotations = [], []
    for image_id, crop in enumerate(found, 1):
        images.append({"id": image_id, "file_name": f"{crop.name}.jpg", "width": WIDTH, "height": HEIGHT})
        for (x1, y1, x2, y2), whole in zip(crop.boxes.tolist(), crop.whole.tolist(), strict=True):
            box = [x1, y1, x2 - x1, y2 - y1]
            row = {"image_id": image_id, "category_id": 1, "bbox": box, "area": box[2] * box[3]}
            annotations.append({"id": len(annotations) + 1, **row, "iscrowd": int(not whole)})
    categories = [{"id": 1, "name": "Tree"}]
    info = {"description": description}
    return {"info": info, "images": images, "annotations": annotations, "categories": categories}


def write_set(out: Path, found: Sequence[Crop], description: str, quality: int) -> None:
    """The crops as JPEG and annotations.json under `out`."""
    out.mkdir(parents=True, exist_ok=True)
    for crop in found:
        cv2.imwrite(str(out / f"{crop.name}.jpg"), crop.image, [cv2.IMWRITE_JPEG_QUALITY, quality])
    (out / "annotations.json").write_text(json.dumps(coco(found, description)) + "\n")
    print(f"{out}: {len(found)} pictures, {sum(int(crop.whole.sum()) for crop in found)} trees")


def with_trees(found: Sequence[Crop]) -> list[Crop]:
    """Those that show a tree; half of the meadow is grass."""
    return [crop for crop in found if crop.whole.any()]


def main() -> None:
    """Make one of the sets."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=["train", "test", "calib"])
    parser.add_argument("wheel", type=Path, help="deepforest's wheel")
    parser.add_argument("--out", type=Path, help="folder to write to")
    options = parser.parse_args()
    with zipfile.ZipFile(options.wheel) as wheel:
        if options.what == "train":
            out = options.out or Path("runs/crowns")
            # Three times as dense as the crops are large: zoom and shift of the augmentation do the rest.
            found = with_trees(list(crops(wheel, REGIONS["train"], (96, 80))))
            write_set(out / "train", [*found, *map(upside_down, found)], "tree crowns, train", 95)
            write_set(out / "val", list(crops(wheel, REGIONS["val"], (WIDTH, HEIGHT))), "tree crowns, val", 95)
        elif options.what == "test":
            found = list(crops(wheel, REGIONS["test"], (WIDTH, HEIGHT)))
            write_set(options.out or HERE / "test", found, "tree crowns, test", 92)
        else:
            found = with_trees(list(crops(wheel, REGIONS["train"], (96, 80))))
            # Evenly over the places; more would not fit the room there is for pictures in a repository.
            chosen = [found[i * len(found) // 100] for i in range(100)]
            write_set(options.out or HERE / "calib", chosen, "tree crowns, calibration", 50)


if __name__ == "__main__":
    main()
