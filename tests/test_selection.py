"""Scores by hand, and what a ratio, bounds, roles and globs make of them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

import onnxprune
from models import FAMILIES
from onnxprune.axes import Dim
from onnxprune.errors import NotPrunable, UsageError
from onnxprune.groups import Group
from onnxprune.importance import CRITERIA, NORMALIZERS, REDUCTIONS
from onnxprune.selection import Budget, select
from tests.graphs import make, node, perceptron, two_convs, weight


def sizes(plan: onnxprune.Plan) -> dict[str, tuple[int, int]]:
    return {group.name: (group.size, len(group.kept)) for group in plan.groups}


def chosen(scores: list[list[float]], **budget: Any) -> list[list[int]]:
    """What is kept of groups with these scores."""
    groups = [Group(f"g{i}", Dim(len(each)), "channels") for i, each in enumerate(scores)]
    kept = select(groups, [np.array(each) for each in scores], Budget(**budget))
    assert all(index.dtype == np.int64 for index in kept)
    return [index.tolist() for index in kept]


# -- budgets -------------------------------------------------------------------------------------


def test_the_ratio_is_the_share_that_is_removed() -> None:
    scores = [[5.0, 1.0, 4.0, 2.0, 3.0, 0.0, 6.0, 7.0]]
    assert chosen(scores, ratio=0.25) == [[0, 2, 3, 4, 6, 7]]
    assert chosen(scores, ratio=0.5) == [[0, 2, 6, 7]]
    assert chosen(scores, ratio=0.75) == [[6, 7]]


@pytest.mark.parametrize("size", [2, 3, 5, 7, 10, 64])
@pytest.mark.parametrize("ratio", [0.01, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99])
def test_never_more_than_the_ratio_is_removed_and_never_all(size: int, ratio: float) -> None:
    (kept,) = chosen([list(map(float, range(size)))], ratio=ratio)
    assert len(kept) == max(1, size - math.floor(size * ratio + 1e-9))
    assert kept == list(range(size))[-len(kept) :]


def test_ties_are_broken_by_position() -> None:
    assert chosen([[1.0] * 6], ratio=0.5) == [[0, 1, 2]]
    assert chosen([[1.0] * 4, [1.0] * 4], ratio=0.5, scope="global") == [[0], [0, 1, 2]]


def test_not_a_number_is_no_reason_to_fail() -> None:
    """Channels of NaN, as in a diverged model, are the first to go, and spoil no other's score."""
    model = two_convs()
    value = weight("w1", 8, 3, 3, 3)
    value[6:] = np.nan
    value[1] = np.inf
    model.graph.initializer[0].CopyFrom(numpy_helper.from_array(value, "w1"))
    plan = onnxprune.plan(model, ratio=0.25)
    assert plan.groups[0].kept == list(range(6))
    assert np.isfinite(plan.groups[0].scores).all()
    json.dumps(plan.to_dict(), allow_nan=False)


def test_global_takes_what_matters_least_anywhere() -> None:
    scores = [[9.0, 8.0, 7.0, 6.0], [1.0, 2.0, 10.0, 3.0]]
    assert chosen(scores, ratio=0.25, scope="global") == [[0, 1, 2, 3], [2, 3]]
    assert chosen(scores, ratio=0.5, scope="global") == [[0, 1, 2], [2]]
    assert chosen(scores, ratio=0.25, scope="local") == [[0, 1, 2], [1, 2, 3]]


def test_global_respects_the_bound_of_each_group() -> None:
    scores = [[9.0, 8.0, 7.0, 6.0], [1.0, 2.0, 0.5, 3.0]]
    assert chosen(scores, ratio=0.5, scope="global", max_ratio=0.5) == [[0, 1], [1, 3]]
    assert chosen(scores, ratio=0.5, scope="global") == [[0, 1, 2], [3]]


@pytest.mark.parametrize("scope", ["local", "global"])
def test_widths_are_multiples_and_never_below(scope: str) -> None:
    rng = np.random.default_rng(0)
    scores = [rng.random(n).tolist() for n in (64, 40, 12, 8, 6, 3)]
    for round_to in (1, 2, 4, 8, 16):
        for ratio in (0.1, 0.5, 0.9, 0.99):
            kept = chosen(scores, ratio=ratio, scope=scope, round_to=round_to)
            for index, each in zip(kept, scores, strict=True):
                # A group that is no multiple itself may keep all it has.
                assert len(index) % round_to == 0 or len(index) == len(each)
                assert len(index) >= min(round_to, len(each))


def test_rounding_is_to_the_nearest() -> None:
    """Of two that are as near, the better aligned; the full width is always one of them."""
    assert len(chosen([[0.0] * 64], ratio=0.3, round_to=16)[0]) == 48
    assert len(chosen([[0.0] * 64], ratio=0.5, round_to=8)[0]) == 32
    assert len(chosen([[0.0] * 10], ratio=0.5, round_to=4)[0]) == 4
    assert len(chosen([[0.0] * 12], ratio=0.5, round_to=4)[0]) == 8
    assert len(chosen([[0.0] * 40], ratio=0.5, round_to=8)[0]) == 16
    assert len(chosen([[0.0] * 10], ratio=0.1, round_to=4)[0]) == 8
    assert len(chosen([[0.0] * 11], ratio=0.1, round_to=4)[0]) == 11


@pytest.mark.parametrize("scope", ["local", "global"])
@pytest.mark.parametrize("max_ratio", [0.1, 0.25, 0.3, 0.5])
def test_no_group_loses_more_than_the_bound(scope: str, max_ratio: float) -> None:
    rng = np.random.default_rng(0)
    scores = [(rng.random(n) * 10**n).tolist() for n in (16, 12, 10, 3)]
    kept = chosen(scores, ratio=0.9, scope=scope, max_ratio=max_ratio)
    for index, each in zip(kept, scores, strict=True):
        assert len(each) - len(index) <= max_ratio * len(each) + 1e-9


@pytest.mark.parametrize(
    "wrong",
    [
        *({"ratio": value} for value in (0, 1, -1, 2, 1.5, math.nan, math.inf)),
        *({"round_to": value} for value in (0, -8)),
        *({"max_ratio": value} for value in (0, -1, 1.01, math.nan)),
        *({"scope": value} for value in ("isomorph", "", "Local")),
        *({"criterion": value} for value in ("l2", "", "magic")),
        *({"reduction": value} for value in ("median", "")),
        *({"normalizer": value} for value in ("l1", "")),
        *({"only": value} for value in (["head"], [""], ["conv-groups"])),
    ],
    ids=str,
)
def test_an_option_that_can_not_be(wrong: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        onnxprune.plan(two_convs(), **wrong)
    (name,) = wrong
    word = "role" if name == "only" else name
    assert word in str(caught.value)


# -- the options, on models ----------------------------------------------------------------------


def test_options_reach_the_plan() -> None:
    model = FAMILIES["resnet"](0)
    whole = {group.name: group.size for group in onnxprune.inspect(model).groups}
    for ratio in (0.25, 0.5, 0.75):
        for name, (size, kept) in sizes(onnxprune.plan(model, ratio=ratio, round_to=1)).items():
            assert (size, kept) == (whole[name], size - int(size * ratio))
    rounded = onnxprune.plan(model, ratio=0.6, round_to=8)
    assert all(kept % 8 == 0 for _, kept in sizes(rounded).values())
    bounded = onnxprune.plan(model, ratio=0.9, max_ratio=0.25)
    assert all(kept >= 0.75 * size for size, kept in sizes(bounded).values())
    everywhere = onnxprune.plan(model, ratio=0.3, scope="global", round_to=1)
    removed = sum(size - kept for size, kept in sizes(everywhere).values())
    assert removed == int(sum(whole.values()) * 0.3)
    assert len({kept / size for size, kept in sizes(everywhere).values()}) > 1


def test_a_ratio_that_removes_no_whole_channel_says_so() -> None:
    with pytest.raises(NotPrunable, match="larger --ratio"):
        onnxprune.plan(two_convs(), ratio=0.01)
    with pytest.raises(NotPrunable, match="--round-to"):
        onnxprune.plan(two_convs(), round_to=8)


def test_exact_only_leaves_statistical_groups_alone() -> None:
    model = FAMILIES["decoder"](0)
    kinds = {group.name: group.kind for group in onnxprune.plan(model).groups}
    assert set(kinds.values()) == {"exact", "statistical"}
    exact = onnxprune.plan(model, exact_only=True)
    assert {group.name for group in exact.groups} == {n for n, k in kinds.items() if k == "exact"}


@pytest.mark.parametrize("role", ["heads", "head-dim", "ffn", "hidden"])
def test_only_one_role(role: str) -> None:
    model = FAMILIES["vit"](0)
    roles = {group.name: group.role for group in onnxprune.plan(model).groups}
    plan = onnxprune.plan(model, only=[role])
    assert {group.name for group in plan.groups} == {n for n, r in roles.items() if r == role}
    assert plan.groups


def test_several_roles() -> None:
    plan = onnxprune.plan(FAMILIES["vit"](0), only=["heads", "ffn"])
    assert {group.role for group in plan.groups} == {"heads", "ffn"}


def test_a_role_that_a_model_has_not() -> None:
    with pytest.raises(NotPrunable, match="--only"):
        onnxprune.plan(two_convs(), only=["heads"])


def chain() -> ModelProto:
    """Four convolutions, so three groups: out of `one`, `two` and `three`."""
    widths = [3, 8, 8, 8, 4]
    names = ["one", "two", "three", "four"]
    nodes, weights, x = [], {}, "x"
    for i, name in enumerate(names):
        weights[f"{name}.weight"] = weight(name, widths[i + 1], widths[i], 1, 1)
        out = "y" if i == 3 else f"h{i}"
        nodes.append(node("Conv", [x, f"{name}.weight"], [out], name=f"/{name}/Conv"))
        x = out
    return make(nodes, {"x": ["N", 3, 4, 4]}, {"y": ["N", 4, 4, 4]}, weights)


@pytest.mark.parametrize(
    ("exclude", "left"),
    [
        # An excluded layer keeps its inputs and its outputs.
        (["two.weight"], ["three.weight"]),
        (["/two/Conv"], ["three.weight"]),
        (["/t*/Conv"], []),
        (["one.*"], ["two.weight", "three.weight"]),
        (["four.weight"], ["one.weight", "two.weight"]),
        (["one.*", "/four/*"], ["two.weight"]),
        (["[a-n]*.weight"], ["one.weight", "two.weight"]),
        (["t?o.weight"], ["three.weight"]),
    ],
)
def test_excluded_layers_keep_inputs_and_outputs(exclude: list[str], left: list[str]) -> None:
    if not left:
        with pytest.raises(NotPrunable, match="--exclude"):
            onnxprune.plan(chain(), exclude=exclude)
        return
    plan = onnxprune.plan(chain(), exclude=exclude)
    assert [group.name for group in plan.groups] == left


@pytest.mark.parametrize(
    ("include", "left"),
    [
        (["two.weight"], ["one.weight", "two.weight"]),
        (["/two/Conv"], ["one.weight", "two.weight"]),
        (["one.weight"], ["one.weight"]),
        (["one.weight", "/four/Conv"], ["one.weight", "three.weight"]),
        (["*"], ["one.weight", "two.weight", "three.weight"]),
    ],
)
def test_included_layers_only(include: list[str], left: list[str]) -> None:
    plan = onnxprune.plan(chain(), include=include)
    assert [group.name for group in plan.groups] == left


def test_include_and_exclude_together() -> None:
    plan = onnxprune.plan(chain(), include=["t*.weight"], exclude=["one.weight"])
    assert [group.name for group in plan.groups] == ["two.weight", "three.weight"]


@pytest.mark.parametrize("option", ["include", "exclude"])
def test_a_glob_that_matches_nothing_has_suggestions(option: str) -> None:
    with pytest.raises(UsageError, match=r"'tow\.weight'.*nearest: .*two\.weight"):
        onnxprune.plan(chain(), **{option: ["one.weight", "tow.weight"]})
    with pytest.raises(UsageError, match=r"'Two/Conv'.*/two/Conv"):
        onnxprune.plan(chain(), **{option: ["Two/Conv"]})
    with pytest.raises(UsageError, match=r"matches '§'$"):
        onnxprune.plan(chain(), **{option: ["§"]})


# -- scores by hand ------------------------------------------------------------------------------

#: conv1 [3, 1, 1, 1] with a bias [3], and conv2 [2, 3, 1, 1].
W1, B1 = [1.0, -2.0, 3.0], [0.5, 0.0, -1.0]
W2 = [[1.0, 2.0, 0.0], [-1.0, 0.0, 2.0]]
L2 = np.array([[1, 4, 9], [0.25, 0, 1], [2, 4, 4]])
L1 = np.array([[1, 2, 3], [0.5, 0, 1], [2, 2, 2]])


def tiny(**changed: Any) -> ModelProto:
    return make(
        [
            node("Conv", ["x", "w1", "b1"], ["h"]),
            node("Relu", ["h"], ["r"]),
            node("Conv", ["r", "w2"], ["y"]),
        ],
        {"x": ["N", 1, 2, 2]},
        {"y": ["N", 2, 2, 2]},
        {
            "w1": np.array(W1, np.float32).reshape(3, 1, 1, 1),
            "b1": np.array(B1, np.float32),
            "w2": np.array(W2, np.float32).reshape(2, 3, 1, 1),
        },
        **changed,
    )


def scores(model: ModelProto, **options: Any) -> np.ndarray:
    (group,) = onnxprune.plan(model, **options).groups
    return np.array(group.scores)


REDUCED = {
    "mean": lambda rows: rows.sum(axis=0) / 3,
    "sum": lambda rows: rows[0] + rows[1] + rows[2],
    "max": lambda rows: np.maximum(np.maximum(rows[0], rows[1]), rows[2]),
    "prod": lambda rows: rows[0] * rows[1] * rows[2],
    "first": lambda rows: rows[0],
}
NORMALISED = {
    "none": lambda x: x,
    "mean": lambda x: x / (x.sum() / 3),
    "max": lambda x: x / max(x),
    "sum": lambda x: x / sum(x),
    "relative": lambda x: x / (sum(sorted(x)[1:]) / 2),
    "standardize": lambda x: (x - min(x)) / (max(x) - min(x)),
    "gaussian": lambda x: (x - x.mean()) / np.sqrt(((x - x.mean()) ** 2).mean()),
}


def test_every_reduction_and_normalizer_has_its_numbers_here() -> None:
    assert REDUCED.keys() == REDUCTIONS.keys()
    assert NORMALISED.keys() == NORMALIZERS.keys()
    assert CRITERIA.keys() >= {"group-l1", "group-l2"}  # all others: tests/test_criteria.py


@pytest.mark.parametrize("normalizer", NORMALISED)
@pytest.mark.parametrize("reduction", REDUCED)
@pytest.mark.parametrize("criterion", ["group-l1", "group-l2"])
def test_scores_of_two_convolutions(criterion: str, reduction: str, normalizer: str) -> None:
    rows = {"group-l1": L1, "group-l2": L2}[criterion]
    expected = NORMALISED[normalizer](REDUCED[reduction](rows))
    found = scores(
        tiny(), ratio=0.4, criterion=criterion, reduction=reduction, normalizer=normalizer
    )
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_the_default_ranks_as_the_paper_does() -> None:
    """DepGraph: the sum over all coupled parameters of the squares of a channel's weights."""
    found = scores(tiny(), ratio=0.4)
    assert np.argsort(found).tolist() == np.argsort(L2.sum(axis=0)).tolist()
    assert onnxprune.plan(tiny(), ratio=0.4).groups[0].kept == [1, 2]


def test_equal_scores_are_not_divided_by_zero() -> None:
    model = tiny()
    for tensor in model.graph.initializer:
        zeros = np.zeros(tuple(tensor.dims), np.float32)
        tensor.CopyFrom(numpy_helper.from_array(zeros, tensor.name))
    for normalizer in NORMALISED:
        assert scores(model, ratio=0.4, normalizer=normalizer).tolist() == [0, 0, 0]


def test_a_member_that_occurs_twice_in_one_axis_counts_twice() -> None:
    """x concatenated with itself: channel k of the first layer is read at k and at 3 + k."""
    model = make(
        [
            node("Conv", ["x", "w1"], ["h"]),
            node("Concat", ["h", "h"], ["c"], axis=1),
            node("Conv", ["c", "w2"], ["y"]),
        ],
        {"x": ["N", 1, 2, 2]},
        {"y": ["N", 1, 2, 2]},
        {
            "w1": np.array(W1, np.float32).reshape(3, 1, 1, 1),
            "w2": np.array([1, 2, 3, 4, 5, 6], np.float32).reshape(1, 6, 1, 1),
        },
    )
    # All three channels are multiples of x: but for this option, one of them would do.
    plan = onnxprune.plan(model, ratio=0.4, reduction="sum", normalizer="none", lossless=False)
    assert plan.groups[0].scores == [1 + 1 + 16, 4 + 4 + 25, 9 + 9 + 36]
    assert plan.kept["w2"][1].tolist() == [1, 2, 4, 5]


@pytest.mark.parametrize("kind", ["float16", "float64"])
def test_scores_do_not_depend_on_the_type(kind: str) -> None:
    model = perceptron()
    plain = scores(model)
    for tensor in model.graph.initializer:
        value = numpy_helper.to_array(tensor).astype(kind)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.elem_type = {"float16": 10, "float64": 11}[kind]
    np.testing.assert_allclose(scores(model), plain, rtol=5e-3)


def test_squares_of_float16_do_not_overflow() -> None:
    model = perceptron()
    for tensor in model.graph.initializer:
        value = (numpy_helper.to_array(tensor) * 1000).astype(np.float16)
        tensor.CopyFrom(numpy_helper.from_array(value, tensor.name))
    found = scores(model, normalizer="none")
    assert np.isfinite(found).all() and (found > 65504).all()


# -- what is scored, and what is not -------------------------------------------------------------


@pytest.mark.parametrize("axis", [None, 0, 1])
def test_quantised_weights_are_scored_as_what_they_mean(axis: int | None) -> None:
    """(q - point) * scale, whether there is one scale or one for each index of an axis."""
    rng = np.random.default_rng(0)
    shape = () if axis is None else ((4,), (6,))[axis]
    q = rng.integers(-100, 100, (4, 6)).astype(np.int8)
    scale = rng.uniform(0.01, 1, shape).astype(np.float32)
    point = rng.integers(-20, 20, shape).astype(np.int8)
    attribute = {} if axis is None else {"axis": axis}
    model = make(
        [
            node("DequantizeLinear", ["q", "scale", "point"], ["w"], **attribute),
            node("MatMul", ["x", "w"], ["h"]),
            node("Relu", ["h"], ["r"]),
            node("MatMul", ["r", "v"], ["y"]),
        ],
        {"x": ["N", 4]},
        {"y": ["N", 3]},
        {"q": q, "scale": scale, "point": point, "v": weight("v", 6, 3)},
    )
    spread = [1, 1]
    if axis is not None:
        spread[axis] = -1
    meant = (q.astype(np.float32) - np.reshape(point, spread)) * np.reshape(scale, spread)
    expected = (meant**2).sum(axis=0) + (weight("v", 6, 3) ** 2).sum(axis=1)
    found = scores(model, reduction="sum", normalizer="none")
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_running_statistics_are_cut_and_never_scored() -> None:
    model = make(
        [
            node("Conv", ["x", "w1"], ["c"]),
            node("BatchNormalization", ["c", "gamma", "beta", "mean", "var"], ["n"]),
            node("Relu", ["n"], ["r"]),
            node("Conv", ["r", "w2"], ["y"]),
        ],
        {"x": ["N", 3, 2, 2]},
        {"y": ["N", 4, 2, 2]},
        {
            **{"w1": weight("w1", 8, 3, 1, 1), "w2": weight("w2", 4, 8, 1, 1)},
            **{"gamma": weight("gamma", 8), "beta": weight("beta", 8)},
            # Larger than all the rest: they would decide, if they were asked.
            **{"mean": 1e3 * weight("mean", 8), "var": 1e6 + 1e5 * weight("var", 8)},
        },
    )
    (info,) = onnxprune.inspect(model).groups
    marked = {tensor: scored for tensor, _, scored in info.members}
    assert marked == {
        **dict.fromkeys(("w1", "gamma", "beta", "w2"), True),
        **dict.fromkeys(("mean", "var"), False),
    }
    plan = onnxprune.plan(model, reduction="sum", normalizer="none")
    assert {"mean", "var"} <= plan.kept.keys()
    expected = sum(
        (weight(name, *shape) ** 2).sum(axis=other)
        for name, shape, other in (
            ("w1", (8, 3, 1, 1), (1, 2, 3)),
            ("w2", (4, 8, 1, 1), (0, 2, 3)),
            ("gamma", (8,), ()),
            ("beta", (8,), ()),
        )
    )
    np.testing.assert_allclose(plan.groups[0].scores, expected, rtol=1e-5)


def test_divisors_and_scales_are_cut_and_never_scored() -> None:
    model = make(
        [
            node("MatMul", ["x", "w1"], ["a"]),
            node("Div", ["a", "divisor"], ["b"]),
            node("MatMul", ["b", "w2"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {
            "w1": weight("w1", 6, 8),
            "w2": weight("w2", 8, 4),
            "divisor": np.abs(weight("divisor", 8)) + 1,
        },
    )
    (info,) = onnxprune.inspect(model).groups
    assert ("divisor", 0, False) in info.members
    kept = onnxprune.plan(model).kept
    np.testing.assert_array_equal(kept["divisor"][0], kept["w1"][1])


def test_a_group_of_divisors_alone_is_no_group() -> None:
    model = make(
        [node("Div", ["x", "divisor"], ["y"])],
        {"x": ["N", 6]},
        {"y": ["N", 6]},
        {"divisor": np.abs(weight("divisor", 6)) + 1},
    )
    assert onnxprune.inspect(model).groups == []
