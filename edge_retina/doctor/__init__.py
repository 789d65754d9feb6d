"""What is wrong with this machine: named checks, each with what was found and what to do about it.

Needs the standard library alone, and imports no package that may be broken: those are imported in a process of their
own, with a time limit, so that a crash or a hang is a finding like others.
"""

from __future__ import annotations

__all__: list[str] = []
