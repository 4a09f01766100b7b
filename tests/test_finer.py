"""Heads and convolution groups that keep channels of their own, and those that must not."""

from __future__ import annotations

import itertools
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st
from onnx import ModelProto, NodeProto, helper, numpy_helper

import onnxprune
from models import FAMILIES, example_inputs
from onnxprune import CheckFailed, Plan, PlanMismatch, UsageError, finer, work
from onnxprune.axes import Axis, Choice, Concat, Dim, Index, Product, Rows, resolve, select
from onnxprune.certify import _lined_up, permutation
from onnxprune.cli import main
from onnxprune.groups import Group, find_groups
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.network import Network, Record
from onnxprune.rewrite import rewrite
from onnxprune.selection import Budget
from onnxprune.selection import select as choose
from onnxprune.tables import built_in
from tests.graphs import Array, assert_same, constants, make, masked, node, run, take, weight

HEADS, WIDTH, TOKENS = 3, 4, 5
X = {"x": weight("x", 2, TOKENS, 6)}
IMAGE = {"x": weight("image", 2, 3, 6, 6)}

# -- selecting -----------------------------------------------------------------------------------


@st.composite
def rows_of(draw: st.DrawFn, sizes: Sequence[int] = (2, 3, 4)) -> tuple[Axis, Choice, list[Dim]]:
    """An axis with d beside h, both chosen in part; h is in order, or permuted."""
    h, d, x, y = (Dim(draw(st.sampled_from(sizes))) for _ in range(4))
    inner: Axis = draw(st.sampled_from([d, Concat((d, y)), Concat((d, d)), Concat((y, d, x))]))
    around: list[Axis] = draw(st.permutations([h, inner]))
    if draw(st.booleans()):
        around.insert(draw(st.integers(0, 2)), x)
    axis: Axis = Product(around)
    if draw(st.booleans()):
        axis = Concat(draw(st.permutations([axis, Product((h, d)), y])))
    rng = np.random.default_rng(draw(st.integers(0, 99)))

    def some(dim: Dim, count: int) -> Index:
        return rng.permutation(dim.size or 0)[:count].astype(np.int64)

    left = draw(st.integers(1, d.size or 0))
    rows = Rows(h, np.stack([some(d, left) for _ in range(h.size or 0)]))
    choice: dict[Dim, Index | Rows] = {d: rows}
    for dim in (h, x, y):
        if draw(st.booleans()):
            choice[dim] = some(dim, draw(st.integers(1, dim.size or 0)))
    return axis, choice, [h, d, x, y]


def by_hand(axis: Axis, choice: Choice, at: Mapping[Dim, int]) -> list[int]:
    """What `select` means: position by position, for each combination of places in the factors."""
    if isinstance(axis, Dim):
        chosen = choice.get(axis, np.arange(axis.size or 0))
        row = chosen.indices[at[chosen.outer]] if isinstance(chosen, Rows) else chosen
        return [int(i) for i in row]
    if isinstance(axis, Concat):
        starts = np.cumsum([0, *(part.size or 0 for part in axis.parts)])
        runs = zip(axis.parts, starts, strict=False)
        return [int(start) + i for part, start in runs for i in by_hand(part, choice, at)]
    own = {part for part in axis.parts if isinstance(part, Dim)}
    plain = {part: by_hand(part, choice, at) for part in own if not _by_row(part, choice)}
    anywhere = {**at, **{dim: indices[0] for dim, indices in plain.items()}}
    counts = [range(len(by_hand(part, choice, anywhere))) for part in axis.parts]
    found = []
    for places in itertools.product(*counts):
        here = {
            part: plain[part][place]
            for part, place in zip(axis.parts, places, strict=True)
            if isinstance(part, Dim) and part in plain
        }
        position = 0
        for part, place in zip(axis.parts, places, strict=True):
            kept = by_hand(part, choice, {**at, **here})
            position = position * (part.size or 0) + kept[place]
        found.append(position)
    return found


def _by_row(dim: Dim, choice: Choice) -> bool:
    return isinstance(choice.get(dim), Rows)


@given(rows_of())
def test_each_index_of_the_outer_dim_has_its_own_row(drawn: tuple[Axis, Choice, Any]) -> None:
    axis, choice, _ = drawn
    assert select(axis, choice).tolist() == by_hand(axis, choice, {})


@given(rows_of())
def test_equal_rows_are_a_common_choice(drawn: tuple[Axis, Choice, list[Dim]]) -> None:
    axis, choice, (h, d, *_) = drawn
    rows = choice[d]
    assert isinstance(rows, Rows)
    same = {**choice, d: Rows(h, np.stack([rows.indices[0]] * (h.size or 0)))}
    common = {**choice, d: rows.indices[0]}
    np.testing.assert_array_equal(select(axis, same), select(axis, common))


def test_a_row_without_its_outer_dim_is_an_error() -> None:
    h, d = Dim(2), Dim(3)
    with pytest.raises(KeyError):
        select(d, {d: Rows(h, np.array([[0], [1]]))})


# -- models --------------------------------------------------------------------------------------

Insert = Callable[[str, str], tuple[list[NodeProto], dict[str, Array]]]


def attention(
    values: Insert | None = None, queries: Insert | None = None, scores: Insert | None = None
) -> ModelProto:
    """x [N, 5, 6] -> attention of 3 heads of 4 channels, its projections apart -> y [N, 5, 6].

    `values` and `queries` insert nodes at a tensor [N, 5, 3, 4], `scores` at one of [N, 3, 5, 5].
    """
    nodes, more = [], {}
    for letter in "qkv":
        nodes += [
            node("MatMul", ["x", f"w{letter}"], [f"{letter}1"]),
            node("Add", [f"{letter}1", f"b{letter}"], [f"{letter}2"]),
            node("Reshape", [f"{letter}2", "split"], [f"{letter}3"]),
        ]
        insert = {"q": queries, "k": None, "v": values}[letter]
        made, weights = insert(f"{letter}3", f"{letter}4") if insert else ([], {})
        nodes += made or [node("Identity", [f"{letter}3"], [f"{letter}4"])]
        more.update(weights)
        order = [0, 2, 3, 1] if letter == "k" else [0, 2, 1, 3]
        nodes.append(node("Transpose", [f"{letter}4"], [letter], perm=order))
    made, weights = scores("s1", "s2") if scores else ([node("Identity", ["s1"], ["s2"])], {})
    more.update(weights)
    nodes += [
        node("MatMul", ["q", "k"], ["s1"]),
        *made,
        node("Softmax", ["s2"], ["p"], axis=-1),
        node("MatMul", ["p", "v"], ["o1"]),
        node("Transpose", ["o1"], ["o2"], perm=[0, 2, 1, 3]),
        node("Reshape", ["o2", "merge"], ["o3"]),
        node("MatMul", ["o3", "wo"], ["y"]),
    ]
    inner = HEADS * WIDTH
    return make(
        nodes,
        {"x": ["N", TOKENS, 6]},
        {"y": ["N", TOKENS, 6]},
        {
            **{f"w{letter}": weight(f"w{letter}", 6, inner) for letter in "qkv"},
            **{f"b{letter}": weight(f"b{letter}", inner) for letter in "qkv"},
            "wo": weight("wo", inner, 6),
            "split": np.array([0, 0, HEADS, WIDTH]),
            "merge": np.array([0, 0, inner]),
            **more,
        },
    )


def grouped(shuffled: bool = False) -> ModelProto:
    """x -> conv 12 -> conv of 3 groups, of 4 inputs and 4 outputs each -> Relu -> conv 5 -> y."""
    shuffle = [
        node("Reshape", ["r", "apart"], ["r1"]),
        node("Transpose", ["r1"], ["r2"], perm=[0, 2, 1, 3, 4]),
        node("Reshape", ["r2", "back"], ["last"]),
    ]
    return make(
        [
            node("Conv", ["x", "w1"], ["a"], name="stem"),
            node("Conv", ["a", "w2", "b2"], ["c"], name="groups", group=3, pads=[1] * 4),
            node("Relu", ["c"], ["r" if shuffled else "last"]),
            *(shuffle if shuffled else []),
            node("Conv", ["last", "w3"], ["y"], name="head"),
        ],
        {"x": ["N", 3, 6, 6]},
        {"y": ["N", 5, 6, 6]},
        {
            **{"w1": weight("w1", 12, 3, 1, 1), "w2": weight("w2", 12, 4, 3, 3)},
            **{"b2": weight("b2", 12), "w3": weight("w3", 5, 12, 1, 1)},
            **{"apart": np.array([0, 3, 4, 6, 6]), "back": np.array([0, 12, 6, 6])},
        },
    )


def groups_of(model: ModelProto) -> tuple[Network, dict[str, Group]]:
    network = infer(load(model), built_in())
    return network, {group.name: group for group in find_groups(network)}


def certified(model: ModelProto, **options: Any) -> onnxprune.Result:
    result = onnxprune.prune(model, benchmark=False, **options)
    certificate = result.report.certificate
    assert certificate is not None and certificate.ok and certificate.proves
    return result


def of(groups: Iterable[Any], tensor: str) -> Any:
    """The group of a weight's output channels, or of the channels of its heads; or None."""
    return next(
        (
            group
            for group in groups
            for member in group.members
            if group.role in ("channels", "head-dim")
            and (tensor, 0 if tensor == "w2" else 1)
            == (member if isinstance(member, tuple) else (member.tensor, member.axis))
        ),
        None,
    )


def rows(result: onnxprune.Result, tensor: str) -> list[list[int]]:
    """What each head or group keeps."""
    group = of(result.plan.groups, tensor)
    assert group.outer is not None
    return [list(row) for row in group.kept]


# -- what may differ -----------------------------------------------------------------------------


def test_heads_keep_channels_of_their_own() -> None:
    result = certified(attention(), only=["head-dim"])
    for name, members in (("wq", ("wq", "bq", "wk", "bk")), ("wv", ("wv", "bv"))):
        kept = rows(result, name)
        assert len(kept) == HEADS and {len(row) for row in kept} == {WIDTH // 2}
        assert len({tuple(row) for row in kept}) > 1, "else it is a common choice"
        flat = [head * WIDTH + channel for head, row in enumerate(kept) for channel in row]
        for member in members:
            (index,) = result.plan.kept[member].values()
            assert index.dtype == np.int64 and index.tolist() == flat
    assert result.plan.kept["wo"][0].tolist() == result.plan.kept["wv"][1].tolist()
    assert_same(masked(result.reference, result.plan.kept), result.model, X)
    assert {g.choices for g in result.report.groups if g.role == "head-dim"} == {HEADS}


def test_heads_and_their_channels_go_at_once() -> None:
    result = certified(attention(), only=["head-dim", "heads"], ratio=0.4)
    kept = {group.name: group.kept for group in result.plan.groups}
    heads = next(group for group in result.plan.groups if group.role == "heads")
    assert len(heads.kept) == 2 and len(kept["wv"]) == HEADS
    flat = [h * WIDTH + channel for h in heads.kept for channel in kept["wv"][h]]  # type: ignore
    assert result.plan.kept["wv"][1].tolist() == flat
    assert_same(masked(result.reference, result.plan.kept), result.model, X)


def test_groups_of_a_convolution_keep_outputs_of_their_own_but_not_inputs() -> None:
    """Its weight has the inputs on an axis of their own, which all groups read."""
    _, groups = groups_of(grouped())
    assert {name: group.rows for name, group in groups.items() if group.role == "channels"} == {
        **{"w1#2": 1, "w2": 3}
    }
    result = certified(grouped())
    assert len({tuple(row) for row in rows(result, "w2")}) > 1
    assert_same(masked(result.reference, result.plan.kept), result.model, IMAGE)
    assert constants(result.model)["w2"].shape == (6, 2, 3, 3)


def test_channels_that_were_shuffled_keep_the_order_of_the_shuffle() -> None:
    """Behind it, positions of an axis are no longer ascending."""
    result = certified(grouped(shuffled=True))
    kept = rows(result, "w2")
    assert result.plan.kept["w2"][0].tolist() == [4 * g + c for g in range(3) for c in kept[g]]
    assert result.plan.kept["w3"][1].tolist() == [
        3 * kept[g][place] + g for place in range(2) for g in range(3)
    ]
    assert_same(masked(result.reference, result.plan.kept), result.model, IMAGE)


def test_of_two_dims_that_are_always_beside_each_other_one_has_rows() -> None:
    """Each could be chosen for each index of the other, but not both."""
    model = make(
        [
            node("MatMul", ["x", "w1"], ["a"]),
            node("Reshape", ["a", "split"], ["b"]),
            node("Relu", ["b"], ["c"]),
            node("Reshape", ["c", "merge"], ["d"]),
            node("MatMul", ["d", "w3"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 6]},
        {
            **{"w1": weight("w1", 6, 12), "w3": weight("w3", 12, 6)},
            **{"split": np.array([0, 3, 4]), "merge": np.array([0, 12])},
        },
    )
    _, groups = groups_of(model)
    (own,) = (group for group in groups.values() if group.outer is not None)
    (other,) = (group for group in groups.values() if group.outer is None)
    assert own.outer is other.dim
    result = certified(model)
    assert_same(masked(result.reference, result.plan.kept), result.model, {"x": weight("x", 2, 6)})


def test_scores_may_be_mixed_between_heads() -> None:
    """Talking heads: scores have no channels any more."""

    def talk(x: str, y: str) -> tuple[list[NodeProto], dict[str, Array]]:
        last = [0, 2, 3, 1]
        nodes = [
            node("Transpose", [x], ["t1"], perm=last),
            node("MatMul", ["t1", "talk"], ["t2"]),
            node("Transpose", ["t2"], [y], perm=[0, 3, 1, 2]),
        ]
        return nodes, {"talk": weight("talk", HEADS, HEADS)}

    result = certified(attention(scores=talk), only=["head-dim"])
    assert len(rows(result, "wq")) == len(rows(result, "wv")) == HEADS
    assert_same(masked(result.reference, result.plan.kept), result.model, X)


def test_the_best_of_each_head_are_worth_more() -> None:
    """What is kept of the scores: never less than with a common choice."""
    for model in (attention(), grouped(), FAMILIES["vit"](0), FAMILIES["resnext"](0)):
        plan = onnxprune.plan(model)
        finer = [group for group in plan.groups if group.outer is not None]
        assert finer
        for group in finer:
            scores = np.reshape(group.scores, (-1, group.size))
            own = np.take_along_axis(scores, np.array(group.kept), axis=1).sum()
            common = np.sort(scores.sum(axis=0))[-group.width :].sum()
            assert own >= common - 1e-9
            assert own > common or group.width == group.size


def test_scores_are_those_of_the_common_choice_row_by_row() -> None:
    own, common = (
        onnxprune.plan(attention(), normalizer="none", common_choice=flag) for flag in (False, True)
    )
    for a, b in zip(own.groups, common.groups, strict=True):
        assert a.name == b.name and b.outer is None
        if a.outer is not None:
            mean = np.reshape(a.scores, (-1, a.size)).mean(axis=0)
            np.testing.assert_allclose(mean, b.scores, rtol=1e-4)


# -- what may not --------------------------------------------------------------------------------


def _between(*nodes: NodeProto, **weights: Array) -> Insert:
    """Nodes that read `IN` and make `OUT`."""

    def insert(x: str, y: str) -> tuple[list[NodeProto], dict[str, Array]]:
        names = {"IN": x, "OUT": y}
        made = []
        for each in nodes:
            copy = NodeProto()
            copy.CopyFrom(each)
            for side in (copy.input, copy.output):
                for i, name in enumerate(side):
                    side[i] = names.get(name, name)
            made.append(copy)
        return made, weights

    return insert


_LAST = [0, 1, 3, 2]
_TURN = node("Transpose", ["IN"], ["turned"], perm=_LAST)
_TURN_BACK = node("Transpose", ["mixed"], ["OUT"], perm=_LAST)

#: Operators between a projection and its use that read channels of several heads at once, or all
#: heads with one weight for each channel.
MIXING = {
    "a matrix over heads": _between(
        _TURN,
        node("MatMul", ["turned", "mix"], ["other"]),
        node("Add", ["turned", "other"], ["mixed"]),
        _TURN_BACK,
        mix=weight("mix", HEADS, HEADS),
    ),
    "their mean": _between(
        node("ReduceMean", ["IN"], ["mean"], axes=[2]), node("Sub", ["IN", "mean"], ["OUT"])
    ),
    "softmax over heads": _between(node("Softmax", ["IN"], ["OUT"], axis=2)),
    "a norm over heads": _between(
        _TURN,
        node("LayerNormalization", ["turned", "gamma"], ["mixed"], axis=-1),
        _TURN_BACK,
        gamma=weight("gamma", HEADS),
    ),
    "products of heads": _between(
        _TURN,
        node("MatMul", ["IN", "turned"], ["gram"]),
        node("MatMul", ["gram", "IN"], ["OUT"]),
    ),
    "products of heads, one operand": _between(
        node("Einsum", ["IN", "IN"], ["gram"], equation="nshd,nsgd->nshg"),
        node("MatMul", ["gram", "IN"], ["OUT"]),
    ),
    "running sums over heads": _between(
        node("CumSum", ["IN", "heads"], ["OUT"]), heads=np.array(2)
    ),
    "one weight for all heads": _between(
        node("Mul", ["IN", "gain"], ["OUT"]), gain=weight("gain", WIDTH)
    ),
    "a table of positions": _between(
        node("Mul", ["IN", "cos"], ["a"]),
        node("Slice", ["IN", "zero", "half", "axis"], ["x1"]),
        node("Slice", ["IN", "half", "end", "axis"], ["x2"]),
        node("Neg", ["x2"], ["x3"]),
        node("Concat", ["x3", "x1"], ["turned"], axis=-1),
        node("Mul", ["turned", "sin"], ["b"]),
        node("Add", ["a", "b"], ["OUT"]),
        cos=weight("cos", TOKENS, 1, WIDTH),
        sin=weight("sin", TOKENS, 1, WIDTH),
        zero=np.array([0]),
        half=np.array([WIDTH // 2]),
        end=np.array([WIDTH]),
        axis=np.array([3]),
    ),
}


def _branches(x: str, y: str) -> tuple[list[NodeProto], dict[str, Array]]:
    """If the first value is positive, x less its mean over heads, else x."""
    then = [
        node("ReduceMean", [x], ["mean"], axes=[2], keepdims=1),
        node("Sub", [x, "mean"], ["less"]),
    ]
    body = onnx.TensorProto.FLOAT
    bodies = {
        f"{name}_branch": helper.make_graph(
            nodes, name, [], [helper.make_tensor_value_info(out, body, None)]
        )
        for name, nodes, out in (("then", then, "less"), ("else", [node("Neg", [x], ["n"])], "n"))
    }
    nodes = [
        node("ReduceSum", [x], ["all"], keepdims=0),
        node("Greater", ["all", "none"], ["positive"]),
        node("If", ["positive"], [y], **bodies),
    ]
    return nodes, {"none": np.array(-1e6, dtype=np.float32)}


MIXING["their mean, in a body"] = _branches
#: Those with a weight of `[d]`, which has no place for a row for each head.
VECTORS = ("one weight for all heads", "a table of positions")
mixing = pytest.mark.parametrize("insert", MIXING.values(), ids=MIXING.keys())


@mixing
@pytest.mark.parametrize("where", ["queries", "values"])
def test_heads_that_are_mixed_keep_the_same(where: str, insert: Insert) -> None:
    model = attention(**{where: insert})
    name = {"queries": "wq", "values": "wv"}[where]
    _, groups = groups_of(model)
    group, other = of(groups.values(), name), of(groups.values(), "wq" if name == "wv" else "wv")
    assert group is None or group.outer is None
    assert other.rows == HEADS, "the other projection is not touched by it"
    result = certified(model, only=["head-dim"])
    group = of(result.plan.groups, name)
    assert group is None or group.outer is None
    if all(group.kind == "exact" for group in result.plan.groups):
        leave = ("cos", "sin", "gamma")
        assert_same(masked(result.reference, result.plan.kept, leave), result.model, X)


def _taken_for_apart(network: Network) -> dict[Dim, Dim]:
    """Heads and channels of the values, whatever happens to them."""
    heads, width = resolve((network.axes["wv"] or [])[1]).parts  # type: ignore[union-attr]
    return {width: heads}


@pytest.mark.parametrize("mixed", [name for name in MIXING if name not in VECTORS])
def test_taken_for_apart_they_are_caught_by_permutation(
    mixed: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each of them does mix: a choice for each head is another function, and the run says so."""
    model = attention(values=MIXING[mixed])
    network, groups = groups_of(model)
    dim = of(groups.values(), "wv").dim
    heads = _taken_for_apart(network)[dim]
    (before,) = run(model, X)
    (common,) = run(rewrite(network, permutation([dim])), X)
    (finer_one,) = run(rewrite(network, permutation([dim], outer={dim: heads})), X)
    assert np.abs(before - common).max() < 1e-5 * np.abs(before).max()
    assert np.abs(before - finer_one).max() > 1e-2 * np.abs(before).max()
    monkeypatch.setattr("onnxprune.groups.outer_dims", _taken_for_apart)
    with pytest.raises(CheckFailed, match="permutation"):
        onnxprune.prune(model, benchmark=False, only=["head-dim"])


@pytest.mark.parametrize(
    "gram",
    [
        node("MatMul", ["b", "c"], ["gram"]),
        node("Einsum", ["b", "b"], ["gram"], equation="nhd,ngd->nhg"),
    ],
    ids=["two operands", "one operand"],
)
def test_products_of_one_heads_channels_with_anothers(gram: NodeProto) -> None:
    """x [N, 6] -> heads [N, 3, 4]; their products with each other [N, 3, 3] -> y [N, 6].

    No tensor has channels without heads, and nothing is summed but the channels.
    """
    model = make(
        [
            node("MatMul", ["x", "wv"], ["a"]),
            node("Reshape", ["a", "split"], ["b"]),
            node("Transpose", ["b"], ["c"], perm=[0, 2, 1]),
            gram,
            node("Reshape", ["gram", "flat"], ["d"]),
            node("MatMul", ["d", "wo"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 6]},
        {
            **{"wv": weight("wv", 6, HEADS * WIDTH), "wo": weight("wo", HEADS * HEADS, 6)},
            **{"split": np.array([0, HEADS, WIDTH]), "flat": np.array([0, HEADS * HEADS])},
        },
    )
    network, groups = groups_of(model)
    apart = _taken_for_apart(network)
    assert all(group.outer is None for group in groups.values())
    assert {group.dim for group in groups.values()} >= apart.keys()
    x = {"x": weight("x", 2, 6)}
    (before,) = run(model, x)
    (after,) = run(rewrite(network, permutation([*apart], outer=apart)), x)
    assert np.abs(before - after).max() > 1e-2 * np.abs(before).max()
    result = certified(model)
    assert_same(masked(result.reference, result.plan.kept), result.model, x)


def test_which_head_a_channel_belongs_to() -> None:
    h, g, d, x = Dim(3), Dim(3), Dim(4), Dim(5)

    def found(*axes: Axis) -> list[tuple[Dim, Dim]] | None:
        return finer.paired(axes, [d], [h, g])

    assert found(x, h, d) == [(d, h)]
    assert found(Product((h, x, d)), g) == [(d, h)], "the one beside it"
    assert found(Product((g, Concat((d, x, d)))), h) == [(d, g), (d, g)]
    assert found(Concat((Product((h, d)), Product((g, d))))) == [(d, h), (d, g)]
    assert found(h, d, g) is None and found(Product((h, g, d))) is None, "one of two"
    assert found(x, d) is None and found(Concat((h, d))) is None
    assert found(x, h) == []


@pytest.mark.parametrize("made, holds", [("hd", True), ("gd", False), ("d", False), ("g", True)])
def test_outputs_have_channels_with_the_heads_they_came_with(made: str, holds: bool) -> None:
    dims = {"h": Dim(3), "g": Dim(3), "d": Dim(4), "e": Dim(4)}
    network, _ = groups_of(attention())
    probe = replace(network, axes={"y": [dims[c] for c in made]}, statistical=[], records=[])
    record = Record(node("MyOp", ["x"], ["y"]), network.records[0].rule, ("x",), ("y",), [])
    pairs = [(dims["d"], dims["h"]), (dims["e"], dims["g"])]
    assert finer._holds(probe, record, pairs) is holds


def test_swapped_rows_are_caught(monkeypatch: pytest.MonkeyPatch) -> None:
    """In one weight of the pruned model, two heads' channels have changed places."""

    def wrong(*given: Any) -> ModelProto:
        proto = rewrite(*given)
        for tensor in proto.graph.initializer:
            if tensor.name == "wo":
                value = numpy_helper.to_array(tensor).reshape(HEADS, -1, 6)[[1, 0, 2]]
                tensor.CopyFrom(numpy_helper.from_array(value.reshape(-1, 6), "wo"))
        return proto

    assert onnxprune.prune(attention(), benchmark=False, only=["head-dim"]).report.certificate
    monkeypatch.setattr(work, "rewrite", wrong)
    with pytest.raises(CheckFailed, match="the certificate failed"):
        onnxprune.prune(attention(), benchmark=False, only=["head-dim"])


# -- asking for one choice -----------------------------------------------------------------------


@pytest.mark.parametrize("build", [attention, grouped])
def test_one_common_choice(build: Callable[[], ModelProto]) -> None:
    result = certified(build(), common_choice=True)
    assert all(group.outer is None for group in result.plan.groups)
    assert all(group.choices == 1 for group in result.report.groups)
    assert result.plan.options["common_choice"] is True
    assert "outer" in result.plan.to_dict()["groups"][0]


def test_by_the_command_line(tmp_path: Path) -> None:
    onnx.save(attention(), tmp_path / "net.onnx")
    choices = {}
    for flags in ((), ("--common-choice",)):
        target = tmp_path / "plan.json"
        target.unlink(missing_ok=True)
        done = CliRunner().invoke(
            main, ["plan", str(tmp_path / "net.onnx"), "-o", str(target), *flags]
        )
        assert done.exit_code == 0, done.output
        choices[flags] = {group.outer is not None for group in Plan.load(target).groups}
    assert choices == {(): {True, False}, ("--common-choice",): {False}}
    done = CliRunner().invoke(main, ["inspect", str(tmp_path / "net.onnx")])
    assert "choices" in done.output


def test_inspection_counts_the_choices() -> None:
    found = {group.name: group.choices for group in onnxprune.inspect(attention()).groups}
    assert found == {"wq": 1, "wq#2": HEADS, "wv": HEADS}


# -- plans ---------------------------------------------------------------------------------------


def test_a_plan_with_rows_survives_json(tmp_path: Path) -> None:
    plan = onnxprune.plan(attention())
    plan.save(tmp_path / "plan.json")
    again = Plan.load(tmp_path / "plan.json")
    assert again.to_json() == plan.to_json() and again.groups == plan.groups
    for name, axes in plan.kept.items():
        for axis, index in axes.items():
            assert index.ndim == 1
            np.testing.assert_array_equal(again.kept[name][axis], index)
    for name, slices in again.to_state_dict_slices().items():
        assert slices == [(axis, index.tolist()) for axis, index in plan.kept[name].items()]


@pytest.mark.parametrize("options", [{}, {"only": ["head-dim"]}, {"common_choice": True}])
def test_carried_out_on_other_weights(options: dict[str, Any], tmp_path: Path) -> None:
    for build, feeds in ((attention, X), (grouped, IMAGE)):
        if build is grouped and "only" in options:
            continue
        plan = onnxprune.plan(build(), **options)
        twin = build()
        for tensor in twin.graph.initializer:
            value = numpy_helper.to_array(tensor)
            if value.dtype == np.float32:
                tensor.CopyFrom(numpy_helper.from_array(value[::-1].copy(), tensor.name))
        plan.save(tmp_path / "plan.json")
        result = onnxprune.apply(twin, tmp_path / "plan.json")
        assert result.report.certificate is not None and result.report.certificate.ok
        after = constants(result.model)
        for name, axes in plan.kept.items():
            np.testing.assert_array_equal(after[name], take(constants(twin)[name], axes))
        assert_same(masked(result.reference, plan.kept), result.model, feeds)


def test_a_plan_from_before_there_were_rows() -> None:
    """Its groups have no `outer`: one list each, as it was."""
    plan = onnxprune.plan(attention(), common_choice=True)
    document = json.loads(plan.to_json())
    for group in document["groups"]:
        del group["outer"]
    again = Plan.from_dict(document)
    assert again.groups == plan.groups
    result = onnxprune.apply(attention(), again)
    assert result.report.certificate is not None and result.report.certificate.ok
    assert all(group.choices == 1 for group in result.report.groups)


def test_rows_do_not_fit_where_heads_are_mixed() -> None:
    plan = onnxprune.plan(attention(), only=["head-dim"])
    with pytest.raises(PlanMismatch, match="does not fit"):
        onnxprune.apply(attention(values=MIXING["their mean"]), plan)


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda g: g["kept"].pop(), "one for each of the 3"),
        (lambda g: g["kept"][0].pop(), "one for each of the 3"),
        (lambda g: g["kept"][1].reverse(), "in order"),
        (lambda g: g["kept"][1].__setitem__(0, 99), "in order"),
        (lambda g: g.update(outer=None), "an integer was expected"),
        (lambda g: g.update(outer=["nobody", 3]), "damaged"),
        (lambda g: g.update(outer=["wo", "x"]), "an integer was expected"),
        (lambda g: g.update(kept=[0, 1]), "a list was expected"),
    ],
)
def test_a_damaged_plan_is_refused(damage: Callable[[Any], Any], message: str) -> None:
    document = json.loads(onnxprune.plan(attention(), only=["head-dim"]).to_json())
    (group,) = (group for group in document["groups"] if group["name"] == "wv")
    damage(group)
    with pytest.raises(UsageError, match=message):
        assert Plan.from_dict(document).kept


# -- choosing ------------------------------------------------------------------------------------


def test_as_many_in_each_row_by_scores_over_all() -> None:
    plain, outer = Group("a", Dim(4), "channels"), Dim(2)
    group = Group("b", Dim(4), "head-dim", outer=outer)
    scores = [np.array([1.0, 9, 8, 7]), np.array([0.0, 2, 4, 6, 6, 4, 2, 0])]
    kept = choose([plain, group], scores, Budget(ratio=0.5, scope="global"))
    # The rows' means, from the least: 0, 2, 4, 6; with 1 of the other group, these are the least.
    assert not isinstance(kept[0], Rows) and kept[0].tolist() == [1, 2, 3]
    assert isinstance(kept[1], Rows) and kept[1].outer is outer
    assert kept[1].indices.tolist() == [[3], [0]]


def test_comparing_tensors_whose_heads_are_an_axis_of_their_own() -> None:
    n, h, s, d = Dim(None), Dim(3), Dim(2), Dim(4)
    value = weight("value", 2, 3, 2, 4)
    kept = Rows(h, np.array([[0, 1], [1, 3], [0, 2]]))
    choice = {d: kept, h: np.array([2, 0])}
    expected = np.stack([value[:, head][..., kept.indices[head]] for head in (2, 0)], axis=1)
    np.testing.assert_array_equal(_lined_up(value, [n, h, s, d], choice, {}), expected)
    turned = {d: Rows(h, kept.indices[:, ::-1]), h: np.array([0, 2])}
    again = _lined_up(expected, [n, h, s, d], turned, choice)
    np.testing.assert_array_equal(again, expected[:, ::-1, :, ::-1])
    merged = [n, s, Product((h, d))]
    flat = value.transpose(0, 2, 1, 3).reshape(2, 2, 12)
    np.testing.assert_array_equal(
        _lined_up(flat, merged, choice, {}), expected.transpose(0, 2, 1, 3).reshape(2, 2, 4)
    )


# -- families ------------------------------------------------------------------------------------


FINER = ("resnext", "vit", "swin", "decoder")


def test_families_with_heads_or_groups_have_a_finer_choice() -> None:
    found = {
        family: sum(group.rows > 1 for group in groups_of(build(0))[1].values())
        for family, build in FAMILIES.items()
    }
    assert {family for family, count in found.items() if count} == set(FINER)


@pytest.mark.parametrize("family", FINER)
def test_permuting_each_row_differently_is_the_same_function(family: str) -> None:
    model = FAMILIES[family](0)
    network, groups = groups_of(model)
    outer = {group.dim: group.outer for group in groups.values() if group.outer is not None}
    twin = rewrite(network, permutation(list(outer), 1, outer))
    assert_same(network.model.proto, twin, example_inputs(model), 1e-5)
