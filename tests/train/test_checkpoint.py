from __future__ import annotations

import json
import os
import signal
import threading
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch", reason="training needs PyTorch: pip install 'edge-retina[train]'")

import torch

from edge_retina.errors import InputError, OutputError, UsageError
from edge_retina.train.checkpoint import Run, new_run, resume, save, whole
from edge_retina.train.model import PRESETS, RetinaNet
from edge_retina.train.options import TrainOptions

CPU = torch.device("cpu")
LABELS = ["a", "b"]


@pytest.fixture
def options(tiny: str, tmp_path: Path) -> TrainOptions:
    return TrainOptions(data=tmp_path, out=tmp_path / "m.onnx", preset=tiny, size=(32, 32), batch=4)


def fresh(options: TrainOptions, seed: int = 0, world: int = 1) -> Run:
    torch.manual_seed(seed)
    return new_run(RetinaNet(PRESETS[options.preset], 2), options, world)


def stepped(options: TrainOptions) -> Run:
    """A run that has done one step, on a made-up gradient."""
    run = fresh(options)
    for parameter in run.model.parameters():
        parameter.grad = torch.ones_like(parameter)
    run.optimizer.step()
    run.epoch, run.batch_index, run.step, run.elapsed = 2, 6, 10, 1.5
    run.smooth, run.history = [0.5, 0.25], [{"step": 8, "ap": 0.5}]
    return run


def test_a_run_starts_at_its_beginning(options: TrainOptions) -> None:
    run = fresh(options, world=3)
    assert (run.epoch, run.batch_index, run.step, run.history, run.ap) == (0, 0, 0, [], None)
    assert run.global_batch == 12
    assert not run.ema.training
    assert all(torch.equal(a, b) for a, b in zip(run.model.parameters(), run.ema.parameters(), strict=True))


@pytest.mark.parametrize(("name", "kind"), [("adamw", torch.optim.AdamW), ("sgd", torch.optim.SGD)])
def test_optimisers(options: TrainOptions, name: str, kind: type) -> None:
    run = fresh(replace(options, optimizer=name))
    assert type(run.optimizer) is kind
    kernels, others = run.optimizer.param_groups
    assert kernels["weight_decay"] == {"adamw": 0.05, "sgd": 1e-4}[name]
    assert others["weight_decay"] == 0
    assert {p.ndim for p in kernels["params"]} == {4}
    assert {p.ndim for p in others["params"]} == {1}
    assert kernels.get("momentum") == {"adamw": None, "sgd": 0.9}[name]


@pytest.mark.parametrize("name", ["adamw", "sgd"])
def test_what_is_saved_comes_back(options: TrainOptions, name: str) -> None:
    options = replace(options, optimizer=name)
    before, after = stepped(options), fresh(options, seed=1)
    save(before, options, LABELS)
    resume(after, options, LABELS, CPU)
    for a, b in ((before.model, after.model), (before.ema, after.ema)):
        assert all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    names = ("epoch", "batch_index", "step", "elapsed", "smooth", "history", "global_batch", "ap")
    assert [getattr(after, name) for name in names] == [getattr(before, name) for name in names]
    assert str(after.optimizer.state_dict()) == str(before.optimizer.state_dict())
    noted = json.loads(options.history.read_text())
    assert noted["history"] == before.history
    assert noted["options"]["optimizer"] == name
    assert noted["options"]["lr"] == {"adamw": 2e-3, "sgd": 0.01}[name]


@pytest.mark.parametrize(("batch", "world", "expected"), [(4, 1, 6), (2, 1, 12), (2, 2, 6), (8, 2, 1)])
def test_another_batch_size_goes_on_at_the_same_image(
    options: TrainOptions, batch: int, world: int, expected: int
) -> None:
    save(stepped(options), options, LABELS)
    run = fresh(replace(options, batch=batch), world=world)
    resume(run, options, LABELS, CPU)
    assert run.batch_index == expected


def test_the_first_checkpoints_lack_some_fields(options: TrainOptions) -> None:
    run = stepped(options)
    run.history = [{"step": 20, "classification": 0.75, "regression": 0.125}, {"step": 20, "ap": 0.5}]
    save(run, options, LABELS)
    state = torch.load(options.checkpoint, weights_only=True)
    for name in ("smooth", "global_batch", "optimizer_name", "seed"):
        del state[name]
    torch.save(state, options.checkpoint)
    after = fresh(options)
    resume(after, replace(options, seed=1), LABELS, CPU)
    assert (after.smooth, after.batch_index, after.step) == ([0.75, 0.125], 6, 10)


@pytest.mark.parametrize(
    ("change", "labels"),
    [({"preset": "narrow"}, LABELS), ({}, ["a", "c"]), ({"optimizer": "sgd"}, LABELS)],
)
def test_a_checkpoint_of_something_else(options: TrainOptions, change: dict[str, object], labels: list[str]) -> None:
    save(stepped(options), options, LABELS)
    with pytest.raises(UsageError, match="made for another model, label set or optimizer"):
        resume(fresh(options), replace(options, **change), labels, CPU)


def test_a_checkpoint_of_another_seed(options: TrainOptions) -> None:
    save(stepped(options), options, LABELS)
    with pytest.raises(UsageError, match=r"m\.pt: made with seed 0, found seed 1; give --seed 0"):
        resume(fresh(options), replace(options, seed=1), LABELS, CPU)


@pytest.mark.parametrize("content", [None, b"", b"no checkpoint", "empty dict", "list"])
def test_files_that_are_no_checkpoint(options: TrainOptions, content: bytes | str | None) -> None:
    if isinstance(content, bytes):
        options.checkpoint.write_bytes(content)
    elif content is not None:
        torch.save({} if content == "empty dict" else [1], options.checkpoint)
    hint = "leave out --resume" if content is None else "--overwrite in place of --resume"
    with pytest.raises(InputError, match=rf"m\.pt: .*checkpoint.*{hint}") as caught:
        resume(fresh(options), options, LABELS, CPU)
    assert "\n" not in str(caught.value)


def test_a_truncated_checkpoint(options: TrainOptions) -> None:
    save(stepped(options), options, LABELS)
    data = options.checkpoint.read_bytes()
    options.checkpoint.write_bytes(data[: len(data) // 2])
    with pytest.raises(InputError, match="wanted a training checkpoint"):
        resume(fresh(options), options, LABELS, CPU)


def test_a_folder_that_cannot_be(options: TrainOptions, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match=r"cannot write .*m\.pt"):
        save(stepped(options), replace(options, out=tmp_path / "file" / "m.onnx"), LABELS)


def test_a_full_disk_leaves_the_last_checkpoint(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    save(stepped(options), options, LABELS)
    before = options.checkpoint.read_bytes()

    def full(_: object, path: Path) -> None:
        path.write_bytes(b"half")
        raise RuntimeError("[enforce fail at inline_container.cc:595] . unexpected pos 64 vs 0\nmore")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OutputError, match="unexpected pos 64 vs 0; check folder, permissions and disk space"):
        save(stepped(options), options, LABELS)
    assert options.checkpoint.read_bytes() == before
    assert sorted(path.name for path in options.out.parent.iterdir()) == ["m.history.json", "m.pt"]


# whole


def test_nothing_is_held_back_without_a_signal() -> None:
    before = signal.getsignal(signal.SIGINT)
    with whole():
        assert signal.getsignal(signal.SIGINT) is not before
    assert signal.getsignal(signal.SIGINT) is before


def test_ctrl_c_waits_for_the_end_of_the_block() -> None:
    done, before = [], signal.getsignal(signal.SIGINT)

    def block() -> None:
        with whole():
            os.kill(os.getpid(), signal.SIGINT)
            done.append("the rest")

    with pytest.raises(KeyboardInterrupt):
        block()
    assert done == ["the rest"]
    assert signal.getsignal(signal.SIGINT) is before


def test_an_error_in_the_block_gives_the_handlers_back() -> None:
    before = signal.getsignal(signal.SIGTERM)
    with pytest.raises(ValueError, match="mine"), whole():
        raise ValueError("mine")
    assert signal.getsignal(signal.SIGTERM) is before


def test_other_threads_have_no_signals() -> None:
    entered = []

    def work() -> None:
        with whole():
            entered.append(True)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert entered == [True]
