"""Stands here so that pytest puts tests/ on the path: `from matching import match`."""

from hypothesis import settings

# How long one example takes says more of what else the machine does than of the code.
settings.register_profile("edge-retina", deadline=None)
settings.load_profile("edge-retina")
