"""The launcher on the emulator, compiled once."""

from __future__ import annotations

import pytest
from emulator.build import library
from emulator.launcher import Emulator


@pytest.fixture(scope="session")
def emulator() -> Emulator:
    return Emulator(library())
