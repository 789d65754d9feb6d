"""Triton's model configuration as text: a Python value in, protobuf's text format out.

A dict is a message, a list a repeated field, a Name an enum value, and a str a string.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeAlias

__all__ = ["Name", "Value", "to_pbtxt"]

_INDENT = "  "


class Name(str):
    """A word that is written without quotes: TYPE_UINT8, KIND_CPU."""

    __slots__ = ()


Value: TypeAlias = "str | bool | int | Sequence[Value] | Mapping[str, Value]"


def to_pbtxt(message: Mapping[str, Value], depth: int = 0) -> str:
    """The text of a message, a field a line; lists of numbers in one line.

    >>> print(to_pbtxt({"name": "a", "dims": [-1, 3], "input": [{"kind": Name("UINT8"), "reshape": {"shape": []}}]}))
    name: "a"
    dims: [-1, 3]
    input {
      kind: UINT8
      reshape {
        shape: []
      }
    }
    <BLANKLINE>
    """
    return "".join(_field(name, value, depth) for name, value in message.items())


def _field(name: str, value: Value, depth: int) -> str:
    pad = _INDENT * depth
    if isinstance(value, Mapping):
        return f"{pad}{name} {{\n{to_pbtxt(value, depth + 1)}{pad}}}\n" if value else f"{pad}{name} {{}}\n"
    if isinstance(value, str | bool | int):
        return f"{pad}{name}: {_scalar(value)}\n"
    if value and isinstance(value[0], Mapping):
        return "".join(_field(name, each, depth) for each in value)
    return f"{pad}{name}: [{', '.join(_scalar(each) for each in value)}]\n"


def _scalar(value: Value) -> str:
    if isinstance(value, Name):
        return value
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return str(value)
    if isinstance(value, str):
        return '"' + "".join(_escaped(byte) for byte in value.encode()) + '"'
    raise TypeError(f"a scalar wants text, a number or a truth value, found {type(value).__name__}")


def _escaped(byte: int) -> str:
    """One byte of a string as protobuf's text format has it: printable ASCII, else three octal digits."""
    if byte in b'"\\':
        return f"\\{chr(byte)}"
    return chr(byte) if 32 <= byte < 127 else f"\\{byte:03o}"
