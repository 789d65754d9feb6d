"""From files to bundles: a bundle as it is, an ONNX built at the precisions asked for."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from edge_retina.build import build
from edge_retina.bundle import PRECISIONS, read_bundle
from edge_retina.errors import UsageError

__all__ = ["Model", "find_models", "is_bundle"]

_ZIP = b"PK\3\4"


@dataclass(frozen=True)
class Model:
    """A bundle to time. name: shown, the file's, with the precision where it was built for this."""

    name: str
    bundle: Path
    precision: str


def is_bundle(path: Path) -> bool:
    """Whether a file is a bundle, by its first bytes; a file that is missing counts by its name."""
    try:
        with path.open("rb") as file:
            return file.read(len(_ZIP)) == _ZIP
    except OSError:
        return path.suffix != ".onnx"


def find_models(
    paths: Sequence[Path],
    precisions: Sequence[str],
    folder: Path,
    *,
    calib: str | None = None,
    on_stage: Callable[[str], None] = lambda _: None,
    on_step: Callable[[int, int], None] = lambda *_: None,
    on_note: Callable[[str], None] = lambda _: None,
) -> list[Model]:
    """Bundles of all paths; those built of an ONNX lie in `folder`, one for each precision (fp32 where none is given).

    Of a bundle the precisions are those it may have. calib: pictures for int8. Raises UsageError for an unknown
    precision, int8 without pictures, and a bundle of another precision; what build and read_bundle raise.
    """
    if unknown := [name for name in precisions if name not in PRECISIONS]:
        raise UsageError(f"--precision wants some of {', '.join(PRECISIONS)}, found {', '.join(map(repr, unknown))}")
    wanted = list(dict.fromkeys(precisions))
    onnx = [path for path in paths if not is_bundle(path)]
    if onnx and "int8" in wanted and calib is None:
        raise UsageError(
            f"{onnx[0]}: INT8 wants calibration pictures: --calib FOLDER; or build it once and give the bundle: "
            f"edge-retina build {onnx[0]} --int8 --calib FOLDER"
        )
    if calib is not None and not (onnx and "int8" in wanted):
        raise UsageError("--calib are the pictures an ONNX is quantized on: give an ONNX and --precision int8 with it")
    found = []
    for number, path in enumerate(paths):
        if path not in onnx:
            found.append(_as_it_is(path, wanted))
            continue
        for precision in wanted or ["fp32"]:
            target = folder / f"{number}-{precision}.edge"
            build(
                path,
                target,
                precision=precision,
                calib=calib if precision == "int8" else None,
                on_stage=on_stage,
                on_step=on_step,
                on_note=on_note,
            )
            found.append(Model(f"{path.name} {precision}", target, precision))
    return found


def _as_it_is(path: Path, wanted: Sequence[str]) -> Model:
    precision = read_bundle(path, verify=False).manifest.precision
    if wanted and precision not in wanted:
        raise UsageError(
            f"{path}: is {precision} and stays so, found --precision {','.join(wanted)}; leave it out, or give the "
            "ONNX that the bundle was built of"
        )
    return Model(path.name, path, precision)
