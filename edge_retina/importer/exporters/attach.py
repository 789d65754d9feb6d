"""A DetectorSpec into the metadata of an ONNX file."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import onnx

from edge_retina.drafts import Draft
from edge_retina.importer import load_onnx
from edge_retina.importer.own import described
from edge_retina.spec import METADATA_KEY, DetectorSpec

__all__ = ["attach_spec"]


def attach_spec(
    path: str | os.PathLike[str], spec: DetectorSpec, heads: Mapping[str, Any] | None = None
) -> DetectorSpec:
    """Put a spec into the metadata of an ONNX file, from where import reads it; returns the spec.

    heads: trunk_input, logits, deltas (tensor names) and the fields of HeadLayout, where the graph's outputs are not
    plain per-level logits [B, A * K, H, W] and deltas [B, A * 4, H, W]. The file is replaced whole or not at all;
    external data beside it stay as they are. Raises SpecError when the graph does not fit the spec, ModelError for a
    file that is no ONNX model, OutputError.
    """
    file = Path(path)
    data = spec.to_dict() | ({"heads": dict(heads)} if heads is not None else {})
    described(load_onnx(file).graph, data, "metadata")
    model = onnx.load(file, load_external_data=False)
    kept = [entry for entry in model.metadata_props if entry.key != METADATA_KEY]
    del model.metadata_props[:]
    model.metadata_props.extend([*kept, onnx.StringStringEntryProto(key=METADATA_KEY, value=json.dumps(data))])
    draft = Draft(file)
    try:
        draft.fill(model.SerializeToString())
        draft.publish()
    finally:
        draft.discard()
    return spec
