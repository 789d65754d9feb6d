"""Which layers cost accuracy: those made to, found without being named, and none on a model that INT8 suits."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import onnx
import onnx_graphsurgeon as gs
import pytest
from convnets import Net, run
from models import hard_model, rewritten, tiny_model, write_pictures
from test_quantize import quantizer_of

from edge_retina import sensitivity
from edge_retina.calibrate import gather
from edge_retina.disagreement import disagreement, references
from edge_retina.quantize import Quantizer, Recipe, observed
from edge_retina.rewrite.equalize import apply_factors, equalizable
from edge_retina.rewrite.macs import conv_macs
from edge_retina.sensitivity import HARMLESS, candidates, choose_float, local_sqnr, rank, share
from edge_retina.spec import DetectorSpec
from edge_retina.types import U8

ROOT = Path(__file__).parents[1]


@dataclass(frozen=True)
class Case:
    model: onnx.ModelProto
    spec: DetectorSpec
    quantizer: Quantizer
    macs: dict[str, int]
    frames: list[U8]

    def choose(self, **options):
        return choose_float(self.quantizer, self.spec, self.frames, self.macs, **options)

    def disagreement(self, skip=()):
        wanted = references(self.quantizer.model, self.spec, self.frames)
        return disagreement(self.quantizer.quantized(skip), self.spec, self.frames, wanted)


def case(model: onnx.ModelProto, spec: DetectorSpec, frames: list[U8], calibration: list[U8]) -> Case:
    quantizer = Quantizer(model, gather(model, observed(model), calibration), Recipe())
    return Case(model, spec, quantizer, conv_macs(model), frames)


@pytest.fixture(scope="module")
def frames(tmp_path_factory: pytest.TempPathFactory) -> list[U8]:
    folder = write_pictures(tmp_path_factory.mktemp("pictures"), 6)
    return [cv2.imread(str(path)) for path in sorted(folder.iterdir())]


@pytest.fixture(scope="module")
def tiny(frames) -> Case:
    return case(*rewritten(tiny_model()[0]), frames[:3], frames)


@pytest.fixture(scope="module")
def hard(frames) -> Case:
    return case(*rewritten(hard_model()), frames[:3], frames)


# Shares


def test_share_of_nothing():
    assert share({}, ()) == 0.0


def test_share_by_hand():
    macs = {"a": 60, "b": 30, "c": 10}
    assert share(macs, ()) == 1.0
    assert share(macs, ("b",)) == pytest.approx(0.7)
    assert share(macs, macs) == 0.0


# Noise of a layer


def test_noise_by_hand(monkeypatch):
    """Of both convolutions in NumPy: rounded input times rounded weight, against the float one."""
    net = Net()
    hidden = net.relu(net.conv("a", net.x, 6, kernel=1))
    model = gs.export_onnx(net.end(net.head(net.conv("b", hidden, 4, kernel=1))))
    quantizer = quantizer_of(model, Recipe(correct_bias=False))
    x = np.random.default_rng(0).standard_normal((1, 4, 8, 8)).astype(np.float32)
    graph = gs.import_onnx(model)
    graph.outputs = [graph.tensors()["a.relu"].to_variable(np.float32, ["n", 6, 8, 8])]
    graph.cleanup()
    inputs = {"a": x, "b": run(graph, x)["a.relu"]}
    session = sensitivity.open_session
    # The function feeds `frames`; this network reads `x`.
    monkeypatch.setattr(sensitivity, "open_session", lambda data, **options: _Renamed(session(data, **options)))
    found = local_sqnr(quantizer, [x[0]])
    assert list(found) == ["a", "b"]
    weights = {t.name: onnx.numpy_helper.to_array(t) for t in model.graph.initializer}
    for name, values in inputs.items():
        tensor = {"a": "x", "b": "a.relu"}[name]
        scale = quantizer.scale((tensor,))
        coded = np.clip(np.rint(values / scale), -128, 127) * scale
        weight, rounded = weights[f"{name}/w"], quantizer.weights[f"{name}/w"].dequantized()
        bias = weights[f"{name}/2"][None, :, None, None]
        wanted = np.einsum("oi,bihw->bohw", weight[..., 0, 0], values) + bias
        made = np.einsum("oi,bihw->bohw", rounded[..., 0, 0], coded) + bias
        noise = 10 * np.log10(np.square(wanted).sum() / np.square(wanted - made).sum())
        assert found[name] == pytest.approx(noise, abs=0.05)


class _Renamed:
    def __init__(self, session):
        self.session = session

    def run(self, outputs, feeds):
        return self.session.run(outputs, {"x": feeds["frames"]})


def test_noise_of_each_convolution(tiny):
    found = local_sqnr(tiny.quantizer, tiny.frames)
    assert tuple(found) == tiny.quantizer.everything.convs
    assert all(20 < value < 60 for value in found.values())


def test_noise_of_a_ruined_one(hard):
    """wide is drowned; narrow's own noise is small, for what is lost is lost behind it."""
    found = local_sqnr(hard.quantizer, hard.frames)
    assert found["model/wide"] < 10
    assert min(value for name, value in found.items() if name != "model/wide") > 20


@pytest.mark.parametrize(
    ("signal", "noise", "wanted"),
    [
        (1, 0, np.inf),
        (0, 0, np.inf),
        (0, 1, np.inf),
        (100, 1, 20),
        (1, 1, 0),
        (np.inf, np.inf, -np.inf),
        (np.nan, 1, -np.inf),
    ],
)
def test_decibels(signal, noise, wanted):
    assert sensitivity._decibels(signal, noise) == wanted


# Rank


def test_ranked_by_what_each_costs_alone(hard):
    seen = []
    costs = rank(hard.quantizer, hard.spec, hard.frames, on_unit=lambda: seen.append(1))
    assert len(seen) == len(costs) == len(hard.quantizer.units()) == 6
    assert {cost.unit for cost in costs} == set(hard.quantizer.units())
    assert [cost.disagreement for cost in costs] == sorted((c.disagreement for c in costs), reverse=True)
    assert {cost.unit for cost in costs[:2]} == {("model/wide",), ("model/narrow",)}
    assert costs[1].disagreement > 0.5 > 0.1 > costs[2].disagreement
    for cost in costs[:3]:
        others = [n for unit in hard.quantizer.units() for n in unit if unit != cost.unit]
        assert cost.disagreement == hard.disagreement(others)


def test_ranked_the_same_every_time(tiny):
    assert rank(tiny.quantizer, tiny.spec, tiny.frames) == rank(tiny.quantizer, tiny.spec, tiny.frames)


def test_some_units_only(tiny):
    unit = ("model/down_1",)
    assert [cost.unit for cost in rank(tiny.quantizer, tiny.spec, tiny.frames, [unit])] == [unit]
    assert rank(tiny.quantizer, tiny.spec, tiny.frames, []) == []


def test_equal_costs_stay_in_graph_order(tiny, monkeypatch):
    monkeypatch.setattr(sensitivity, "disagreement", lambda *_: 0.5)
    assert [cost.unit for cost in rank(tiny.quantizer, tiny.spec, tiny.frames)] == tiny.quantizer.units()


@pytest.mark.parametrize(
    ("first", "drowned", "wanted"),
    [
        (2, 20.0, ["stem", "narrow", "wide"]),
        (0, 20.0, ["wide", "narrow"]),  # which writes what wide reads
        (0, 0.0, ["wide"]),
        (0, 99.0, ["wide", "narrow"]),
    ],
)
def test_candidates_are_the_first_and_the_noisiest(hard, monkeypatch, first, drowned, wanted):
    monkeypatch.setattr(sensitivity, "_FIRST", first)
    monkeypatch.setattr(sensitivity, "_NOISIEST", 1)
    monkeypatch.setattr(sensitivity, "_DROWNED", drowned)
    monkeypatch.setattr(sensitivity, "_CHEAP", 0.0)
    assert candidates(hard.quantizer, hard.frames, hard.macs) == [(f"model/{name}",) for name in wanted]


def test_cheap_ones_are_candidates(hard, monkeypatch):
    monkeypatch.setattr(sensitivity, "_FIRST", 0)
    monkeypatch.setattr(sensitivity, "_NOISIEST", 0)
    monkeypatch.setattr(sensitivity, "_CHEAP", 0.018)
    cheap = [unit for unit in hard.quantizer.units() if 1 - share(hard.macs, unit) <= 0.018]
    assert cheap
    assert candidates(hard.quantizer, hard.frames, hard.macs) == cheap


def test_nothing_writes_what_the_stem_reads(tiny, monkeypatch):
    monkeypatch.setattr(sensitivity, "_DROWNED", 99.0)
    assert sorted(candidates(tiny.quantizer, tiny.frames, tiny.macs)) == sorted(tiny.quantizer.units())


# The choice


def test_nothing_is_tried_where_all_is_harmless(tiny, monkeypatch):
    monkeypatch.setattr(sensitivity, "rank", pytest.fail)
    monkeypatch.setattr(sensitivity, "HARMLESS", tiny.disagreement())
    choice = tiny.choose()
    assert choice.skip == choice.costs == ()
    assert 0 < choice.before == choice.after == tiny.disagreement()


def test_the_ruined_ones_are_found(hard):
    """Either alone changes nothing: without narrow, wide's codes are missing still, and the other way round."""
    steps = []
    choice = hard.choose(on_step=lambda: steps.append(1))
    assert set(choice.skip) == {"model/wide", "model/narrow"}
    assert choice.before == hard.disagreement() > 1
    assert choice.after == hard.disagreement(choice.skip) < 0.11
    assert share(hard.macs, choice.skip) > 0.9
    assert {name for cost in choice.costs[:2] for name in cost.unit} == set(choice.skip)
    assert len(steps) > len(choice.costs)


@pytest.mark.parametrize("least", [1.0, 0.99])
def test_never_more_work_than_allowed(hard, least):
    """wide and narrow are 1.8 % each; where nothing may be chosen nothing is tried."""
    choice = hard.choose(least_share=least)
    assert choice.skip == ()
    assert choice.before == choice.after
    assert (choice.costs == ()) == (least == 1)


def test_what_is_in_float_anyway(hard):
    """On top of it, though it is more than the share allows already."""
    skip = ("model/wide", "model/narrow", "model/stem")
    choice = hard.choose(skip=skip)
    assert choice.skip == skip
    assert choice.before == choice.after == hard.disagreement(skip)
    more = hard.choose(skip=("model/narrow",))
    assert set(more.skip) == {"model/narrow", "model/wide"}


def test_where_int8_costs_little_a_layers_own_noise_says_enough(tiny, monkeypatch):
    """No unit is quantized alone; the noisiest for their work come first, and of the runs that do the shortest."""
    monkeypatch.setattr(sensitivity, "rank", pytest.fail)
    monkeypatch.setattr(sensitivity, "HARMLESS", 0.0)
    monkeypatch.setattr(sensitivity, "_LITTLE", 9.0)
    steps = []
    choice = tiny.choose(least_share=0.3, on_step=lambda: steps.append(1))
    assert choice.costs == ()
    assert choice.sqnr == local_sqnr(tiny.quantizer, tiny.frames[:2])
    noise = {
        u: max(10 ** (-choice.sqnr[n] / 10) for n in u) / (1 - share(tiny.macs, u)) for u in tiny.quantizer.units()
    }
    runs = [()]
    for unit in sorted(noise, key=lambda unit: -noise[unit]):
        if share(tiny.macs, (*runs[-1], *unit)) >= 0.3:
            runs.append((*runs[-1], *unit))
    assert choice.skip in runs[1:]
    assert share(tiny.macs, choice.skip) >= 0.3
    least = tiny.disagreement(runs[-1])
    limit = choice.before - 0.9 * (choice.before - least)
    assert choice.after == tiny.disagreement(choice.skip) <= limit
    assert tiny.disagreement(runs[runs.index(choice.skip) - 1]) > limit
    assert len(steps) <= 1 + len(runs).bit_length()


def test_where_int8_costs_little_and_nothing_wins_all_stays(tiny, monkeypatch):
    monkeypatch.setattr(sensitivity, "HARMLESS", 0.0)
    monkeypatch.setattr(sensitivity, "_LITTLE", 9.0)
    monkeypatch.setattr(sensitivity, "_WORTH", 1.1)
    choice = tiny.choose(least_share=0.3)
    assert choice.skip == ()
    assert choice.before == choice.after == tiny.disagreement()


# Digits


@pytest.fixture(scope="module")
def digits() -> Case:
    model, spec = rewritten(onnx.load(ROOT / "samples" / "digits" / "digits.onnx"))
    pictures = [cv2.imread(str(path)) for path in sorted((ROOT / "calib" / "digits").glob("*.jpg"))[:6]]
    return case(model, spec, pictures[4:], pictures[:4])


def test_digits_win_a_little_for_a_little(digits):
    choice = digits.choose()
    assert 0.95 <= share(digits.macs, choice.skip) < 1
    assert choice.after < 0.95 * choice.before < 0.06


def test_one_bad_layer_of_digits(digits, monkeypatch):
    """Most of the channels between two convolutions made faint: both go to float, and nothing else.

    The first one's own noise is small, for what is faint hardly counts in its result.
    """
    graph = gs.import_onnx(digits.model)
    names = {n.inputs[1].name: n.outputs[0].name for n in graph.nodes if n.op == "Conv"}
    pairs = [s for s in equalizable(graph) if len(s.writers) == len(s.readers) == 1]
    small = [s for s in pairs if share(digits.macs, [names[s.writers[0]], names[s.readers[0]]]) > 0.95]
    stream = small[len(small) // 2]
    channels = len(graph.tensors()[stream.writers[0]].values)
    factor = np.where(np.arange(channels) % 4, np.float32(256), np.float32(1))
    apply_factors(graph, {stream.name: factor})
    bad = case(gs.export_onnx(graph), digits.spec, digits.frames[:1], digits.frames)
    monkeypatch.setattr(sensitivity, "_FIRST", 0)  # for the test's speed
    monkeypatch.setattr(sensitivity, "_NOISIEST", 1)
    choice = bad.choose()
    assert choice.before > 2 * HARMLESS
    assert set(choice.skip) == {names[stream.writers[0]], names[stream.readers[0]]}
    assert choice.after < choice.before / 2
    assert 0.9 <= share(bad.macs, choice.skip) < 1
