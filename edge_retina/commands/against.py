"""`edge-retina bench --against`: the same model in the runtimes that are installed, in the same rounds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from edge_retina.types import U8

if TYPE_CHECKING:
    from edge_retina.bench.benchmark import Benchmark, Case
    from edge_retina.bench.cases import Opened

__all__ = ["against", "against_rows", "peer_cases"]


def peer_cases(
    opened: Sequence[Opened],
    images: Sequence[U8],
    *,
    threads: int | None,
    checkpoint: Path | None,
    on_note: Callable[[str], None],
) -> list[Case]:
    """A case for each peer of each bundle that is measured. Raises what open_peers raises."""
    from edge_retina.bench.benchmark import Case
    from edge_retina.bench.timing import Subject
    from edge_retina.peers import open_peers
    from edge_retina.runtime import cores

    floating = [each.detector.bundle for each in opened if each.model.precision == "fp32"]
    made = []
    for each in opened:
        peers = open_peers(
            each.detector.bundle,
            images,
            threads=threads or cores(),
            checkpoint=checkpoint,
            floating=floating[0] if len(floating) == 1 else None,
            on_note=on_note,
        )
        for peer in peers:
            facts = {"precision": peer.precision, "peer_of": each.model.name}
            made.append(Case(Subject(f"{peer.name}, {peer.precision}", peer.runtime, peer.call), facts=facts))
    return made


def against(result: Benchmark) -> list[dict[str, Any]]:
    """For each peer how many times as fast as it the bundle is whose trunk it runs, both one frame at a time."""
    from edge_retina.bench.ratio import speed_ratio
    from edge_retina.bench.timing import percentiles

    ours = {m.timing.name: m.timing for m in reversed(result.measured) if "peer_of" not in m.case.facts}
    rows = []
    for measured in result.measured:
        facts, timing = measured.case.facts, measured.timing
        if (name := facts.get("peer_of")) is None:
            continue
        per_frame = [ms / ours[name].batch for ms in ours[name].rounds_ms]
        ratio = speed_ratio(timing.rounds_ms, per_frame)
        rows.append(
            {
                "peer": timing.name,
                "runtime": timing.runtime,
                "p50_ms": percentiles(timing.latency_ms)["p50_ms"],
                "bundle": name,
                "bundle_p50_ms": percentiles(ours[name].latency_ms)["p50_ms"] / ours[name].batch,
                "times_as_fast": {"value": round(ratio.value, 4), "low": ratio.low, "high": ratio.high},
                "text": ratio.text,
            }
        )
    return rows


def against_rows(found: Sequence[Mapping[str, Any]]) -> list[tuple[str, ...]]:
    """Rows of a table: peer, its version, its ms, the bundle, its ms, how many times as fast that is."""
    return [
        (r["peer"], r["runtime"], f"{r['p50_ms']:.2f}", r["bundle"], f"{r['bundle_p50_ms']:.2f}", r["text"])
        for r in found
    ]
