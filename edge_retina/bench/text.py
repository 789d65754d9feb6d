"""What was measured, as lines and tables for people."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

from edge_retina.bench.benchmark import ENOUGH, LAYERS, Benchmark, Measured
from edge_retina.bench.ends import Loop
from edge_retina.bench.stages import STAGES
from edge_retina.bench.timing import percentiles

__all__ = ["LABELS", "headline", "layer_rows", "machine_lines", "stage_rows", "trailer"]

# Of stages, as they are shown.
LABELS = {stage: stage for stage in STAGES} | {"decode": "decode + NMS", "end": "end to end"}
_MIB = 1 << 20
_KEYS = ("p50_ms", "p90_ms", "p99_ms", "p99_9_ms")


def headline(measured: Measured) -> str:
    """One line: how long a frame takes, how many a second, how that compares with the first."""
    timing = measured.timing
    p50, p90, p99, p999 = (percentiles(timing.latency_ms)[key] for key in _KEYS)
    batch = f", batch {timing.batch}" if timing.batch > 1 else ""
    beside = "" if measured.ratio is None else f", {measured.ratio.text} the first's speed"
    return (
        f"{timing.name} on {timing.runtime}{batch}: {p50:.2f} ms (p90 {p90:.2f}, p99 {p99:.2f}, p99.9 {p999:.2f}), "
        f"{timing.fps:.1f} fps{beside}"
    )


def trailer(measured: Measured) -> Iterator[str]:
    """What else there is to say of it: the first frame, how much the rounds vary, memory, what a GPU did."""
    timing = measured.timing
    variation = timing.variation
    told = ["one round: how much they vary is not known" if variation is None else f"rounds vary by {variation:.1%}"]
    if timing.warm_up_ms:
        slowest = max(timing.warm_up_ms)
        told.append(f"a warm-up of {len(timing.warm_up_ms)} calls, the slowest {slowest:.1f} ms, is left out")
    facts = measured.case.facts
    if "load_ms" in facts:
        told.append(f"loaded in {facts['load_ms']:.0f} ms, its first frame {facts['first_ms']:.1f} ms")
    if measured.case.memory_mib is not None:
        told.append(f"{measured.case.memory_mib:.0f} MiB of memory for that")
    if len(timing.latency_ms) < ENOUGH:
        told.append(f"p99.9 of {len(timing.latency_ms)} is the slowest of them, or close to it")
    yield "; ".join(told)
    if counts := timing.counts:
        yield (
            f"{counts['captured_launches']} graph launches, {counts['plain_launches']} piece by piece, "
            f"{counts['captures']} captures, {counts['allocations']} allocations, "
            f"{counts['bytes_held'] / _MIB:.1f} MiB of GPU memory held"
        )


def stage_rows(
    measured: Measured, capture_ms: Sequence[float] = (), sinks_ms: Sequence[float] = ()
) -> list[tuple[str, ...]]:
    """Rows of a table: stage, four percentiles in milliseconds, share of the profiled calls ("" outside of those).

    The last row is the timing that counts, taken without the profiler: frame in memory to detections.
    """
    times: dict[str, tuple[Sequence[float], str]] = {}
    if capture_ms:
        times["capture"] = capture_ms, ""
    if measured.profile is not None:
        times |= {name: (ms, f"{measured.profile.share(name):.1%}") for name, ms in measured.profile.stages.items()}
    if sinks_ms:
        times["sinks"] = sinks_ms, ""
    ordered = [(stage, *times[stage]) for stage in STAGES if stage in times]
    return [_row(LABELS[stage], ms, share) for stage, ms, share in ordered] + [
        _row(LABELS["end"], measured.timing.latency_ms, "")
    ]


def _row(label: str, ms: Sequence[float], share: str) -> tuple[str, ...]:
    found = percentiles(ms)
    return (label, *(f"{found[key]:.3f}" for key in _KEYS), share)


def layer_rows(measured: Measured) -> list[tuple[str, ...]]:
    """Rows of a table of the slowest layers: name, kind, stage, milliseconds, share. Empty without a profile."""
    if measured.profile is None:
        return []
    total = sum(measured.profile.call_ms) / len(measured.profile.call_ms)
    return [
        (layer.name, layer.kind, LABELS[layer.stage], f"{layer.ms:.3f}", f"{layer.ms / total:.1%}")
        for layer in measured.profile.slowest(LAYERS)
    ]


def machine_lines(found: Benchmark, loop: Loop | None = None) -> list[str]:
    """What it was measured on, and the memory that took."""
    machine, memory = found.machine, found.memory
    sets = f" ({', '.join(machine.instruction_sets)})" if machine.instruction_sets else ""
    clock = f", governor {machine.governor}" if machine.governor else ""
    lines = [
        f"{machine.processor}{sets}, {machine.cores_used} of {machine.cores} cores{clock}; "
        f"others took {found.others:.0%} of their time",
        f"memory: {memory.resident_mib:.0f} MiB now, {memory.peak_mib:.0f} at the most; "
        + ", ".join(f"{name} {version}" for name, version in machine.packages.items()),
    ]
    if (jetson := machine.jetson) is not None:
        figures: dict[str, Any] = {"power mode": jetson.power_mode, **{c.name: _clock(c) for c in jetson.clocks}}
        figures |= {name: f"{value:.0f} C" for name, value in jetson.celsius.items()}
        figures |= {name: f"{value:.1f} W" for name, value in jetson.watts.items()}
        told = ", ".join(f"{name} {value}" for name, value in figures.items() if value)
        lines.append(f"Jetson Linux {jetson.release}: {told or 'power mode and clocks were not told'}")
    if loop is not None:
        age = percentiles(loop.age_ms) if loop.age_ms else None
        aged = f", age of a result {age['p50_ms']:.1f} ms (p99 {age['p99_ms']:.1f})" if age else ""
        lines.append(
            f"`run` from source to sinks: {loop.frames} frames, {loop.fps:.1f} fps{aged}, {loop.dropped} dropped"
        )
    return lines


def _clock(clock: Any) -> str:
    return f"{clock.current / 1e6:.0f} MHz" + ("" if clock.fixed else f" of {clock.most / 1e6:.0f}")
