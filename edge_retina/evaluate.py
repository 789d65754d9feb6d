"""Average precision by the COCO protocol (extra `eval`)."""

from __future__ import annotations

import contextlib
import io
import json
from collections.abc import Sequence
from copy import deepcopy
from pathlib import Path
from typing import Any

from edge_retina.errors import InputError, MissingPackage

__all__ = ["average_precision", "read_coco"]


def read_coco(path: Path) -> dict[str, Any]:
    """COCO annotations from a JSON file. Raises InputError when it is missing or is something else."""
    try:
        data = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as exc:
        raise InputError(f"{path}: wanted COCO annotations (JSON), found: {exc}") from exc
    missing = [key for key in ("images", "annotations", "categories") if not isinstance(_get(data, key), list)]
    if missing:
        raise InputError(f"{path}: wanted COCO annotations, found no list {' or '.join(missing)} in it")
    return data  # type: ignore[no-any-return]


def _get(data: Any, key: str) -> Any:
    return data.get(key) if isinstance(data, dict) else None


def average_precision(annotations: dict[str, Any], results: Sequence[dict[str, Any]]) -> dict[str, float]:
    """AP, AP50, AP75, APs, APm, APl and AR100 of COCO result rows against COCO annotations, 0..1.

    A size class without objects gives -1, as COCO has it. Source: cocodataset.org, "Detection Evaluation".
    Raises MissingPackage without faster-coco-eval, InputError for results of an image that is not annotated.
    """
    try:
        from faster_coco_eval import COCO, COCOeval_faster
    except ImportError as exc:
        raise MissingPackage("average precision needs faster-coco-eval; run: pip install 'edge-retina[eval]'") from exc
    names = ("AP", "AP50", "AP75", "APs", "APm", "APl")
    known = {image["id"] for image in annotations["images"]}
    stranger = next((row["image_id"] for row in results if row["image_id"] not in known), None)
    if stranger is not None:
        raise InputError(f"results are of image {stranger}, which the annotations do not have; wanted their image ids")
    if not results:
        return {**dict.fromkeys(names, 0.0), "AR100": 0.0}
    # The evaluator prints its progress; stdout is ours for results.
    with contextlib.redirect_stdout(io.StringIO()):
        # The evaluator writes fields of its own into what it is given.
        truth = COCO({"info": {}, **deepcopy(annotations)})
        found = truth.loadRes([dict(row) for row in results])
        evaluation = COCOeval_faster(truth, found, "bbox", print_function=lambda *_: None)
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    stats = [float(v) for v in evaluation.stats]
    return {**dict(zip(names, stats[:6], strict=True)), "AR100": stats[8]}
