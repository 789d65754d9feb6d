"""A bottom-up that has seen ImageNet: torchvision's ResNet weights under our names."""

from __future__ import annotations

import pickle
import re
from pathlib import Path

import torch
from torch import Tensor

from edge_retina.errors import InputError
from edge_retina.train.model import RetinaNet

__all__ = ["load_backbone"]

# torchvision's names, models/resnet.py, and ours.
_NAMES = (
    (re.compile(r"conv1\.(\w+)"), r"stem.0.\1"),
    (re.compile(r"bn1\.(\w+)"), r"stem.1.\1"),
    (re.compile(r"layer([1-4])\.(\d+)\.conv([1-3])\.(\w+)"), r"stages.<\1>.\2.convs.<\3>.0.\4"),
    (re.compile(r"layer([1-4])\.(\d+)\.bn([1-3])\.(\w+)"), r"stages.<\1>.\2.convs.<\3>.1.\4"),
    (re.compile(r"layer([1-4])\.(\d+)\.downsample\.([01])\.(\w+)"), r"stages.<\1>.\2.skip.\3.\4"),
)
_CLASSIFIER = ("fc.weight", "fc.bias")
_PARTS = ("stem.", "stages.")
# Counts batches only; files older than PyTorch 0.4.1 have none.
_COUNTER = "num_batches_tracked"


def load_backbone(model: RetinaNet, path: Path) -> int:
    """Start the model's bottom-up from a torchvision ResNet state dict (.pth); returns the number of tensors taken.

    The file's classifier is left out; pyramid and subnets keep their values. Raises InputError when the file cannot
    be read, or its tensors are not those of the model's bottom-up.
    """
    found = {_our_name(name): value for name, value in _read(path).items() if name not in _CLASSIFIER}
    wanted = {name: value for name, value in model.state_dict().items() if name.startswith(_PARTS)}
    missing = [name for name in wanted if name not in found and not name.endswith(_COUNTER)]
    unknown = [name for name in found if name not in wanted]
    wrong = [name for name in wanted if name in found and found[name].shape != wanted[name].shape]
    for problem, names in (("lack", missing), ("have unknown", unknown), ("have another shape for", wrong)):
        if names:
            more = f" and {len(names) - 3} more" if len(names) > 3 else ""
            raise InputError(
                f"{path}: wanted torchvision ResNet weights of this model's depth, but they {problem} "
                f"{', '.join(names[:3])}{more}; choose the --model that they are of"
            )
    model.load_state_dict(found, strict=False)
    return len(found)


def _our_name(name: str) -> str:
    """Our name for one of torchvision's; a name it does not have stays itself. Stages and convs count from 0 here."""
    for pattern, ours in _NAMES:
        match = pattern.fullmatch(name)
        if match:
            return re.sub(r"<(\d)>", lambda digit: str(int(digit[1]) - 1), match.expand(ours))
    return name


def _read(path: Path) -> dict[str, Tensor]:
    try:
        state = torch.load(path, map_location="cpu", weights_only=True)
    except (OSError, EOFError, RuntimeError, ValueError, KeyError, pickle.UnpicklingError) as exc:
        reason = str(exc).partition("\n")[0]
        raise InputError(f"{path}: wanted a PyTorch state dict, found: {type(exc).__name__} {reason}") from exc
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise InputError(f"{path}: wanted a PyTorch state dict (names to tensors), found {type(state).__name__}")
    return state
