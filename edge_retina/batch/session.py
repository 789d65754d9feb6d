"""Ray's processes: begun on this machine, or joined on a cluster; quiet, and gone at the end."""

from __future__ import annotations

import contextlib
import io
import logging
import os
import shutil
import signal
import socket
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from typing import Any, TextIO

import ray

from edge_retina.errors import RuntimeFailure, UsageError
from edge_retina.runtime import cores

__all__ = ["connected", "first_line"]

# What Ray's shared memory may take of this machine: results pass through it, pictures do not.
_STORE_BYTES = 128 << 20
_CONNECT_S = 5.0


@contextlib.contextmanager
def connected(address: str | None, cpus: int) -> Iterator[None]:
    """Ray, of this machine alone, or of the cluster at HOST:PORT. All that was started here has ended afterwards.

    cpus: how many it is to share out at least, where it is begun here. Raises RuntimeFailure where no cluster answers.
    """
    if address is not None:
        _answers(address)
    folder = tempfile.mkdtemp(prefix="er-", dir=_short_temp())
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.CRITICAL}
    if address is None:
        options |= {
            "address": "local",
            "num_cpus": max(cores(), cpus),
            "include_dashboard": False,
            "object_store_memory": _STORE_BYTES,
            "_temp_dir": folder,
        }
    else:
        options["address"] = address
    try:
        with _signals_wait(), contextlib.redirect_stdout(_WithoutRay(sys.stdout)):
            try:
                with _no_stderr():
                    ray.init(**options)
            except Exception as exc:  # Ray's errors have no common base
                where = "Ray does not start" if address is None else f"cannot join the Ray cluster at {address}"
                raise RuntimeFailure(f"{where}: {first_line(exc)}") from exc
        with contextlib.redirect_stdout(_WithoutRay(sys.stdout)):
            yield
    finally:
        with _signals_wait():
            ray.shutdown()
            _remove(folder)


def _remove(folder: str) -> None:
    """Remove Ray's folder, into which processes that are about to end may still write."""
    for _ in range(20):
        shutil.rmtree(folder, ignore_errors=True)
        time.sleep(0.1)
        if not os.path.exists(folder):
            return


@contextlib.contextmanager
def _signals_wait() -> Iterator[None]:
    """SIGINT and SIGTERM take effect afterwards: Ray half started or half ended would leave processes behind.

    The handlers are those of before: with Ray's own for SIGTERM, Python would end without its clean-ups.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    came: list[int] = []
    before = {
        number: signal.signal(number, lambda number, _: came.append(number))
        for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
        if came:
            raise KeyboardInterrupt


class _WithoutRay(io.TextIOBase):
    """stdout without what Ray's threads print there, of workers that died and such; a batch tells that itself."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream

    def write(self, text: str) -> int:
        """Write, unless a thread of Ray's does."""
        if threading.current_thread().name.startswith("ray_"):
            return len(text)
        return self._stream.write(text)

    def flush(self) -> None:
        """Flush the stream."""
        self._stream.flush()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stream, name)


def _answers(address: str) -> None:
    """Raises UsageError, RuntimeFailure."""
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal() or "/" in host:
        raise UsageError(f"--ray-address wants HOST:PORT, such as 10.0.0.1:6379, found {address!r}")
    try:
        socket.create_connection((host.strip("[]"), int(port)), _CONNECT_S).close()
    except (OSError, OverflowError) as exc:
        raise RuntimeFailure(
            f"no Ray cluster answers at {address}: {exc}; start one there with: ray start --head --port {port}"
        ) from exc


@contextlib.contextmanager
def _no_stderr() -> Iterator[None]:
    """What C++ prints is not wanted, not even that it was told to be quiet."""
    sys.stderr.flush()
    kept = os.dup(2)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 2)
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)


def first_line(exc: BaseException) -> str:
    """The first line of what Ray says, which often goes on for a screen."""
    return (str(exc).strip().splitlines() or [type(exc).__name__])[0][:300]


def _short_temp() -> str | None:
    """A folder for Ray's sockets, whose paths must be short; None for the default."""
    return "/tmp" if sys.platform != "win32" and os.access("/tmp", os.W_OK) else None
