"""Which files a batch works on: folders, patterns, single files and lists of them, here or in a store."""

from __future__ import annotations

import fnmatch
import glob
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from urllib.parse import unquote

import pyarrow.fs as pafs

from edge_retina.batch.stores import OF_PYARROW, is_remote, open_store, read_bytes
from edge_retina.errors import InputError
from edge_retina.images import IMAGE_SUFFIXES
from edge_retina.sources import VIDEO_SUFFIXES, redact

__all__ = ["SourceFile", "list_sources"]

LIST_SUFFIX = ".txt"
_PATTERN = re.compile(r"[*?\[]")


@dataclass(frozen=True, slots=True)
class SourceFile:
    """One picture or video. name: as it is called in results, passwords removed.

    path: absolute, or in the store that `uri` opens, which is "" for this machine. size: bytes. mtime_ns: when it was
    last changed, 0 where the store does not say; both -1: no such file.
    """

    name: str
    path: str
    uri: str = ""
    size: int = -1
    mtime_ns: int = -1

    @property
    def is_video(self) -> bool:
        """True for a video by its suffix; everything else is tried as a picture."""
        path = self.path.partition("?")[0] if self.uri else self.path  # https://there/ride.mp4?signature=...
        return path.lower().endswith(VIDEO_SUFFIXES)


def list_sources(sources: Sequence[str]) -> list[SourceFile]:
    """Every file of the sources, in their order, each once; a folder's with its subfolders', sorted by name.

    A source is a folder, a pattern ('**' for any depth), a picture, a video, or a list: a .txt with one of these a
    line, paths seen from the working directory, '#' begins a comment. Each may be a URI. Of folders and patterns the
    files with the suffix of a picture or video count, hidden ones do not. A file that a list names and that is not
    there is kept, to be recorded as an error. Raises InputError for a source without files, UsageError, MissingPackage.
    """
    found: dict[tuple[str, str], SourceFile] = {}
    for source in sources:
        files = _from_list(source) if source.lower().endswith(LIST_SUFFIX) else _files(source)
        for file in files:
            found.setdefault((file.uri and file.name, file.path), file)
    return list(found.values())


def _from_list(source: str) -> Iterator[SourceFile]:
    if is_remote(source):
        data = read_bytes(source, open_store(source)[1])
    else:
        try:
            with open(_plain(source), "rb") as file:
                data = file.read()
        except OSError as exc:
            raise InputError(f"cannot read the list {source}: {exc.strerror}; check the path") from exc
    lines = [line.strip() for line in data.decode("utf-8", "surrogateescape").splitlines()]
    entries = [line for line in lines if line and not line.startswith("#")]
    if not entries:
        raise InputError(f"{source}: wanted a list with a path or URI a line, found none in it")
    for entry in entries:
        try:
            yield from _files(entry)
        except InputError:
            if is_remote(entry):
                yield SourceFile(redact(entry), open_store(entry)[1], entry)
            else:
                yield SourceFile(entry, os.path.abspath(_plain(entry)))


def _files(source: str) -> Sequence[SourceFile]:
    """Files of a source that is no list. Raises InputError."""
    files = _remote(source) if is_remote(source) else _local(_plain(source))
    if not files:
        raise InputError(
            f"{redact(source)}: wanted pictures ({' '.join(IMAGE_SUFFIXES)}) or videos ({' '.join(VIDEO_SUFFIXES)}), "
            "found none; check the path"
        )
    return files


def _plain(source: str) -> str:
    if not source.startswith("file://"):
        return source
    return unquote(re.sub("^file://(localhost(?=/))?", "", source))


def _local(source: str) -> list[SourceFile]:
    if os.path.isdir(source):
        return [_of_path(path) for path in _below(source)]
    if os.path.isfile(source):
        return [_of_path(source)]
    if os.path.exists(source):
        raise InputError(f"{source}: is a pipe or device, and batch wants files; try: edge-retina run")
    if not _PATTERN.search(source):
        raise InputError(f"no such file or folder: {source} (looked from {os.getcwd()}); check the path")
    paths = sorted(glob.glob(source, recursive=True))
    return [_of_path(path) for path in paths if _wanted(path) and os.path.isfile(path)]


def _below(folder: str) -> Iterator[str]:
    """Wanted files of a folder and its subfolders, a folder's own before its subfolders'. Raises InputError."""

    def refuse(exc: OSError) -> None:
        raise InputError(f"cannot list {exc.filename}: {exc.strerror}; check its permissions") from exc

    for where, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        paths = (os.path.join(where, name) for name in sorted(names) if _wanted(name) and not name.startswith("."))
        # A link that leads nowhere is a file that is missing; a pipe or device is none, and reading it might not end.
        yield from (path for path in paths if os.path.isfile(path) or not os.path.exists(path))


def _of_path(path: str) -> SourceFile:
    try:
        facts = os.stat(path)
    except OSError:  # a link that leads nowhere: an error of that file, when it is read
        return SourceFile(path, os.path.abspath(path))
    return SourceFile(path, os.path.abspath(path), "", facts.st_size, facts.st_mtime_ns)


def _wanted(path: str) -> bool:
    return path.lower().endswith((*IMAGE_SUFFIXES, *VIDEO_SUFFIXES))


def _remote(source: str) -> list[SourceFile]:
    filesystem, path = open_store(source)
    path = path.rstrip("/")
    match = _PATTERN.search(path)
    folder = path[: match.start()].rpartition("/")[0] if match else path
    try:
        if match is None:
            (info,) = filesystem.get_file_info([path])
            if info.type == pafs.FileType.File:
                return [_of_info(source, path, info)]
        listed = filesystem.get_file_info(pafs.FileSelector(folder, recursive=True, allow_not_found=True))
    except OSError as exc:
        raise InputError(f"{redact(source)}: cannot be listed: {exc}; check address and credentials") from exc
    wanted = [info for info in listed if _visible(info, folder) and (match is None or _matches(info.path, path))]
    return [_of_info(source, path, info) for info in sorted(wanted, key=lambda info: info.path)]


def _visible(info: pafs.FileInfo, folder: str) -> bool:
    """Whether it is a file that counts, with nothing hidden on the way to it."""
    below = info.path.strip("/")[len(folder.strip("/")) :].split("/")
    return info.type == pafs.FileType.File and _wanted(info.path) and not any(p.startswith(".") for p in below)


def _matches(path: str, pattern: str) -> bool:
    """As glob has it: '*' and '?' stay within a folder, '**/' is any depth."""
    parts, names = pattern.strip("/").split("/"), path.strip("/").split("/")

    def fits(i: int, j: int) -> bool:
        if i == len(parts):
            return j == len(names)
        if parts[i] == "**":
            return any(fits(i + 1, k) for k in range(j, len(names) + 1))
        return j < len(names) and fnmatch.fnmatchcase(names[j], parts[i]) and fits(i + 1, j + 1)

    return fits(0, 0)


def _of_info(source: str, path: str, info: pafs.FileInfo) -> SourceFile:
    scheme, _, rest = source.partition("://")
    link, chain, more = rest.partition("::")  # zip://folder::s3://bucket/a.zip
    path = path.strip("/")
    before, there, after = link.rpartition(path) if path else ("", "", "")
    if scheme in OF_PYARROW:  # what stands behind a question mark says how to connect
        after = after.partition("?")[0]
    name = f"{before if there else ''}{info.path.strip('/')}{after.rstrip('/') if there else ''}"
    return SourceFile(redact(f"{scheme}://{name}{chain}{more}"), info.path, source, info.size or 0, info.mtime_ns or 0)
