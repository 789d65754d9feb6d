"""A TensorRT of Python: what fake_builder builds, fake_engine runs."""

from __future__ import annotations

from importlib.util import find_spec
from types import ModuleType

from fakes import fake_engine


def module(version: str = "10.3.0", rtx: bool = False) -> ModuleType:
    """A module like tensorrt (or tensorrt_rtx) of that version; nothing is shared between two of them."""
    trt = ModuleType("tensorrt_rtx" if rtx else "tensorrt")
    trt.__version__ = version  # type: ignore[attr-defined]
    trt.__dict__.update(fake_engine.names(version, rtx))
    if find_spec("fakes.fake_builder"):
        from fakes import fake_builder

        trt.__dict__.update(fake_builder.names(version, rtx, trt.get_plugin_registry()))
        trt.Runtime.inspector = staticmethod(
            lambda header: fake_builder.EngineInspector(version, header["layers"], trt.LayerInformationFormat)
        )
    return trt
