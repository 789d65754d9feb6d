"""The shipped video: 20 seconds of a camera panning along a wall of photographs with digits on them.

    python samples/digits/scenes.py pan

Writes pan.mp4 (640x480, 25 frames/s, H.264) and pan.json: per frame the boxes (xyxy, frame pixels) and names of all
digits of which at least 60 % of the box can be seen. Seeded; test-side digits and photographs only.
"""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import av
import cv2
import numpy as np
from rich.progress import track
from scenes import F32, NAMES, U8, clutter, load_ink, overlap, paint, place

WIDTH, HEIGHT, FPS, SECONDS = 640, 480, 25, 20
WALL_HEIGHT = 620
SEED = 2017
LEAST_VISIBLE = 0.6


def build_wall(rng: np.random.Generator) -> tuple[F32, list[np.ndarray], list[int]]:
    """The wall, float32 BGR, and for each digit on it the outline of its ink (2, n) and its digit."""
    ink = load_ink("test")
    photos = [ink.photos[i] for i in (1, 0, 2, 3)]  # flower, cat, cameraman, gravel
    scaled = [cv2.resize(p, (round(p.shape[1] * WALL_HEIGHT / p.shape[0]), WALL_HEIGHT)) for p in photos]
    wall = np.ascontiguousarray(np.hstack(scaled), dtype=np.float32)
    clutter(wall, rng, 40)
    boxes: list[F32] = []
    outlines, digits = [], []
    while len(boxes) < 60:
        row = int(rng.integers(len(ink.glyphs)))
        height = 30 * (190 / 30) ** rng.random()
        margin = height / 2 + 20
        centre = (rng.uniform(margin, wall.shape[1] - margin), rng.uniform(margin + 40, WALL_HEIGHT - margin - 40))
        if margin + 40 > WALL_HEIGHT - margin - 40:
            continue
        affine, box = place(ink.glyphs[row], rng, height, centre)
        if overlap(box, boxes) > 0.1:
            continue
        paint(wall, ink.glyphs[row], affine, rng, (75, 170))
        ys, xs = np.nonzero(ink.glyphs[row] > 0.5)
        corners = np.concatenate([np.stack([xs + dx, ys + dy]) for dx in (0, 1) for dy in (0, 1)], axis=1)
        outlines.append(affine[:, :2] @ corners + affine[:, 2:])
        boxes.append(box)
        digits.append(ink.digits[row])
    return wall, outlines, digits


def camera_at(t: float, wall_width: int) -> np.ndarray:
    """Affine wall -> frame (2, 3) at time t in 0..1: there and half-way back, breathing zoom, a hand's tremble."""
    zoom = 1.0 + 0.16 * np.sin(2 * np.pi * 1.5 * t)
    angle = np.deg2rad(2.0 * np.sin(2 * np.pi * 2.2 * t))
    half = WIDTH / 2 / zoom + 30
    x = half + (wall_width - 2 * half) * (0.5 - 0.5 * np.cos(1.5 * np.pi * t))
    y = WALL_HEIGHT / 2 + 35 * np.sin(2 * np.pi * 1.1 * t)
    x, y = x + 2.5 * np.sin(61 * t), y + 2.0 * np.sin(83 * t)
    linear = zoom * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    return np.column_stack([linear, (WIDTH / 2, HEIGHT / 2) - linear @ (x, y)])


def see(outlines: list[np.ndarray], digits: list[int], camera: np.ndarray) -> tuple[list[list[float]], list[str]]:
    """Boxes and names of the digits in view."""
    boxes, names = [], []
    for outline, digit in zip(outlines, digits, strict=True):
        seen = camera[:, :2] @ outline + camera[:, 2:]
        x1, y1, x2, y2 = *seen.min(1), *seen.max(1)
        a, b, c, d = max(x1, 0), max(y1, 0), min(x2, WIDTH), min(y2, HEIGHT)
        if c > a and d > b and (c - a) * (d - b) >= LEAST_VISIBLE * (x2 - x1) * (y2 - y1):
            boxes.append([round(float(v), 2) for v in (a, b, c, d)])
            names.append(NAMES[digit])
    return boxes, names


def shoot(wall: F32, camera: np.ndarray, rng: np.random.Generator, t: float) -> U8:
    """One frame: the wall through the camera, with changing light and noise."""
    matrix = camera.copy()
    matrix[:, 2] += matrix[:, :2] @ (0.5, 0.5) - 0.5
    image = cv2.warpAffine(wall, matrix, (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
    image = cv2.GaussianBlur(image, (0, 0), 0.6) * (1 + 0.12 * np.sin(2 * np.pi * 3 * t))
    return np.clip(image + rng.normal(0, 3, image.shape), 0, 255).astype(np.uint8)


def write_pan(out: Path) -> None:
    """Write pan.mp4 and pan.json under `out`."""
    rng = np.random.default_rng(SEED)
    wall, outlines, digits = build_wall(rng)
    total = FPS * SECONDS
    frames = []
    with av.open(str(out / "pan.mp4"), "w") as container:
        stream = container.add_stream("libx264", rate=Fraction(FPS), options={"crf": "25", "preset": "slow"})
        stream.width, stream.height, stream.pix_fmt = WIDTH, HEIGHT, "yuv420p"
        stream.thread_count = 1  # more threads, other bytes
        for i in track(range(total), "frames"):
            camera = camera_at(i / total, wall.shape[1])
            boxes, names = see(outlines, digits, camera)
            frames.append({"boxes": boxes, "names": names})
            picture = av.VideoFrame.from_ndarray(shoot(wall, camera, rng, i / total), format="bgr24")
            container.mux(stream.encode(picture))
        container.mux(stream.encode())
    truth = {"video": "pan.mp4", "size": [WIDTH, HEIGHT], "fps": FPS, "frames": frames}
    (out / "pan.json").write_text(json.dumps(truth) + "\n")
