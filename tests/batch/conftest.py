"""A tiny bundle, and pictures and videos of noise for it."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
from models import tiny_model

import edge_retina

# The extra `ray` is in `dev`; without it there is nothing to test here.
collect_ignore_glob = [] if importlib.util.find_spec("ray") else ["test_*.py"]


@pytest.fixture(scope="session")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    onnx = tmp_path_factory.mktemp("bundle") / "tiny.onnx"
    tiny_model(onnx)
    return edge_retina.build(onnx).path
