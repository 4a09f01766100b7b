"""What a rewritten model looks like: what was replaced is gone, and no name is given twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import Result
from tests.graphs import Array, assert_same, constants, make, masked, node, weight


def _reshaped(ir: int = 10, **more: Array) -> ModelProto:
    """x [2, 6] -> MatMul w1 -> [2, 12] -> Reshape to [2, 12, 1, 1] -> Conv w2, and then sums."""
    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("Reshape", ["h", "target"], ["r"]),
        node("Conv", ["r", "w2"], ["c"]),
    ]
    last = "c"
    for name in more:
        nodes.append(node("Add", [last, name], [f"{name} added"]))
        last = nodes[-1].output[0]
    nodes.append(node("Relu", [last], ["y"]))
    weights = {
        **{"w1": weight("w1", 6, 12), "w2": weight("w2", 5, 12, 1, 1)},
        **{"target": np.array([2, 12, 1, 1]), **more},
    }
    model = make(nodes, {"x": [2, 6]}, {"y": [2, 5, 1, 1]}, weights, ir=ir, opset=8)
    if ir < 4:
        for tensor in model.graph.initializer:
            model.graph.input.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    return model


def _pruned(model: ModelProto, **more: Array) -> Result:
    """Pruned, and the same as the masked original."""
    result = onnxprune.prune(model, ratio=0.25, round_to=1, benchmark=False)
    onnx.checker.check_model(result.model, full_check=True)
    feeds = {"x": weight("x", 2, 6), **more}
    assert_same(masked(result.reference, result.plan.kept), result.model, feeds)
    return result


@pytest.mark.parametrize("ir", [3, 4, 10])
def test_what_was_replaced_is_gone(ir: int) -> None:
    graph = _pruned(_reshaped(ir)).model.graph
    names = {tensor.name for tensor in graph.initializer}
    assert len(names) == 3 and "target" not in names
    assert names <= {name for each in graph.node for name in each.input}
    # Before IR 4 every initializer is an input as well, and no other but x is.
    listed = names if ir < 4 else set()
    assert {value.name for value in graph.input} == {"x"} | listed
    types = {value.name: value.type.tensor_type for value in graph.input}
    for tensor in graph.initializer:
        if ir < 4:
            shape = [dim.dim_value for dim in types[tensor.name].shape.dim]
            assert (types[tensor.name].elem_type, shape) == (tensor.data_type, [*tensor.dims])


def test_what_nothing_used_before_is_left_alone() -> None:
    model = _reshaped()
    model.graph.initializer.append(onnx.numpy_helper.from_array(np.ones(3), "idle"))
    model.graph.node.append(node("Relu", ["h"], ["idle too"]))
    result = _pruned(model)
    assert "idle" in constants(result.model)
    assert "idle too" in [each.output[0] for each in result.model.graph.node]


def test_names_that_are_taken_are_not_given_again() -> None:
    """By a constant, by what a node makes, and by an input."""
    taken = weight("b", 5, 1, 1)
    model = _reshaped(target_pruned=taken)
    graph = model.graph
    (add,) = [each for each in graph.node if each.op_type == "Add"]
    add.output[0] = graph.node[-1].input[0] = "target_pruned_2"
    kind = onnx.TensorProto.FLOAT
    graph.input.append(helper.make_tensor_value_info("target_pruned_3", kind, [5, 1, 1]))
    graph.node.append(node("Neg", ["target_pruned_3"], ["z"]))
    graph.output.append(helper.make_tensor_value_info("z", kind, [5, 1, 1]))
    result = _pruned(model, target_pruned_3=taken)
    before, after = constants(model), constants(result.model)
    assert after["target_pruned"].tolist() == taken.tolist()
    assert after.keys() - before.keys() == {"target_pruned_4"}
    assert after["target_pruned_4"].tolist() == [2, 9, 1, 1]


def test_a_size_that_reaches_data_is_what_it_was() -> None:
    """And the Shape that nothing reads any more is gone."""
    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("Shape", ["h"], ["shape"]),
        node("Gather", ["shape", "one"], ["width"]),
        node("Cast", ["width"], ["scale"], to=onnx.TensorProto.FLOAT),
        node("MatMul", ["h", "w2"], ["m"]),
        node("Div", ["m", "scale"], ["y"]),
    ]
    weights = {
        **{"w1": weight("w1", 6, 12), "w2": weight("w2", 12, 4)},
        "one": np.array([1]),
    }
    result = _pruned(make(nodes, {"x": [2, 6]}, {"y": [2, 4]}, weights))
    assert "Shape" not in {each.op_type for each in result.model.graph.node}
    assert constants(result.model)["shape_now"].tolist() == [2, 12]


def test_declared_shapes_are_those_of_what_is_left() -> None:
    model = _reshaped()
    declared = {"h": [2, 12], "nothing": [12], "c": [2, 5, 1, 1], "r": None}
    for name, shape in declared.items():
        value = helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, shape)
        model.graph.value_info.append(value)
    found = {value.name: value.type.tensor_type for value in _pruned(model).model.graph.value_info}
    shapes = {name: [dim.dim_value for dim in kind.shape.dim] for name, kind in found.items()}
    assert shapes == {"h": [2, 9], "nothing": [12], "c": [2, 5, 1, 1], "r": []}
    assert not found["r"].HasField("shape")


@pytest.mark.parametrize("at", [0, -2])
def test_a_shape_of_which_nothing_that_changed_is_read_stays(at: int) -> None:
    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("Shape", ["h"], ["shape"]),
        node("Gather", ["shape", "at"], ["batch"]),
        node("Concat", ["batch", "rest"], ["target"], axis=0),
        node("MatMul", ["h", "w2"], ["m"]),
        node("Reshape", ["m", "target"], ["y"]),
    ]
    weights = {
        **{"w1": weight("w1", 6, 12), "w2": weight("w2", 12, 4)},
        **{"at": np.array([at]), "rest": np.array([2, 2])},
    }
    model = make(nodes, {"x": ["N", 6]}, {"y": ["N", 2, 2]}, weights)
    after = _pruned(model).model.graph
    assert [each.op_type for each in after.node] == [each.op_type for each in nodes]
    assert {tensor.name for tensor in after.initializer} == weights.keys()


def test_a_size_that_is_made_of_others_and_did_not_change_stays() -> None:
    """[N * 6], of an input: what is pruned stands elsewhere."""
    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("MatMul", ["h", "w2"], ["y"]),
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Mul", ["batch", "six"], ["target"]),
        node("Reshape", ["x", "target"], ["z"]),
    ]
    weights = {
        **{"w1": weight("w1", 6, 12), "w2": weight("w2", 12, 4)},
        **{"zero": np.array([0]), "six": np.array([6])},
    }
    after = _pruned(make(nodes, {"x": ["N", 6]}, {"y": ["N", 4], "z": ["M"]}, weights)).model.graph
    assert [each.op_type for each in after.node] == [each.op_type for each in nodes]


@pytest.mark.parametrize("opset", [8, 9, 13])
@pytest.mark.parametrize("place", [0, 1])
def test_one_size_of_a_shape_that_the_run_time_computes(place: int, opset: int) -> None:
    """The target of the Reshape is [12, 1, N] or [1, 12, N]."""
    target = [[12, 1], [1, 12]][place]
    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("Transpose", ["h"], ["t"], perm=[1, 0]),
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "zero"], ["batch"]),
        node("Concat", ["known", "batch"], ["target"], axis=0),
        node("Reshape", ["t", "target"], ["r"]),
        node("Transpose", ["r"], ["back"], perm=[2, 1, 0] if place == 0 else [2, 0, 1]),
        node("MatMul", ["back", "w2"], ["y"]),
    ]
    weights = {
        **{"w1": weight("w1", 6, 12), "w2": weight("w2", 12, 4)},
        **{"known": np.array(target), "zero": np.array([0])},
    }
    model = make(nodes, {"x": ["N", 6]}, {"y": ["N", 1, 4]}, weights, opset=opset)
    result = _pruned(model)
    assert constants(result.model)["w1"].shape == (6, 9)
    assert ("Where" in {each.op_type for each in result.model.graph.node}) == (opset >= 9)
    reference = masked(result.reference, result.plan.kept)
    for batch in (1, 3):
        assert_same(reference, result.model, {"x": weight("x", batch, 6)})


def test_a_size_at_run_time_that_reaches_data_is_what_it_was() -> None:
    """[1, N * 12], of which the second size is read; the 12 becomes 9."""
    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("Reshape", ["h", "row"], ["r"]),
        node("Shape", ["r"], ["shape"]),
        node("Gather", ["shape", "one"], ["total"]),
        node("Cast", ["total"], ["scale"], to=onnx.TensorProto.FLOAT),
        node("MatMul", ["h", "w2"], ["m"]),
        node("Div", ["m", "scale"], ["y"]),
    ]
    weights = {
        **{"w1": weight("w1", 6, 12), "w2": weight("w2", 12, 4)},
        **{"row": np.array([1, -1]), "one": np.array([1])},
    }
    result = _pruned(make(nodes, {"x": ["N", 6]}, {"y": ["N", 4]}, weights))
    assert constants(result.model)["w1"].shape == (6, 9)
    reference = masked(result.reference, result.plan.kept)
    for batch in (1, 3):
        assert_same(reference, result.model, {"x": weight("x", batch, 6)})


@pytest.mark.parametrize("backwards", [False, True])
def test_of_attributes_in_any_order_the_right_one_is_written(backwards: bool) -> None:
    depthwise = node("Conv", ["a", "w2"], ["b"], group=8, kernel_shape=[3, 3], dilations=[1, 1])
    if backwards:
        attributes = list(depthwise.attribute)[::-1]
        del depthwise.attribute[:]
        depthwise.attribute.extend(attributes)
    nodes = [node("Conv", ["x", "w1"], ["a"]), depthwise, node("Conv", ["b", "w3"], ["y"])]
    weights = {
        **{"w1": weight("w1", 8, 6, 1, 1), "w2": weight("w2", 8, 1, 3, 3)},
        "w3": weight("w3", 4, 8, 1, 1),
    }
    model = make(nodes, {"x": [2, 6, 5, 5]}, {"y": [2, 4, 3, 3]}, weights)
    result = _pruned(model, x=weight("x", 2, 6, 5, 5))
    values = {each.name: helper.get_attribute_value(each) for each in depthwise.attribute}
    after = result.model.graph.node[1].attribute
    found = {each.name: helper.get_attribute_value(each) for each in after}
    assert found == {**values, "group": 6}


def test_a_weight_of_a_branch_that_is_kept_in_another_file_is_cut(tmp_path: Path) -> None:
    def branch(name: str) -> onnx.GraphProto:
        product = node("MatMul", ["h", name], [f"{name} y"])
        output = helper.make_tensor_value_info(f"{name} y", TensorProto.FLOAT, [2, 8])
        rows = numpy_helper.from_array(weight(name, 64, 8), name)
        return helper.make_graph([product], name, [], [output], [rows])

    nodes = [
        node("MatMul", ["x", "w1"], ["a"]),
        node("Relu", ["a"], ["h"]),
        node("If", ["which"], ["y"], then_branch=branch("one"), else_branch=branch("other")),
    ]
    model = make(nodes, {"x": [2, 6]}, {"y": [2, 8]}, {"w1": weight("w1", 6, 64)})
    model.graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    inside = ModelProto()
    inside.CopyFrom(model)
    onnx.save(
        model, tmp_path / "m.onnx", save_as_external_data=True, location="m.data", size_threshold=0
    )
    result = onnxprune.prune(tmp_path / "m.onnx", ratio=0.25, round_to=1, benchmark=False)
    bodies = [attribute.g for attribute in result.model.graph.node[-1].attribute]
    assert [list(body.initializer[0].dims) for body in bodies] == [[48, 8], [48, 8]]
    reference = masked(inside, {"w1": result.plan.kept["w1"]})
    for which in (True, False):
        feeds = {"x": weight("x", 2, 6), "which": np.array(which)}
        assert_same(reference, result.model, feeds)
