"""Options of a live source: the query of our own URIs, the fragment of those that go to a server."""

from __future__ import annotations

import re
from collections.abc import Mapping
from urllib.parse import parse_qsl

from edge_retina.errors import UsageError

__all__ = ["choice", "fps", "number", "query", "size", "split_fragment"]

_EXAMPLE = "rtsp://camera/1#decoder=pyav&transport=tcp"
_MAX_SIDE = 16384
_MAX_FPS = 1000.0


def query(text: str, example: str, known: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """What stands before the ? of `text`, and its options. Raises UsageError for one that is not known."""
    place, _, options = text.partition("?")
    return place, _options(options, example, known)


def split_fragment(url: str, known: tuple[str, ...]) -> tuple[str, dict[str, str]]:
    """A URL without its fragment, and the options in that, where it is #KEY=VALUE&... of known keys; else all of it.

    A server never gets to see a fragment, so the options cannot be taken for its own; a # may also be in a password.
    """
    name = "|".join(map(re.escape, known))
    found = re.fullmatch(rf"(?s)(.*)#((?:{name})=[^#&@/]*(?:&(?:{name})=[^#&@/]*)*)", url)
    return (url, {}) if found is None else (found[1], _options(found[2], _EXAMPLE, known))  # no URL, for its password


def _options(text: str, example: str, known: tuple[str, ...]) -> dict[str, str]:
    pairs = parse_qsl(text, keep_blank_values=True)
    options = dict(pairs)
    unknown = sorted(options.keys() - set(known))
    if unknown or len(options) < len(pairs) or len(pairs) != len([part for part in text.split("&") if part]):
        found = f"unknown {', '.join(unknown)}" if unknown else "one twice, or one without a value"
        raise UsageError(f"options of a source: wanted some of {', '.join(known)}, found {found}; such as {example}")
    return options


def size(options: Mapping[str, str]) -> tuple[int, int] | None:
    """(W, H) of size=WxH; None without. Raises UsageError."""
    if (text := options.get("size")) is None:
        return None
    found = re.fullmatch(r"([0-9]{1,5})x([0-9]{1,5})", text)
    if found is None or not all(1 <= int(side) <= _MAX_SIDE for side in found.groups()):
        raise UsageError(f"size: wanted WxH with sides 1..{_MAX_SIDE}, found {text!r}; such as size=1280x720")
    return int(found[1]), int(found[2])


def number(options: Mapping[str, str], key: str, least: int, most: int) -> int | None:
    """A whole number of least..most; None without. Raises UsageError."""
    if (text := options.get(key)) is None:
        return None
    if not (re.fullmatch("[0-9]{1,6}", text) and least <= int(text) <= most):
        raise UsageError(f"{key}: wanted a whole number {least}..{most}, found {text!r}")
    return int(text)


def fps(options: Mapping[str, str]) -> float | None:
    """Frames per second; None without. Raises UsageError."""
    if (text := options.get("fps")) is None:
        return None
    if not (re.fullmatch(r"[0-9]{1,4}(\.[0-9]{1,6})?", text) and 0 < float(text) <= _MAX_FPS):
        raise UsageError(f"fps: wanted a number above 0, at most {_MAX_FPS:g}, found {text!r}; such as fps=30")
    return float(text)


def choice(options: Mapping[str, str], key: str, among: tuple[str, ...]) -> str | None:
    """One of a few words, in lower case; None without. Raises UsageError."""
    if (text := options.get(key)) is None:
        return None
    if text.lower() not in among:
        raise UsageError(f"{key}: wanted one of {', '.join(among)}, found {text!r}")
    return text.lower()
