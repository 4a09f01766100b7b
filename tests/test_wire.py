"""The bytes of a model in pieces are the model, and are counted without being made."""

from __future__ import annotations

import onnx
import pytest

from models import FAMILIES
from onnxprune.wire import byte_size, pieces


@pytest.mark.parametrize("family", FAMILIES)
def test_pieces_are_the_model(family: str) -> None:
    model = FAMILIES[family](0)
    model.doc_string, model.graph.doc_string = "a model", "a graph"
    model.metadata_props.add(key="made by", value="hand")
    model.graph.value_info.add(name="after the initializers")
    data = b"".join(pieces(model))
    assert onnx.ModelProto.FromString(data) == model
    assert byte_size(model) == len(data) == model.ByteSize()
    onnx.checker.check_model(data)


@pytest.mark.parametrize("size", [0, 1, 127, 128, 2**14 - 1, 2**14, 2**21])
def test_lengths_of_any_width(size: int) -> None:
    model = onnx.ModelProto()
    model.graph.initializer.add(name="w", raw_data=bytes(size))
    assert onnx.ModelProto.FromString(b"".join(pieces(model))) == model
    assert byte_size(model) == model.ByteSize()


def test_an_empty_model() -> None:
    assert not onnx.ModelProto.FromString(b"".join(pieces(onnx.ModelProto()))).graph.node
