"""Where results may go: not twice to one place, and never over what is being read."""

from __future__ import annotations

import os
from collections.abc import Sequence
from urllib.parse import unquote

from edge_retina.errors import OutputError, UsageError
from edge_retina.images import IMAGE_SUFFIXES
from edge_retina.sources import redact

__all__ = ["check_outs"]


def check_outs(outs: Sequence[str | os.PathLike[str]], sources: Sequence[str]) -> None:
    """Raise UsageError for two outs in one place, OutputError for one that would replace a file yet to be read.

    A folder counts when a picture of the source lies in it, for results bear the names of their pictures.
    """
    read = {os.path.realpath(path) for path in sources}
    pictures = [path for path in sources if path.lower().endswith(IMAGE_SUFFIXES)]
    # The folder where a link lies, and the one it leads to.
    read |= {os.path.realpath(os.path.dirname(path)) for path in pictures}
    read |= {os.path.dirname(os.path.realpath(path)) for path in pictures}
    places = set()
    for out in outs:
        text = os.fspath(out)
        scheme, separator, location = text.partition("://")
        is_file = scheme == "file" if separator else text != "-"
        path = unquote(location) if separator else text
        bare, _, options = path.partition("?")
        if options and bare.lower().endswith((".jsonl", "/")):  # as open_sink reads them
            path = bare
        place = os.path.realpath(path) if is_file else text
        if place in places:
            raise UsageError(
                f"{redact(out)}: two outs would write to the same place; leave one out, or give it another name"
            )
        if is_file and place in read:
            raise OutputError(
                f"{redact(out)} is or holds the source itself, which would be lost; use another folder or name"
            )
        places.add(place)
