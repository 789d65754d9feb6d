"""Small COCO sets to train on: a bright square or bar on a dark ground."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import cv2
import numpy as np

CATEGORIES = ({"id": 3, "name": "square"}, {"id": 7, "name": "bar"})


def write_set(folder: Path, count: int, *, side: int = 64, seed: int = 0) -> Path:
    """Write `count` pictures and annotations.json; picture number 4, 9, ... is empty. Returns the annotations file."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True, exist_ok=True)
    data: dict[str, Any] = {"images": [], "annotations": [], "categories": list(CATEGORIES)}
    for number in range(count):
        image = rng.integers(0, 40, (side, side, 3), np.uint8)
        name = f"{number}.png"
        data["images"].append({"id": number + 1, "file_name": name, "width": side, "height": side})
        if number % 5 != 4:
            width = int(rng.integers(side // 4, side // 2))
            label = int(rng.integers(2))
            height = width if label == 0 else width // 2
            x, y = int(rng.integers(side - width)), int(rng.integers(side - height))
            image[y : y + height, x : x + width] = (60, 250, 250) if label == 0 else (250, 120, 60)
            row = {"id": len(data["annotations"]) + 1, "image_id": number + 1, "category_id": CATEGORIES[label]["id"]}
            data["annotations"].append({**row, "bbox": [x, y, width, height], "area": width * height, "iscrowd": 0})
        cv2.imwrite(str(folder / name), image)
    path = folder / "annotations.json"
    path.write_text(json.dumps(data))
    return path
