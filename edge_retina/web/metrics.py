"""The numbers of a run for Prometheus, in a registry of their own."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.core import GaugeMetricFamily
from prometheus_client.registry import Collector

from edge_retina.web.stats import STATES

__all__ = ["Metrics"]

# Seconds; a frame of a 30 fps camera is old after 33 ms, a stream is lost after seconds.
_LATENCY_BUCKETS = (0.01, 0.02, 0.033, 0.05, 0.075, 0.1, 0.15, 0.2, 0.3, 0.5, 1.0, 2.0, 5.0)
_Watch = Callable[[], Mapping[str, tuple[float | None, str]]]


class Metrics:
    """Counters that the run's thread adds to; text() is what Prometheus reads."""

    def __init__(self) -> None:
        self._registry = CollectorRegistry()
        self._frames = self._counter("frames", "Frames that came with their detections", "camera")
        self._detections = self._counter("detections", "Objects detected", "camera", "class")
        self._drops = self._counter("dropped_frames", "Frames left out because newer ones were there", "camera")
        self._reconnects = self._counter("reconnects", "Times that a camera came back", "camera")
        self._outages = self._counter("outages", "Times that a camera went stale or down", "camera", "state")
        self._sinks = self._counter("sink_failures", "Events of sinks that failed or lost results")
        self._pictures = self._counter("pictures_encoded", "JPEG pictures made for viewers")
        self._latency = Histogram(
            "edge_retina_latency_seconds",
            "From a frame's capture to its detections, live sources",
            ["camera"],
            registry=self._registry,
            buckets=_LATENCY_BUCKETS,
        )
        self.viewers = Gauge("edge_retina_viewers", "Open streams of this server", registry=self._registry)

    def watch(self, ages_and_states: _Watch) -> None:
        """Ask this at every reading: by camera its age in seconds and its state."""
        self._registry.register(_Now(ages_and_states))

    def result(self, camera: str, counts: Mapping[str, int], drops: int, age_ms: float | None) -> None:
        """One frame with its detections."""
        self._frames.labels(camera).inc()
        self._drops.labels(camera).inc(drops)
        for name, count in counts.items():
            self._detections.labels(camera, name).inc(count)
        if age_ms is not None:
            self._latency.labels(camera).observe(max(0.0, age_ms / 1000))

    def event(self, kind: str, camera: str, reconnected: bool) -> None:
        """One event; reconnected: it says that the camera is back."""
        if kind == "sink":
            self._sinks.inc()
        if reconnected:
            self._reconnects.labels(camera).inc()
        if kind in ("stale", "down"):
            self._outages.labels(camera, kind).inc()

    def picture(self) -> None:
        """One picture encoded."""
        self._pictures.inc()

    def text(self) -> bytes:
        """All of it, in Prometheus' text format."""
        return generate_latest(self._registry)

    def _counter(self, name: str, about: str, *labels: str) -> Counter:
        return Counter(f"edge_retina_{name}", about, labels, registry=self._registry)


class _Now(Collector):
    """What depends on when one asks."""

    def __init__(self, ages_and_states: _Watch) -> None:
        self._ages_and_states = ages_and_states

    def collect(self) -> Iterator[GaugeMetricFamily]:
        age = GaugeMetricFamily("edge_retina_age_seconds", "Since the newest result was captured", labels=["camera"])
        state = GaugeMetricFamily(
            "edge_retina_camera_state", "1 for the state a camera is in", labels=["camera", "state"]
        )
        for camera, (seconds, current) in self._ages_and_states().items():
            if seconds is not None:
                age.add_metric([camera], seconds)
            for name in STATES:
                state.add_metric([camera, name], float(name == current))
        yield age
        yield state

    def describe(self) -> Iterator[GaugeMetricFamily]:
        return iter(())
