from __future__ import annotations

from pathlib import Path

import pytest
from coco_sets import write_set


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> str:
    """Name of a preset that trains in no time."""
    pytest.importorskip("torch")
    from edge_retina.train.model import PRESETS, ModelConfig

    config = ModelConfig(blocks=(1, 1, 1, 1), widths=(8, 8, 16, 16), pyramid=16, subnet_convs=1)
    monkeypatch.setitem(PRESETS, "tiny", config)
    return "tiny"


@pytest.fixture(scope="session")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Annotations of 20 pictures of squares and bars, 64x64."""
    return write_set(tmp_path_factory.mktemp("squares"), 20)
