"""A picked calibration set on disk: the pictures, why these, and a sheet to look at; whole or not there."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from edge_retina.calibrate.pick import Picker, Selection, pick
from edge_retina.calibrate.pictures import encode_png, frames_at, stills_of
from edge_retina.drafts import as_output_error
from edge_retina.draw import contact_sheet, letterbox
from edge_retina.errors import InputError, UsageError
from edge_retina.images import IMAGE_SUFFIXES, read_image
from edge_retina.sources import is_live, open_source, probe, redact
from edge_retina.types import U8, Frame

__all__ = ["LISTING", "SHEET", "pick_into"]

LISTING = "pick.json"
# In a folder of its own: a folder as a source is read without its subfolders, and the sheet is not to calibrate on.
SHEET = "overview/contact-sheet.png"
_SHEET_COLUMNS, _SHEET_MOST, _SHEET_CELL = 8, 48, (150, 200)

Progress = Callable[[str, float, float | None], None]  # what is done, how much of it, of how much


@dataclass(frozen=True)
class _Stored:
    """selection, the file of each picked frame, and small images of the first, for the sheet."""

    selection: Selection
    files: list[str]
    small: list[U8]


def pick_into(
    out: str | os.PathLike[str],
    uri: str,
    count: int,
    *,
    images: str | os.PathLike[str] | None = None,
    seconds: float | None = None,
    every: int = 1,
    overwrite: bool = False,
    on_progress: Progress = lambda *_: None,
) -> dict[str, Any]:
    """Choose `count` frames of a source by pick() and write them into the new or empty folder `out`.

    uri, images: as for pictures.open_calibration. seconds: how long to watch a camera, None for 60. every: look at each
    K-th frame only. overwrite: replace an earlier pick. Still images are copied byte for byte, frames written as PNG,
    with pick.json and overview/contact-sheet.png beside them; on any failure `out` stays as it was.
    Returns what pick.json holds. Raises UsageError, InputError, OutputError.
    """
    stills = stills_of(uri, images)
    live = stills is None and is_live(uri)
    if seconds is not None and not live:
        raise UsageError(f"--seconds goes with a camera, which {redact(uri)} is not; use --every to look at less")
    facts = None if live or stills is not None else probe(uri)
    if facts is not None and not facts.paths and facts.frames is None:
        raise UsageError(f"{redact(uri)} never ends; give it a number of frames, such as frames=300")
    sources = stills or (facts.paths if facts else ())
    with _new_folder(Path(out), sources, overwrite) as folder:
        if stills is not None:
            stored = _from_stills(stills, count, every, folder, on_progress)
        elif live:
            stored = _from_camera(uri, count, every, 60.0 if seconds is None else seconds, folder, on_progress)
        else:
            stored = _from_video(uri, count, every, facts.frames if facts else None, folder, on_progress)
        listing = _listing(redact(uri), stored)
        _write(folder / LISTING, (json.dumps(listing, indent=1) + "\n").encode())
        _write(folder / SHEET, encode_png(contact_sheet(stored.small, _SHEET_COLUMNS, cell=_SHEET_CELL)))
    return listing


def _from_stills(paths: Sequence[str], count: int, every: int, folder: Path, on_progress: Progress) -> _Stored:
    looked_at = range(0, len(paths), every)

    def frames() -> Iterator[Frame]:
        for done, i in enumerate(looked_at, start=1):
            yield Frame(read_image(paths[i]), i, name=os.path.basename(paths[i]), path=paths[i])
            on_progress("pictures", done, len(looked_at))

    selection = _not_empty(pick(frames(), count))
    files: list[str] = []
    small: list[U8] = []
    for picked in selection.picked:
        stem, suffix = os.path.splitext(picked.name.lstrip("."))  # hidden files are no pictures of a folder
        copied = suffix.lower() in IMAGE_SUFFIXES
        suffix = suffix if copied else ".png"
        taken = {file.lower() for file in files}  # photos/*/1.jpg: equal names from different folders
        files.append(stem + suffix if (stem + suffix).lower() not in taken else f"{stem}_{picked.index:06d}{suffix}")
        _write(folder / files[-1], Path(picked.path).read_bytes() if copied else encode_png(read_image(picked.path)))
        if len(small) < _SHEET_MOST:
            small.append(letterbox(read_image(picked.path), _SHEET_CELL))
    return _Stored(selection, files, small)


def _from_video(uri: str, count: int, every: int, total: int | None, folder: Path, on_progress: Progress) -> _Stored:
    with contextlib.closing(open_source(uri)) as frames:
        selection = pick(
            frames, count, every=every, on_frame=lambda frame: on_progress("frames", frame.index + 1, total)
        )
    picked = _not_empty(selection).picked
    stem = Path(picked[0].path).stem if picked[0].path else "frame"
    file_of = {p.index: f"{stem}-{p.index:06d}.png" for p in picked}
    shown = [p.index for p in picked[:_SHEET_MOST]]
    small: dict[int, U8] = {}
    done = 0
    for frame in frames_at(uri, sorted(file_of)):
        _write(folder / file_of[frame.index], encode_png(frame.image))
        if frame.index in shown:
            small[frame.index] = letterbox(frame.image, _SHEET_CELL)
        done += 1
        on_progress("writing", done, len(file_of))
    if done != len(file_of):
        raise InputError(f"{uri}: found {done} of {len(file_of)} frames a second time; it changed while it was read")
    return _Stored(selection, list(file_of.values()), [small[index] for index in shown])


def _from_camera(uri: str, count: int, every: int, seconds: float, folder: Path, on_progress: Progress) -> _Stored:
    """Frames of a camera do not come back: candidates are written at once, and most of them removed again."""
    picker = Picker()
    start_ns = None
    with contextlib.closing(open_source(uri)) as frames:
        for frame in frames:
            start_ns = frame.timestamp_ns if start_ns is None else start_ns
            if frame.index % every == 0 and picker.add(frame):
                _write(folder / _camera_file(frame.index), encode_png(frame.image))
                if len(picker) > 4 * count:  # or the disk fills with them
                    for index in picker.thin(2 * count):
                        (folder / _camera_file(index)).unlink()
            watched = (frame.timestamp_ns - start_ns) / 1e9
            on_progress("seconds", min(watched, seconds), seconds)
            if watched >= seconds:
                break
    selection = _not_empty(picker.choose(count))
    files = [_camera_file(picked.index) for picked in selection.picked]
    for name in {path.name for path in folder.iterdir()} - set(files):
        (folder / name).unlink()
    return _Stored(
        selection, files, [letterbox(read_image(folder / file), _SHEET_CELL) for file in files[:_SHEET_MOST]]
    )


def _camera_file(index: int) -> str:
    return f"camera-{index:06d}.png"


def _not_empty(selection: Selection) -> Selection:
    if not selection.picked:
        raise InputError(f"no picture to choose: of {selection.seen} looked at all are black or blown out")
    return selection


def _listing(source: str, stored: _Stored) -> dict[str, Any]:
    selection = stored.selection
    pictures = []
    for file, picked in zip(stored.files, selection.picked, strict=True):
        facts = asdict(picked)
        del facts["path"]  # of this machine
        pictures.append({"file": file, **facts})
    return {
        "source": source,
        "wanted": selection.wanted,
        "seen": selection.seen,
        "near_duplicates": selection.near_duplicates,
        "blank": selection.blank,
        "chosen": len(pictures),
        "smallest_distance": selection.smallest_distance,
        "pictures": pictures,
    }


def _write(path: Path, data: bytes) -> None:
    with as_output_error(path):
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)


@contextlib.contextmanager
def _new_folder(target: Path, sources: Sequence[str], overwrite: bool) -> Iterator[Path]:
    """A hidden folder beside `target` that takes its place when the block ends well, and goes when it does not."""
    _may_replace(target, sources, overwrite)
    # Resolved, so that of a link the folder it leads to is replaced, not the link.
    real = target.resolve()
    made = [parent for parent in real.parents if not parent.exists()]
    draft = real.with_name(f".edge-retina-{secrets.token_hex(6)}")
    old = draft.with_name(f"{draft.name}-old")
    try:
        with as_output_error(target):
            draft.mkdir(parents=True)
        yield draft
        _may_replace(target, sources, overwrite)  # it may have been a minute
        with as_output_error(target):
            if real.exists():
                os.replace(real, old)
            os.replace(draft, real)
    finally:
        if old.exists() and not real.exists():
            os.replace(old, real)
        for folder in (draft, old):
            shutil.rmtree(folder, ignore_errors=True)
        if not real.exists():
            for parent in made:
                with contextlib.suppress(OSError):
                    parent.rmdir()


def _may_replace(target: Path, sources: Sequence[str], overwrite: bool) -> None:
    """Raise UsageError unless `target` is free, empty, or an earlier pick with nothing of the user's own in it."""
    real = target.resolve()
    if not real.exists():
        return
    if not real.is_dir() or real in (Path.cwd(), *Path.cwd().parents):
        found = "the folder this command runs in" if real.is_dir() else "a file"
        raise UsageError(f"{target}: wanted a folder to write, found {found}; choose another with -o")
    names = {path.name for path in real.iterdir()}
    if names and not overwrite:
        raise UsageError(
            f"{target} is not empty; choose another folder with -o, or replace an earlier pick with --overwrite"
        )
    ours = {LISTING, Path(SHEET).parent.name}
    with contextlib.suppress(OSError, ValueError, RecursionError, KeyError, TypeError):
        ours |= {str(picture["file"]) for picture in json.loads((real / LISTING).read_bytes())["pictures"]}
    if strangers := sorted(names - ours):
        raise UsageError(f"{target} holds {strangers[0]}, which no pick wrote; choose another folder with -o")
    inside = next((path for path in sources if real in Path(path).resolve().parents), None)
    if inside is not None:
        raise UsageError(f"{inside} lies in {target}, which would be replaced; choose another folder with -o")
