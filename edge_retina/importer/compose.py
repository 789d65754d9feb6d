"""What was read off a graph and what is its trainer's habit, as one DetectorSpec."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.errors import SpecError
from edge_retina.importer.heads import static_shape
from edge_retina.spec import DetectorSpec

__all__ = ["compose", "height_and_width"]

_SIZE_ADVICE = 'export with a fixed image size, or choose one with --spec spec.json: {"input_size": [800, 1344]}'


def compose(
    family: str, habits: Mapping[str, Any], read: Mapping[str, Any], given: Mapping[str, Any] | None = None
) -> DetectorSpec:
    """A spec whose fields come from `read` (origin "graph"), else `given` ("user"), else `habits` ("family").

    pad_value is the mean where nobody says otherwise: zeros, padded after normalising. Raises SpecError.
    """
    known = {"family": habits, "user": given or {}, "graph": read}
    values = {name: value for fields in known.values() for name, value in fields.items()}
    origins = {name: origin for origin, fields in known.items() for name in fields} | {"family": "graph"}
    if "pad_value" not in values:
        values["pad_value"], origins["pad_value"] = values["mean"], origins["mean"]
    return DetectorSpec.from_dict({**values, "family": family, "origins": origins})


def height_and_width(family: str, tensor: gs.Tensor, advice: str = _SIZE_ADVICE) -> tuple[int, int]:
    """Of a map [B, C, H, W]. Raises SpecError, which starts with `family` and ends with `advice`, where one is open."""
    shape = static_shape(tensor)
    if shape is None or len(shape) != 4:
        raise SpecError(
            f"{family}: tensor {tensor.name!r} has shape {tensor.shape}, wanted [B, C, H, W] with a known height and "
            f"width, for strides and anchors follow from them; {advice}"
        )
    return shape[2], shape[3]
