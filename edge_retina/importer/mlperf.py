"""MLPerf's RetinaNet: torchvision's on a ResNeXt-50 32x4d, 264 classes of OpenImages, stretched to 800 x 800."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import onnx_graphsurgeon as gs

from edge_retina.importer import torchvision
from edge_retina.importer.imported import Imported
from edge_retina.importer.labels import OPEN_IMAGES_264
from edge_retina.importer.torchvision_kin import with_habits

__all__ = ["recognise"]


def recognise(
    graph: gs.Graph,
    metadata: Mapping[str, str],
    given: Mapping[str, Any] = torchvision.NOTHING,
    *,
    forced: bool = False,
) -> Imported | None:
    """The heads and spec of MLPerf's RetinaNet, exported raw or whole; None when it is not one.

    It is known by its 264 classes and grouped convolutions; when forced, any graph of torchvision's kin is taken.
    Images are stretched to the network input, whatever their shape: an export of an 800 x 800 sample cannot show it.
    given and SpecError: as for torchvision. `graph` is not changed. Source: mlcommons/training, ssd/model.
    """
    found = torchvision.read(graph, metadata, given, None if forced else "mlperf")
    if found is None:
        return None
    labels = OPEN_IMAGES_264 if found.spec.num_classes == len(OPEN_IMAGES_264) else found.spec.labels
    found = with_habits(found, "mlperf", {"labels": labels})
    if found.spec.resize == "stretch":
        return found
    return replace(found, spec=found.spec.override("family", resize="stretch", shortest_side=None))
