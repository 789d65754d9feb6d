"""The options that say where a bundle is to run, and what opens it there."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from edge_retina.commands.build import stages
from edge_retina.commands.options import as_one, frame_size

if TYPE_CHECKING:
    from edge_retina.detector import Detector

__all__ = ["Chosen", "runtime_options", "runtime_options_without_batch"]

_OPTIONS = (
    click.option(
        "--target",
        type=click.Choice(("auto", "tensorrt", "tensorrt_rtx", "ort")),
        default="auto",
        show_default=True,
        help="Where to run; auto takes the first that works.",
    ),
    click.option("--plan", type=click.Path(path_type=Path), help="Run this plan, in place of a cached one."),
    click.option("--trust", type=click.Path(path_type=Path), help="Public key; bundle and plan must be signed by it."),
    click.option("--largest-frame", metavar="WxH", callback=frame_size, help="Largest frame on a GPU [3840x2160]."),
    click.option("--plugin/--no-plugin", default=True, help="Decode in the CUDA plugin, where it is built."),
    click.option("--allow-host-code", is_flag=True, help="Run a version-compatible plan: it holds code for the CPU."),
)
_BATCH = click.option("--batch", type=click.IntRange(1, 64), help="Most frames in one run on a GPU [one per source].")


@dataclass(frozen=True)
class Chosen:
    """The options of a runtime, as they were given."""

    target: str = "auto"
    plan: Path | None = None
    trust: Path | None = None
    batch: int | None = None
    largest_frame: tuple[int, int] | None = None
    plugin: bool = True
    allow_host_code: bool = False

    def open(
        self,
        path: Path,
        *,
        threads: int | None,
        parallel: int,
        sources: int = 1,
        on_progress: Callable[[], None] = lambda: None,
    ) -> Detector:
        """The bundle's detector; what it waits for and which runtime was taken are told on stderr.

        sources: cameras whose frames may run together. on_progress: called with each step of a compilation.
        Raises BundleError, UsageError, RuntimeFailure, MissingPackage.
        """
        from edge_retina.detector import Detector
        from edge_retina.runtime import Gpu

        def also(told: Callable[..., None]) -> Callable[..., None]:
            def both(*facts: Any) -> None:
                told(*facts)
                on_progress()

            return both

        with stages(path.name) as (on_stage, on_step, on_note):
            gpu = Gpu(
                batch=self.batch or min(sources, 64),
                largest=self.largest_frame,
                plan=self.plan,
                trusted=self.trust,
                allow_host_code=self.allow_host_code,
                plugin=self.plugin,
                on_stage=also(on_stage),
                on_step=also(on_step),
                on_note=also(on_note),
            )
            return Detector.load(path, target=self.target, threads=threads, parallel=parallel, gpu=gpu)


def runtime_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """Add the options of a runtime; the command gets them as one argument, `chosen`."""
    return as_one(command, "chosen", Chosen, (*_OPTIONS, _BATCH))


def runtime_options_without_batch(command: Callable[..., Any]) -> Callable[..., Any]:
    """The same without --batch, for a command that has one of its own."""
    return as_one(command, "chosen", Chosen, _OPTIONS)
