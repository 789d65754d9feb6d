"""Protobuf's text format: what is written is what Triton's own protobuf reads."""

from __future__ import annotations

import pytest
from google.protobuf import text_format
from hypothesis import given
from hypothesis import strategies as st
from tritonclient.grpc import model_config_pb2

from edge_retina.export.pbtxt import Name, to_pbtxt


def parsed(text: str):
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_nothing_is_an_empty_text() -> None:
    assert to_pbtxt({}) == ""


def test_a_message_field_by_field() -> None:
    config = parsed(
        to_pbtxt(
            {
                "name": "a",
                "max_batch_size": 4,
                "input": [{"name": "x", "data_type": Name("TYPE_UINT8"), "dims": [-1, 3], "is_shape_tensor": True}],
                "output": [{"name": "n", "dims": [1], "reshape": {"shape": []}}, {"name": "m", "dims": []}],
                "dynamic_batching": {},
                "parameters": [{"key": "k", "value": {"string_value": "v"}}],
            }
        )
    )
    assert (config.name, config.max_batch_size) == ("a", 4)
    (x,) = config.input
    assert (x.name, x.data_type, list(x.dims), x.is_shape_tensor) == ("x", model_config_pb2.TYPE_UINT8, [-1, 3], True)
    assert [(o.name, list(o.dims), o.HasField("reshape")) for o in config.output] == [
        ("n", [1], True),
        ("m", [], False),
    ]
    assert config.HasField("dynamic_batching")
    assert config.parameters["k"].string_value == "v"


@given(st.text())
def test_any_text_comes_back(text: str) -> None:
    try:
        text.encode()
    except UnicodeEncodeError:
        return
    assert parsed(to_pbtxt({"name": text})).name == text


def test_no_other_values() -> None:
    with pytest.raises(TypeError, match="found float"):
        to_pbtxt({"name": [0.5]})  # type: ignore[list-item]
