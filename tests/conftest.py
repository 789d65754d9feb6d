"""Stands here so that pytest puts tests/ on the path: `from matching import match`."""
