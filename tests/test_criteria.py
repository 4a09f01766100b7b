"""Every criterion against its definition, by brute force in numpy and in onnxruntime."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from numpy.typing import NDArray
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxprune
from models import FAMILIES
from onnxprune.calibration import CalibrationData, open_calibration
from onnxprune.cli import main
from onnxprune.criteria import CRITERIA, spellings
from onnxprune.criteria.by_gradient import ByGradient
from onnxprune.criteria.obs import RIDGE, removal_errors
from onnxprune.errors import UsageError
from onnxprune.groups import Group, find_groups
from onnxprune.importance import Importance
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.reductions import Scores
from onnxprune.statistics import Request, collect
from onnxprune.tables import with_user_rules
from onnxprune.weights import Weights
from tests.graphs import constants, make, node, perceptron, run, two_convs, weight

Array = NDArray[Any]

CALIBRATED = ("activation", "apoz", "wanda", "obs")
#: These need torch: tests/training.
BY_GRADIENT = tuple(name for name, each in CRITERIA.items() if issubclass(each, ByGradient))
ALL = tuple(
    name.replace(":P", ":3").replace(":SEED", ":0")
    for name in spellings()
    if name not in BY_GRADIENT
)


def read(model: ModelProto) -> tuple[Any, list[Group]]:
    network = infer(load(model), with_user_rules(()))
    return network, find_groups(network)


def scores(model: ModelProto, criterion: Any, data: Any = None, **more: Any) -> list[Scores]:
    network, groups = read(model)
    given = None if data is None else CalibrationData(data)
    return Importance(criterion, data=given, **{"normalizer": "none", **more}).scores(
        network, groups
    )


def inside(model: ModelProto, name: str, feeds: dict[str, Array]) -> Array:
    """The value of any tensor of the graph."""
    copy = ModelProto()
    copy.CopyFrom(model)
    del copy.graph.output[:]
    copy.graph.output.add().name = name
    return run(copy, feeds)[0].astype(np.float64)


IMAGES = weight("images", 24, 3, 8, 8)
ROWS = weight("rows", 200, 6)


def conv_rows() -> tuple[Array, Array, Array]:
    """The slices of `two_convs`: of w1 [8, 27], of b1 [8, 1], of w2 [8, 36]."""
    held = constants(two_convs())
    w2 = held["w2"].transpose(1, 0, 2, 3).reshape(8, -1)
    return held["w1"].reshape(8, -1), held["b1"].reshape(8, 1), w2


# -- weights alone -------------------------------------------------------------------------------


@pytest.mark.parametrize("power", [0.5, 1, 2, 3, 6])
def test_norms_of_any_power(power: float) -> None:
    name = {1: "group-l1", 2: "group-l2"}.get(power, f"group-lp:{power}")
    (found,) = scores(two_convs(), name, reduction="sum")
    expected = sum((np.abs(rows.astype(np.float64)) ** power).sum(axis=1) for rows in conv_rows())
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_lp_is_the_named_norms_at_one_and_two() -> None:
    for name, power in (("group-l1", 1), ("group-l2", 2)):
        (a,), (b,) = scores(two_convs(), name), scores(two_convs(), f"group-lp:{power}")
        np.testing.assert_allclose(a, b, rtol=1e-6)
    assert not np.allclose(scores(two_convs(), "group-lp:3"), scores(two_convs(), "group-l2"))


def test_lamp_is_the_share_of_what_is_left() -> None:
    """Lee et al., equation 3: a square, over the sum of all squares that are not smaller."""
    (found,) = scores(two_convs(), "lamp", reduction="sum")
    squares = sum(np.square(rows.astype(np.float64)).sum(axis=1) for rows in conv_rows())
    expected = [u / squares[squares >= u].sum() for u in squares]
    np.testing.assert_allclose(found, expected, rtol=1e-5)
    assert found.max() == 1
    assert np.argsort(found).tolist() == np.argsort(squares).tolist()


def test_lamp_is_not_changed_by_the_scale_of_a_group() -> None:
    model = two_convs()
    for tensor in model.graph.initializer:
        if tensor.name in ("w1", "b1", "w2"):
            tensor.CopyFrom(
                numpy_helper.from_array(16 * numpy_helper.to_array(tensor), tensor.name)
            )
    np.testing.assert_allclose(scores(model, "lamp"), scores(two_convs(), "lamp"), rtol=1e-5)
    assert not np.allclose(scores(model, "group-l2"), scores(two_convs(), "group-l2"))
    # Nor is it normalised any more: its scores are made to be compared between groups.
    assert Importance("lamp").normalizer == "none"
    assert Importance("group-l2").normalizer == "mean"


def test_fpgm_is_the_sum_of_distances() -> None:
    (found,) = scores(two_convs(), "fpgm")
    rows = np.concatenate(conv_rows(), axis=1).astype(np.float64)
    expected = np.linalg.norm(rows[:, None] - rows[None], axis=2).sum(axis=1)
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_fpgm_removes_what_others_stand_in_for_and_norms_what_is_small() -> None:
    """All channels are of norm 1, but for the first, of 0.95; two are one and the same."""
    model = two_convs()
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    w1, b1, w2 = (numpy_helper.to_array(held[name]).copy() for name in ("w1", "b1", "w2"))
    scale = 1 / np.linalg.norm(np.concatenate(conv_rows(), axis=1), axis=1)
    scale[0] *= 0.95
    w1, b1, w2 = w1 * scale[:, None, None, None], b1 * scale, w2 * scale[:, None, None]
    w1[3], b1[3], w2[:, 3] = w1[5], b1[5], w2[:, 5]
    for name, value in (("w1", w1), ("b1", b1), ("w2", w2)):
        held[name].CopyFrom(numpy_helper.from_array(value.astype(np.float32), name))
    (distance,), (norm,) = scores(model, "fpgm"), scores(model, "group-l2")
    np.testing.assert_allclose(distance[3], distance[5], rtol=1e-9)
    assert norm.argmin() == 0 and distance.argmin() in (3, 5)


def normalised(folded: str) -> ModelProto:
    """A convolution, and a BatchNormalization as it is, as Mul and Add, or inside the weight."""
    gamma = np.array([0.5, -2, 1, 0.1], np.float32)
    one, w = np.ones(4, np.float32), weight("w", 4, 3, 3, 3)
    after = [node("Relu", ["n"], ["r"]), node("Conv", ["r", "v"], ["y"])]
    weights = {"w": w, "v": weight("v", 5, 4, 1, 1)}
    if folded == "batch":
        nodes = [
            node("Conv", ["x", "w"], ["c"]),
            node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"]),
        ]
        weights |= {"gamma": gamma, "beta": one, "mean": one, "var": one}
    elif folded == "mul":
        nodes = [
            node("Conv", ["x", "w"], ["c"]),
            node("Mul", ["c", "gamma"], ["m"]),
            node("Add", ["m", "beta"], ["n"]),
        ]
        weights |= {"gamma": gamma.reshape(4, 1, 1), "beta": one.reshape(1, 4, 1, 1)}
    else:
        nodes = [node("Conv", ["x", "w"], ["n"])]
        weights["w"] = w * gamma[:, None, None, None]
    return make([*nodes, *after], {"x": ["N", 3, 8, 8]}, {"y": ["N", 5, 6, 6]}, weights)


@pytest.mark.parametrize("folded", ["batch", "mul"])
def test_the_scale_of_a_normalisation(folded: str) -> None:
    (found,) = scores(normalised(folded), "bn-scale")
    np.testing.assert_allclose(found, [0.5, 2, 1, 0.1], rtol=1e-6)


def test_a_normalisation_that_is_folded_into_the_weights() -> None:
    with pytest.raises(UsageError, match="folded"):
        scores(normalised("conv"), "bn-scale")


def test_a_group_without_a_normalisation_is_scored_by_its_norm_and_said_so() -> None:
    model = normalised("batch")
    more = [node("Relu", ["y"], ["z"]), node("Conv", ["z", "u"], ["end"])]
    model.graph.node.extend(more)
    model.graph.initializer.append(numpy_helper.from_array(weight("u", 2, 5, 1, 1), "u"))
    model.graph.output[0].CopyFrom(
        helper.make_tensor_value_info("end", TensorProto.FLOAT, ["N", 2, 6, 6])
    )
    network, groups = read(model)
    importance = Importance("bn-scale", normalizer="none")
    found = importance.scores(network, groups)
    (norm,) = [s for s, g in zip(scores(model, "group-l2"), groups, strict=True) if g.size == 5]
    np.testing.assert_allclose(found[-1], norm / norm.mean(), rtol=1e-5)
    (note,) = importance.notes
    assert "1 of 2 groups" in note and "group-l2" in note


def test_random_is_the_same_for_the_same_seed() -> None:
    for seed in ("", ":0", ":7"):
        np.testing.assert_array_equal(
            scores(two_convs(), f"random{seed}"), scores(two_convs(), f"random{seed}")
        )
    assert not np.allclose(scores(two_convs(), "random:0"), scores(two_convs(), "random:1"))
    np.testing.assert_array_equal(scores(two_convs(), "random"), scores(two_convs(), "random:0"))
    a = scores(FAMILIES["resnet"](0), "random")
    assert len({s.tobytes() for s in a}) == len(a)


# -- activations ---------------------------------------------------------------------------------


def test_activations_are_those_of_onnxruntime() -> None:
    model = two_convs()
    r = inside(model, "r", {"x": IMAGES}).transpose(1, 0, 2, 3).reshape(8, -1)
    (found,) = scores(model, "activation", IMAGES)
    np.testing.assert_allclose(found, np.abs(r).mean(axis=1), rtol=1e-5)
    (found,) = scores(model, "apoz", IMAGES)
    np.testing.assert_allclose(found, 1 - (r == 0).mean(axis=1), rtol=1e-6)
    (found,) = scores(model, "wanda", IMAGES)
    norms = np.linalg.norm(conv_rows()[2], axis=1)
    np.testing.assert_allclose(found, norms * np.sqrt(np.square(r).mean(axis=1)), rtol=1e-5)


def test_flattened_channels_are_put_together() -> None:
    """Behind a Flatten, a channel is 36 columns of the matrix."""
    model = make(
        [
            node("Conv", ["x", "w"], ["c"]),
            node("Relu", ["c"], ["r"]),
            node("Flatten", ["r"], ["f"]),
            node("Gemm", ["f", "v", "b"], ["y"], transB=1),
        ],
        {"x": ["N", 3, 8, 8]},
        {"y": ["N", 5]},
        {"w": weight("w", 4, 3, 3, 3), "v": weight("v", 5, 144), "b": weight("b", 5)},
    )
    r = inside(model, "r", {"x": IMAGES})
    (found,) = scores(model, "activation", IMAGES)
    np.testing.assert_allclose(found, np.abs(r).mean(axis=(0, 2, 3)), rtol=1e-5)
    v = constants(model)["v"].reshape(5, 4, 36).astype(np.float64)
    expected = np.sqrt((np.square(v).sum(axis=0) * np.square(r).mean(axis=0).reshape(4, 36)).sum(1))
    (found,) = scores(model, "wanda", IMAGES)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_several_consumers_are_reduced() -> None:
    """x -> w1 -> relu -> (w2 | w3): each reads the same, each has weights of its own."""
    model = make(
        [
            node("MatMul", ["x", "w1"], ["m"]),
            node("Relu", ["m"], ["r"]),
            node("MatMul", ["r", "w2"], ["y"]),
            node("MatMul", ["r", "w3"], ["z"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4], "z": ["N", 3]},
        {"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 4), "w3": weight("w3", 8, 3)},
    )
    r = inside(model, "r", {"x": ROWS})
    rms = np.sqrt(np.square(r).mean(axis=0))
    each = [rms * np.linalg.norm(constants(model)[name], axis=1) for name in ("w2", "w3")]
    for reduction, expected in (("mean", np.mean(each, 0)), ("max", np.max(each, 0))):
        (found,) = scores(model, "wanda", ROWS, reduction=reduction)
        np.testing.assert_allclose(found, expected, rtol=1e-5)
    (found,) = scores(model, "activation", ROWS, reduction="sum")  # one tensor, read twice
    np.testing.assert_allclose(found, np.abs(r).mean(axis=0), rtol=1e-5)


# -- second order --------------------------------------------------------------------------------


def refitted(x: Array, w: Array, gone: Array, ridge: float) -> float:
    """The least squared error of x @ w without the features `gone`, with a bias, per row.

    Changes of the weights count `ridge` each; found by least squares, and nothing else.
    """
    rows = len(x)
    kept = np.setdiff1d(np.arange(x.shape[1]), gone)
    centred = x - x.mean(axis=0)
    left = np.concatenate([centred[:, kept], np.sqrt(rows * ridge) * np.eye(x.shape[1])[:, kept]])
    y = np.concatenate([centred @ w, np.sqrt(rows * ridge) * w])
    fit = np.linalg.lstsq(left, y, rcond=None)[0]
    return float(np.square(left @ fit - y).sum() / rows)


@pytest.mark.parametrize("ridge", [0.0, 1e-3, 0.1])
@pytest.mark.parametrize("block", [1, 3])
def test_the_closed_form_is_the_error_of_the_best_refit(block: int, ridge: float) -> None:
    x = weight("mixed", 12, 12) @ weight("features", 12, 400)
    x = x.T.astype(np.float64) + 3
    w = weight("outputs", 12, 5).astype(np.float64)
    cells = np.random.default_rng(0).permutation(np.repeat(np.arange(12 // block), block))
    h = np.cov(x.T, bias=True)
    found = removal_errors(w, h, cells, 12 // block, ridge)
    least = ridge * np.trace(h) / 12
    expected = [refitted(x, w, np.flatnonzero(cells == g), least) for g in range(12 // block)]
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def test_features_that_stay_and_blocks_of_unlike_sizes() -> None:
    x, w = weight("x", 100, 6).astype(np.float64), weight("w", 6, 2).astype(np.float64)
    cells = np.array([1, -1, 0, 1, 1, -1])
    found = removal_errors(w, np.cov(x.T, bias=True), cells, 3, 0.0)
    expected = [refitted(x, w, np.flatnonzero(cells == g), 0) for g in range(2)]
    np.testing.assert_allclose(found, [*expected, 0], rtol=1e-6)


def share(x: Array, w: Array, gone: Array) -> float:
    """What `obs` is to give: the error as a share of the variance of the output."""
    h = np.cov(x.T, bias=True)
    least = RIDGE * np.trace(h) / len(h)
    return refitted(x, w, gone, least) / float(np.einsum("fo,fo->", w, h @ w))


def test_obs_of_a_matrix_product() -> None:
    model = perceptron()
    r = inside(model, "r", {"x": ROWS})
    w2 = constants(model)["w2"].astype(np.float64)
    (found,) = scores(model, "obs", ROWS)
    np.testing.assert_allclose(found, [share(r, w2, np.array([g])) for g in range(8)], rtol=1e-3)


@pytest.mark.parametrize("stride", [1, 2])
def test_obs_of_a_convolution_is_of_all_that_the_kernel_sees(stride: int) -> None:
    model = two_convs()
    model.graph.node[2].attribute.append(helper.make_attribute("strides", [stride] * 2))
    del model.graph.output[0].type.tensor_type.shape.dim[2:]
    model.graph.output[0].type.tensor_type.shape.dim.add()
    model.graph.output[0].type.tensor_type.shape.dim.add()
    images = weight("more", 64, 3, 8, 8)
    r = np.pad(inside(model, "r", {"x": images}), ((0, 0), (0, 0), (1, 1), (1, 1)))
    seen = np.lib.stride_tricks.sliding_window_view(r, (3, 3), (2, 3))[:, :, ::stride, ::stride]
    x = seen.transpose(0, 2, 3, 1, 4, 5).reshape(-1, 72)
    w2 = constants(model)["w2"].astype(np.float64).reshape(4, 72).T
    (found,) = scores(model, "obs", images)
    expected = [share(x, w2, np.arange(9 * g, 9 * g + 9)) for g in range(8)]
    np.testing.assert_allclose(found, expected, rtol=2e-3)


def test_obs_finds_what_others_stand_in_for() -> None:
    """A channel that is the sum of two others costs nothing, however large its weights are."""
    w1 = weight("w1", 6, 5).copy()
    w1[:, 4] = w1[:, 0] + w1[:, 1]
    model = make(
        [node("MatMul", ["x", "w1"], ["m"]), node("MatMul", ["m", "w2"], ["y"])],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {"w1": w1, "w2": weight("w2", 5, 4)},
    )
    (obs,) = scores(model, "obs", ROWS)
    assert obs[[0, 1, 4]].max() < 0.1 * obs[[2, 3]].min()
    for other in ("group-l2", "fpgm", "wanda", "activation"):
        (found,) = scores(model, other, ROWS if other in CALIBRATED else None)
        assert found[[0, 1, 4]].max() > found[[2, 3]].min(), other


def test_a_dead_channel_scores_nothing() -> None:
    model = two_convs()
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    b1 = numpy_helper.to_array(held["b1"]).copy()
    b1[3] = -1000
    held["b1"].CopyFrom(numpy_helper.from_array(b1, "b1"))
    for criterion in CALIBRATED:
        (found,) = scores(model, criterion, IMAGES)
        assert found.argmin() == 3 and found[3] < 0.01 * np.delete(found, 3).min(), criterion
    assert scores(model, "group-l2")[0].argmax() == 3


def test_grouped_convolutions() -> None:
    """Two groups of the second convolution: a channel's place is in one of them."""
    model = make(
        [
            node("Conv", ["x", "w1"], ["c"], pads=[1] * 4),
            node("Relu", ["c"], ["r"]),
            node("Conv", ["r", "w2"], ["y"], group=2),
        ],
        {"x": ["N", 3, 8, 8]},
        {"y": ["N", 4, 8, 8]},
        {"w1": weight("w1", 8, 3, 3, 3), "w2": weight("w2", 4, 4, 1, 1)},
    )
    r = inside(model, "r", {"x": IMAGES}).transpose(0, 2, 3, 1).reshape(-1, 8)
    w2 = constants(model)["w2"].astype(np.float64).reshape(2, 2, 4)
    h = [np.cov(r[:, 4 * q : 4 * q + 4].T, bias=True) for q in range(2)]
    energy = sum(np.einsum("oi,oi->", w2[q], w2[q] @ h[q]) for q in range(2))
    errors = np.array(
        [
            refitted(r[:, 4 * q : 4 * q + 4], w2[q].T, np.array([c]), RIDGE * np.trace(h[q]) / 4)
            for q in range(2)
            for c in range(4)
        ]
    )
    (group,) = read(model)[1]
    (found,) = scores(model, "obs", IMAGES)
    if group.cells == 8:  # every conv group keeps channels of its own
        np.testing.assert_allclose(found / group.rows, errors / energy, rtol=1e-3)
    else:
        np.testing.assert_allclose(found, errors.reshape(2, 4).sum(axis=0) / energy, rtol=1e-3)


# -- statistics ----------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", [9, 11, 13, 18])
def test_statistics_in_any_opset(opset: int) -> None:
    model = two_convs(opset=opset)
    network, _ = read(model)
    requests = [Request("r", axis, kind) for axis in (1, 3) for kind in KINDS]
    requests.append(Request("x", 1, "sum"))
    found = collect(network, requests, open_calibration(IMAGES, model), batch=5)
    whole = inside(model, "r", {"x": IMAGES})
    for axis in (1, 3):
        x = np.moveaxis(whole, axis, 0).reshape(whole.shape[axis], -1)
        for kind, expected in KINDS.items():
            statistic = found[Request("r", axis, kind)]
            assert statistic.value.dtype == np.float64 and statistic.count == x.shape[1]
            np.testing.assert_allclose(statistic.value, expected(x), rtol=1e-4)
    np.testing.assert_allclose(found[requests[-1]].value, IMAGES.sum(axis=(0, 2, 3)), rtol=1e-3)
    # Nothing of it is left in the model.
    assert len(network.model.proto.graph.node) == 3
    assert [value.name for value in network.model.proto.graph.output] == ["y"]


KINDS = {
    "sum": lambda x: x.sum(axis=1),
    "square": lambda x: np.square(x).sum(axis=1),
    "absolute": lambda x: np.abs(x).sum(axis=1),
    "positive": lambda x: (x > 0).sum(axis=1),
    "gram": lambda x: x @ x.T,
}


def test_large_images_are_looked_at_in_some_places() -> None:
    """Every fourth row and column of 32 × 32: what is left is what a convolution sees there."""
    model = make(
        [node("Conv", ["x", "w"], ["y"], pads=[1] * 4)],
        {"x": ["N", 2, 32, 32]},
        {"y": ["N", 4, 32, 32]},
        {"w": weight("w", 4, 2, 3, 3)},
    )
    network, _ = read(model)
    x = weight("large", 3, 2, 32, 32)
    gram = Request("x", 1, "gram", "y")
    found = collect(network, [gram], open_calibration(x, model))[gram]
    padded = np.pad(x, ((0, 0), (0, 0), (1, 1), (1, 1)))
    seen = np.lib.stride_tricks.sliding_window_view(padded, (3, 3), (2, 3))[:, :, ::4, ::4]
    rows = seen.transpose(1, 4, 5, 0, 2, 3).reshape(18, -1).astype(np.float64)
    assert found.count == rows.shape[1] == 3 * 64
    np.testing.assert_allclose(found.value, rows @ rows.T, rtol=1e-4, atol=1e-3)


# -- what all have in common ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "criterion", [name for name in ALL if name not in ("random:0", "bn-scale")]
)
def test_relabelled_channels_have_relabelled_scores(criterion: str) -> None:
    data = IMAGES if criterion in CALIBRATED else None
    order = np.random.default_rng(1).permutation(8)
    model = two_convs()
    held = {tensor.name: tensor for tensor in model.graph.initializer}
    for name, axis in (("w1", 0), ("b1", 0), ("w2", 1)):
        value = np.take(numpy_helper.to_array(held[name]), order, axis)
        held[name].CopyFrom(numpy_helper.from_array(value, name))
    (before,), (after,) = scores(two_convs(), criterion, data), scores(model, criterion, data)
    np.testing.assert_allclose(after, before[order], rtol=1e-3)
    assert len(np.unique(np.round(before, 9))) == 8


def test_no_two_criteria_are_one() -> None:
    """Of six networks, each pair of criteria ranks some differently."""
    rankings: dict[str, list[bytes]] = {}
    names = [name for name in ALL if name not in ("bn-scale", "lamp")]
    for i in range(6):
        model = two_convs(16)
        for tensor in model.graph.initializer:
            value = weight(f"{tensor.name} {i}", *tensor.dims)
            tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
        for name in names:
            (found,) = scores(model, name, IMAGES if name in CALIBRATED else None)
            rankings.setdefault(name, []).append(np.argsort(found, kind="stable").tobytes())
    for a in names:
        for b in names:
            assert a == b or rankings[a] != rankings[b], (a, b)


@pytest.mark.parametrize("family", sorted(FAMILIES))
def test_every_criterion_scores_every_family(family: str) -> None:
    """One finite score for each cell; what can't be measured falls back, and is said."""
    network, groups = read(FAMILIES[family](0))
    data = CalibrationData("synthetic", samples=2)
    for criterion in ALL:
        importance = Importance(criterion, data=data)
        try:
            found = importance.scores(network, groups)
        except UsageError as error:
            assert criterion == "bn-scale" and "folded" in str(error)
            continue
        for each, group in zip(found, groups, strict=True):
            assert each.shape == (group.cells,) and np.isfinite(each).all(), criterion


@pytest.mark.parametrize("criterion", CALIBRATED)
def test_activations_need_inputs(criterion: str) -> None:
    with pytest.raises(UsageError, match="--calibration"):
        onnxprune.plan(two_convs(), criterion=criterion)


@pytest.mark.parametrize(
    ("criterion", "words"),
    [
        *((each, "group-lp") for each in ("group-lp", "group-lp:0", "group-lp:x", "group-lp:inf")),
        *((each, each.split(":")[0]) for each in ("group-l2:3", "random:x", "lamp:1")),
        ("magic", "obs"),
        (3, "neither"),
    ],
)
def test_criteria_that_can_not_be(criterion: Any, words: str) -> None:
    with pytest.raises(UsageError, match=words):
        Importance(criterion)


def test_every_criterion_says_what_it_is() -> None:
    for name, each in CRITERIA.items():
        assert each.name == name and each.help and each.__doc__
        assert each.calibrated == (name in (*CALIBRATED, *BY_GRADIENT) and name != "synflow")


@pytest.mark.parametrize("criterion", BY_GRADIENT)
def test_without_torch_it_is_said_what_is_missing(criterion: str) -> None:
    if importlib.util.find_spec("torch") is not None:
        pytest.skip("torch is installed")
    with pytest.raises(UsageError, match=r"onnxprune\[torch\]"):
        onnxprune.plan(two_convs(), criterion=criterion, calibration=IMAGES)


# -- functions of one's own, and the options -----------------------------------------------------


def test_any_function_is_a_criterion() -> None:
    def last_first(group: Group, weights: Weights) -> Scores:
        assert weights.value("w1").shape == (8, 3, 3, 3)
        assert weights.slices(group, group.members[0]).shape == (8, 27)
        return np.arange(group.cells, dtype=np.float64)

    plan = onnxprune.plan(two_convs(), ratio=0.5, criterion=last_first)
    assert plan.groups[0].kept == [4, 5, 6, 7]
    assert "last_first" in plan.options["criterion"]
    json.dumps(plan.to_dict())
    with pytest.raises(UsageError, match=r"shape \[3\]"):
        onnxprune.plan(two_convs(), criterion=lambda group, weights: np.ones(3))


def test_a_function_of_ones_own_may_measure() -> None:
    def brightest(group: Group, weights: Weights) -> Scores:
        (consumer,) = weights.consumers(group)
        request = Request(consumer.data.tensor, consumer.data.axis, "sum")
        return weights.statistics(group, [request])[request].mean

    r = inside(two_convs(), "r", {"x": IMAGES})
    (found,) = scores(two_convs(), brightest, IMAGES)
    np.testing.assert_allclose(found, r.mean(axis=(0, 2, 3)), rtol=1e-5)
    with pytest.raises(UsageError, match="--calibration"):
        scores(two_convs(), brightest)


def test_options_are_in_the_plan_and_replay(tmp_path: Path) -> None:
    np.savez(tmp_path / "data.npz", x=IMAGES)
    made = onnxprune.plan(
        two_convs(), criterion="wanda", calibration=tmp_path / "data.npz", calibration_samples=6
    )
    assert made.options["criterion"] == "wanda"
    assert made.options["calibration"] == str(tmp_path / "data.npz")
    assert made.options["calibration_samples"] == 6
    again = onnxprune.plan(
        two_convs(),
        criterion="wanda",
        calibration=str(tmp_path / "data.npz"),
        calibration_samples=6,
    )
    assert made.to_json() == again.to_json()
    plain = onnxprune.plan(two_convs()).options
    assert "calibration" not in plain and plain["normalizer"] == "mean"


def test_the_report_says_what_was_looked_at() -> None:
    result = onnxprune.prune(
        two_convs(),
        criterion="obs",
        calibration="synthetic",
        calibration_samples=4,
        benchmark=False,
    )
    assert any("synthetic" in note for note in result.report.notes)
    assert result.report.certificate is not None and result.report.certificate.ok


def test_preprocessing_without_images() -> None:
    with pytest.raises(UsageError, match="--calibration"):
        onnxprune.plan(two_convs(), preprocess="imagenet")


def test_the_command_line(tmp_path: Path) -> None:
    """Bytes in another layout, with labels beside them, on their way to a score."""
    pixels = np.random.default_rng(0).integers(0, 256, (12, 8, 8, 3), dtype=np.uint8)
    np.savez(tmp_path / "data.npz", x=pixels, y=np.arange(12))
    onnx.save(two_convs(), tmp_path / "model.onnx")
    spec = "mean=0.5,std=0.25"
    arguments = ["plan", str(tmp_path / "model.onnx"), "-o", str(tmp_path / "plan.json")]
    arguments += ["--criterion", "obs", "--calibration", str(tmp_path / "data.npz")]
    done = CliRunner().invoke(main, [*arguments, "--preprocess", spec])
    assert done.exit_code == 0, done.output
    plan = onnxprune.Plan.load(tmp_path / "plan.json")
    assert plan.options["preprocess"] == {"mean": [0.5], "std": [0.25]}
    x = ((pixels / 255 - 0.5) / 0.25).transpose(0, 3, 1, 2).astype(np.float32)
    (expected,) = scores(two_convs(), "obs", x)
    np.testing.assert_allclose(plan.groups[0].scores, expected, rtol=1e-3)
    for more, words in (
        ([], "--preprocess"),
        (["--preprocess", "magic"], "imagenet"),
        (["--preprocess", spec, "--criterion", "magic"], "lamp"),
        (["--calibration", "missing.npz"], "missing.npz"),
    ):
        failed = CliRunner().invoke(main, [*arguments, "--force", *more])
        assert failed.exit_code == 2 and words in failed.output


@pytest.mark.parametrize("directions", [1, 2])
def test_codes_of_an_lstm_are_scored_by_the_scales_of_their_columns(directions: int) -> None:
    """Of each matrix and gate, the third channel's scale is tiny."""
    h, d = 8, directions
    rng = np.random.default_rng(0)
    scale = np.full((d, 4, h), 0.02, np.float32)
    scale[..., 2] = 1e-5
    scale = scale.reshape(d, 4 * h)
    point = np.full((d, 4 * h), 128, np.uint8)
    given = ["x", "w", "r", "", "", "", "", "", "scale", "point", "scale", "point"]
    how = {"hidden_size": h, "direction": "bidirectional" if d == 2 else "forward"}
    model = make(
        [
            node("DynamicQuantizeLSTM", given, ["l"], domain="com.microsoft", **how),
            node("Transpose", ["l"], ["t"], perm=[0, 2, 1, 3]),
            node("Reshape", ["t", "shape"], ["f"]),
            node("MatMul", ["f", "w2"], ["y"]),
        ],
        {"x": [5, 3, 6]},
        {"y": [5, 3, 4]},
        {
            "w": rng.integers(1, 255, (d, 6, 4 * h)).astype(np.uint8),
            "r": rng.integers(1, 255, (d, h, 4 * h)).astype(np.uint8),
            **{"scale": scale, "point": point},
            **{"shape": np.array([5, 3, -1]), "w2": np.ones((d * h, 4), np.float32)},
        },
        domains={"com.microsoft": 1},
    )
    result = onnxprune.prune(model, ratio=1 / h, round_to=1, benchmark=False)
    assert result.plan.kept["r"][1].tolist() == [0, 1, 3, 4, 5, 6, 7]
    assert result.report.certificate is not None and result.report.certificate.ok
