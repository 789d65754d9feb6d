"""Packages as pip leaves them, made up."""

from __future__ import annotations

from pathlib import Path

__all__ = ["distribution", "package"]


def package(folder: Path, name: str, code: str) -> None:
    """A module of that name in a folder on Python's path."""
    (folder / name).mkdir()
    (folder / name / "__init__.py").write_text(code)


def distribution(folder: Path, name: str, version: str) -> None:
    """The metadata of an installed package, without the package."""
    place = folder / f"{name.replace('-', '_')}-{version}.dist-info"
    place.mkdir()
    (place / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
