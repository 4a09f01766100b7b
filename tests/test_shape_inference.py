"""ONNX's shape inference asked about sizes at which it would end the process."""

from __future__ import annotations

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

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


# -- long vectors --------------------------------------------------------------------------------


def joined(length: int | str, body: str, weights: str = "") -> ModelProto:
    """A graph of a vector `s` of so many elements; its output is `y`."""
    return parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]>
        g (int64[{length}] s, float[2, 3, 4] x) => (int64[n] y)
        <int64[1] one = {{1}}, int64[1] huge = {{281474976710656}}, int64[2] two = {{2, 3}}
        {weights}> {{ {body} }}"""
    )


@pytest.mark.parametrize(
    "body",
    [
        "y = Concat <axis = 0> (s, two)",
        "t = Cast <to = 7> (s) y = Concat <axis = -1> (two, t, one)",
        "t = Concat <axis = 0> (s, one) u = Concat <axis = 0> (t, one) y = Mul (u, one)",
        "t = ConstantOfShape (huge) y = Concat <axis = 0> (two, t)",
        "t = Expand (one, huge) y = Concat <axis = 0> (t, t)",
        "t = Mul (huge, one) u = ConstantOfShape (t) y = Concat <axis = 0> (two, u)",
        "t = Concat <axis = 0> (huge) u = ConstantOfShape (t) y = Concat <axis = 0> (two, u)",
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_long_vectors_are_not_written_out(body: str, strict: bool) -> None:
    model = joined(2**48, body)
    with limited_memory(2**30):
        found = infer_shapes(model, strict=strict)
    assert not found.graph.output[0].type.tensor_type.shape.dim[0].dim_value


@contextmanager
def limited_memory(more: int) -> Iterator[None]:
    """At most so many bytes more of addresses than there are now."""
    soft, hard = resource.getrlimit(resource.RLIMIT_AS)
    pages = int(Path("/proc/self/statm").read_text().split()[0])
    resource.setrlimit(resource.RLIMIT_AS, (pages * resource.getpagesize() + more, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_AS, (soft, hard))


@pytest.mark.parametrize(
    ("body", "size"),
    [
        # What exporters write: a shape from parts of another, paddings filled up with zeros.
        (
            "a = Shape (x) b = Gather (a, one) c = Concat <axis = 0> (b, two)"
            " z = ConstantOfShape (c) e = Shape (z) y = Concat <axis = 0> (e, two, a)",
            8,
        ),
        (
            "t = ConstantOfShape (two) u = Shape (t) v = ConstantOfShape (one)"
            " y = Concat <axis = 0> (u, v, two)",
            5,
        ),
        ("t = Expand (one, one) y = Concat <axis = 0> (t, t)", 2),
        ("t = Reshape (x, m) u = Shape (t) y = Concat <axis = 0> (u, one)", 3),
        ("t = Concat <axis = -1> (x, x) u = Shape (t) y = Concat <axis = 0> (u, s)", 6),
        ("y = Concat <axis = 0> (s, s)", 6),
    ],
)
def test_short_vectors_are_followed_as_ever(body: str, size: int) -> None:
    model = joined(3, body, ", int64[2] m = {-1, 4}")
    found = infer_shapes(model)
    assert found == onnx.shape_inference.infer_shapes(model, data_prop=True)
    assert found.graph.output[0].type.tensor_type.shape.dim[0].dim_value == size


def test_the_rest_of_a_model_with_long_vectors_is_inferred() -> None:
    model = joined(2**24, "t = Relu (x) u = Concat <axis = 0> (s, s) y = Slice (u, one, two)")
    found = {value.name: value for value in infer_shapes(model).graph.value_info}
    assert [dim.dim_value for dim in found["t"].type.tensor_type.shape.dim] == [2, 3, 4]


def test_long_vectors_in_bodies() -> None:
    model = parser.parse_model(
        """<ir_version: 8, opset_import: ["" : 17]>
        g (int64[281474976710656] s, bool on) => (int64[n] y) {
            y = If (on) <
                then_branch = a () => (int64[n] t) { t = Concat <axis = 0> (s, s) },
                else_branch = b () => (int64[n] e) { e = Identity (s) }
            >
        }"""
    )
    with limited_memory(2**30):
        infer_shapes(model)
