from __future__ import annotations

import json

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.comparison import compare, deviation, interface_differences, tolerance
from onnxprune.errors import UsageError

F = TensorProto.FLOAT


def model(
    nodes: list[NodeProto], outputs: dict[str, list[int | str]], **weights: np.ndarray
) -> ModelProto:
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", F, ["n", 4])],
        [helper.make_tensor_value_info(name, F, dims) for name, dims in outputs.items()],
        [numpy_helper.from_array(w.astype(np.float32), name) for name, w in weights.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=10)


def linear(shift: float = 0.0, dims: tuple[int | str, ...] = ("n", 3)) -> ModelProto:
    w = np.random.default_rng(0).standard_normal((4, 3))
    w[0, 0] += shift
    return model([helper.make_node("MatMul", ["x", "w"], ["y"])], {"y": list(dims)}, w=w)


def test_a_model_equals_itself() -> None:
    result = compare(linear(), linear())
    assert result.ok
    assert result.proves
    assert result.outputs[0].max_abs == 0
    assert result.runs == 3  # two at the first size, one at another
    assert {s["x"][0] for s in result.shapes} == {1, 3}


def test_a_disturbed_weight_is_seen_and_measured_relative_to_the_output() -> None:
    result = compare(linear(), linear(0.01))
    assert not result.ok
    (y,) = result.outputs
    assert 1e-4 < y.max_rel < 0.1
    assert compare(linear(), linear(0.01), rtol=0.1).ok
    assert compare(linear(), linear(0.01), rtol=0, atol=1.0).ok


@pytest.mark.parametrize(
    ("other", "words"),
    [
        (linear(dims=(1, 3)), ["output 'y'", "float[?, 3]", "float[1, 3]"]),
        (
            model([helper.make_node("Relu", ["x"], ["z"])], {"z": ["n", 4]}),
            ["output 'y' is missing", "output 'z' is in the second"],
        ),
    ],
)
def test_an_interface_that_differs_is_told_and_not_run(other: ModelProto, words: list[str]) -> None:
    result = compare(linear(), other)
    assert not result.ok
    assert result.outputs == []
    assert all(word in " ".join(result.interface) for word in words)


def test_a_symbol_may_have_another_name_but_not_become_a_size() -> None:
    a, b = linear(), linear()
    b.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "batch"
    assert interface_differences(a, b) == []
    b.graph.input[0].type.tensor_type.shape.dim[0].dim_value = 1
    assert len(interface_differences(a, b)) == 1


def test_an_output_that_does_not_vary_is_flagged() -> None:
    nodes = [
        helper.make_node("Mul", ["x", "zero"], ["y"]),
        helper.make_node("Identity", ["x"], ["z"]),
    ]
    m = model(nodes, {"y": ["n", 4], "z": ["n", 4]}, zero=np.zeros(4))
    result = compare(m, m)
    assert [o.varies for o in result.outputs] == [False, True]
    assert result.proves
    constant = model(nodes[:1], {"y": ["n", 4]}, zero=np.zeros(4))
    assert not compare(constant, constant).proves


def test_a_random_output_is_flagged_and_not_counted() -> None:
    nodes = [
        helper.make_node("RandomNormalLike", ["x"], ["y"]),
        helper.make_node("Identity", ["x"], ["z"]),
    ]
    result = compare(*[model(nodes, {"y": ["n", 4], "z": ["n", 4]})] * 2)
    assert [o.random for o in result.outputs] == [True, False]
    assert result.ok
    alone = compare(*[model(nodes[:1], {"y": ["n", 4]})] * 2)
    assert not alone.ok
    assert not alone.proves


def test_nan_and_inf_have_to_stand_at_the_same_places() -> None:
    a = np.array([1.0, np.nan, np.inf])
    same = deviation("y", [(a, a.copy())], rtol=0)
    assert same.passes
    assert same.max_abs == 0
    for b in ([1.0, np.nan, -np.inf], [1.0, 0.0, np.inf], [np.nan, np.nan, np.inf]):
        worse = deviation("y", [(a, np.array(b))], rtol=1)
        assert not worse.same_nonfinite
        assert not worse.passes


def test_a_missing_output_or_another_shape_fails() -> None:
    a = np.ones(3)
    assert not deviation("y", [(a, None)], rtol=1).passes
    assert not deviation("y", [(a, np.ones(4))], rtol=1).passes


def test_the_tolerance_follows_the_type() -> None:
    assert tolerance(np.dtype(np.float32)) == 1e-4
    assert tolerance(np.dtype(np.float16)) == 1e-2
    assert tolerance(np.dtype(np.int64)) == 0
    int8 = np.array([1, 2, 3], np.int8)
    rtol = tolerance(int8.dtype)
    assert deviation("y", [(int8, int8 + np.int8(1))], rtol=rtol).passes
    assert not deviation("y", [(int8, int8 + np.int8(2))], rtol=rtol).passes


def test_text_is_compared_as_it_is() -> None:
    a = np.array(["a", "b"], object)
    assert deviation("y", [(a, a.copy())], rtol=0).passes
    assert not deviation("y", [(a, a[::-1])], rtol=0).passes


def test_the_result_is_plain_json() -> None:
    told = json.loads(json.dumps(compare(linear(), linear()).to_dict()))
    assert told["ok"]
    assert told["outputs"][0]["name"] == "y"


def test_negative_tolerances_are_usage_errors() -> None:
    with pytest.raises(UsageError):
        compare(linear(), linear(), rtol=-1)
