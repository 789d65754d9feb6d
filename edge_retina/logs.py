"""What the command says on stderr: all of it, errors only, or each line as a JSON object; never a password.

Log records come from Python's logging: warnings by default as Python shows them, more with -v. Talk is what commands
print on stderr: "running on ...", progress, summaries.
"""

from __future__ import annotations

import io
import json
import logging
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime, timezone
from typing import TextIO

from edge_retina.redaction import redact_text

__all__ = ["Talk", "talking"]

_TALK = logging.getLogger("edge_retina.talk")
_OURS = logging.getLogger("edge_retina")
# -v, -vv: what edge-retina does; -vvv: what the libraries under it do, too.
_LEVELS = ((logging.WARNING, logging.WARNING), (logging.INFO, logging.WARNING), (logging.DEBUG, logging.INFO))
_ALL = (logging.DEBUG, logging.DEBUG)


class Talk:
    """stderr for the time of one command. Options change it while they are parsed, before the command starts."""

    def __init__(self, stderr: TextIO) -> None:
        self._stderr = stderr
        self._verbose, self._quiet, self._json = 0, False, False

    def set(self, *, verbose: int = 0, quiet: bool = False, log_json: bool = False) -> None:
        """Add to what was asked for so far. verbose: how many -v."""
        self._verbose += verbose
        self._quiet, self._json = self._quiet or quiet, self._json or log_json
        if not (self._verbose or self._quiet or self._json):
            return
        ours, others = (
            (logging.ERROR, logging.ERROR)
            if self._quiet
            else (_LEVELS[self._verbose] if self._verbose < len(_LEVELS) else _ALL)
        )
        handler = logging.StreamHandler(self._stderr)
        handler.setFormatter(_Json() if self._json else _Plain())
        logging.root.handlers = [handler]
        logging.root.setLevel(others)
        _OURS.setLevel(ours)
        # Talk is always told, unless it is not wanted at all.
        _TALK.setLevel(logging.ERROR if self._quiet else logging.INFO)
        logging.captureWarnings(True)
        if not self._json:
            sys.stderr = _Nowhere() if self._quiet else self._stderr
        elif not isinstance(sys.stderr, _Lines):
            sys.stderr = _Lines()

    def error(self, text: str, code: int) -> None:
        """Say why the command ends; also where it is quiet. code: its exit code."""
        if self._json:
            _TALK.error("%s", text, extra={"exit_code": code})
        else:
            print(text, file=self._stderr)


@contextmanager
def talking() -> Iterator[Talk]:
    """A Talk; stderr and logging are as before afterwards."""
    stderr, root, level = sys.stderr, logging.root, logging.root.level
    handlers, ours, talk = list(root.handlers), _OURS.level, _TALK.level
    try:
        yield Talk(stderr)
    finally:
        if isinstance(sys.stderr, _Lines):
            sys.stderr.finish()
        logging.captureWarnings(False)
        sys.stderr, root.handlers = stderr, handlers
        root.setLevel(level)
        _OURS.setLevel(ours)
        _TALK.setLevel(talk)


class _Plain(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        text = super().format(record)
        return redact_text(f"{record.levelname.lower()}: {record.name}: {text}")


class _Json(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        line = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": redact_text(record.getMessage()),
        }
        if hasattr(record, "exit_code"):
            line["exit_code"] = record.exit_code
        if record.exc_info:
            line["exception"] = redact_text(self.formatException(record.exc_info))
        return json.dumps(line)


class _Nowhere(io.TextIOBase):
    """Takes text and says nothing."""

    encoding = "utf-8"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return len(text)


class _Lines(_Nowhere):
    """Makes a log record of each line; of a line that is written over and over, of what stands there at last."""

    def __init__(self) -> None:
        self._begun = ""

    def write(self, text: str) -> int:
        *lines, self._begun = (self._begun + text).split("\n")
        for line in lines:
            self._tell(line)
        return len(text)

    def finish(self) -> None:
        """What stands in a line that never ended."""
        self._tell(self._begun)
        self._begun = ""

    @staticmethod
    def _tell(line: str) -> None:
        if shown := line.rstrip("\r").rsplit("\r", 1)[-1].strip():
            _TALK.info("%s", shown)
