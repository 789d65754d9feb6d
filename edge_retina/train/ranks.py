"""This process among those that torchrun started, and the device it trains on."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import distributed, nn

from edge_retina.errors import UsageError

__all__ = ["latest", "pick_device", "process_group", "share"]


def pick_device(name: str) -> torch.device:
    """The device of this name; "auto": this rank's GPU, else the CPU. Raises UsageError when there is none."""
    local_rank = int(os.environ.get("LOCAL_RANK", "0"))
    if name == "auto" and not torch.cuda.is_available():
        return torch.device("cpu")
    try:
        device = torch.device("cuda", local_rank % torch.cuda.device_count()) if name == "auto" else torch.device(name)
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as exc:
        reason = str(exc).partition("\n")[0]
        raise UsageError(f"--device {name}: PyTorch has no such device here ({reason}); use cpu or auto") from exc
    if device.type == "cuda":
        torch.cuda.set_device(device)
    return device


@contextmanager
def process_group(device: torch.device) -> Iterator[tuple[int, int]]:
    """(rank, world size); inside, the group that torchrun made, if it did."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    ours = world > 1 and not distributed.is_initialized()
    if ours:
        distributed.init_process_group("nccl" if device.type == "cuda" else "gloo")
    yield int(os.environ.get("RANK", "0")), world
    # Not after an error: a rank that has gone would be waited for.
    if ours:
        distributed.destroy_process_group()


def latest(elapsed: float, device: torch.device) -> float:
    """The largest of the ranks' clocks: where the clock decides, they must decide alike."""
    if not distributed.is_initialized():
        return elapsed
    clock = torch.tensor(elapsed, device=device, dtype=torch.float64)
    distributed.all_reduce(clock, distributed.ReduceOp.MAX)
    return float(clock)


def share(model: nn.Module) -> None:
    """Give every rank the parameters and buffers of rank 0."""
    if distributed.is_initialized():
        for tensor in model.state_dict().values():
            distributed.broadcast(tensor, 0)
