"""All that `edge-retina bench` finds out, in order: the timing that counts, then passes that would disturb it."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from edge_retina.bench.machine import BUSY, Machine, Memory, read_load, read_machine, read_memory
from edge_retina.bench.ratio import Ratio, speed_ratio
from edge_retina.bench.stages import Profile
from edge_retina.bench.timing import Subject, Timing, measure
from edge_retina.types import U8

__all__ = ["LAYERS", "Benchmark", "Case", "Measured", "benchmark"]

# Of the layers, how many of the slowest are shown.
LAYERS = 20
# Of fewer calls the last percentile is the slowest of them.
ENOUGH = 1000


@dataclass(frozen=True)
class Case:
    """What is to be timed. profile: makes a pass of its own; None: nothing is known of its inside.

    facts: of the model, for the record. memory_mib: what loading it and a first run added to this process.
    """

    subject: Subject
    profile: Callable[[], Profile] | None = None
    facts: Mapping[str, Any] = field(default_factory=dict)
    memory_mib: float | None = None


@dataclass(frozen=True)
class Measured:
    """One case: its timing, the profile of its inside where there is one, and how it compares with the first."""

    case: Case
    timing: Timing
    profile: Profile | None
    ratio: Ratio | None

    def to_json(self, layers: int | None = LAYERS) -> dict[str, Any]:
        """Plain values. layers: how many of the slowest, None: all."""
        ratio = self.ratio
        memory = self.case.memory_mib
        return {
            **self.timing.to_json(),
            **self.case.facts,
            "memory_mib": None if memory is None else round(memory, 1),
            "speed": None if ratio is None else {"of": round(ratio.value, 4), "low": ratio.low, "high": ratio.high},
            "profile": None if self.profile is None else self.profile.to_json(layers),
        }


@dataclass(frozen=True)
class Benchmark:
    """The whole. others: share of the processors' time that was not ours while we timed. started: when, UTC."""

    measured: tuple[Measured, ...]
    machine: Machine
    memory: Memory
    others: float
    started: str

    @property
    def warnings(self) -> list[str]:
        """Why the numbers may say more of the machine than of the model."""
        found = [
            f"{m.timing.name}: the rounds' medians vary by {m.timing.variation:.0%}: the machine does other work, or "
            "changes its clock"
            for m in self.measured
            if m.timing.noisy
        ]
        if self.others > BUSY:
            found.append(f"others took {self.others:.0%} of the processors' time: stop them and measure again")
        if self.machine.governor not in ("", "performance"):
            found.append(
                f"the processors' clock follows the load (governor {self.machine.governor}); for steady numbers: "
                "sudo cpupower frequency-set -g performance"
            )
        jetson = self.machine.jetson
        if jetson is not None and jetson.clocks and not all(clock.fixed for clock in jetson.clocks):
            found.append(f"power mode {jetson.power_mode}, clocks free to fall; for steady numbers: sudo jetson_clocks")
        return found

    def to_json(self, layers: int | None = LAYERS) -> dict[str, Any]:
        """Plain values."""
        return {
            "started": self.started,
            "configurations": [measured.to_json(layers) for measured in self.measured],
            "machine": self.machine.to_json(),
            "memory": self.memory.to_json(),
            "others": round(self.others, 4),
            "warnings": self.warnings,
        }


def benchmark(
    cases: Sequence[Case],
    images: Sequence[U8],
    *,
    frames: int = 200,
    rounds: int = 10,
    warm_up: int = 10,
    on_stage: Callable[[str], None] = lambda _: None,
    on_step: Callable[[int, int], None] = lambda *_: None,
) -> Benchmark:
    """Time the cases in alternating rounds, then profile each. frames, rounds, warm_up, images: see measure.

    Raises InputError for no images, and what the cases raise.
    """
    started = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
    machine = read_machine()
    on_stage("time")
    before = read_load()
    timings = measure(
        [case.subject for case in cases], images, frames=frames, rounds=rounds, warm_up=warm_up, on_step=on_step
    )
    others = read_load().others_since(before)
    memory = read_memory()
    on_stage("profile")
    first = timings[0]
    measured = []
    for number, (case, timing) in enumerate(zip(cases, timings, strict=True)):
        profile = None if case.profile is None else case.profile()
        ratio = None if timing is first else speed_ratio(_frame_ms(first), _frame_ms(timing))
        measured.append(Measured(case, timing, profile, ratio))
        on_step(number + 1, len(cases))
    return Benchmark(tuple(measured), machine, memory, others, started)


def _frame_ms(timing: Timing) -> list[float]:
    """Each round's median for one frame, whatever the batch."""
    return [ms / timing.batch for ms in timing.rounds_ms]
