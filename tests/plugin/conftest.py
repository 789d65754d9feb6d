"""The plugin over the emulated kernels, compiled once."""

from __future__ import annotations

import pytest
from emulator.build import library as launcher
from emulator.launcher import Emulator
from plugin.build import library
from plugin.shim import Shim


@pytest.fixture(scope="session")
def shim() -> Shim:
    return Shim(library())


@pytest.fixture(scope="session")
def emulator() -> Emulator:
    return Emulator(launcher())
