"""Large weights in a file: the same model, and pieces of it that are small."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto, numpy_helper, parser

from onnxprune.external import is_external
from onnxprune.reconstruction.aside import put_aside
from onnxprune.runtime import run, session


def two_layers(width: int) -> ModelProto:
    """`[n, 300]` to `[n, 4]`, through `width` channels."""
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 300] x) => (float[n, 4] y) {
            h = MatMul (x, w)
            r = Relu (h)
            y = MatMul (r, v)
        }"""
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w": (300, width), "v": (width, 4)}.items():
        weight = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(numpy_helper.from_array(weight, name))
    return model


def test_the_large_are_in_the_file_and_the_model_is_the_same(tmp_path: Path) -> None:
    model = two_layers(1000)
    before = model.SerializeToString()
    light = put_aside(model, tmp_path)
    assert light is not None and model.SerializeToString() == before
    assert [is_external(tensor) for tensor in light.graph.initializer] == [True, False]
    assert light.ByteSize() < 20_000
    feeds = {"x": np.random.default_rng(1).standard_normal((5, 300)).astype(np.float32)}
    outputs = [
        run(session(each, optimize=True, base_dir=tmp_path), feeds)["y"] for each in (model, light)
    ]
    assert outputs[0].std() > 1
    np.testing.assert_array_equal(*outputs)
    onnx.external_data_helper.load_external_data_for_model(light, str(tmp_path))
    for whole, again in zip(model.graph.initializer, light.graph.initializer, strict=True):
        np.testing.assert_array_equal(numpy_helper.to_array(whole), numpy_helper.to_array(again))


def test_small_models_and_those_with_data_elsewhere_stay(tmp_path: Path) -> None:
    assert put_aside(two_layers(10), tmp_path) is None
    light = put_aside(two_layers(1000), tmp_path)
    assert light is not None and put_aside(light, tmp_path) is None
