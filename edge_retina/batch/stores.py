"""Where files lie: this machine's folders, or whatever pyarrow and fsspec read."""

from __future__ import annotations

import functools
import os
from collections.abc import Iterator
from contextlib import contextmanager
from tempfile import NamedTemporaryFile

import fsspec
import pyarrow.fs as pafs

from edge_retina.errors import InputError, MissingPackage, UsageError
from edge_retina.sources import redact

__all__ = ["OF_PYARROW", "is_remote", "local_copy", "open_store", "read_bytes"]

# What pyarrow reads by itself; everything else is asked of fsspec.
OF_PYARROW = ("abfs", "abfss", "gcs", "gs", "hdfs", "s3", "viewfs")
_COPY_BYTES = 1 << 20


def is_remote(uri: str) -> bool:
    """True for a URI, or a chain of them such as zip://a.jpg::s3://bucket/a.zip, that is no path of this machine."""
    return "://" in uri and not uri.startswith("file://")


@functools.lru_cache(maxsize=64)  # a connection for each file would cost more than most files
def open_store(uri: str) -> tuple[pafs.FileSystem, str]:
    """The file system that a URI names, and the path in it. Raises UsageError, MissingPackage, InputError."""
    scheme = uri.partition("://")[0]
    try:
        if scheme in OF_PYARROW and "::" not in uri:
            filesystem, path = pafs.FileSystem.from_uri(uri)
            return filesystem, str(path)
        store, path = fsspec.core.url_to_fs(uri)
    except ImportError as exc:
        raise MissingPackage(f"{redact(uri)}: fsspec has no way to read {scheme}:// yet: {exc}") from exc
    except ValueError as exc:
        raise UsageError(f"{redact(uri)}: neither pyarrow nor fsspec reads that: {exc}") from exc
    except OSError as exc:
        raise InputError(f"{redact(uri)}: cannot be reached: {exc}; check address and credentials") from exc
    return pafs.PyFileSystem(pafs.FSSpecHandler(store)), str(path)


def read_bytes(uri: str, path: str) -> bytes:
    """All of the file at `path` in the store that `uri` opens. Raises InputError, UsageError, MissingPackage."""
    filesystem, _ = open_store(uri)
    try:
        with filesystem.open_input_stream(path) as file:
            return bytes(file.read())
    except OSError as exc:
        raise _unreadable(path, exc) from exc


@contextmanager
def local_copy(uri: str, path: str) -> Iterator[str]:
    """The name of a temporary copy of the file at `path` in the store that `uri` opens, made piece by piece.

    Raises InputError, UsageError, MissingPackage.
    """
    filesystem, _ = open_store(uri)
    with NamedTemporaryFile(prefix="edge-retina-", suffix=os.path.splitext(path)[1]) as copy:
        try:
            with filesystem.open_input_stream(path) as file:
                while piece := file.read(_COPY_BYTES):
                    copy.write(piece)
            copy.flush()
        except OSError as exc:
            raise _unreadable(path, exc) from exc
        yield copy.name


def _unreadable(path: str, exc: OSError) -> InputError:
    return InputError(f"cannot read {path}: {exc.strerror or exc}; check the address and its permissions")
