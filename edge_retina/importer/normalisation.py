"""Mean and deviation of the pixels, where the graph holds them."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx_graphsurgeon as gs

from edge_retina.importer.decimals import short
from edge_retina.importer.heads import affine_before

__all__ = ["colour_order", "normalisation"]

# Means and deviations up to this are for pixels 0..1. A deviation of 1 with means of 100 is for 0..255.
_UNIT, _PIXEL = 2.0, 255.0
# ImageNet's mean, red to blue, 0..255; caffe's and torch's differ by less than this.
_IMAGENET, _NEAR = (123.675, 116.28, 103.53), 2.0


def normalisation(trunk: gs.Tensor) -> dict[str, Any]:
    """Mean and std, for pixels 0..255, from the arithmetic in front of the trunk; nothing where there is none."""
    affine = affine_before(trunk)
    if affine is None:
        return {}
    shift, scale = (np.broadcast_to(values, 3) for values in affine)
    changes = shift.any() or (scale != 1).any()
    unit = _PIXEL if changes and max(np.abs(shift).max(), scale.max()) <= _UNIT else 1.0
    mean, std = (tuple(round(short(v) * unit, 6) for v in values) for values in (shift, scale))
    return {"mean": mean, "std": std}


def colour_order(mean: tuple[float, float, float]) -> dict[str, Any]:
    """color_order where the mean is ImageNet's, from red to blue or the other way; nothing where it is another."""
    found: dict[str, Any] = {}
    for order, wanted in (("rgb", _IMAGENET), ("bgr", _IMAGENET[::-1])):
        if np.abs(np.subtract(mean, wanted)).max() <= _NEAR:
            found["color_order"] = order
    return found
