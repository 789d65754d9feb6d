"""From a trained RetinaNet to ONNX: raw per-level heads, BatchNorm folded, the DetectorSpec in the metadata."""

from __future__ import annotations

import io
import warnings
from copy import deepcopy
from pathlib import Path

import onnx
import torch
from torch import nn
from torch.nn.utils.fusion import fuse_conv_bn_eval

from edge_retina.drafts import Draft
from edge_retina.spec import METADATA_KEY, DetectorSpec
from edge_retina.train.model import RetinaNet

__all__ = ["export_onnx", "fold_batch_norm"]

OPSET = 18


def fold_batch_norm(model: nn.Module) -> nn.Module:
    """Merge each Sequential(conv, BatchNorm) into its conv, in place; the model must be in eval mode."""
    for name, child in model.named_children():
        pair = list(child.children())
        if isinstance(child, nn.Sequential) and len(pair) == 2 and isinstance(pair[1], nn.BatchNorm2d):
            setattr(model, name, fuse_conv_bn_eval(pair[0], pair[1]))
        else:
            fold_batch_norm(child)
    return model


class _Heads(nn.Module):  # type: ignore[misc]  # mypy does not follow torch
    """The outputs as one flat tuple, logits then deltas."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, images: torch.Tensor) -> tuple[torch.Tensor, ...]:
        logits, deltas = self.model(images)
        return (*logits, *deltas)


def export_onnx(model: RetinaNet, spec: DetectorSpec, path: Path) -> None:
    """Write the model as ONNX, batch axis free, frame size that of the spec.

    Input `images` float32 (B, 3, H, W), normalised. Outputs `logits_3`..`logits_7` (B, A * K, h, w) before the
    sigmoid and `deltas_3`..`deltas_7` (B, A * 4, h, w). The model itself stays as it is. Raises OutputError.
    """
    levels = [int(stride).bit_length() - 1 for stride, _ in spec.strides]
    names = [f"logits_{level}" for level in levels] + [f"deltas_{level}" for level in levels]
    folded = _Heads(fold_batch_norm(deepcopy(model).cpu().eval()))
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # deprecation notices of the exporter, nothing a user could act on
        torch.onnx.export(
            folded,
            (torch.zeros(2, 3, *spec.input_size),),
            buffer,
            input_names=["images"],
            output_names=names,
            dynamic_axes={name: {0: "batch"} for name in ["images", *names]},
            opset_version=OPSET,
            dynamo=False,
        )
    proto = onnx.load_from_string(buffer.getvalue())
    entry = proto.metadata_props.add()
    entry.key, entry.value = METADATA_KEY, spec.to_json()
    proto.graph.name = "retinanet"
    onnx.checker.check_model(proto, full_check=True)
    draft = Draft(path)
    try:
        draft.fill(proto.SerializeToString())
        draft.publish()
    finally:
        draft.discard()
