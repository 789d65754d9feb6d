"""The tree of errors: what the module's docstring and the command's help promise is so."""

from __future__ import annotations

import re

import pytest

from edge_retina import cli, errors
from edge_retina.errors import EdgeRetinaError

CLASSES = [getattr(errors, name) for name in errors.__all__]
EXIT_CODES = {
    "EdgeRetinaError": 1,
    "UsageError": 2,
    "InputError": 3,
    "ModelError": 4,
    "NotADetector": 4,
    "SpecError": 4,
    "BundleError": 5,
    "BundleCorrupt": 5,
    "BundleVersion": 5,
    "OutputError": 6,
    "PlanRefused": 7,
    "RuntimeFailure": 7,
    "MissingPackage": 8,
    "AccuracyLost": 9,
    "Mismatch": 10,
    "FaultFound": 11,
}


def test_every_class_is_exported() -> None:
    defined = {name for name, value in vars(errors).items() if isinstance(value, type)}
    assert defined == set(errors.__all__) == set(EXIT_CODES)


@pytest.mark.parametrize("kind", CLASSES)
def test_one_root_catches_all(kind: type[EdgeRetinaError]) -> None:
    assert issubclass(kind, EdgeRetinaError)
    assert str(kind("what was found")) == "what was found"
    assert kind.exit_code == EXIT_CODES[kind.__name__]


def test_the_docstring_draws_the_tree() -> None:
    drawn = dict(re.findall(r"^\W*([A-Z]\w+) +(\d+)", errors.__doc__ or "", re.MULTILINE))
    assert {name: int(code) for name, code in drawn.items()} == EXIT_CODES


def test_the_help_lists_each_exit_code() -> None:
    epilog = cli.cli.epilog or ""
    assert set(re.findall(r"\b\d+\b", epilog)) == {"0", "130", *map(str, EXIT_CODES.values())}
