"""ONNX's shape inference asked about sizes at which it would end the process."""

from __future__ import annotations

import numpy as np
import onnx
import pytest
from onnx import ModelProto, parser
from onnx.shape_inference import InferenceError

from onnxprune.cli import main
from onnxprune.measure import count
from onnxprune.shape_inference import infer_shapes, negative_size, windows_fit
from onnxprune.shapes import dynamic_size


def sliced(size: str = "h", pads: str = "", dilation: int = 1) -> ModelProto:
    """A convolution, a Slice of its rows, and a convolution; `[n, 3, size, size]`."""
    padded = f", pads = [{pads}]" if pads else ""
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (float[n, 3, {size}, {size}] x) => (float[n, 4, p, q] y)
        <int64[1] one = {{1}}, int64[1] last = {{-1}}, int64[1] rows = {{2}}> {{
            a = Conv <kernel_shape = [3, 3], dilations = [{dilation}, 1] {padded}> (x, w)
            b = Slice (a, one, last, rows)
            y = Conv (b, v)
        }}"""
    )
    rng = np.random.default_rng(0)
    for name, shape in {"w": (8, 3, 3, 3), "v": (4, 8, 1, 1)}.items():
        weight = rng.standard_normal(shape).astype(np.float32)
        model.graph.initializer.append(onnx.numpy_helper.from_array(weight, name))
    return model


def test_a_slice_of_a_negative_size_is_left_alone() -> None:
    model = sliced("32", dilation=255)
    assert not windows_fit(model)
    found = infer_shapes(model)
    assert negative_size(found) == "a"
    with pytest.raises(InferenceError, match="'a' has a negative size"):
        infer_shapes(model, strict=True)


@pytest.mark.parametrize(
    "model", [sliced("32"), sliced("1", "1, 1, 1, 1"), sliced("32", dilation=5)]
)
def test_windows_that_fit_change_nothing(model: ModelProto) -> None:
    assert windows_fit(model) or negative_size(infer_shapes(model)) is None
    direct = onnx.shape_inference.infer_shapes(model, data_prop=True)
    assert infer_shapes(model) == direct
    assert negative_size(direct) is None


def test_old_files_list_weights_as_inputs() -> None:
    model = sliced("32")
    model.graph.input.append(onnx.helper.make_tensor_value_info("v", 1, [4, 8, 1, 1]))
    assert windows_fit(model)


def test_an_open_size_is_one_at_which_there_is_an_output() -> None:
    assert dynamic_size(sliced(pads="1, 1, 1, 1")) == 1
    assert dynamic_size(sliced()) == 64
    assert dynamic_size(sliced(dilation=50)) == 224
    assert dynamic_size(sliced(), {"x": [1, 3, 32, 32]}) == 1  # nothing is open
    rows = 62
    assert count(sliced()).macs == rows * rows * 8 * 3 * 9 + (rows - 2) * rows * 4 * 8


def test_inspect_of_a_network_with_no_output_for_one_pixel(
    tmp_path, capsys: pytest.CaptureFixture[str]
) -> None:
    onnx.save(sliced(), path := tmp_path / "m.onnx")
    with pytest.raises(SystemExit) as ended:
        main(["inspect", str(path)])
    assert ended.value.code in (0, None)
    assert "MACs (dynamic sizes as 64)" in capsys.readouterr().out
