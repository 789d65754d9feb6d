"""The project folder: edge-retina.toml, or the only model in it, so that two commands work as they stand."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edge_retina.errors import OutputError, UsageError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

__all__ = ["FILE", "Project", "find_bundle", "find_model", "owns", "read_project", "write_project"]

FILE = "edge-retina.toml"
_PRECISIONS = ("fp32", "fp16", "int8")


@dataclass(frozen=True)
class Project:
    """What edge-retina.toml says; paths are made relative to its folder.

    model: the trainer's ONNX. bundle: the .edge to build and run. calibration: images for --int8, a source URI.
    labels: names by class index. precision: fp32, fp16 or int8.
    """

    model: Path | None = None
    bundle: Path | None = None
    calibration: str | None = None
    labels: tuple[str, ...] | None = None
    precision: str | None = None


def read_project(folder: Path) -> Project | None:
    """The project file of a folder, None where there is none. Raises UsageError for one that makes no sense."""
    path = folder / FILE
    try:
        data = tomllib.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError, RecursionError) as exc:
        raise UsageError(f"{path}: cannot be read: {exc}") from exc
    known = ("model", "bundle", "calibration", "labels", "precision")
    unknown = sorted(set(data) - set(known))
    if unknown:
        raise UsageError(f"{path}: unknown key {', '.join(unknown)}; known: {', '.join(known)}")
    for key in ("model", "bundle", "calibration", "precision"):
        if key in data and not isinstance(data[key], str):
            raise UsageError(f"{path}: {key} wants a string, found {data[key]!r}")
    if data.get("precision", "fp32") not in _PRECISIONS:
        raise UsageError(f"{path}: precision wants one of {', '.join(_PRECISIONS)}, found {data['precision']!r}")
    return Project(
        model=folder / data["model"] if "model" in data else None,
        bundle=folder / data["bundle"] if "bundle" in data else None,
        calibration=_located(folder, data.get("calibration")),
        labels=_labels(path, data),
        precision=data.get("precision"),
    )


def _located(folder: Path, source: str | None) -> str | None:
    """A source as seen from here: paths hang on the project's folder, URIs stay."""
    if source is None or "://" in source or source.isdecimal():
        return source
    return str(folder / source)


def _labels(path: Path, data: Mapping[str, Any]) -> tuple[str, ...] | None:
    """A list of names, or the name of a text file with one per line."""
    if "labels" not in data:
        return None
    value = data["labels"]
    if isinstance(value, str):
        try:
            value = (path.parent / value).read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as exc:
            raise UsageError(f"{path}: labels file {value!r} cannot be read: {exc}") from exc
        value = [line.strip() for line in value if line.strip()]
    if not isinstance(value, list) or not value or not all(isinstance(name, str) for name in value):
        raise UsageError(f"{path}: labels wants a list of names or the name of a text file, found {value!r}")
    return tuple(value)


def _only(folder: Path, suffix: str, what: str, hint: str) -> Path:
    found = sorted(p for p in folder.iterdir() if p.suffix == suffix and p.is_file() and not p.name.startswith("."))
    if len(found) == 1:
        return found[0]
    names = ", ".join(p.name for p in found) if found else f"no {suffix} file"
    raise UsageError(f"which {what}? Wanted one in {FILE} or the only *{suffix} in {folder}, found {names}; {hint}")


def find_model(folder: Path, project: Project | None) -> Path:
    """The ONNX to build: the project's, else the only one in the folder. Raises UsageError."""
    if project is not None and project.model is not None:
        return project.model
    return _only(folder, ".onnx", "model", "run: edge-retina build MODEL.onnx")


def owns(folder: Path, project: Project, model: Path) -> bool:
    """Whether a model is the one that `find_model` gives for the project."""
    with contextlib.suppress(UsageError):
        return find_model(folder, project).resolve() == model.resolve()
    return False


def find_bundle(folder: Path, project: Project | None) -> Path:
    """The bundle to run: the project's, else the only one in the folder. Raises UsageError."""
    if project is not None and project.bundle is not None:
        return project.bundle
    if project is not None and project.model is not None:
        return project.model.with_suffix(".edge")
    return _only(folder, ".edge", "bundle", "run: edge-retina build MODEL.onnx, then edge-retina run MODEL.edge")


def write_project(folder: Path, project: Project) -> Path:
    """Write edge-retina.toml, whole or not at all. Raises OutputError, also when there is one already."""
    path = folder / FILE
    values: dict[str, Any] = {
        "model": project.model and os.path.relpath(project.model, folder),
        "bundle": project.bundle and os.path.relpath(project.bundle, folder),
        "calibration": project.calibration,
        "labels": project.labels and list(project.labels),
        "precision": project.precision,
    }
    lines = [f"{key} = {_toml(value)}" for key, value in values.items() if value is not None]
    temporary = path.with_name(f".{path.name}.tmp")
    try:
        if path.exists():
            raise OutputError(f"{path}: is there already; edit it, or remove it first")
        temporary.write_text("\n".join(lines) + "\n", encoding="utf-8")
        os.replace(temporary, path)
    except (OSError, UnicodeEncodeError) as exc:  # a file name may hold bytes that are no text
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise OutputError(f"{path}: cannot be written: {getattr(exc, 'strerror', None) or exc}") from exc
    return path


def _toml(value: Any) -> str:
    """A string or a list of strings. JSON's are TOML's as well, save surrogate pairs and a bare DEL."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
