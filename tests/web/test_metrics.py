from __future__ import annotations

from prometheus_client.parser import text_string_to_metric_families
from web.made import dog, frame, none

from edge_retina.events import Event
from edge_retina.web.board import Board
from edge_retina.web.metrics import Metrics

S = 1_000_000_000


def samples(metrics: Metrics) -> dict[tuple[str, ...], float]:
    """Every sample under its name and the values of its labels."""
    return {
        (sample.name, *sample.labels.values()): sample.value
        for family in text_string_to_metric_families(metrics.text().decode())
        for sample in family.samples
    }


def test_nothing_yet() -> None:
    metrics = Metrics()
    Board(metrics)
    assert samples(metrics)[("edge_retina_viewers",)] == 0
    assert not [key for key in samples(metrics) if len(key) > 1]


def test_a_run() -> None:
    metrics = Metrics()
    now = [0]
    board = Board(metrics, lambda: now[0])
    for kind, camera in (("connecting", "a"), ("live", "a")):
        board.event(Event(kind, camera, at_ns=0))
    import dataclasses

    for index, detections in ((0, dog()), (1, none()), (5, dog())):
        now[0] += S
        board.write(dataclasses.replace(frame(index, "a"), timestamp_ns=now[0] - S // 25), detections)
    board.write(frame(0, "ride.mp4", live=False), none())
    for kind in ("stale", "down", "connecting", "live"):
        board.event(Event(kind, "a", at_ns=now[0]))
    board.event(Event("sink", reason="disk full"))
    now[0] += S
    found = samples(metrics)
    assert found["edge_retina_frames_total", "a"] == 3
    assert found["edge_retina_detections_total", "a", "dog"] == 2
    assert found["edge_retina_dropped_frames_total", "a"] == 3
    assert found["edge_retina_latency_seconds_count", "a"] == 3
    assert found["edge_retina_latency_seconds_bucket", "a", "0.033"] == 0
    assert found["edge_retina_latency_seconds_bucket", "a", "0.05"] == 3
    assert found["edge_retina_age_seconds", "a"] == 1.04
    assert ("edge_retina_age_seconds", "ride.mp4") not in found
    assert found["edge_retina_camera_state", "a", "live"] == 1
    assert found["edge_retina_camera_state", "a", "down"] == 0
    assert found["edge_retina_reconnects_total", "a"] == 1
    assert found["edge_retina_outages_total", "a", "down"] == 1
    assert found["edge_retina_sink_failures_total",] == 1


def test_two_runs_do_not_add_up() -> None:
    first, second = Metrics(), Metrics()
    first.result("a", {"dog": 1}, 0, None)
    assert ("edge_retina_frames_total", "a") not in samples(second)


def test_names_that_would_break_the_format() -> None:
    metrics = Metrics()
    metrics.result('a"\n\\b', {'do"g\n': 2}, 0, 5.0)
    assert samples(metrics)["edge_retina_detections_total", 'a"\n\\b', 'do"g\n'] == 2
