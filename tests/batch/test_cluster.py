"""How many workers, and which files they die of; what Ray itself does is in test_batch.py."""

from __future__ import annotations

import pytest

from edge_retina.batch import cluster
from edge_retina.batch.cluster import Pool, pool_for
from edge_retina.errors import UsageError

NOTHING = {"concurrency": None, "threads": 1, "gpus": None, "target": "auto", "batch": None}


@pytest.mark.parametrize(
    ("cpus", "cards", "given", "wanted"),
    [
        (8, 0, {}, Pool(8, 1, 0.0, "auto", 1)),
        (8, 0, {"threads": 3}, Pool(2, 3, 0.0, "auto", 1)),
        (8, 0, {"concurrency": 2, "batch": 4}, Pool(2, 1, 0.0, "auto", 4)),
        (8, 2, {}, Pool(2, 1, 1.0, "auto", 8)),
        (8, 2, {"gpus": 0.5, "target": "tensorrt"}, Pool(4, 1, 0.5, "tensorrt", 8)),
        (8, 2, {"target": "ort"}, Pool(8, 1, 0.0, "ort", 1)),
        (8, 2, {"gpus": 0.0}, Pool(8, 1, 0.0, "auto", 1)),
    ],
)
def test_workers_from_cores_and_gpus(monkeypatch, cpus, cards, given, wanted):
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": float(cpus), "GPU": float(cards)})
    assert pool_for(**{**NOTHING, **given}) == wanted


@pytest.mark.parametrize(
    ("given", "why"),
    [
        ({"threads": 9}, "--threads 9"),
        ({"gpus": 3.0}, "Ray knows of 2 GPUs"),
        ({"concurrency": 9, "target": "ort"}, "Ray has 8 CPUs"),
        ({"concurrency": 3}, "2 GPUs"),
        ({"gpus": 0.0, "target": "tensorrt"}, "use --target ort"),
    ],
)
def test_more_than_there_is(monkeypatch, given, why):
    monkeypatch.setattr(cluster.ray, "cluster_resources", lambda: {"CPU": 8.0, "GPU": 2.0})
    with pytest.raises(UsageError, match=why):
        pool_for(**{**NOTHING, **given})


def test_a_file_that_workers_die_of_is_known_after_two_deaths_on_it():
    deaths = cluster._Deaths()
    assert deaths.begin("u") == (1, 0)  # dies of it, nobody has looked
    deaths.deliver("u", 3)
    for starts in (2, 3):
        assert deaths.begin("u") == (starts, 3)
        assert deaths.enter("u", "good.jpg") is None
        assert deaths.enter("u", "bad.jpg") is None  # and dies
    assert deaths.begin("u") == (4, 3)
    assert deaths.enter("u", "good.jpg") is None
    assert "2 workers died of it" in deaths.enter("u", "bad.jpg")
    deaths.end("u")
    assert deaths.begin("u")[0] == 5
    assert deaths.enter("u", "good.jpg") is None
