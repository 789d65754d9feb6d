"""Stands here so that pytest puts tests/ on the path: `from matching import match`."""

import gc

import pytest
from hypothesis import settings

# How long one example takes says more of what else the machine does than of the code.
settings.register_profile("edge-retina", deadline=None)
settings.load_profile("edge-retina")


@pytest.fixture(scope="module", autouse=True)
def _what_other_files_left_is_not_looked_at() -> None:
    """Builds give memory back between their stages: behind thousands of tests that would take longer than the build."""
    gc.collect()
    gc.freeze()
