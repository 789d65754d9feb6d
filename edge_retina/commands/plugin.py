"""`edge-retina plugin`: the anchor-decode plugin for TensorRT on this machine."""

from __future__ import annotations

import json
from typing import Any

import click

from edge_retina.errors import UsageError

__all__ = ["plugin_command"]


@click.group("plugin")
def plugin_command() -> None:
    """Build the CUDA plugin that decodes boxes in TensorRT, or see whether it is there.

    Without it the same is done by TensorRT's own layers: the same boxes, later.
    """


def _places(command: Any) -> Any:
    """Options for which TensorRT and which GPU."""
    version = click.option("--tensorrt", "version", metavar="VERSION", help="Such as 10.3.0 [the one in Python].")
    gpu = click.option("--compute-capability", "gpu", metavar="X.Y", help="Such as 8.7 for Orin [of the first GPU].")
    return version(gpu(command))


@plugin_command.command("build")
@_places
@click.option("--force", is_flag=True, help="Build it anew.")
def build_command(version: str | None, gpu: str | None, force: bool) -> None:
    """Build the plugin for this machine and print where it is; it is then used by every build and run."""
    from edge_retina.plugin import build_library, check_machine
    from edge_retina.toolchain import compute_capability, installed_version

    version, gpu = version or installed_version(), gpu or compute_capability()
    check_machine(version)
    if version is None:
        raise UsageError("no TensorRT in this Python; install it, or say which one: --tensorrt 10.3.0")
    if gpu is None:
        raise UsageError("no NVIDIA driver or GPU found; say for which: --compute-capability 8.7 (Orin), 11.0 (Thor)")
    click.echo(str(build_library(version, gpu, force=force, on_note=lambda note: click.echo(note, err=True))))


@plugin_command.command("status")
@_places
@click.option("--json", "as_json", is_flag=True, help="As one JSON object.")
def status_command(version: str | None, gpu: str | None, as_json: bool) -> None:
    """Say whether the plugin is built for this TensorRT and GPU, and what a build would need."""
    facts = _facts(version, gpu)
    if as_json:
        click.echo(json.dumps(facts, indent=1))
        return
    for name in ("library", "tensorrt", "compute_capability", "nvcc", "headers"):
        click.echo(f"{name.replace('_', ' ')}: {facts[name] or 'none'}")
    for lack in facts["missing"]:
        click.echo(f"missing: {lack['what']}; install {lack['package']}")
    if facts["library"] is None and not facts["missing"]:
        click.echo("build it: edge-retina plugin build")


def _facts(version: str | None, gpu: str | None) -> dict[str, Any]:
    from edge_retina.plugin import find_library, missing
    from edge_retina.toolchain import compute_capability, find_headers, find_nvcc, installed_version

    version, gpu = version or installed_version(), gpu or compute_capability()
    library = find_library(version, gpu) if version and gpu else None
    headers, nvcc = find_headers(version), find_nvcc()
    return {
        "library": library and str(library),
        "tensorrt": version,
        "compute_capability": gpu,
        "nvcc": nvcc and str(nvcc),
        "headers": headers and f"{headers.folder} ({'.'.join(map(str, headers.version))})",
        "missing": [{"what": what, "package": package} for what, package in missing(version)],
    }
