"""Raw heads of a live PyTorch detector to ONNX, and what its trainer's environment has to have for that."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from importlib import import_module
from typing import Any

from edge_retina.errors import MissingPackage
from edge_retina.importer.exporters.attach import attach_spec
from edge_retina.importer.imported import HeadLayout, Imported, heads_to_dict
from edge_retina.spec import DetectorSpec

__all__ = ["export_heads", "level_shapes", "require"]

_INPUT = "images"

# A model and a batch, float [1, 3, H, W], to class maps and box maps, one of each per level, fine to coarse.
Forward = Callable[[Any, Any], tuple[Sequence[Any], Sequence[Any]]]


def require(*packages: str) -> None:
    """Raises MissingPackage with the pip command unless all of a trainer's packages can be imported."""
    for package in packages:
        try:
            import_module(package)
        except ModuleNotFoundError as exc:
            missing = (exc.name or package).split(".")[0].replace("_", "-")
            raise MissingPackage(
                f"exporting wants the trainer's environment, found no {missing}; run: pip install {missing}"
            ) from exc


def level_shapes(model: Any, forward: Forward, size: tuple[int, int]) -> tuple[tuple[int, int], ...]:
    """(H, W) in cells of each level for a network input of size (H, W). The model is left as it was."""
    with _at_rest(model, size) as probe:
        return tuple((int(m.shape[-2]), int(m.shape[-1])) for m in forward(model, probe)[0])


def export_heads(
    model: Any,
    forward: Forward,
    path: str | os.PathLike[str],
    spec: DetectorSpec,
    options: Mapping[str, Any],
    layout: HeadLayout | None = None,
) -> DetectorSpec:
    """Export what `forward` makes of images to ONNX, with its spec in the metadata; returns the spec.

    model: a torch.nn.Module on any device and of any float type; it is left as it was. options: for torch.onnx.export.
    layout: where the maps are not [1, A * K, H, W] and [1, A * 4, H, W]. Raises SpecError when they do not fit the
    spec, OutputError.
    """
    import torch

    class Heads(torch.nn.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model

        def forward(self, images: Any) -> Any:
            logits, deltas = forward(self.model, images)
            return (*logits, *deltas)

    logits, deltas = (tuple(f"{kind}_{level}" for level in range(spec.num_levels)) for kind in ("logits", "deltas"))
    settings = {"input_names": [_INPUT], "output_names": [*logits, *deltas], "dynamo": False, **options}
    with _at_rest(model, spec.input_size) as probe:
        torch.onnx.export(Heads().eval(), (probe,), os.fspath(path), **settings)
    named = None if layout is None else heads_to_dict(Imported(spec, _INPUT, logits, deltas, layout))
    return attach_spec(path, spec, named)


@contextmanager
def _at_rest(model: Any, size: tuple[int, int]) -> Iterator[Any]:
    """A batch for a model in evaluation mode; afterwards each of its parts is in the mode that it was in."""
    import torch

    weight, modes = next(model.parameters()), [(part, part.training) for part in model.modules()]
    model.eval()
    try:
        with torch.no_grad():
            yield torch.zeros(1, 3, *size, device=weight.device, dtype=weight.dtype)
    finally:
        for part, training in modes:
            part.training = training
