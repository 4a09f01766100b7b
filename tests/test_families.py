"""Every family of architectures, pruned end to end at ratio 0.5."""

from __future__ import annotations

import numpy as np
import onnx
import pytest

import onnxprune
from models import FAMILIES
from models.graph import Graph
from onnxprune.measure import count

#: Families in which all but the interface is free: halved widths leave about a quarter.
CONVOLUTIONAL = (
    *("resnet", "resnext", "densenet", "mobilenet", "unet", "shufflenet", "superres"),
    *("autoencoder", "dgcnn"),
)


@pytest.fixture(scope="module")
def pruned() -> dict[str, onnxprune.Result]:
    return {
        name: onnxprune.prune(build(0), ratio=0.5, round_to=1, benchmark=False)
        for name, build in FAMILIES.items()
    }


@pytest.mark.parametrize("family", FAMILIES)
def test_certified(pruned: dict[str, onnxprune.Result], family: str) -> None:
    certificate = pruned[family].report.certificate
    assert certificate is not None
    assert certificate.permutation is not None and certificate.permutation < 1e-4
    assert certificate.masking is not None and certificate.masking < 1e-4
    assert certificate.proves, "a wrong coupling would not have been seen"


@pytest.mark.parametrize("family", FAMILIES)
def test_loses_what_free_widths_allow(pruned: dict[str, onnxprune.Result], family: str) -> None:
    report = pruned[family].report
    assert report.parameters_left is not None and report.free_widths_allow is not None
    assert abs(report.parameters_left - report.free_widths_allow) < 0.03


@pytest.mark.parametrize("family", CONVOLUTIONAL)
def test_halved_widths_leave_a_quarter_of_a_cnn(
    pruned: dict[str, onnxprune.Result], family: str
) -> None:
    left = pruned[family].report.parameters_left
    assert left is not None and 0.23 < left < 0.33


@pytest.mark.parametrize("family", CONVOLUTIONAL)
def test_every_hidden_width_is_halved(pruned: dict[str, onnxprune.Result], family: str) -> None:
    """Counted from outside: no matrix keeps more than half of an axis that is not interface."""
    result = pruned[family]
    before = {t.name: t.dims for t in result.reference.graph.initializer}
    after = {t.name: t.dims for t in result.model.graph.initializer}
    whole = [
        name
        for name, dims in before.items()
        if len(dims) > 1 and dims[0] > 3 and after.get(name, [0])[0] == dims[0]
    ]
    # What keeps its first axis is the last layer, or the side of a table that an input indexes.
    assert len(whole) <= 2, whole


def test_interface_stays(pruned: dict[str, onnxprune.Result]) -> None:
    for family, result in pruned.items():
        for side in ("input", "output"):
            before = [v.SerializeToString() for v in getattr(FAMILIES[family](0).graph, side)]
            after = [v.SerializeToString() for v in getattr(result.model.graph, side)]
            assert before == after, family


def test_report_counts_the_file(pruned: dict[str, onnxprune.Result]) -> None:
    for result in pruned.values():
        assert result.report.after is not None
        assert count(result.model).parameters == result.report.after.parameters


@pytest.mark.parametrize("family", ["vit", "swin", "decoder"])
def test_transformer_widths_are_groups_of_their_own(family: str) -> None:
    """Heads, head dimension, feed-forward and hidden width: none is coupled to another."""
    found = onnxprune.inspect(FAMILIES[family](0))
    roles = {group.role for group in found.groups}
    assert {"heads", "head-dim", "ffn", "hidden"} <= roles
    for role in ("heads", "head-dim", "ffn", "hidden"):
        result = onnxprune.prune(FAMILIES[family](0), only=[role], benchmark=False)
        assert {group.role for group in result.plan.groups} == {role}
        assert result.report.certificate is not None and result.report.certificate.ok


def test_heads_are_removed_whole() -> None:
    """Only heads: each projection loses whole runs of head_dim columns, in Q, K and V alike."""
    result = onnxprune.prune(FAMILIES["vit"](0), only=["heads"], benchmark=False)
    heads, width, hidden = 4, 16, 64
    for name, axes in result.plan.kept.items():
        if name.endswith("attn.qkv.weight"):
            kept = axes[1].reshape(3, heads // 2, width)
            assert (np.diff(kept, axis=2) == 1).all(), "a head keeps all of its columns"
            assert (kept % width == np.arange(width)).all()
            assert (kept[0] + hidden == kept[1]).all() and (kept[1] + hidden == kept[2]).all()
            projection = result.plan.kept[name.replace("qkv", "proj")][0]
            assert (projection == kept[0].ravel()).all()


def test_dynamic_sequence_stays_dynamic() -> None:
    model = FAMILIES["decoder"](0, dynamic_sequence=True)  # type: ignore[call-arg]
    result = onnxprune.prune(model, benchmark=False)
    certificate = result.report.certificate
    assert certificate is not None and certificate.ok and certificate.proves
    fixed = onnxprune.prune(FAMILIES["decoder"](0), benchmark=False)
    assert result.report.parameters_left == pytest.approx(fixed.report.parameters_left, abs=0.001)


def test_grouped_convolutions_keep_their_groups() -> None:
    result = onnxprune.prune(FAMILIES["resnext"](0), benchmark=False)
    groups = {
        a.i
        for node in result.model.graph.node
        if node.op_type == "Conv"
        for a in node.attribute
        if a.name == "group" and a.i > 1
    }
    assert groups == {8}


def test_depthwise_convolutions_follow_their_channels() -> None:
    result = onnxprune.prune(FAMILIES["mobilenet"](0), benchmark=False)
    weights = {t.name: t.dims for t in result.model.graph.initializer}
    depthwise = 0
    for node in result.model.graph.node:
        group = next((a.i for a in node.attribute if a.name == "group"), 1)
        if node.op_type == "Conv" and group > 1:
            depthwise += 1
            assert group == weights[node.input[1]][0]
    assert depthwise > 2


def test_deterministic() -> None:
    first, second = (
        onnxprune.prune(FAMILIES["resnet"](0), verify=False, benchmark=False) for _ in "ab"
    )
    assert first.model.SerializeToString(deterministic=True) == second.model.SerializeToString(
        deterministic=True
    )
    assert first.plan.to_json() == second.plan.to_json()
    onnx.checker.check_model(first.model, full_check=True)


def test_a_depthwise_multiplier_halves_a_width_once() -> None:
    """A downsampling depthwise convolution that doubles channels: width = channels x 2.

    Halving the channels halves the width; halving the multiplier as well would leave a quarter.
    """
    g = Graph("multiplier", 0)
    x = g.input("x", "N", 3, 8, 8)
    x = g.node("Relu", g.conv("stem", x, 3, 16))
    x = g.conv("down", x, 16, 32, 3, stride=2, groups=16)
    x = g.node("Relu", g.conv("mix", x, 32, 24))
    g.output(g.conv("head", x, 24, 5), "y", "N", 5, 4, 4)
    result = onnxprune.prune(g.model(), benchmark=False)
    shapes = {t.name: list(t.dims) for t in result.model.graph.initializer}
    assert shapes["down.weight"] == [16, 1, 3, 3]
    assert shapes["mix.weight"][:2] == [12, 16]
    assert result.report.certificate is not None and result.report.certificate.ok


def _node(op_type: str, inputs: list[str], output: str, **attributes: object) -> onnx.NodeProto:
    return onnx.helper.make_node(op_type, inputs, [output], name=f"/{output}", **attributes)


def _small(nodes: list[onnx.NodeProto], weights: dict[str, object], x: list[int | str]) -> object:
    values = [
        onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in weights.items()
    ]
    graph = onnx.helper.make_graph(
        nodes,
        "small",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, x)],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        values,
    )
    return onnx.helper.make_model(
        graph, ir_version=10, opset_imports=[onnx.helper.make_opsetid("", 17)]
    )


def _normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(len(shape)).normal(size=shape).astype(np.float32)


def _certified(model: object) -> onnxprune.Result:
    result = onnxprune.prune(model, round_to=1, benchmark=False)  # type: ignore[arg-type]
    certificate = result.report.certificate
    assert certificate is not None and certificate.ok and certificate.proves
    return result


def test_a_slice_that_counts_from_the_end() -> None:
    """`h[:, -6:]`: when the last channels shrink, the bound has to shrink with them."""
    nodes = [
        _node("MatMul", ["x", "w1"], "h"),
        _node("Slice", ["h", "start", "end", "axis"], "s"),
        _node("MatMul", ["s", "w2"], "y"),
    ]
    weights = {
        "w1": _normal(5, 16),
        "w2": _normal(6, 3),
        "start": np.array([-6]),
        "end": np.array([2**31]),
        "axis": np.array([1]),
    }
    result = _certified(_small(nodes, weights, ["N", 5]))
    shapes = {t.name: list(t.dims) for t in result.model.graph.initializer}
    assert shapes["w1"] == [5, 8] and shapes["w2"] == [3, 3]


def test_every_second_channel() -> None:
    """`h[..., ::2]`, as interleaved rotary embeddings are read: pairs go together."""
    nodes = [
        _node("MatMul", ["x", "w1"], "h"),
        _node("Slice", ["h", "zero", "end", "axis", "two"], "even"),
        _node("Slice", ["h", "one", "end", "axis", "two"], "odd"),
        _node("Mul", ["even", "odd"], "m"),
        _node("MatMul", ["m", "w2"], "y"),
    ]
    weights = {
        "w1": _normal(5, 16),
        "w2": _normal(8, 3),
        **{name: np.array([v]) for name, v in (("zero", 0), ("one", 1), ("two", 2))},
        "end": np.array([16]),
        "axis": np.array([-1]),
    }
    result = _certified(_small(nodes, weights, ["N", 5]))
    kept = result.plan.kept["w1"][1].reshape(-1, 2)
    assert len(kept) == 4 and (kept[:, 0] % 2 == 0).all() and (kept[:, 1] == kept[:, 0] + 1).all()


def test_a_channel_picked_by_index_stays() -> None:
    """`h[:, 11]` besides a use of all channels: that one is kept, and found where it went."""
    nodes = [
        _node("MatMul", ["x", "w1"], "h"),
        _node("Gather", ["h", "index"], "picked", axis=1),
        _node("MatMul", ["h", "w2"], "m"),
        _node("Add", ["m", "picked"], "y"),
    ]
    weights = {"w1": _normal(5, 16), "w2": _normal(16, 3), "index": np.array([11])}
    result = _certified(_small(nodes, weights, ["N", 5]))
    assert 11 in result.plan.kept["w1"][1]


def test_a_size_of_a_merged_axis_that_is_divided_again() -> None:
    """Batch x heads, whose size the graph reads and divides by a hard-coded number of heads."""
    nodes = [
        _node("MatMul", ["x", "w1"], "h"),
        _node("Reshape", ["h", "split"], "r"),
        _node("Transpose", ["r"], "t", perm=[0, 2, 1, 3]),
        _node("Reshape", ["t", "merge"], "m"),
        _node("Softmax", ["m"], "p", axis=1),
        _node("Shape", ["p"], "shape"),
        _node("Gather", ["shape", "zero"], "count", axis=0),
        _node("Div", ["count", "heads"], "batch"),
        _node("Concat", ["batch", "heads", "rest"], "back", axis=0),
        _node("Reshape", ["p", "back"], "b"),
        _node("Transpose", ["b"], "c", perm=[0, 2, 1, 3]),
        _node("Reshape", ["c", "flat"], "f"),
        _node("MatMul", ["f", "w2"], "y"),
    ]
    weights = {
        "w1": _normal(5, 24),
        "w2": _normal(24, 3),
        "split": np.array([0, 0, 8, 3]),
        "merge": np.array([-1, 7, 3]),
        "zero": np.array([0]),
        "heads": np.array([8]),
        "rest": np.array([7, 3]),
        "flat": np.array([0, 0, -1]),
    }
    result = _certified(_small(nodes, weights, ["N", 7, 5]))
    shapes = {t.name: list(t.dims) for t in result.model.graph.initializer}
    assert shapes["w1"] == [5, 12] and shapes["w2"] == [12, 3]


def test_group_normalisation_as_exported_halves_a_width_once() -> None:
    """Reshape to groups, InstanceNormalization, Reshape: width = groups x channels in each."""
    nodes = [
        _node("Conv", ["x", "w1"], "h"),
        _node("Reshape", ["h", "groups"], "g"),
        _node("InstanceNormalization", ["g", "one", "none"], "n"),
        _node("Reshape", ["n", "back"], "b"),
        _node("Mul", ["b", "gamma"], "m"),
        _node("Conv", ["m", "w2"], "y"),
    ]
    weights = {
        "w1": _normal(16, 3, 1, 1),
        "w2": _normal(5, 16, 1, 1),
        "gamma": _normal(16, 1, 1),
        "one": np.ones(4, dtype=np.float32),
        "none": np.zeros(4, dtype=np.float32),
        "groups": np.array([0, 4, -1]),
        "back": np.array([0, 16, 6, 6]),
    }
    result = _certified(_small(nodes, weights, ["N", 3, 6, 6]))
    shapes = {t.name: list(t.dims) for t in result.model.graph.initializer}
    assert shapes["w1"][0] == 8 and shapes["w2"][1] == 8


def test_squeeze_without_axes_gets_them() -> None:
    """An axis that shrinks to 1 must not be squeezed away with those that were 1 before."""
    nodes = [
        _node("MatMul", ["x", "w1"], "h"),
        _node("Unsqueeze", ["h", "axis"], "u"),
        _node("Squeeze", ["u"], "s"),
        _node("MatMul", ["s", "w2"], "y"),
    ]
    weights = {"w1": _normal(5, 2), "w2": _normal(2, 3), "axis": np.array([1])}
    result = _certified(_small(nodes, weights, [4, 5]))
    squeeze = next(node for node in result.model.graph.node if node.op_type == "Squeeze")
    assert len(squeeze.input) == 2


def test_a_tied_matrix_is_no_weak_certificate() -> None:
    """Embedding and head in one tensor: no permutation uncouples its uses, but it matters."""
    ids = onnx.helper.make_tensor_value_info("ids", onnx.TensorProto.INT64, ["N", 4])
    nodes = [
        _node("Gather", ["table", "ids"], "h"),
        _node("Transpose", ["table"], "t"),
        _node("MatMul", ["h", "t"], "y"),
    ]
    model = _small(nodes, {"table": _normal(10, 16)}, ["N", 4])
    del model.graph.input[:]  # type: ignore[attr-defined]
    model.graph.input.append(ids)  # type: ignore[attr-defined]
    assert _certified(model).plan.kept["table"][1].size == 8


def test_shape_arithmetic_on_a_weight_is_no_importance() -> None:
    """The size of a weight is computed with: that does not make the numbers in it channels."""
    nodes = [
        _node("Shape", ["pads"], "count"),
        _node("ConstantOfShape", ["count"], "zeros"),
        _node("Cast", ["zeros"], "more", to=onnx.TensorProto.INT64),
        _node("Concat", ["pads", "more"], "all", axis=0),
        _node("Reshape", ["all", "flat"], "given"),
        _node("MatMul", ["x", "w1"], "h"),
        _node("Pad", ["h", "given"], "p"),
        _node("MatMul", ["p", "w2"], "y"),
    ]
    weights = {
        "pads": np.array([0, 0]),
        "flat": np.array([-1]),
        "w1": _normal(5, 16),
        "w2": _normal(16, 3),
    }
    result = _certified(_small(nodes, weights, ["N", 5]))
    assert set(result.plan.kept) == {"w1", "w2"}


def test_features_of_a_gram_matrix_are_channels() -> None:
    """A kNN graph computes x x^T of its features: that makes them no attention heads."""
    roles = {group.role for group in onnxprune.inspect(FAMILIES["dgcnn"](0)).groups}
    assert roles == {"channels"}


def test_standardised_weights_are_scored() -> None:
    """A weight from which its mean is taken inside the graph still carries importance."""
    nodes = [
        _node("ReduceMean", ["w1"], "mean", axes=[0]),
        _node("Sub", ["w1", "mean"], "standard"),
        _node("MatMul", ["x", "standard"], "h"),
        _node("MatMul", ["h", "w2"], "y"),
    ]
    result = _certified(_small(nodes, {"w1": _normal(5, 16), "w2": _normal(16, 3)}, ["N", 5]))
    assert {m for group in result.plan.groups for m in map(tuple, group.members)} == {
        ("w1", 1),
        ("w2", 0),
    }


def test_a_reshape_that_drops_sizes_of_one_at_run_time() -> None:
    """[N, s, s, c] read as [N, 1, c], where the run time's s is 1: the channels go on."""
    nodes = [
        _node("MatMul", ["x", "w1"], "h"),
        _node("Shape", ["h"], "shape"),
        _node("Gather", ["shape", "first"], "n", axis=0),
        _node("Concat", ["n", "rest"], "target", axis=0),
        _node("Reshape", ["h", "target"], "r"),
        _node("MatMul", ["r", "w2"], "y"),
    ]
    weights = {
        "w1": _normal(5, 16),
        "w2": _normal(16, 3),
        "first": np.array([0]),
        "rest": np.array([1, 16]),
    }
    model = _small(nodes, weights, ["N", "s", "t", 5])
    result = onnxprune.prune(
        model,  # type: ignore[arg-type]
        benchmark=False,
        input_shapes={"x": [2, 1, 1, 5]},
    )
    assert result.report.certificate is not None and result.report.certificate.ok
    shapes = {t.name: list(t.dims) for t in result.model.graph.initializer}
    assert shapes["w1"] == [5, 8] and shapes["w2"] == [8, 3]
