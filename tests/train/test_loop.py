from __future__ import annotations

import json
import math
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from coco_sets import write_set

pytest.importorskip("torch", reason="training needs PyTorch: pip install 'edge-retina[train]'")

import torch

from edge_retina.errors import InputError, RuntimeFailure, UsageError
from edge_retina.train import loop
from edge_retina.train.data import Augmentation
from edge_retina.train.loop import Progress, TrainOptions, train
from edge_retina.train.model import RetinaNet


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture
def options(tiny: str, squares: Path, tmp_path: Path) -> TrainOptions:
    """19 examples, one to validate on; 4 steps an epoch."""
    return TrainOptions(
        data=squares,
        out=tmp_path / "m.onnx",
        preset=tiny,
        size=(64, 64),
        batch=4,
        epochs=2,
        warmup_steps=2,
        amp=False,
        workers=0,
        device="cpu",
    )


def same(a: torch.nn.Module, b: torch.nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


def timeless(history: list[dict[str, float]]) -> list[dict[str, float]]:
    return [{name: value for name, value in row.items() if name != "elapsed"} for row in history]


class StopAt:
    """Ctrl-C after a step."""

    def __init__(self, step: int) -> None:
        self.step = step

    def __call__(self, progress: Progress) -> None:
        if progress.step == self.step:
            raise KeyboardInterrupt


def test_a_set_without_images(options: TrainOptions, tmp_path: Path) -> None:
    path = tmp_path / "none.json"
    path.write_text(json.dumps({"images": [], "annotations": [], "categories": []}))
    with pytest.raises(InputError, match="found none"):
        train(replace(options, data=path))


@pytest.fixture(autouse=True)
def no_signals_left() -> Iterator[None]:
    before = signal.getsignal(signal.SIGINT)
    yield
    assert signal.getsignal(signal.SIGINT) is before


def test_what_a_run_reports_and_leaves(options: TrainOptions) -> None:
    told: list[Progress] = []
    trained = train(options, told.append)
    assert [p.step for p in told] == [1, 2, 3, 4, 4, 5, 6, 7, 8, 8]
    assert [p.epoch for p in told] == [0, 0, 0, 0, 1, 1, 1, 1, 1, 2]
    assert [p.fraction for p in told] == pytest.approx([v / 8 for v in (1, 2, 3, 4, 4, 5, 6, 7, 8, 8)])
    # Two steps of warm-up, then half a cosine that began at the first step.
    cosine = [0.5 * (1 + math.cos(math.pi * step / 8)) for step in range(8)]
    wanted = [2e-3 * c * w for c, w in zip(cosine, [0.5, *[1] * 7], strict=True)]
    assert [p.lr for p in told if p.metrics is None] == pytest.approx(wanted)
    assert {p.validation_images for p in told} == {1}
    validations = [p for p in told if p.metrics is not None]
    assert [p.ap for p in validations] == [p.metrics["AP"] for p in validations if p.metrics]
    assert [row["ap"] for row in trained.history] == [p.ap for p in validations]
    assert {"ap50", "aps", "ar100"} <= set(trained.history[0])
    assert trained.spec.labels == ("square", "bar")
    assert not trained.model.training
    assert json.loads(options.history.read_text())["history"] == trained.history
    assert sorted(path.name for path in options.out.parent.iterdir()) == ["m.history.json", "m.pt"]


def test_the_loss_falls(options: TrainOptions) -> None:
    told: list[Progress] = []
    gentle = Augmentation(0.5, 0, 0)
    train(replace(options, epochs=8, lr=5e-3, augmentation=gentle), told.append)
    first = sum(p.classification + p.regression for p in told[:3]) / 3
    last = told[-1].classification + told[-1].regression  # of all 32 steps so far, about
    assert last < 0.8 * first


def test_two_runs_are_alike_and_another_seed_is_not(options: TrainOptions) -> None:
    first, again, other = (train(replace(options, steps=2, seed=seed, overwrite=True)) for seed in (0, 0, 1))
    assert same(first.model, again.model)
    assert not same(first.model, other.model)


@pytest.mark.parametrize("optimizer", ["adamw", "sgd"])
@pytest.mark.parametrize("stop", [3, 4, 6])
def test_a_resumed_run_is_an_uninterrupted_run(
    options: TrainOptions, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stop: int, optimizer: str
) -> None:
    monkeypatch.setattr(loop, "_HISTORY_STEPS", 1)
    options = replace(options, optimizer=optimizer)
    through = train(options)
    stopped = replace(options, out=tmp_path / "stopped" / "m.onnx")
    with pytest.raises(KeyboardInterrupt):
        train(stopped, StopAt(stop))
    assert torch.load(stopped.checkpoint, weights_only=True)["step"] == stop
    resumed = train(replace(stopped, resume=True))
    assert same(through.model, resumed.model)
    assert timeless(through.history) == timeless(resumed.history)
    weights, again = (torch.load(o.checkpoint, weights_only=True)["model"] for o in (options, stopped))
    assert all(torch.equal(weights[name], again[name]) for name in weights)


def test_a_finished_run_is_not_trained_again(options: TrainOptions) -> None:
    trained = train(options)
    told: list[Progress] = []
    again = train(replace(options, resume=True), told.append)
    assert told == []
    assert same(trained.model, again.model)


def test_a_run_that_ended_by_steps_goes_on_in_its_epoch(options: TrainOptions) -> None:
    train(replace(options, steps=3))
    told: list[Progress] = []
    train(replace(options, resume=True), told.append)
    assert [p.step for p in told] == [4, 4, 5, 6, 7, 8, 8]


def test_the_clock_ends_a_run(options: TrainOptions) -> None:
    told: list[Progress] = []
    trained = train(replace(options, epochs=1000, minutes=1e-6), told.append)
    assert [(p.step, p.fraction) for p in told] == [(1, 1.0), (1, 1.0)]
    assert "ap" in trained.history[-1]


def test_bfloat16_and_a_worker_process(options: TrainOptions) -> None:
    options = replace(options, size=(64, 96), steps=2, overwrite=True)
    exact, plain = train(options), train(replace(options, amp=True))
    worker = train(replace(options, amp=True, workers=1))
    assert same(plain.model, worker.model)
    assert not same(plain.model, exact.model)


def test_no_bfloat16_where_its_gradient_is_wrong(options: TrainOptions) -> None:
    options = replace(options, size=(96, 64), steps=1, overwrite=True)
    assert same(train(options).model, train(replace(options, amp=True)).model)


def test_a_set_smaller_than_a_batch(options: TrainOptions, tmp_path: Path) -> None:
    told: list[Progress] = []
    train(replace(options, data=write_set(tmp_path / "few", 3), batch=8), told.append)
    assert [p.step for p in told if p.metrics is None] == [1, 1, 2, 2]
    assert {p.validation_images for p in told} == {0}


def test_a_set_without_boxes(options: TrainOptions, tmp_path: Path) -> None:
    path = write_set(tmp_path / "set", 3)
    path.write_text(json.dumps({**json.loads(path.read_text()), "annotations": []}))
    told: list[Progress] = []
    train(replace(options, data=path, batch=2, val=path), told.append)
    assert all(math.isfinite(p.classification) and p.regression == 0 for p in told)


def test_a_validation_set_of_its_own(options: TrainOptions, tmp_path: Path) -> None:
    trained = train(replace(options, steps=1, val=write_set(tmp_path / "val", 2, seed=5)))
    assert "ap" in trained.history[-1]
    other = write_set(tmp_path / "other", 2)
    other.write_text(other.read_text().replace("square", "circle"))
    with pytest.raises(InputError, match="wanted the categories of"):
        train(replace(options, val=other, overwrite=True))


@pytest.mark.parametrize("workers", [0, 1])
def test_a_broken_picture_is_one_line_and_keeps_a_checkpoint(
    options: TrainOptions, tmp_path: Path, workers: int
) -> None:
    path = write_set(tmp_path / "set", 4)
    (path.parent / "2.png").write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"^\S*2\.png") as caught:
        train(replace(options, data=path, batch=2, workers=workers))
    assert "\n" not in str(caught.value)
    assert options.checkpoint.is_file()


def test_divergence_stops_the_run_and_keeps_the_weights(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "retinanet_loss", lambda logits, *_, **__: (logits.sum() * float("nan"), logits.sum()))
    with pytest.raises(UsageError, match=r"training diverged \(loss nan, gradient nan\); lower --lr"):
        train(options)
    assert not options.checkpoint.exists()


def test_an_infinite_gradient_stops_the_run(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    # Finite loss, infinite slope.
    monkeypatch.setattr(
        loop, "retinanet_loss", lambda logits, *_, **__: ((logits * 0).abs().sqrt().sum(), logits.sum())
    )
    with pytest.raises(UsageError, match="training diverged"):
        train(options)


def test_out_of_memory_says_what_to_do(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(loop, "retinanet_loss", full)
    with pytest.raises(RuntimeFailure, match="out of memory; lower --batch or --size"):
        train(options)


@pytest.mark.parametrize("device", ["nonsense", "cuda:77", "cpu:x"])
def test_devices_that_are_not_there(options: TrainOptions, device: str) -> None:
    with pytest.raises(UsageError, match=rf"--device {device}: PyTorch has no such device here") as caught:
        train(replace(options, device=device))
    assert "\n" not in str(caught.value)


def test_resume_without_a_checkpoint(options: TrainOptions) -> None:
    with pytest.raises(InputError, match="no checkpoint to resume from"):
        train(replace(options, resume=True))


def test_a_new_run_leaves_the_checkpoint_of_another(options: TrainOptions) -> None:
    train(replace(options, steps=1))
    before = options.checkpoint.read_bytes(), options.history.read_bytes()
    told: list[Progress] = []
    with pytest.raises(UsageError, match=r"m\.pt: holds a run.*--resume.*--overwrite"):
        train(replace(options, steps=2), told.append)
    assert told == []
    assert (options.checkpoint.read_bytes(), options.history.read_bytes()) == before
    train(replace(options, steps=2, overwrite=True), told.append)
    assert [p.step for p in told] == [1, 2, 2]


def test_another_seed_would_train_on_what_is_held_out(options: TrainOptions) -> None:
    train(replace(options, steps=1))
    with pytest.raises(UsageError, match="made with seed 0, found seed 1"):
        train(replace(options, seed=1, resume=True))


def test_pretrained_weights_are_where_it_starts(options: TrainOptions, monkeypatch: pytest.MonkeyPatch) -> None:
    taken: list[Path] = []

    def load(model: RetinaNet, path: Path) -> int:
        taken.append(path)
        torch.nn.init.constant_(model.stem[0].weight, 0.25)
        return 1

    monkeypatch.setattr(loop, "load_backbone", load)
    started = replace(options, pretrained=Path("w.pth"), lr=1e-12, weight_decay=0.0, steps=1)
    trained = train(started)
    torch.testing.assert_close(trained.model.stem[0].weight, torch.full((8, 3, 7, 7), 0.25))
    train(replace(started, resume=True))
    assert taken == [Path("w.pth")]  # a resumed run has weights of its own
