"""The package's own comparison of detections, under the name by which tests know it."""

from __future__ import annotations

from edge_retina.matching import Report, match

__all__ = ["Report", "match"]
