from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs PyTorch: pip install 'edge-retina[train]'")

import torch

RANK = """
import os, sys
from pathlib import Path
import torch
from edge_retina.train import loop
from edge_retina.train.model import PRESETS, ModelConfig

PRESETS["tiny"] = ModelConfig(blocks=(1, 1, 1, 1), widths=(8, 8, 16, 16), pyramid=16, subnet_convs=1)
torch.set_num_threads(1)
data, out = map(Path, sys.argv[1:])
rank, seen, share = os.environ["RANK"], {}, loop.share

def spied(model):
    seen["own"] = {name: p.detach().clone() for name, p in model.named_parameters()}
    share(model)

loop.share = spied
trained = loop.train(loop.TrainOptions(
    data=data, out=out / "m.onnx", preset="tiny", size=(64, 64), batch=2, epochs=50, steps=3, minutes=60,
    warmup_steps=1, amp=False, workers=0, device="cpu"))
torch.save({**seen, "shared": trained.model.state_dict()}, out / f"rank{rank}.pt")
"""


def test_two_processes_agree(squares: Path, tmp_path: Path) -> None:
    script = tmp_path / "rank.py"
    script.write_text(RANK)
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(script)]
    done = subprocess.run(
        [*command, str(squares), str(tmp_path)],
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f"rank{rank}.pt", weights_only=True) for rank in (0, 1))
    # The learning rate follows the clock, and both follow the same one.
    assert all(torch.equal(value, second["own"][name]) for name, value in first["own"].items())
    assert all(torch.equal(value, second["shared"][name]) for name, value in first["shared"].items())
    state = torch.load(tmp_path / "m.pt", weights_only=True)
    assert (state["step"], state["global_batch"]) == (3, 4)
