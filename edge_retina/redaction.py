"""Passwords out of what is shown: URIs of cameras hold them."""

from __future__ import annotations

import os
import re

__all__ = ["redact", "redact_text"]


def redact(uri: str | int | os.PathLike[str]) -> str:
    """`uri` as text fit for logs: passwords, and query values that look like secrets, become ***."""
    text = os.fspath(uri) if isinstance(uri, os.PathLike) else str(uri)
    if ":/" not in text:
        return text
    # Up to the last @: camera passwords hold unescaped @ and / more often than paths hold @, and users are addresses
    # of mail. One slash only: as it is mistyped, and as a Path has it.
    text = re.sub(r"(?s)(?<=:/)(?<!file:/)(/?[^:]*):.*@", r"\1:***@", text)
    # Some cameras want them in the path: /user=admin_password=..._channel=1, /login&password=...
    return re.sub(
        r"(?i)([?&/;_,][^=&/;,]*?(?:pass|pwd|token|secret|key|auth)[^=&/;,]*=).*?(?=[&#/;,\s]|_[a-z]+=|$)",
        r"\1***",
        text,
    )


def redact_text(text: str) -> str:
    """Any text, such as a message of another library, with each URI in it redacted."""
    return re.sub(r"""\w+://[^\s'"<>]+""", lambda found: redact(found[0]), text)
