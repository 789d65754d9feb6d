"""The pictures a model is calibrated on: which ones of a source, their digest, and what is wrong with them."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import tempfile
import weakref
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from edge_retina.calibrate.duplicates import NearDuplicates, thumbnail
from edge_retina.drafts import as_output_error
from edge_retina.errors import InputError, UsageError
from edge_retina.images import read_image
from edge_retina.sources import VIDEO_SUFFIXES, Uri, is_live, open_source, probe, redact
from edge_retina.types import U8, Frame

__all__ = [
    "CalibrationSet",
    "Picture",
    "SetCheck",
    "encode_png",
    "frames_at",
    "open_calibration",
    "spread",
    "stills_of",
    "warnings_of",
]

# What post-training quantization is commonly given: 100 to 1000 pictures.
FEW_PICTURES = 100
# Largest difference between the channels of a grey picture, 0..255: video codecs leave some colour in grey.
_GREY_SPREAD = 8
_FAST_PNG = (cv2.IMWRITE_PNG_COMPRESSION, 1)
_Stills = tuple[str, ...] | None


@dataclass(frozen=True, slots=True, eq=False)
class Picture(Frame):
    """A frame of a calibration set. original_shape: (H, W) before it was resized to the model's frame size."""

    original_shape: tuple[int, int] = (0, 0)


@dataclass(frozen=True, eq=False)
class CalibrationSet:
    """Pictures to calibrate on, opened anew and in the same order each time `frames()` is called.

    uri: where they come from, passwords removed. count: how many. names: of each, in order.
    digest: sha256 (hex) of what goes in, not of where it lies; None for a camera, whose frames do not come back.
    """

    uri: str
    count: int
    digest: str | None
    names: tuple[str, ...]
    _open: Callable[[], Iterator[Picture]] = field(repr=False)

    def frames(self) -> Iterator[Picture]:
        """The pictures: uint8 (H, W, 3) BGR, one decoded at a time. Raises InputError for one that cannot be read."""
        found = 0
        for picture in self._open():
            found += 1
            yield picture
        if found != self.count:
            raise InputError(f"{self.uri}: wanted {self.count} pictures, found {found}; it changed while it was read")


def open_calibration(
    uri: Uri,
    *,
    most: int = 512,
    frame_size: tuple[int, int] | None = None,
    images: str | os.PathLike[str] | None = None,
    seconds: float = 60.0,
) -> CalibrationSet:
    """The pictures of a source, at most `most`, spread evenly over its sorted names, its length or its `seconds`.

    uri: as for sources.open_source, or a COCO json, whose pictures lie in `images`, in images/ beside it or beside it.
    frame_size: (H, W) to which pictures of another size are resized, None to leave them. seconds: time for a camera.
    A video is decoded once to count its frames, since containers miscount; a camera is watched here, once.
    Raises UsageError, InputError for what cannot be read or is empty, OutputError where no camera frame can be stored.
    """
    if most < 1 or not seconds > 0:
        raise UsageError(f"calibration wants at least 1 picture and more than 0 seconds, found {most} and {seconds}")
    label = redact(uri)
    stills = stills_of(uri, images, "--calib-images")
    if stills is not None:
        paths = [stills[i] for i in spread(len(stills), most)]
        digest = _digest(_file_digest(path) for path in paths)
        names = tuple(os.path.basename(path) for path in paths)
        return CalibrationSet(label, len(paths), digest, names, lambda: _stills(paths, label, frame_size))
    if is_live(uri):
        grabbed = _Grabbed(uri, most, frame_size, seconds)
        names = tuple(f"frame {picture.index}" for picture in grabbed.pictures)
        return CalibrationSet(label, len(names), None, names, grabbed)
    facts = probe(uri)
    # The pattern's own number is exact, and it may be endless.
    total = (facts.frames or most) if not facts.paths else sum(1 for _ in open_source(uri))
    indices = spread(total, most)
    content = _file_digest(facts.paths[0]) if facts.paths else hashlib.sha256(label.encode()).digest()
    digest = _digest([content, json.dumps(indices).encode()])
    names = tuple(f"frame {index}" for index in indices)
    return CalibrationSet(label, len(names), digest, names, lambda: frames_at(uri, indices, frame_size))


def stills_of(uri: Uri, images: str | os.PathLike[str] | None = None, option: str = "--images") -> _Stills:
    """Paths of the still images that a URI names, in order; None for a video, a camera or a test pattern.

    images: the folder of a COCO json's pictures; option: how users give it. Raises UsageError, InputError.
    """
    text = os.fspath(uri) if isinstance(uri, os.PathLike) else str(uri).removeprefix("file://")
    if "://" not in text and text.lower().endswith(".json"):
        return _coco_paths(Path(text), images, option)
    if images is not None:
        raise UsageError(f"{option} goes with a COCO json, found {redact(uri)}; leave it out")
    paths = probe(uri).paths
    is_video = len(paths) == 1 and os.path.splitext(paths[0])[1].lower() in VIDEO_SUFFIXES
    return None if is_video or not paths else paths


def spread(total: int, most: int) -> list[int]:
    """At most `most` of the indices 0..total - 1, each in the middle of its equal share; all where they are fewer.

    >>> spread(10, 3), spread(2, 3)
    ([1, 5, 8], [0, 1])
    """
    count = min(total, most)
    return [(2 * i + 1) * total // (2 * count) for i in range(count)]


def encode_png(image: U8) -> bytes:
    """A uint8 (H, W, 3) BGR image as PNG, without loss, quickly rather than tightly packed."""
    return bytes(cv2.imencode(".png", image, _FAST_PNG)[1])


def _coco_paths(path: Path, images: str | os.PathLike[str] | None, option: str) -> tuple[str, ...]:
    # Not evaluate.read_coco: pictures without annotations will do here.
    try:
        data: Any = json.loads(path.read_bytes())
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}; check the path and its permissions") from exc
    except (ValueError, RecursionError) as exc:
        raise InputError(f"{path}: wanted a COCO json, found what is no JSON: {exc}") from exc
    try:
        names = [str(image["file_name"]) for image in data["images"]]
    except (KeyError, TypeError) as exc:
        raise InputError(f"{path}: wanted a COCO json, found no images[].file_name in it") from exc
    if not names:
        raise InputError(f"{path}: wanted a COCO json with images, found none in it")
    beside = path.parent / "images"
    folder = Path(images) if images is not None else beside if beside.is_dir() else path.parent
    missing = next((name for name in names if not (folder / name).is_file()), None)
    if missing is not None:
        raise InputError(f"{path}: its image {folder / missing} is not there; pass its folder with {option}")
    return tuple(os.fspath(folder / name) for name in names)


def _file_digest(path: str) -> bytes:
    sha256 = hashlib.sha256()
    try:
        with open(path, "rb") as file:
            while block := file.read(1 << 20):
                sha256.update(block)
    except OSError as exc:
        raise InputError(f"cannot read {path}: {exc.strerror}; check the path and its permissions") from exc
    return sha256.digest()


def _digest(parts: Iterable[bytes]) -> str:
    """Digests of the parts, digested: unlike their bytes in a row they say where one ends."""
    sha256 = hashlib.sha256()
    for part in parts:
        sha256.update(part)
    return sha256.hexdigest()


def _fit(frame: Frame, size: tuple[int, int] | None) -> Picture:
    image, shape = frame.image, (frame.image.shape[0], frame.image.shape[1])
    if size is not None and shape != size:
        shrinks = size[0] * size[1] < shape[0] * shape[1]
        resized = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR)
        image = np.asarray(resized, np.uint8)
    facts = (frame.index, frame.timestamp_ns, frame.source, frame.name, frame.live, frame.path)
    return Picture(image, *facts, original_shape=shape)


def _stills(paths: Sequence[str], label: str, size: tuple[int, int] | None) -> Iterator[Picture]:
    for index, path in enumerate(paths):
        yield _fit(Frame(read_image(path), index, 0, label, os.path.basename(path), path=path), size)


def frames_at(uri: Uri, indices: Sequence[int], frame_size: tuple[int, int] | None = None) -> Iterator[Picture]:
    """The frames of a video or test pattern at ascending indices, resized to frame_size (H, W) where given.

    Decoded in a row from the start, since seeking lands where the container guesses. Raises UsageError, InputError.
    """
    wanted = set(indices)
    frames = open_source(uri, max_frames=indices[-1] + 1)
    try:
        for frame in frames:
            if frame.index in wanted:
                yield _fit(frame, frame_size)
    finally:
        frames.close()


class _Grabbed:
    """Frames of a camera, kept as PNG in a temporary folder that goes when this object does."""

    def __init__(self, uri: Uri, most: int, size: tuple[int, int] | None, seconds: float) -> None:
        self.pictures: list[Picture] = []  # their images emptied
        with as_output_error(Path(tempfile.gettempdir())):
            self._folder = Path(tempfile.mkdtemp(prefix="edge-retina-"))
        weakref.finalize(self, shutil.rmtree, self._folder, ignore_errors=True)
        step_ns, start_ns = round(seconds * 1e9 / most), None
        frames = open_source(uri)
        try:
            for frame in frames:
                start_ns = frame.timestamp_ns if start_ns is None else start_ns
                if frame.timestamp_ns - start_ns >= step_ns * len(self.pictures):
                    self._keep(_fit(frame, size))
                if len(self.pictures) == most or frame.timestamp_ns - start_ns >= seconds * 1e9:
                    break
        finally:
            frames.close()

    def _keep(self, picture: Picture) -> None:
        path = self._path(len(self.pictures))
        with as_output_error(path):
            path.write_bytes(encode_png(picture.image))
        self.pictures.append(_with_image(picture, np.zeros((0, 0, 3), np.uint8)))

    def _path(self, number: int) -> Path:
        return self._folder / f"{number:06d}.png"

    def __call__(self) -> Iterator[Picture]:
        for number, picture in enumerate(self.pictures):
            yield _with_image(picture, read_image(self._path(number)))


def _with_image(p: Picture, image: U8) -> Picture:
    return Picture(image, p.index, p.timestamp_ns, p.source, p.name, p.live, p.path, original_shape=p.original_shape)


class SetCheck:
    """What may be wrong with a calibration set, found while its pictures go by; memory: 2 KB a picture.

    count, near_duplicates, grey, resized: pictures seen, nearly the same as an earlier one, without colour, of
    another size than the model takes. frame_size: (H, W) of the last picture.
    """

    def __init__(self) -> None:
        self.count = self.near_duplicates = self.grey = self.resized = 0
        self.frame_size = (0, 0)
        self._known = NearDuplicates()

    def add(self, frame: Frame) -> None:
        """Look at one picture, at the cost of a thumbnail."""
        thumb = thumbnail(frame.image)
        self.count += 1
        self.near_duplicates += not self._known.add(thumb)
        # Averaged, so that the colour noise of single pixels does not count.
        small = cv2.resize(thumb, (32, 32), interpolation=cv2.INTER_AREA).astype(np.int16)
        self.grey += int((small.max(2) - small.min(2)).max()) <= _GREY_SPREAD
        self.frame_size = (frame.image.shape[0], frame.image.shape[1])
        self.resized += isinstance(frame, Picture) and frame.original_shape != self.frame_size

    def warnings(self) -> list[str]:
        """One sentence for each fault, with the number measured; none for a good set."""
        found, of = [], f"of {self.count} pictures"
        if self.count < FEW_PICTURES:
            found.append(
                f"{self.count} pictures are few, wanted {FEW_PICTURES} to 1000; "
                "run: edge-retina calib pick --from VIDEO -n 256 -o calib/"
            )
        if self.near_duplicates:
            found.append(f"{self.near_duplicates} {of} are nearly the same as an earlier one and add little")
        if self.count and self.grey == self.count:
            found.append(f"all {self.count} pictures are grey; if the camera gives colour, calibrate on colour")
        if self.resized:
            size = f"{self.frame_size[1]}x{self.frame_size[0]}"
            found.append(f"{self.resized} {of} were resized to {size}; pictures as the camera gives them are better")
        return found


def warnings_of(pictures: CalibrationSet) -> list[str]:
    """The warnings of SetCheck for a whole set, in one pass over it. Raises InputError."""
    check = SetCheck()
    for frame in pictures.frames():
        check.add(frame)
    return check.warnings()
