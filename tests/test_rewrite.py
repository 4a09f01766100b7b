"""What a rewritten model looks like: what was replaced is gone, and no name is given twice."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxprune
from onnxprune import Result
from onnxprune.axes import Choice, leaves
from onnxprune.external import is_cut, is_external
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.rewrite import rewrite
from onnxprune.tables import built_in
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
    return _listed(model) if ir < 4 else model


def _listed(model: ModelProto) -> ModelProto:
    """With every initializer as an input as well, as it has to be before IR 4."""
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


@pytest.mark.parametrize("ir", [3, 10])
def test_a_size_that_reaches_data_is_what_it_was(ir: int) -> None:
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
    model = make(nodes, {"x": [2, 6]}, {"y": [2, 4]}, weights, ir=ir, opset=8)
    result = _pruned(_listed(model) if ir < 4 else model)
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


@pytest.mark.parametrize("opset", [8, 17])
@pytest.mark.parametrize("row", [[1, -1], [-1, 1]])
def test_a_size_at_run_time_that_reaches_data_is_what_it_was(row: list[int], opset: int) -> None:
    """[1, N * 12] or [N * 12, 1], of which the size that is not 1 is read; the 12 becomes 9."""
    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("Reshape", ["h", "row"], ["r"]),
        node("Shape", ["r"], ["shape"]),
        node("Gather", ["shape", "at"], ["total"]),
        node("Cast", ["total"], ["scale"], to=onnx.TensorProto.FLOAT),
        node("MatMul", ["h", "w2"], ["m"]),
        node("Div", ["m", "scale"], ["y"]),
    ]
    weights = {
        **{"w1": weight("w1", 6, 12), "w2": weight("w2", 12, 4)},
        **{"row": np.array(row), "at": np.array([row.index(-1)])},
    }
    result = _pruned(make(nodes, {"x": ["N", 6]}, {"y": ["N", 4]}, weights, opset=opset))
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


def _branched() -> ModelProto:
    """x [2, 6] -> MatMul w1 [6, 64], Relu, Add b [64] -> MatMul `one` or `other` [64, 8] -> y."""

    def branch(name: str) -> onnx.GraphProto:
        product = node("MatMul", ["h", name], [f"{name} y"])
        output = helper.make_tensor_value_info(f"{name} y", TensorProto.FLOAT, [2, 8])
        rows = numpy_helper.from_array(weight(name, 64, 8), name)
        return helper.make_graph([product], name, [], [output], [rows])

    nodes = [
        node("MatMul", ["x", "w1"], ["a"]),
        node("Relu", ["a"], ["r"]),
        node("Add", ["r", "b"], ["h"]),
        node("If", ["which"], ["y"], then_branch=branch("one"), else_branch=branch("other")),
    ]
    weights = {"w1": weight("w1", 6, 64), "b": weight("b", 64)}
    model = make(nodes, {"x": [2, 6]}, {"y": [2, 8]}, weights)
    model.graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    return model


def _outside(model: ModelProto, path: Path) -> None:
    """Save it with all of its weights in another file."""
    copy = ModelProto()
    copy.CopyFrom(model)
    onnx.save(copy, path, save_as_external_data=True, location="m.data", size_threshold=0)


def test_a_weight_of_a_branch_that_is_kept_in_another_file_is_cut(tmp_path: Path) -> None:
    model = _branched()
    _outside(model, tmp_path / "m.onnx")
    result = onnxprune.prune(tmp_path / "m.onnx", ratio=0.25, round_to=1, benchmark=False)
    bodies = [attribute.g for attribute in result.model.graph.node[-1].attribute]
    assert [list(body.initializer[0].dims) for body in bodies] == [[48, 8], [48, 8]]
    reference = masked(model, {name: result.plan.kept[name] for name in ("w1", "b")})
    for which in (True, False):
        feeds = {"x": weight("x", 2, 6), "which": np.array(which)}
        assert_same(reference, result.model, feeds)


def test_large_weights_in_another_file_are_cut_when_they_are_read(tmp_path: Path) -> None:
    """Those of the graph itself, that is, whose values are their own."""
    _outside(_branched(), tmp_path / "m.onnx")
    network = infer(load(tmp_path / "m.onnx"), built_in())
    (dim,) = leaves((network.axes_of("w1") or [])[1])
    half: Choice = {dim: np.arange(0, 64, 2)}
    kept = rewrite(network, half).graph
    assert [(t.name, [*t.dims], is_cut(t)) for t in kept.initializer] == [
        ("w1", [6, 32], True),
        ("b", [32], False),
    ]
    assert not any(is_external(each.g.initializer[0]) for each in kept.node[-1].attribute)
    assert is_cut(rewrite(network, {}, half, maskable={"w1"}).graph.initializer[0])
    other = weight("other values", 6, 64)
    (w1, _) = rewrite(network, {}, values={"w1": other}).graph.initializer
    assert (numpy_helper.to_array(w1) == other).all()


@pytest.mark.parametrize("opset", [12, 13, 17])
def test_a_squeeze_gets_the_axes_that_it_left_out(opset: int) -> None:
    """As an attribute before opset 13."""
    nodes = [
        node("Conv", ["x", "w1"], ["c"]),
        node("Squeeze", ["c"], ["s"]),
        node("MatMul", ["s", "w2"], ["y"]),
    ]
    weights = {"w1": weight("w1", 8, 6, 1), "w2": weight("w2", 8, 4)}
    model = make(nodes, {"x": [2, 6, 1]}, {"y": [2, 4]}, weights, opset=opset)
    result = _pruned(model, x=weight("x", 2, 6, 1))
    squeeze = result.model.graph.node[1]
    found = {each.name: helper.get_attribute_value(each) for each in squeeze.attribute}
    for name in squeeze.input[1:]:
        found[name] = constants(result.model)[name].tolist()
    assert found == ({"axes": [2]} if opset < 13 else {"s_axes": [2]})


@pytest.mark.parametrize(("opset", "slot"), [(11, "split"), (13, "a_sizes")])
def test_runs_that_were_even_and_are_not_any_more(opset: int, slot: str) -> None:
    """Of an even Split: one run is an output."""
    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("Split", ["h"], ["a", "b"], axis=1),
        node("MatMul", ["b", "w2"], ["y"]),
        node("Relu", ["a"], ["z"]),
    ]
    weights = {"w1": weight("w1", 6, 16), "w2": weight("w2", 8, 4)}
    model = make(nodes, {"x": [2, 6]}, {"y": [2, 4], "z": [2, 8]}, weights, opset=opset)
    result = _pruned(model)
    split = result.model.graph.node[1]
    found = {each.name: helper.get_attribute_value(each) for each in split.attribute}
    for name in split.input[1:]:
        found[name] = constants(result.model)[name].tolist()
    assert found == {"axis": 1, slot: [8, 6]}


def test_a_split_of_one_run() -> None:
    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("Split", ["h"], ["a"], axis=1, num_outputs=1),
        node("MatMul", ["a", "w2"], ["y"]),
    ]
    weights = {"w1": weight("w1", 6, 12), "w2": weight("w2", 12, 4)}
    result = _pruned(make(nodes, {"x": [2, 6]}, {"y": [2, 4]}, weights, opset=18))
    assert constants(result.model)["a_sizes"].tolist() == [9]


@pytest.mark.parametrize("table", ["a table", "z table"])
def test_a_shape_that_is_read_as_indices_is_what_it_was(table: str) -> None:
    """By a Gather from an input, whose name may come before that of the shape or after."""
    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("Shape", ["h"], ["shape"]),
        node("Gather", [table, "shape"], ["picked"]),
        node("MatMul", ["h", "w2"], ["m"]),
        node("Mul", ["m", "picked"], ["y"]),
    ]
    weights = {"w1": weight("w1", 6, 12), "w2": weight("w2", 12, 2)}
    model = make(nodes, {"x": [2, 6], table: [13]}, {"y": [2, 2]}, weights)
    result = _pruned(model, **{table: weight("table", 13)})
    assert constants(result.model)["w1"].shape == (6, 9)


def test_a_constant_keeps_what_is_said_of_it() -> None:
    """The tensor's name and description; a list of numbers has none."""
    tensor = numpy_helper.from_array(weight("b1", 12), "inner")
    tensor.doc_string = "the first bias"
    nodes = [
        node("Constant", [], ["b1"], value=tensor),
        node("Constant", [], ["b2"], value_floats=weight("b2", 12).tolist()),
        node("MatMul", ["x", "w1"], ["h"]),
        node("Add", ["h", "b1"], ["a"]),
        node("Mul", ["a", "b2"], ["b"]),
        node("MatMul", ["b", "w2"], ["y"]),
    ]
    weights = {"w1": weight("w1", 6, 12), "w2": weight("w2", 12, 4)}
    model = make(nodes, {"x": [2, 6]}, {"y": [2, 4]}, weights)
    after = [each.attribute[0].t for each in _pruned(model).model.graph.node[:2]]
    assert [(t.name, t.doc_string, [*t.dims]) for t in after] == [
        ("inner", "the first bias", [9]),
        ("", "", [9]),
    ]


def test_what_only_a_branch_that_is_never_taken_reads_is_gone() -> None:
    """It becomes a copy of the other one, whose weights stay."""

    def branch(name: str) -> onnx.GraphProto:
        nodes = [
            node("MatMul", ["h", name], [f"{name} m"]),
            node("Relu", [f"{name} m"], [f"{name} y"]),
        ]
        output = helper.make_tensor_value_info(f"{name} y", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [output])

    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("If", ["yes"], ["r"], then_branch=branch("one"), else_branch=branch("other")),
        node("Relu", ["r"], ["y"]),
    ]
    weights = {
        **{"w1": weight("w1", 6, 12), "one": weight("one", 12, 4)},
        **{"other": weight("other", 12, 4), "yes": np.array(True)},
    }
    after = _pruned(make(nodes, {"x": [2, 6]}, {"y": [2, 4]}, weights)).model.graph
    assert {tensor.name for tensor in after.initializer} == {"w1", "one", "yes"}
    assert [len(each.g.node) for each in after.node[1].attribute] == [2, 2]


def test_what_was_replaced_in_a_branch_is_gone() -> None:
    def branch(name: str) -> onnx.GraphProto:
        nodes = [
            node("Relu", ["h"], [f"{name} r"]),
            node("Reshape", [f"{name} r", f"{name} target"], [f"{name} y"]),
        ]
        target = numpy_helper.from_array(np.array([2, 3, 4]), f"{name} target")
        output = helper.make_tensor_value_info(f"{name} y", TensorProto.FLOAT, None)
        return helper.make_graph(nodes, name, [], [output], [target])

    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("If", ["which"], ["r"], then_branch=branch("one"), else_branch=branch("other")),
        node("MatMul", ["r", "w2"], ["y"]),
    ]
    weights = {"w1": weight("w1", 6, 12), "w2": weight("w2", 4, 5)}
    model = make(nodes, {"x": [2, 6]}, {"y": [2, 3, 5]}, weights)
    model.graph.input.append(helper.make_tensor_value_info("which", TensorProto.BOOL, []))
    after = _pruned(model, which=np.array(True)).model.graph
    assert after.initializer[1].dims == [3, 5]
    for body in (each.g for each in after.node[1].attribute):
        assert [each.op_type for each in body.node] == ["Relu", "Reshape"]
        assert not body.initializer


def test_a_vector_that_a_node_holds_is_shared_again() -> None:
    """Loading gives each use its own; the one that is cut stays on its own."""
    nodes = [
        node("Constant", [], ["b"], value_floats=weight("b", 4).tolist()),
        node("MatMul", ["x", "w1"], ["h"]),
        node("MatMul", ["h", "w2"], ["m"]),
        node("Add", ["m", "b"], ["a"]),
        node("Mul", ["a", "b"], ["y"]),
    ]
    weights = {"w1": weight("w1", 6, 12), "w2": weight("w2", 12, 4)}
    after = _pruned(make(nodes, {"x": [2, 6]}, {"y": [2, 4]}, weights)).model.graph
    assert {tensor.name for tensor in after.initializer} == {"w1", "w2"}
    assert [[*each.input] for each in after.node[3:]] == [["m", "b"], ["a", "b"]]


def test_a_declared_size_that_has_a_name_keeps_it() -> None:
    model = _reshaped()
    value = helper.make_tensor_value_info("h", TensorProto.FLOAT, ["N", "C"])
    model.graph.value_info.append(value)
    (after,) = _pruned(model).model.graph.value_info
    assert after == value
