"""Certificates can fail: what is wrong is caught, and what proves nothing is said to."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxprune
from models import FAMILIES
from onnxprune import CheckFailed, work
from onnxprune.axes import Dim
from onnxprune.certify import Certificate, permutation
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.tables import with_user_rules
from onnxprune.views import View, views
from tests.graphs import assert_same, constants, make, node, perceptron, two_convs, weight

X = {"x": weight("x", 3, 6)}


def certificate(model: Any, **options: Any) -> Certificate:
    """The certificate of a pruned model; raises CheckFailed where it is refused."""
    found = onnxprune.prune(model, benchmark=False, **options).report.certificate
    assert found is not None
    return found


def hidden(op_type: str, *more: str, **attributes: Any) -> ModelProto:
    """The perceptron, with another operator in place of its Relu."""
    model = perceptron()
    model.graph.node[2].CopyFrom(node(op_type, ["a", *more], ["r"], name="hidden", **attributes))
    return model


def table(folder: Path, text: str) -> list[str]:
    path = folder / "wrong.toml"
    path.write_text(text)
    return [str(path)]


# -- what is wrong is caught ---------------------------------------------------------------------


def test_a_right_model_passes_and_the_check_could_have_failed() -> None:
    found = certificate(two_convs())
    assert found.ok and found.proves
    assert found.permutation is not None and found.permutation < 1e-5
    assert found.masking is not None and found.masking < 1e-5
    # A wrong coupling would have shown by a thousand times the tolerance.
    assert found.control is not None and found.control > 1000 * found.tolerance
    assert (found.groups, found.exact) == (1, 1)
    assert found.to_dict()["ok"] is True


def summed(op_type: str) -> ModelProto:
    """x [N, 6] -> MatMul w1 [6, 8], Cos b1 added, an operator, the sum over channels -> y [N, 1].

    No weight multiplies the channels in the end, so it matters whether they are zero.
    """
    return make(
        [
            node("MatMul", ["x", "w1"], ["m"]),
            node("Cos", ["b1"], ["b"]),
            node("Add", ["m", "b"], ["a"]) if op_type == "Add" else node(op_type, ["m"], ["a"]),
            node("ReduceSum", ["a", "axis"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 1]},
        {"w1": weight("w1", 6, 8), "b1": weight("b1", 8), "axis": np.array([1])},
    )


@pytest.mark.parametrize("op_type", ["Sigmoid", "Exp", "Cos", "Softplus"])
def test_a_false_claim_of_zero_is_caught_by_masking(tmp_path: Path, op_type: str) -> None:
    """f(0) is not 0: a channel that is masked still adds to the sum."""
    assert certificate(summed(op_type)).exact == 0
    assert certificate(summed("Relu")).exact == 1
    rules = table(tmp_path, f'[{op_type}]\naxes = "*x -> *x"\nzero = "0"\n')
    with pytest.raises(CheckFailed, match="masking"):
        onnxprune.prune(summed(op_type), rules=rules, benchmark=False)


def test_a_forgotten_constant_is_caught_by_masking(tmp_path: Path) -> None:
    """Add is zero where both operands are; a table that forgets the second is wrong."""
    assert certificate(summed("Add")).exact == 0
    rules = table(tmp_path, '[Add]\naxes = "*x, *x -> *x"\nzero = "0"\n')
    with pytest.raises(CheckFailed, match="masking"):
        onnxprune.prune(summed("Add"), rules=rules, benchmark=False)


def test_positions_given_free_are_caught_by_permutation(tmp_path: Path) -> None:
    model = hidden("CumSum", "last")
    model.graph.initializer.append(numpy_helper.from_array(np.array(1), "last"))
    rules = table(tmp_path, '[CumSum]\naxes = "*x, . -> *x"\nzero = "0"\n')
    with pytest.raises(CheckFailed, match="permutation"):
        onnxprune.prune(model, rules=rules, benchmark=False)


def test_the_wrong_axes_coupled_are_caught_by_permutation(tmp_path: Path) -> None:
    """A square matrix, whose rows a table takes for its columns."""
    model = make(
        [
            node("Gemm", ["x", "w1"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("Gemm", ["b", "w2"], ["c"]),
            node("Relu", ["c"], ["d"]),
            node("Gemm", ["d", "w3"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 6]},
        {name: weight(name, 6, 6) for name in ("w1", "w2", "w3")},
    )
    assert certificate(model).ok
    rules = table(tmp_path, '[Gemm]\naxes = "n i, o i, o? -> n o"\nscore = [1]\nzero = "0*1 + 2"\n')
    assert not onnxprune.compare(model, onnxprune.permute(model, rules=rules)).ok
    with pytest.raises(CheckFailed):
        onnxprune.prune(model, rules=rules, benchmark=False)


def test_a_coupling_left_out_is_caught_by_permutation(tmp_path: Path) -> None:
    """Add of two layers, each of which a table lets go its own way."""
    model = make(
        [
            node("MatMul", ["x", "w1"], ["a"]),
            node("MatMul", ["x", "w2"], ["b"]),
            node("Add", ["a", "b"], ["c"]),
            node("MatMul", ["c", "w3"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {"w1": weight("w1", 6, 8), "w2": weight("w2", 6, 8), "w3": weight("w3", 8, 4)},
    )
    rules = table(tmp_path, '[Add]\naxes = "n c, n d -> n c"\nzero = "0 + 1"\n')
    with pytest.raises((CheckFailed, onnxprune.UnsupportedModel)):
        onnxprune.prune(model, rules=rules, benchmark=False)


@pytest.mark.parametrize("tensor", ["w1", "b1", "w2"])
@pytest.mark.parametrize("fault", ["other", "order", "zeros"])
def test_a_wrong_index_in_one_tensor_is_caught(
    monkeypatch: pytest.MonkeyPatch, tensor: str, fault: str
) -> None:
    """The rewritten model takes one channel that should have gone for one that should stay."""
    original = constants(two_convs())
    rewrite = work.rewrite

    def faulty(*arguments: Any, **options: Any) -> ModelProto:
        pruned = rewrite(*arguments, **options)
        axis = {"w1": 0, "b1": 0, "w2": 1}[tensor]
        for each in pruned.graph.initializer:
            if each.name == tensor:
                value = numpy_helper.to_array(each).copy()
                if fault == "order":
                    value = np.ascontiguousarray(np.flip(value, axis))
                else:
                    at = (slice(None),) * axis + (0,)
                    kept = value[at]
                    gone = next(
                        candidate
                        for i in range(8)
                        if not any(
                            np.array_equal(candidate := np.take(original[tensor], i, axis), k)
                            for k in np.moveaxis(value, axis, 0)
                        )
                    )
                    value[at] = gone if fault == "other" else 0 * kept
                each.CopyFrom(numpy_helper.from_array(value, tensor))
        return pruned

    monkeypatch.setattr(work, "rewrite", faulty)
    with pytest.raises(CheckFailed, match="masking"):
        onnxprune.prune(two_convs(), benchmark=False)


def test_a_model_that_does_not_run_any_more_is_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    rewrite = work.rewrite

    def faulty(*arguments: Any, **options: Any) -> ModelProto:
        pruned = rewrite(*arguments, **options)
        value = constants(pruned)["w2"][:, :-1]
        pruned.graph.initializer[2].CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(value), "w2")
        )
        return pruned

    monkeypatch.setattr(work, "rewrite", faulty)
    with pytest.raises(CheckFailed):
        onnxprune.prune(two_convs(), benchmark=False)


@pytest.mark.parametrize("what", ["name", "type", "shape", "missing", "extra"])
def test_a_changed_interface_is_caught(monkeypatch: pytest.MonkeyPatch, what: str) -> None:
    rewrite = work.rewrite

    def faulty(*arguments: Any, **options: Any) -> ModelProto:
        pruned = rewrite(*arguments, **options)
        output = pruned.graph.output[0]
        if what == "name":
            pruned.graph.node[2].output[0] = output.name = "z"
        elif what == "type":
            output.type.tensor_type.elem_type = TensorProto.DOUBLE
        elif what == "shape":
            output.type.tensor_type.shape.dim[0].dim_value = 1
        elif what == "missing":
            del pruned.graph.output[:]
        else:
            pruned.graph.output.append(helper.make_tensor_value_info("r", 1, None))
        return pruned

    monkeypatch.setattr(work, "rewrite", faulty)
    with pytest.raises(CheckFailed, match="interface has changed"):
        onnxprune.prune(two_convs(), benchmark=False)


def test_statistical_groups_are_proved_by_permutation() -> None:
    model = hidden("LayerNormalization", "gamma")
    model.graph.initializer.append(numpy_helper.from_array(weight("gamma", 8), "gamma"))
    found = certificate(model)
    assert found.exact == 0 and found.masking is None
    assert found.ok and found.proves


@pytest.mark.parametrize("size", [2, 3, 8, 64])
def test_permutations_move_something(size: int) -> None:
    dims = [Dim(size) for _ in range(20)]
    for seed in range(5):
        orders = permutation(dims, seed)
        assert list(orders) == dims
        for order in orders.values():
            assert sorted(order) == list(range(size))
            assert (order != np.arange(size)).any()


# -- what proves nothing is said to --------------------------------------------------------------


def weak(result: onnxprune.Result) -> bool:
    found = result.report.certificate
    assert found is not None and found.ok
    said = any("weak" in note for note in result.report.notes)
    assert said != found.proves
    return said


def test_outputs_that_never_vary_are_reported_as_weak() -> None:
    """A bias so low that no channel is ever alive: any coupling would pass."""
    model = two_convs()
    dead = np.full(8, -1e6, np.float32)
    model.graph.initializer[1].CopyFrom(numpy_helper.from_array(dead, "b1"))
    assert weak(onnxprune.prune(model, benchmark=False))
    assert not weak(onnxprune.prune(two_convs(), benchmark=False))


def test_heads_of_zeros_are_reported_as_weak() -> None:
    """As networks are at initialisation: the last layer gives zero, whatever came before."""
    model = two_convs()
    model.graph.initializer[2].CopyFrom(
        numpy_helper.from_array(np.zeros((4, 8, 3, 3), np.float32), "w2")
    )
    assert weak(onnxprune.prune(model, benchmark=False))


def test_layer_scales_of_a_millionth_are_reported_as_weak() -> None:
    model = make(
        [
            node("MatMul", ["x", "w1"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("MatMul", ["b", "w2"], ["c"]),
            node("Mul", ["c", "scale"], ["d"]),
            node("Add", ["x", "d"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 6]},
        {
            **{"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 6)},
            "scale": np.full(6, 1e-6, np.float32),
        },
    )
    assert weak(onnxprune.prune(model, benchmark=False))


@pytest.mark.parametrize("name", FAMILIES)
def test_no_family_is_weak(name: str) -> None:
    assert not weak(onnxprune.prune(FAMILIES[name](0), benchmark=False))


def test_a_certificate_that_was_not_made_proves_nothing() -> None:
    assert Certificate().ok and not Certificate().proves
    assert onnxprune.prune(two_convs(), benchmark=False, verify=False).report.certificate is None


# -- where models are compared -------------------------------------------------------------------


def ended(*tail: onnx.NodeProto, outputs: dict[str, int], **weights: np.ndarray) -> ModelProto:
    """The perceptron's result, followed by `tail`; outputs with their types."""
    model = perceptron()
    model.graph.node.extend(tail)
    del model.graph.output[:]
    for name, kind in outputs.items():
        model.graph.output.append(helper.make_tensor_value_info(name, kind, None))
    for name, value in weights.items():
        model.graph.initializer.append(numpy_helper.from_array(value, name))
    return model


def seen(model: ModelProto) -> list[View]:
    return list(views(infer(load(model), with_user_rules())))


def test_outputs_are_compared_as_they_are_where_they_can_be() -> None:
    (view,) = seen(perceptron())
    assert view.names == view.outputs == ["y"] and not view.notes
    assert view.of(model := perceptron()) is model
    assert certificate(perceptron()).compared == ["y"]


DISCONTINUOUS: dict[str, tuple[list[onnx.NodeProto], dict[str, int], dict[str, np.ndarray]]] = {
    "TopK": (
        [node("TopK", ["y", "k"], ["v", "i"])],
        {"v": TensorProto.FLOAT, "i": TensorProto.INT64},
        {"k": np.array([2])},
    ),
    "ArgMax": ([node("ArgMax", ["y"], ["i"], axis=1)], {"i": TensorProto.INT64}, {}),
    "Round": ([node("Round", ["y"], ["i"])], {"i": TensorProto.FLOAT}, {}),
    "Sign": ([node("Sign", ["y"], ["i"])], {"i": TensorProto.FLOAT}, {}),
}


@pytest.mark.parametrize("case", DISCONTINUOUS)
def test_ahead_of_a_discontinuous_operator(case: str) -> None:
    tail, outputs, weights = DISCONTINUOUS[case]
    model = ended(*tail, outputs=outputs, **weights)
    first, *others = seen(model)
    # The outputs themselves come first: where no tie flips, nothing needs to be looked into.
    assert first.names == list(outputs)
    assert others[0].names == ["y"]
    assert "discontinuous" in others[0].notes[0]
    assert certificate(model).ok


def test_a_flip_is_no_failure_but_a_wrong_cut_behind_it_is(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Steps of 1e-7: rounding flips them, so the outputs can't be compared, but what is ahead."""
    fine = np.array(1e7, np.float32)
    tail = [node("Mul", ["y", "fine"], ["large"]), node("Round", ["large"], ["i"])]
    tail += [node("Sin", ["i"], ["s"])]
    model = ended(*tail, outputs={"s": TensorProto.FLOAT}, fine=fine)
    found = certificate(model)
    assert found.ok and found.compared != ["s"]
    rewrite = work.rewrite

    def faulty(*arguments: Any, **options: Any) -> ModelProto:
        pruned = rewrite(*arguments, **options)
        value = constants(pruned)["w1"][:, ::-1]
        pruned.graph.initializer[0].CopyFrom(
            numpy_helper.from_array(np.ascontiguousarray(value), "w1")
        )
        return pruned

    monkeypatch.setattr(work, "rewrite", faulty)
    with pytest.raises(CheckFailed):
        onnxprune.prune(model, benchmark=False)


def test_ahead_of_random_numbers() -> None:
    model = ended(
        node("RandomNormalLike", ["y"], ["noise"]),
        node("Add", ["y", "noise"], ["z"]),
        outputs={"z": TensorProto.FLOAT},
    )
    (view,) = seen(model)
    assert view.names == ["y"] and "random" in view.notes[0]
    found = certificate(model)
    assert found.ok and found.proves and found.compared == ["y"]


def test_an_output_beside_random_ones_is_still_compared() -> None:
    model = ended(
        node("RandomNormalLike", ["y"], ["noise"]),
        node("Relu", ["y"], ["clean"]),
        outputs={"clean": TensorProto.FLOAT, "noise": TensorProto.FLOAT},
    )
    (view,) = seen(model)
    assert view.names[0] == "clean" and "noise" not in view.names


@pytest.mark.parametrize("last", ["Sigmoid", "Softmax"])
def test_ahead_of_saturation(last: str) -> None:
    """Logits of thousands below zero: the outputs underflow, and say nothing of the weights."""
    model = ended(
        node("Sub", ["y", "low"], ["logits"]),
        node(last, ["logits"], ["p"]),
        node("Identity", ["p"], ["out"]),
        outputs={"out": TensorProto.FLOAT},
        low=np.array(60, np.float32),
    )
    first, *others = seen(model)
    assert first.names == ["out"]
    assert others[-1].names == ["logits"] and last in others[-1].notes[0]
    assert certificate(model).ok


def quantised() -> ModelProto:
    """Activations rounded to steps of 1/4 before each layer; weights of 8 bits."""
    rng = np.random.default_rng(0)
    model = make(
        [
            node("QuantizeLinear", ["x", "step", "zero"], ["xq"]),
            node("DequantizeLinear", ["xq", "step", "zero"], ["xd"]),
            node("DequantizeLinear", ["q1", "scale", "none"], ["w1"]),
            node("MatMul", ["xd", "w1"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("QuantizeLinear", ["b", "step", "zero"], ["bq"]),
            node("DequantizeLinear", ["bq", "step", "zero"], ["bd"]),
            node("MatMul", ["bd", "w2"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {
            "q1": rng.integers(-100, 100, (6, 8)).astype(np.int8),
            "w2": weight("w2", 8, 4),
            "scale": np.float32(0.013),
            "none": np.int8(0),
            "step": np.float32(0.25),
            "zero": np.uint8(7),
        },
    )
    return model


def test_activations_unrounded() -> None:
    model = quantised()
    first, second = seen(model)
    assert not first.unrounded and second.unrounded and "unrounded" in second.notes[0]
    view = second.of(model)
    readers = {each.output[0]: list(each.input) for each in view.graph.node}
    # Layers read what was there before rounding; weights stay what their 8 bits say.
    assert readers["a"] == ["x", "w1"] and readers["y"] == ["b", "w2"]
    assert readers["w1"][0] == "q1"
    assert ["xd", "w1"] in [list(each.input) for each in model.graph.node]
    found = certificate(model)
    assert found.ok and found.proves


def test_a_view_does_not_change_the_model() -> None:
    for model in (quantised(), ended(*DISCONTINUOUS["TopK"][0], outputs={"i": 7}, k=np.array([2]))):
        before = model.SerializeToString()
        for view in seen(model):
            assert [value.name for value in view.of(model).graph.output] == view.names
        assert model.SerializeToString() == before


# -- inputs --------------------------------------------------------------------------------------


def test_certificates_say_what_they_ran_with() -> None:
    assert "N = 1 (also 3)" in certificate(two_convs()).inputs
    assert "N = 2" in certificate(two_convs(), input_shapes={"x": [2, 3, 8, 8]}).inputs


@pytest.mark.parametrize("seed", [0, 1, 2])
def test_any_seed_will_do(seed: int) -> None:
    found = certificate(FAMILIES["densenet"](0), seed=seed)
    assert found.ok and found.proves


def test_half_precision_has_a_tolerance_of_its_own() -> None:
    model = perceptron(dtype=TensorProto.FLOAT16)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    found = certificate(model)
    assert found.tolerance == 1e-2 and found.ok
    assert certificate(perceptron()).tolerance == 1e-4


def sequence(names: Sequence[str]) -> ModelProto:
    """A chain of square layers, called `names`."""
    nodes, x = [], "x"
    for i, name in enumerate(names):
        out = "y" if i == len(names) - 1 else f"h{i}"
        nodes.append(node("MatMul", [x, name], [out], name=name))
        x = out
    return make(
        nodes, {"x": ["N", 6]}, {"y": ["N", 6]}, {name: weight(name, 6, 6) for name in names}
    )


def test_what_is_certified_is_the_pruned_model_itself() -> None:
    result = onnxprune.prune(sequence(["a", "b", "c"]), benchmark=False)
    kept = result.plan.kept
    model = ModelProto()
    model.CopyFrom(result.reference)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor).copy()
        for axis, index in kept.get(tensor.name, {}).items():
            mask = np.zeros(value.shape[axis], bool)
            mask[index] = True
            value *= np.expand_dims(mask, 1 - axis)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    assert_same(model, result.model, X)
