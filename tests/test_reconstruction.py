"""Reconstruction against numpy's least squares, operator by operator, and what it promises."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

import onnxprune
from models import lstm
from onnxprune.axes import Choice
from onnxprune.groups import Group, find_groups
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.network import Network
from onnxprune.reconstruction import eliminate as eliminate_module
from onnxprune.reconstruction import operators, pairs, solve
from onnxprune.reconstruction.beside import in_order, one_thread_each
from onnxprune.reconstruction.conjugate import Gather, Solver, Tangent
from onnxprune.reconstruction.eliminate import Consumer, eliminate
from onnxprune.reconstruction.gram import Gram
from onnxprune.reconstruction.parts import cut
from onnxprune.reconstruction.sites import find_sites
from onnxprune.reconstruction.tangents import PairFunction
from onnxprune.reconstruction.walk import Settings, Walk, walk
from onnxprune.runtime import run, session
from onnxprune.tables import with_user_rules

RNG = np.random.default_rng


def model(
    nodes: Sequence[onnx.NodeProto],
    weights: dict[str, np.ndarray],
    shape: Sequence[Any],
    out: str = "y",
    rank: int | None = None,
) -> ModelProto:
    """A model of these nodes, which reads `x` of this shape."""
    graph = helper.make_graph(
        nodes,
        "g",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, shape)],
        [helper.make_tensor_value_info(out, TensorProto.FLOAT, [None] * (rank or len(shape)))],
        [
            numpy_helper.from_array(value.astype(np.float32), name)
            for name, value in weights.items()
        ],
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
    onnx.checker.check_model(made)
    return made


def read(proto: ModelProto) -> tuple[Network, list[Group]]:
    network = infer(load(proto), with_user_rules(()))
    return network, find_groups(network)


def refit(
    proto: ModelProto,
    keep: dict[str, Sequence[int]],
    data: np.ndarray,
    batch: int = 16,
    **more: Any,
) -> tuple[Network, Choice, Walk]:
    """The model with the groups that contain a tensor cut to `keep[tensor]`, and refitted."""
    network, groups = read(proto)
    choice: dict[Any, Any] = {}
    for group in groups:
        for name, kept in keep.items():
            if group.name == name:
                choice[group.dim] = np.array(kept, dtype=np.int64)
    assert len(choice) == len(keep), [group.name for group in groups]
    sites, _ = find_sites(network)
    batches = [{"x": data[i : i + batch]} for i in range(0, len(data), batch)]
    settings = Settings(**{"rows": 10**9, **more})
    return (
        network,
        choice,
        walk(network, sites, cut(network, sites, choice), choice, batches, settings),
    )


def outputs(proto: ModelProto, data: np.ndarray) -> np.ndarray:
    return next(iter(run(session(proto, optimize=False), {"x": data}).values()))


# -- design matrices -----------------------------------------------------------------------------

CONVS = [
    dict(kernel=(3, 3), pads=[1, 1, 1, 1]),
    dict(kernel=(3, 3), strides=[2, 2], pads=[1, 0, 1, 2]),
    dict(kernel=(3, 2), dilations=[2, 3]),
    dict(kernel=(3, 3), group=2, pads=[1, 1, 1, 1]),
    dict(kernel=(3, 3), group=4, strides=[2, 1]),
    dict(kernel=(3, 3), auto_pad="SAME_UPPER", strides=[2, 2]),
    dict(kernel=(4, 4), auto_pad="SAME_LOWER", strides=[2, 2]),
    dict(kernel=(2, 2), auto_pad="VALID"),
    dict(kernel=(1, 1)),
    dict(kernel=(5,), pads=[2, 2]),
    dict(kernel=(2, 3, 2), strides=[1, 2, 1]),
]


def _check(proto: ModelProto, data: np.ndarray, weight: np.ndarray, bias: np.ndarray) -> None:
    """`design @ matrix + bias == response` for the only node with weights, in any rows."""
    network, _ = read(proto)
    (site,), skipped = find_sites(network)
    assert not skipped
    y = outputs(proto, data)
    linear = site.linear
    total = linear.positions(data.shape, weight.shape)
    rows = np.sort(RNG(3).choice(total, max(1, total // 2), replace=False))
    for at in (np.arange(total), rows):
        x = linear.design(data, weight.shape, at)
        w = linear.matrix(weight)
        b = bias.reshape(w.shape[0], 1, w.shape[2])
        wanted = linear.response(y, weight.shape, at)
        np.testing.assert_allclose(linear.scale * x @ w + b, wanted, rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(linear.tensor(linear.matrix(weight), weight.shape), weight)


@pytest.mark.parametrize("attrs", CONVS)
def test_design_of_a_convolution(attrs: dict[str, Any]) -> None:
    attrs = dict(attrs)
    kernel, group = attrs.pop("kernel"), attrs.get("group", 1)
    rng = RNG(0)
    w, b = rng.normal(size=(8, 4 // group, *kernel)), rng.normal(size=8)
    w, b = w.astype(np.float32), b.astype(np.float32)
    data = rng.normal(size=(3, 4, *(9 + i for i in range(len(kernel))))).astype(np.float32)
    node = helper.make_node("Conv", ["x", "w", "b"], ["y"], **attrs)
    _check(model([node], {"w": w, "b": b}, [None, *data.shape[1:]]), data, w, b)


@pytest.mark.parametrize(
    "attrs",
    [
        dict(),
        dict(strides=[2, 2], pads=[1, 1, 1, 1]),
        dict(strides=[2, 3], output_padding=[1, 2], pads=[1, 0, 2, 1]),
        dict(dilations=[2, 1], strides=[1, 2]),
        dict(strides=[2, 2], auto_pad="SAME_UPPER"),
        dict(strides=[2, 2], group=2, pads=[0, 1, 1, 0]),
        dict(pads=[3, 3, 3, 3]),
    ],
)
def test_design_of_a_transposed_convolution(attrs: dict[str, Any]) -> None:
    rng, group = RNG(1), attrs.get("group", 1)
    w = rng.normal(size=(4, 6 // group, 3, 3)).astype(np.float32)
    b = rng.normal(size=6).astype(np.float32)
    data = rng.normal(size=(2, 4, 7, 6)).astype(np.float32)
    node = helper.make_node("ConvTranspose", ["x", "w", "b"], ["y"], **attrs)
    _check(model([node], {"w": w, "b": b}, [None, *data.shape[1:]]), data, w, b)


@pytest.mark.parametrize("flip_a", [0, 1])
@pytest.mark.parametrize("flip_b", [0, 1])
@pytest.mark.parametrize("left", [False, True])
def test_design_of_a_gemm(flip_a: int, flip_b: int, left: bool) -> None:
    rng = RNG(2)
    w = rng.normal(size=(5, 7)).astype(np.float32)
    if left:
        data = rng.normal(size=(6, 7) if flip_b else (7, 6)).astype(np.float32)
        w = np.ascontiguousarray(w.T) if flip_a else w
        names = ["w", "x"]
    else:
        data = rng.normal(size=(7, 6) if flip_a else (6, 7)).astype(np.float32)
        w = w if flip_b else np.ascontiguousarray(w.T)
        names = ["x", "w"]
    node = helper.make_node("Gemm", names, ["y"], transA=flip_a, transB=flip_b, alpha=0.5)
    _check(model([node], {"w": w}, data.shape), data, w, np.zeros(5, np.float32))


@pytest.mark.parametrize("left", [False, True])
@pytest.mark.parametrize("rank", [2, 3, 4])
def test_design_of_a_matrix_product(left: bool, rank: int) -> None:
    rng = RNG(2)
    data = rng.normal(size=(2, 3, 7, 7)[4 - rank :]).astype(np.float32)
    w = rng.normal(size=(5, 7) if left else (7, 5)).astype(np.float32)
    node = helper.make_node("MatMul", ["w", "x"] if left else ["x", "w"], ["y"])
    _check(model([node], {"w": w}, data.shape), data, w, np.zeros(5, np.float32))


# -- solving -------------------------------------------------------------------------------------


def test_a_gram_matrix_solves_what_lstsq_solves() -> None:
    rng = RNG(4)
    x = rng.normal(2.0, 1.0, size=(1, 400, 9)).astype(np.float32)
    y = (x @ rng.normal(size=(9, 3)) + rng.normal(size=(1, 400, 3)) + 5).astype(np.float32)
    gram = Gram(x[:, :50].mean(1), y[:, :50].mean(1))
    for at in range(0, 400, 50):
        gram.add(x[:, at : at + 50], y[:, at : at + 50])
    found = solve.fit(gram, gram, np.zeros((1, 9, 3)), np.zeros((1, 3)), (1e-9,))
    wanted, *_ = np.linalg.lstsq(np.hstack([x[0], np.ones((400, 1))]), y[0], rcond=None)
    np.testing.assert_allclose(found.w[0], wanted[:-1], rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(found.b[0], wanted[-1], rtol=1e-4, atol=1e-4)
    errors = np.square(x[0] @ found.w[0] + found.b[0] - y[0]).sum(0)
    np.testing.assert_allclose(gram.errors(found.w, found.b)[0], errors, rtol=1e-4)


def test_a_singular_problem_is_solved() -> None:
    x = np.repeat(RNG(5).normal(size=(1, 200, 1)), 4, axis=2).astype(np.float32)
    y = x[:, :, :1] * 4
    gram = Gram(x.mean(1), y.mean(1))
    gram.add(x, y)
    found = solve.fit(gram, gram, np.zeros((1, 4, 1)), np.zeros((1, 1)))
    assert found.after < 1e-6
    np.testing.assert_allclose(found.w.sum(), 4, rtol=1e-3)


def test_cholesky_in_blocks() -> None:
    rng = RNG(6)
    a = rng.normal(size=(2, 300, 250))
    xx = a.transpose(0, 2, 1) @ a
    b = rng.normal(size=(2, 250, 3))
    np.testing.assert_allclose(
        solve.solve_factored(solve.factor(xx, 0.0), b), np.linalg.solve(xx, b), rtol=1e-6
    )


def test_elimination_finds_the_channel_that_the_others_can_replace() -> None:
    rng = RNG(7)
    x = rng.normal(size=(1, 500, 6)).astype(np.float32)
    x[:, :, 4] = x[:, :, 0] - x[:, :, 2]  # any one of the three can go for nothing
    x[:, :, 5] *= 0.01
    w = rng.normal(1.0, 0.1, size=(1, 6, 3))
    gram = Gram(np.zeros((1, 6)), np.zeros((1, 3)))
    gram.add(x, (x @ w).astype(np.float32))
    order = eliminate([Consumer(gram, w, np.arange(6)[None])], np.arange(6), ridge=1e-8)
    assert order.removed[0] in (0, 2, 4)
    assert order.removed[1] == 5
    assert order.errors[0] < 1e-6 < order.errors[1] < order.errors[2]


@pytest.mark.parametrize("at_once", [1, 3])
def test_errors_are_those_of_the_best_refit(monkeypatch: pytest.MonkeyPatch, at_once: int) -> None:
    """Two consumers, blocks of unequal size: after each step, what least squares can't mend."""
    monkeypatch.setattr(eliminate_module, "_AT_ONCE", 12 // at_once)
    rng = RNG(3)
    consumers, data = [], []
    for wide in (1, 3):
        ids = np.repeat(np.arange(12), np.arange(12) % 2 * (wide - 1) + 1)
        ids = rng.permutation(np.append(ids, -1))  # and one that is of no channel
        x = rng.normal(size=(1, 400, len(ids))) @ rng.normal(size=(len(ids), len(ids)))
        w = rng.normal(size=(1, len(ids), 3))
        y = x @ w
        gram = Gram(np.zeros((1, len(ids))), np.zeros((1, 3)))
        gram.add(x, y)
        consumers.append(Consumer(gram, w, ids[None]))
        data.append((x[0] - x[0].mean(0), y[0] - y[0].mean(0), ids))
    order = eliminate(consumers, np.arange(12), ridge=1e-12, threads=2)
    assert sorted([*order.removed, *order.kept(1, 12)]) == list(range(12))

    def without(gone: Sequence[int]) -> float:
        error = 0.0
        for x, y, ids in data:
            left = x[:, ~np.isin(ids, gone)]
            fitted = left @ np.linalg.lstsq(left, y, rcond=None)[0]
            error += np.square(y - fitted).sum() / np.square(y).sum()
        return error

    for step, error in enumerate(order.errors):
        assert error == pytest.approx(without(order.removed[: step + 1]), rel=1e-5)
    assert without(order.removed[:1]) == min(without([channel]) for channel in range(12))


# -- walking -------------------------------------------------------------------------------------


def _two_layers(kind: str) -> tuple[ModelProto, str, np.ndarray]:
    """A model in which the first layer's outputs are cut, the group's name, and data."""
    rng = RNG(8)

    def n(*shape: int) -> np.ndarray:
        return rng.normal(size=shape) / np.sqrt(np.prod(shape[1:]) or 1)

    relu = helper.make_node("Relu", ["h"], ["r"])
    if kind == "conv":
        nodes = [
            helper.make_node("Conv", ["x", "w1", "b1"], ["h"], pads=[1, 1, 1, 1]),
            relu,
            helper.make_node("Conv", ["r", "w2"], ["y"], strides=[2, 2]),
        ]
        weights = {"w1": n(8, 3, 3, 3), "b1": n(8), "w2": n(5, 8, 3, 3)}
        return model(nodes, weights, [None, 3, 8, 8]), "w1", n(64, 3, 8, 8)
    if kind == "depthwise":
        nodes = [
            helper.make_node("Conv", ["x", "w1"], ["h"]),
            relu,
            helper.make_node("Conv", ["r", "wd"], ["d"], group=8),
            helper.make_node("Conv", ["d", "w2"], ["y"]),
        ]
        weights = {"w1": n(8, 3, 1, 1), "wd": n(8, 1, 3, 3), "w2": n(5, 8, 1, 1)}
        return model(nodes, weights, [None, 3, 8, 8]), "w1", n(64, 3, 8, 8)
    if kind == "transposed":
        nodes = [
            helper.make_node("Conv", ["x", "w1"], ["h"]),
            relu,
            helper.make_node("ConvTranspose", ["r", "w2"], ["y"], strides=[2, 2]),
        ]
        weights = {"w1": n(8, 3, 1, 1), "w2": n(8, 5, 3, 3)}
        return model(nodes, weights, [None, 3, 6, 6]), "w1", n(64, 3, 6, 6)
    if kind == "gemm":
        nodes = [
            helper.make_node("Gemm", ["x", "w1", "b1"], ["h"], transB=1),
            relu,
            helper.make_node("Gemm", ["r", "w2"], ["y"]),
        ]
        weights = {"w1": n(12, 6), "b1": n(12), "w2": n(12, 4)}
        return model(nodes, weights, [None, 6]), "w1", n(400, 6) * 2
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        relu,
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    return model(nodes, {"w1": n(6, 12), "w2": n(12, 4)}, [None, 5, 6]), "w1", n(128, 5, 6) * 2


KINDS = ["conv", "depthwise", "transposed", "gemm", "matmul"]


@pytest.mark.parametrize("kind", KINDS)
def test_the_last_layer_is_the_least_squares_fit(kind: str) -> None:
    """The refitted model does as well on its calibration data as lstsq on its hidden layer."""
    proto, group, data = _two_layers(kind)
    data = data.astype(np.float32)
    network, choice, walked = refit(proto, {group: range(5)}, data, pairs=False)
    plain = cut(network, find_sites(network)[0], choice).model
    wanted = outputs(proto, data)
    before = np.square(outputs(plain, data) - wanted).sum()
    after = np.square(outputs(walked.model, data) - wanted).sum()
    assert after < 0.9 * before
    site = walked.sites[-1].site
    tapped = ModelProto()
    tapped.CopyFrom(walked.model)
    tapped.graph.output.append(onnx.ValueInfoProto(name=site.x))
    hidden = run(session(tapped, optimize=False), {"x": data})[site.x]
    shape = list(next(t for t in walked.model.graph.initializer if t.name == site.weight).dims)
    rows = np.arange(site.linear.positions(hidden.shape, shape))
    x = site.linear.design(hidden, shape, rows)[0]
    y = site.linear.response(wanted, shape, rows)[0]
    x = np.hstack([x, np.ones((len(x), 1), x.dtype)])
    best, *_ = np.linalg.lstsq(x.astype(float), y.astype(float), rcond=None)
    least = np.square(x @ best - y).sum()
    assert after <= least * 1.02 + 1e-6
    onnx.checker.check_model(walked.model)


@pytest.mark.parametrize("kind", KINDS)
def test_nothing_removed_changes_nothing(kind: str) -> None:
    proto, _, data = _two_layers(kind)
    network, _, walked = refit(proto, {}, data.astype(np.float32))
    plain = cut(network, [], {}).model
    assert walked.model.SerializeToString(deterministic=True) == plain.SerializeToString(
        deterministic=True
    )


def _residual() -> tuple[ModelProto, np.ndarray]:
    rng = RNG(9)
    nodes = [
        helper.make_node("Conv", ["x", "w0"], ["s"]),
        helper.make_node("Conv", ["s", "w1"], ["h"]),
        helper.make_node("Relu", ["h"], ["r"]),
        helper.make_node("Conv", ["r", "w2"], ["c"]),
        helper.make_node("BatchNormalization", ["c", "g", "b", "m", "v"], ["n"]),
        helper.make_node("Add", ["n", "s"], ["t"]),
        helper.make_node("Conv", ["t", "w3"], ["y"]),
    ]
    weights = {
        **{"w0": rng.normal(size=(6, 3, 1, 1)), "w1": rng.normal(size=(8, 6, 1, 1)) / 2},
        **{"w2": rng.normal(size=(6, 8, 1, 1)) / 3, "w3": rng.normal(size=(4, 6, 1, 1))},
        **{"g": rng.uniform(0.5, 2, 6), "b": rng.normal(size=6), "m": rng.normal(size=6)},
        "v": rng.uniform(0.5, 2, 6),
    }
    return model(nodes, weights, [None, 3, 4, 4]), rng.normal(size=(128, 3, 4, 4)).astype("f4")


def test_the_target_is_the_sum_behind_a_residual_add() -> None:
    proto, _ = _residual()
    sites, _ = find_sites(read(proto)[0])
    ends = {site.y: (site.end, site.other) for site in sites}
    assert ends["c"] == ("t", "s")
    assert ends["s"] == ("s", "")


def test_a_residual_branch_is_fitted_through_its_normalisation() -> None:
    proto, data = _residual()
    _, _, walked = refit(proto, {"w1": range(5)}, data)
    wanted, given = (outputs(each, data) for each in (proto, walked.model))
    network, groups = read(proto)
    plain = cut(network, [], {g.dim: np.arange(5) for g in groups if g.name == "w1"}).model
    error = np.square(given - wanted).sum() / np.square(outputs(plain, data) - wanted).sum()
    assert error < 0.6
    assert next(r for r in walked.sites if r.site.y == "c").after < 0.5


@pytest.mark.parametrize("seed", range(4))
def test_held_out_rows_are_never_worse(seed: int) -> None:
    """With hardly any data a fit would do harm: then the weights stay."""
    proto, group, _ = _two_layers("gemm")
    few = RNG(seed).normal(size=(6, 6)).astype(np.float32)
    _, _, walked = refit(proto, {group: range(11)}, few, batch=3)
    for each in walked.sites:
        assert each.after <= each.before


def test_what_is_kept_of_the_data_does_not_grow_with_it() -> None:
    proto, group, data = _two_layers("conv")
    sizes = []
    for many in (2, 8):
        _, _, walked = refit(
            proto, {group: range(5)}, np.tile(data, (many, 1, 1, 1)).astype("f4"), keep_grams=True
        )
        grams = [each.gram for each in walked.sites if each.gram is not None]
        sizes.append(sum(gram.xx.nbytes + gram.xy.nbytes for gram in grams))
    assert sizes[0] == sizes[1]


# -- side by side --------------------------------------------------------------------------------


@pytest.mark.parametrize("threads", [1, 2, 3, 64])
def test_results_come_in_order_and_few_are_under_way(threads: int) -> None:
    taken, most = 0, 0

    def items() -> Iterator[int]:
        nonlocal taken
        for i in range(30):
            taken = i + 1
            yield i

    def slow_at_first(i: int) -> int:
        time.sleep(0.005 if i % 3 == 0 else 0)
        return i * i

    for i, found in enumerate(in_order(slow_at_first, items(), threads)):
        assert found == i * i
        most = max(most, taken - i)
    assert taken == 30
    assert most <= min(threads, 8)


@pytest.mark.parametrize("threads", [1, 2])
def test_what_fails_is_raised_in_its_turn(threads: int) -> None:
    def fails(i: int) -> int:
        if i == 3:
            raise KeyError(i)
        return i

    found = []
    with pytest.raises(KeyError):
        for each in in_order(fails, range(10), threads):
            found.append(each)
    assert found == [0, 1, 2]


@pytest.mark.parametrize("kind", ["conv", "gemm"])
def test_more_threads_give_the_same_bytes(kind: str) -> None:
    """Of the sums: what onnxruntime gives with more threads is the same for models this small."""
    proto, group, data = _two_layers(kind)
    data = np.tile(data, (8, *[1] * (data.ndim - 1))).astype("f4")
    data += RNG(1).normal(size=data.shape).astype("f4")
    with one_thread_each():
        found = [
            refit(proto, {group: range(5)}, data, threads=threads)[2].model.SerializeToString()
            for threads in (1, 3)
        ]
    assert found[0] == found[1]
    assert found[0] != cut(read(proto)[0], [], {}).model.SerializeToString()


def test_unknown_products_are_left_alone() -> None:
    node = helper.make_node("MatMul", ["x", "w"], ["y"])
    proto = model([node], {"w": RNG(0).normal(size=(2, 4, 3))}, [2, 5, 4])
    sites, skipped = find_sites(read(proto)[0])
    assert not sites
    assert "stack" in skipped[0][1]


def test_linear_knows_only_products() -> None:
    node = helper.make_node("Add", ["x", "w"], ["y"])
    assert operators.linear_of(node, [False, True], [2, 2]) is None


# -- normalisations and recurrent layers ---------------------------------------------------------


def test_a_normalisation_is_refitted_where_its_statistics_changed() -> None:
    rng = RNG(10)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("LayerNormalization", ["h", "g", "b"], ["n"]),
        helper.make_node("MatMul", ["n", "w2"], ["y"]),
    ]
    weights = {"w1": rng.normal(size=(6, 16)), "g": rng.uniform(0.5, 2, 16)}
    weights |= {"b": rng.normal(size=16), "w2": rng.normal(size=(16, 4))}
    weights["w1"][:, 8:] *= 3
    data = rng.normal(size=(256, 5, 6)).astype(np.float32)
    _, _, walked = refit(model(nodes, weights, [None, 5, 6]), {"w1": range(8)}, data)
    (norm,) = walked.others
    assert norm.refitted
    assert norm.after < 0.5 * norm.before


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "GRU before"])
@pytest.mark.parametrize("direction", ["forward", "bidirectional"])
def test_recurrent_layers_are_refitted(kind: str, direction: str) -> None:
    rng, gates, d = RNG(11), 4 if kind == "LSTM" else 3, 1 + (direction != "forward")
    more = {} if kind == "LSTM" else {"linear_before_reset": int(kind.endswith("before"))}
    nodes = [
        helper.make_node("MatMul", ["x", "w0"], ["h"]),
        helper.make_node(
            kind[:4].strip(),
            ["h", "w", "r", "b"],
            ["y"],
            hidden_size=10,
            direction=direction,
            **more,
        ),
    ]
    weights = {
        "w0": rng.normal(size=(6, 8)),
        "w": rng.normal(size=(d, gates * 10, 8)) / 3,
        "r": rng.normal(size=(d, gates * 10, 10)) / 3,
        "b": rng.normal(size=(d, 2 * gates * 10)),
    }
    # Time is the first axis: batches are of sequences, all of one length.
    proto = model(nodes, weights, [7, None, 6], rank=4)
    data = rng.normal(size=(7, 512, 6)).astype(np.float32)
    network, groups = read(proto)
    choice: dict[Any, Any] = {g.dim: np.arange(5) for g in groups if g.name == "w0"}
    assert choice
    sites, _ = find_sites(network)
    batches = [{"x": data[:, i : i + 32]} for i in range(0, 512, 32)]
    walked = walk(network, sites, cut(network, sites, choice), choice, batches, Settings())
    (cell,) = walked.others
    assert cell.refitted
    plain = cut(network, sites, choice).model
    wanted = outputs(proto, data)
    error = np.square(outputs(walked.model, data) - wanted).sum()
    assert error < 0.9 * np.square(outputs(plain, data) - wanted).sum()
    onnx.checker.check_model(walked.model)


def test_a_budget_is_met_where_no_probe_tells_of_most_groups() -> None:
    """Of two LSTMs, a linear layer reads the last: the other's width is the plan's own."""
    proto = lstm.build(0)
    data = RNG(12).normal(size=(64, 12, 24)).astype(np.float32)
    given: dict[str, Any] = {"target": "macs=0.4", "round_to": 1, "benchmark": False}
    shapes = {"sequence": (1, 12, 24)}
    result = onnxprune.prune(
        proto, calibration={"sequence": data}, reconstruct=True, input_shapes=shapes, **given
    )
    assert result.report.target is not None and result.report.target.met
    assert all(1 < group.kept < group.size for group in result.report.groups)


# -- pairs ---------------------------------------------------------------------------------------


def _pair(kind: str) -> tuple[ModelProto, str, np.ndarray]:
    """Two layers around a function, the group between them, and data."""
    rng = RNG(21)
    if kind == "conv":
        nodes = [
            helper.make_node("Conv", ["x", "w1", "b1"], ["h"], pads=[1] * 4),
            helper.make_node("Relu", ["h"], ["r"]),
            helper.make_node("Conv", ["r", "w2"], ["y"], pads=[1] * 4, strides=[2, 2]),
        ]
        weights = {
            **{"w1": rng.normal(size=(12, 3, 3, 3)), "b1": rng.normal(size=12)},
            "w2": rng.normal(size=(5, 12, 3, 3)),
        }
        return model(nodes, weights, [None, 3, 8, 8]), "w1", rng.normal(size=(192, 3, 8, 8))
    if kind == "depthwise":
        nodes = [
            helper.make_node("Conv", ["x", "w1", "b1"], ["h"]),
            helper.make_node("Clip", ["h", "low", "high"], ["r"]),
            helper.make_node("Conv", ["r", "w2"], ["d"], pads=[1] * 4, group=12),
            helper.make_node("Relu", ["d"], ["e"]),
            helper.make_node("Conv", ["e", "w3"], ["y"]),
        ]
        weights = {
            **{"w1": rng.normal(size=(12, 3, 1, 1)), "b1": rng.normal(size=12)},
            **{"w2": rng.normal(size=(12, 1, 3, 3)), "w3": rng.normal(size=(5, 12, 1, 1))},
            **{"low": np.array(0.0), "high": np.array(2.0)},
        }
        return model(nodes, weights, [None, 3, 8, 8]), "w1", rng.normal(size=(192, 3, 8, 8))
    weights = {"w1": rng.normal(size=(6, 16)), "w2": rng.normal(size=(16, 4))}
    data = rng.normal(size=(192, 10, 6))
    if kind == "gelu":  # as exporters write it: Erf and constants, a bias behind the product
        nodes = [
            helper.make_node("MatMul", ["x", "w1"], ["p"]),
            helper.make_node("Add", ["p", "b1"], ["h"]),
            helper.make_node("Div", ["h", "root"], ["d"]),
            helper.make_node("Erf", ["d"], ["e"]),
            helper.make_node("Add", ["e", "one"], ["f"]),
            helper.make_node("Mul", ["h", "f"], ["m"]),
            helper.make_node("MatMul", ["m", "w2"], ["y"]),
        ]
        more = {"b1": rng.normal(size=16), "root": np.array(2**0.5), "one": np.array(1.0)}
        return model(nodes, {**weights, **more}, [None, 10, 6]), "w1", data
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Sigmoid", ["h"], ["s"]),
        helper.make_node("Mul", ["h", "s"], ["a"]),
        helper.make_node("MatMul", ["x", "w0"], ["u"]),
        helper.make_node("Mul", ["a", "u"], ["m"]),
        helper.make_node("MatMul", ["m", "w2"], ["y"]),
    ]
    return model(nodes, {**weights, "w0": rng.normal(size=(6, 16))}, [None, 10, 6]), "w1", data


@pytest.mark.parametrize(
    ("kind", "fed_by", "share"),
    [("conv", 1, 0.9), ("depthwise", 1, 0.98), ("gelu", 1, 0.9), ("glu", 2, 0.9)],
)
def test_a_pair_does_better_than_its_layers_alone(kind: str, fed_by: int, share: float) -> None:
    proto, group, data = _pair(kind)
    found = pairs.find_pairs(read(proto)[0], find_sites(read(proto)[0])[0])
    assert len(found["y"].feeders) == fed_by
    data = data.astype(np.float32)
    few, rest = data[:128], data[128:]
    wanted = outputs(proto, rest)

    def error(together: bool) -> float:
        _, _, walked = refit(proto, {group: range(8)}, few, pairs=together)
        return float(np.square(outputs(walked.model, rest) - wanted).sum())

    together, alone = error(True), error(False)
    assert alone > 1e-3 * np.square(wanted - wanted.mean(0)).sum()
    assert together < share * alone


@pytest.mark.parametrize("between", ["Tanh", "Softmax", "read twice", "output"])
def test_only_what_is_elementwise_and_read_once_makes_a_pair(
    between: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    rng = RNG(3)
    nodes = [
        helper.make_node("MatMul", ["x", "w1"], ["h"]),
        helper.make_node("Softmax" if between == "Softmax" else "Tanh", ["h"], ["r"]),
        helper.make_node("MatMul", ["r", "w2"], ["y"]),
    ]
    weights = {"w1": rng.normal(size=(6, 12)), "w2": rng.normal(size=(12, 4))}
    if between == "read twice":
        nodes.append(helper.make_node("MatMul", ["r", "w3"], ["z"]))
        weights["w3"] = rng.normal(size=(12, 4))
        nodes.append(helper.make_node("Add", ["y", "z"], ["out"]))
    proto = model(nodes, weights, [None, 6], "out" if between == "read twice" else "y")
    if between == "output":
        proto.graph.output.append(helper.make_tensor_value_info("r", 1, [None, 12]))
    network, _ = read(proto)
    found = pairs.find_pairs(network, find_sites(network)[0])
    if between in ("read twice", "output"):
        assert "y" not in found
        return
    assert "y" in found  # of the same shape; what it does is known when it is run
    seen: list[bool] = []
    prove = PairFunction.is_elementwise

    def watched(*given: Any) -> bool:
        seen.append(prove(*given))
        return seen[-1]

    monkeypatch.setattr(PairFunction, "is_elementwise", watched)
    data = rng.normal(size=(512, 6)).astype(np.float32)
    monkeypatch.setattr("onnxprune.reconstruction.walk.reached", lambda *_: {"y"})
    sites, _ = find_sites(network)
    model_ = cut(network, sites, {})
    weight = next(t for t in model_.model.graph.initializer if t.name == "w2")
    weight.CopyFrom(numpy_helper.from_array(1.5 * numpy_helper.to_array(weight), "w2"))
    batches = [{"x": data[i : i + 64]} for i in range(0, 512, 64)]
    walk(network, sites, model_, {}, batches, Settings())
    assert seen == [between == "Tanh"]


def test_the_solver_solves_the_least_squares_problem() -> None:
    """Undamped and iterated long enough, conjugate gradients give what lstsq gives for J."""
    rng = RNG(5)
    n, k, m, o = 40, 4, 3, 2
    x, slopes = (rng.normal(size=(1, n, size)).astype(np.float32) for size in (k, m))
    h, missing = (rng.normal(size=(1, n, size)).astype(np.float32) for size in (m, o))
    reader = rng.normal(size=(1, m, o)).astype(np.float32)
    gather = Gather(np.arange(1, m + 1).reshape(1, 1, m), m)
    tangent = Tangent([x], [slopes], [gather], h, missing)
    weights = [(np.zeros((1, k, m)), np.zeros((1, m))), (np.zeros((1, m, o)), np.zeros((1, o)))]
    emphasis = np.ones((1, 1, o), np.float32)
    step = Solver([tangent], weights, reader, emphasis, 1e-9).solve(200)
    columns = []
    one = np.concatenate([x[0], np.ones((n, 1))], axis=1)
    for i in range(m):
        for j in range(k + 1):
            z = np.zeros((n, m))
            z[:, i] = one[:, j] * slopes[0, :, i]
            columns.append((z @ reader[0]).ravel())
    two = np.concatenate([h[0], np.ones((n, 1))], axis=1)
    for i in range(m + 1):
        for j in range(o):
            y = np.zeros((n, o))
            y[:, j] = two[:, i]
            columns.append(y.ravel())
    jacobian = np.stack(columns, axis=1)
    best = np.linalg.lstsq(jacobian, missing.ravel(), rcond=None)[0]
    (w, b), (v, c) = step
    mine = np.concatenate([np.vstack([w[0], b]).T.ravel(), np.vstack([v[0], c]).ravel()])
    target = missing.ravel()
    least = np.square(jacobian @ best - target).sum()
    assert np.square(jacobian @ mine - target).sum() == pytest.approx(least, rel=1e-3)
    assert least < 0.95 * np.square(target).sum()


def test_gathering_and_its_transpose() -> None:
    rng = RNG(8)
    where = rng.integers(0, 7, size=(2, 3, 4))
    gather = Gather(where, 6)
    z = rng.normal(size=(1, 5 * 3, 2)).astype(np.float32)  # five units of six elements
    h = rng.normal(size=(2, 5 * 3, 4)).astype(np.float32)
    wide = gather(z)
    units = z.reshape(5, 6)
    for unit in range(5):
        padded = np.concatenate([[0], units[unit]])
        assert np.array_equal(wide.reshape(2, 5, 3, 4)[:, unit], padded[where])
    assert np.vdot(wide, h) == pytest.approx(np.vdot(z, gather.back(h, z.shape)), rel=1e-5)
