"""Initial states of zero are left out, and nothing else is."""

from __future__ import annotations

import numpy as np
import onnxruntime as ort
import pytest
from onnx import ModelProto, helper, numpy_helper

import onnxprune
from onnxprune.groups import find_groups
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.tables import built_in

from .graphs import make, node, weight

HIDDEN, INPUT = 6, 5
GATES = {"LSTM": 4, "GRU": 3, "RNN": 1}


def stacked(
    kind: str, fill: float = 0.0, *, read: bool = False, dynamic: bool = True
) -> ModelProto:
    """x [T, n, 5] -> two layers, whose initial states are slices of one tensor -> y [T, n, 3].

    The states are filled with a number for n samples, or are one constant for two samples.
    """
    gates = GATES[kind]
    value = numpy_helper.from_array(np.array([fill], np.float32))
    nodes = [
        node("Shape", ["x"], ["shape"]),
        node("Gather", ["shape", "one"], ["n"], axis=0),
        node("Concat", ["two", "n", "hidden"], ["sizes"], axis=0),
        node("ConstantOfShape", ["sizes"], ["states"], value=value),
    ]
    weights = {name: np.array([i]) for i, name in enumerate(("zero", "one", "two"))}
    if dynamic:
        weights["hidden"] = np.array([HIDDEN])
    else:
        nodes = []
        weights["states"] = np.full((2, 2, HIDDEN), fill, np.float32)
    x, size = "x", INPUT
    for i, (start, end) in enumerate((("zero", "one"), ("one", "two"))):
        nodes.append(node("Slice", ["states", start, end, "zero"], [f"state{i}"]))
        operands = [x, f"w{i}", f"r{i}", f"b{i}", "", f"state{i}"]
        if kind == "LSTM":
            operands.append(f"state{i}")
        weights[f"w{i}"] = weight(f"w{i}", 1, gates * HIDDEN, size)
        weights[f"r{i}"] = weight(f"r{i}", 1, gates * HIDDEN, HIDDEN)
        weights[f"b{i}"] = weight(f"b{i}", 1, 2 * gates * HIDDEN)
        nodes.append(node(kind, operands, [f"y{i}"], hidden_size=HIDDEN))
        nodes.append(node("Squeeze", [f"y{i}", "one"], [f"s{i}"]))
        x, size = f"s{i}", HIDDEN
    weights["out"] = weight("out", HIDDEN, 3)
    nodes.append(node("MatMul", ["s1", "out"], ["y"]))
    outputs = {"y": ["T", "n", 3]}
    if read:
        nodes.append(node("Identity", ["states"], ["seen"]))
        outputs["seen"] = [None, None, None]
    return make(nodes, {"x": ["T", "n", INPUT]}, outputs, weights)


def groups_of(model: ModelProto) -> int:
    return len(find_groups(infer(load(model), built_in())))


def outputs_of(model: ModelProto) -> list[np.ndarray]:
    live = ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"])
    return live.run(None, {"x": weight("x", 4, 2, INPUT)})


@pytest.mark.parametrize("kind", GATES)
@pytest.mark.parametrize("dynamic", [True, False])
def test_layers_with_one_tensor_of_zeros_are_pruned_apart(kind: str, dynamic: bool) -> None:
    model = stacked(kind, dynamic=dynamic)
    loaded = load(model).proto
    assert {n.op_type for n in loaded.graph.node} == {kind, "Squeeze", "MatMul"}
    assert not {"states", "hidden", "two"} & {t.name for t in loaded.graph.initializer}
    assert groups_of(model) == 2
    for before, after in zip(outputs_of(model), outputs_of(loaded), strict=True):
        np.testing.assert_array_equal(before, after)
    result = onnxprune.prune(model, ratio=0.5, round_to=1, benchmark=False)
    sizes = {t.name: list(t.dims) for t in result.model.graph.initializer}
    assert sizes["r0"][2] == sizes["r1"][2] == HIDDEN // 2


@pytest.mark.parametrize("kind", GATES)
def test_states_that_are_not_zero_stay(kind: str) -> None:
    model = stacked(kind, fill=0.5)
    loaded = load(model).proto
    cells = [n for n in loaded.graph.node if n.op_type == kind]
    assert all(len(n.input) > 5 and n.input[5] for n in cells)
    assert groups_of(model) == 1
    constant = stacked(kind, fill=0.5, dynamic=False)
    assert len(load(constant).proto.graph.node) == len(constant.graph.node)


def test_what_else_reads_the_zeros_keeps_them() -> None:
    model = stacked("LSTM", read=True)
    loaded = load(model).proto
    kinds = [n.op_type for n in loaded.graph.node]
    assert "ConstantOfShape" in kinds and "Slice" not in kinds
    assert all(len(n.input) < 6 for n in loaded.graph.node if n.op_type == "LSTM")
    for before, after in zip(outputs_of(model), outputs_of(loaded), strict=True):
        np.testing.assert_array_equal(before, after)


def test_outputs_without_a_name_are_not_one_tensor() -> None:
    """What made the zeros and the cell both have an output that is left out."""
    model = stacked("LSTM", dynamic=False)
    states = next(n for n in model.graph.node if n.output[0] == "state0")
    states.CopyFrom(node("Split", ["states"], ["state0", ""], axis=0))
    for cell in model.graph.node:
        if cell.op_type == "LSTM":
            cell.output.extend(["", f"{cell.output[0]}_c"])
    loaded = load(model).proto
    assert [n.op_type for n in loaded.graph.node].count("LSTM") == 2
    assert "Split" not in {n.op_type for n in loaded.graph.node}


def test_a_concatenation_is_zero_only_where_all_of_it_is() -> None:
    for fill in (0.0, 1.0):
        model = stacked("GRU", dynamic=False)
        del model.graph.initializer[[t.name for t in model.graph.initializer].index("states")]
        for name, value in (("top", 0.0), ("bottom", fill)):
            tensor = np.full((1, 2, HIDDEN), value, np.float32)
            model.graph.initializer.append(numpy_helper.from_array(tensor, name))
        model.graph.node.insert(0, node("Concat", ["top", "bottom"], ["states"], axis=0))
        kinds = [n.op_type for n in load(model).proto.graph.node]
        assert ("Concat" in kinds) == bool(fill)
        # Its first half is zero as well, but nothing says so of a slice.
        states = [len(n.input) for n in load(model).proto.graph.node if n.op_type == "GRU"]
        assert states == ([6, 6] if fill else [4, 4])


def test_an_input_that_has_zeros_by_default_is_no_constant() -> None:
    model = stacked("RNN", dynamic=False)
    model.ir_version = 8
    model.graph.input.append(helper.make_tensor_value_info("states", 1, [2, 2, HIDDEN]))
    cells = [n for n in load(model).proto.graph.node if n.op_type == "RNN"]
    assert all(len(n.input) == 6 for n in cells)
