"""Channels planted to carry nothing are found, all of them and no others, and change nothing."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import ModelProto, numpy_helper

import onnxprune
from onnxprune.axes import Dim
from onnxprune.errors import NotPrunable
from onnxprune.groups import find_groups
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.lossless import Removable, find_removable, fold
from onnxprune.lossless.facts import ONES, alike, nonzero
from onnxprune.lossless.rows import Places, rows
from onnxprune.model import Model
from onnxprune.rewrite import rewrite
from onnxprune.runtime import make_inputs, run, session
from onnxprune.tables import with_user_rules
from tests.graphs import Array, constants, make, node, perceptron, two_convs, weight

Weights = dict[str, Array]


def edited(model: ModelProto, change: Callable[[Weights], None]) -> ModelProto:
    """The model with its weights changed."""
    values = {name: value.copy() for name, value in constants(model).items()}
    change(values)
    copy = ModelProto()
    copy.CopyFrom(model)
    for tensor in copy.graph.initializer:
        tensor.CopyFrom(numpy_helper.from_array(values[tensor.name], tensor.name))
    return copy


def outputs(model: ModelProto, seed: int = 0) -> dict[str, Array]:
    onnx.checker.check_model(model)
    feeds = make_inputs(model, dynamic=3, seed=seed)
    return run(session(model, optimize=False), feeds)


def cut(model: ModelProto) -> tuple[dict[str, Removable], ModelProto]:
    """What is found, by the group's name, and the model without it, which does the same."""
    network = infer(load(model), with_user_rules(()))
    groups = find_groups(network)
    names = {group.dim: group.name for group in groups}
    found = find_removable(network, groups)
    folded = fold(network, found)
    for a, b in zip(outputs(model).values(), outputs(folded).values(), strict=True):
        assert np.abs(a).max() > 1e-3 and np.allclose(a, b, rtol=1e-4, atol=1e-5 * np.abs(a).max())
    again = infer(load(folded), with_user_rules(()))
    by_name = {group.name: group for group in find_groups(again)}
    choice = {
        by_name[names[each.dim]].dim: np.setdiff1d(
            np.arange(each.dim.size or 0), each.channels
        ).astype(np.int64)
        for each in found
    }
    pruned = rewrite(again, choice)
    for seed in (0, 1):
        expected, result = outputs(model, seed), outputs(pruned, seed)
        for name, value in expected.items():
            assert np.abs(value - result[name]).max() <= 1e-5 * np.abs(value).max()
    return {names[each.dim]: each for each in found}, pruned


def kinds(found: Removable) -> dict[str, list[int]]:
    return {
        kind: [k for k, of in sorted(found.kinds.items()) if of == kind]
        for kind in dict.fromkeys(found.kinds.values())
    }


def test_random_weights_have_nothing_to_remove() -> None:
    for model in (two_convs(16), perceptron()):
        assert cut(model)[0] == {}


def test_a_perceptron() -> None:
    """Zero rows with a bias, doubled rows, zero columns, and what only looks alike."""

    def plant(w: Weights) -> None:
        w["w1"][:, 0], w["b1"][0] = 0, 0.7  # constant
        w["w1"][:, 1], w["b1"][1] = 0, -0.7  # dead behind the Relu
        w["w1"][:, 3], w["b1"][3] = 2.5 * w["w1"][:, 2], 2.5 * w["b1"][2]  # proportional
        w["w1"][:, 5], w["b1"][5] = -w["w1"][:, 4], -w["b1"][4]  # Relu tells them apart
        w["w1"][:, 6] = w["w1"][:, 2]  # but for the bias
        w["w2"][7] = 0  # unused

    found, pruned = cut(edited(perceptron(), plant))
    assert kinds(found["w1"]) == {"constant": [0, 1], "duplicate": [3], "unused": [7]}
    assert constants(pruned)["w1"].shape == (6, 4)


def test_a_padded_convolution_keeps_one_constant_channel() -> None:
    """A constant other than zero meets the border: all such channels become one."""

    def plant(w: Weights) -> None:
        for k, value in ((0, 0.5), (1, 1.5), (2, -1.0)):
            w["w1"][k], w["b1"][k] = 0, value
        w["w1"][4], w["b1"][4] = w["w1"][3] * 0.5, w["b1"][3] * 0.5
        w["w2"][:, 5] = 0

    found, _ = cut(edited(two_convs(8), plant))
    assert kinds(found["w1"]) == {"duplicate": [1, 4], "constant": [2], "unused": [5]}


def residual(channels: int = 12) -> ModelProto:
    """A stem, two residual blocks, a concatenation, depthwise and padded convolutions, a head."""
    c = channels
    weights = {
        "stem": weight("stem", c, 3, 3, 3),
        "bn": np.abs(weight("bn", c)) + 0.5,
        "shift": weight("shift", c),
        "mean": weight("mean", c),
        "var": np.abs(weight("var", c)) + 0.5,
        "a1": weight("a1", 10, c, 3, 3),
        "a1b": weight("a1b", 10),
        "a2": weight("a2", c, 10, 1, 1),
        "dw": weight("dw", c, 1, 3, 3),
        "dwb": weight("dwb", c),
        "pw": weight("pw", 6, c, 1, 1),
        "head": weight("head", 6 + c, 5),
        "headb": weight("headb", 5),
    }
    nodes = [
        node("Conv", ["x", "stem"], ["s0"], pads=[1] * 4),
        node("BatchNormalization", ["s0", "bn", "shift", "mean", "var"], ["s1"]),
        node("Relu", ["s1"], ["s"]),
        node("Conv", ["s", "a1", "a1b"], ["t0"], pads=[1] * 4),
        node("Relu", ["t0"], ["t"]),
        node("Conv", ["t", "a2"], ["u"]),
        node("Add", ["s", "u"], ["r0"]),
        node("Relu", ["r0"], ["r"]),
        node("Conv", ["r", "dw", "dwb"], ["d0"], pads=[1] * 4, group=c),
        node("Clip", ["d0", "zero", "six"], ["d"]),
        node("Conv", ["d", "pw"], ["p0"]),
        node("Relu", ["p0"], ["p"]),
        node("Concat", ["p", "r"], ["cat"], axis=1),
        node("GlobalAveragePool", ["cat"], ["g"]),
        node("Flatten", ["g"], ["f"]),
        node("Gemm", ["f", "head", "headb"], ["y"]),
    ]
    weights |= {"zero": np.float32(0), "six": np.float32(6)}
    weights = {name: np.asarray(value, np.float32) for name, value in weights.items()}
    return make(nodes, {"x": ["N", 3, 9, 9]}, {"y": ["N", 5]}, weights)


def _twin(w: Weights, names: Sequence[str], i: int, j: int, factor: float = 1.0) -> None:
    for name in names:
        w[name][j] = factor * w[name][i]


def test_a_residual_stream() -> None:
    """A channel of it goes only where stem, branch and depthwise all agree."""

    def plant(w: Weights) -> None:
        producers = ["stem", "bn", "shift", "mean", "var", "a2"]
        _twin(w, [*producers, "dw", "dwb"], 0, 1)  # the same all along
        _twin(w, ["stem", "mean", "a2"], 2, 3, 2.0)  # proportional up to the Relu of the stream:
        w["bn"][3], w["shift"][3], w["var"][3] = w["bn"][2], 2 * w["shift"][2], w["var"][2]
        w["dw"][3] = 0  # ... where Clip would tell them apart, the second is not read
        w["dwb"][3] = -1
        w["bn"][4], w["shift"][4], w["a2"][4] = 0, -1, 0  # dead in the stem, nothing is added
        w["dw"][4], w["dwb"][4] = 0, 0
        w["bn"][5], w["shift"][5] = 0, -1  # dead in the stem, alive by the branch
        _twin(w, producers, 6, 7)  # the same in the stream, not behind the depthwise
        _twin(w, ["a1", "a1b"], 0, 1, 3.0)  # inside of the block
        w["a1"][2], w["a1b"][2] = -np.abs(w["a1"][2]), -1  # all below zero: dead
        w["pw"][1] = 0  # constant zero in the concatenation

    model = edited(residual(), plant)
    # Batch normalisation's epsilon makes proportional variances a little less so.
    found, pruned = cut(model)
    assert kinds(found["a1"]) == {"duplicate": [1], "constant": [2]}
    assert kinds(found["stem"]) == {"duplicate": [1, 3], "constant": [4]}
    assert kinds(found["pw"]) == {"constant": [1]}
    assert constants(pruned)["head"].shape == (5 + 9, 5)


def test_a_feed_forward_block() -> None:
    """Gelu is no friend of factors: only equal channels are one."""

    def plant(w: Weights) -> None:
        w["up"][:, 1], w["ub"][1] = w["up"][:, 0], w["ub"][0]
        w["up"][:, 3], w["ub"][3] = 2 * w["up"][:, 2], 2 * w["ub"][2]
        w["up"][:, 4], w["ub"][4] = 0, 1.3
        w["down"][5] = 0

    erf = [
        node("MatMul", ["x", "up"], ["h0"]),
        node("Add", ["h0", "ub"], ["h"]),
        node("Div", ["h", "root"], ["h1"]),
        node("Erf", ["h1"], ["h2"]),
        node("Add", ["h2", "one"], ["h3"]),
        node("Mul", ["h", "h3"], ["h4"]),
        node("Mul", ["h4", "half"], ["act"]),
        node("MatMul", ["act", "down"], ["y0"]),
        node("Add", ["x", "y0"], ["y"]),
    ]
    scalars = {"root": 2**0.5, "one": 1, "half": 0.5}
    model = make(
        erf,
        {"x": ["N", "T", 8]},
        {"y": ["N", "T", 8]},
        {
            "up": weight("up", 8, 16),
            "ub": weight("ub", 16),
            "down": weight("down", 16, 8),
            **{name: np.float32(value) for name, value in scalars.items()},
        },
    )
    found, pruned = cut(edited(model, plant))
    assert kinds(found["up"]) == {"duplicate": [1], "constant": [4], "unused": [5]}
    assert constants(pruned)["down"].shape == (13, 8)


def test_a_tied_weight_is_left_alone() -> None:
    """Its other use would see the edit."""
    model = perceptron()
    del model.graph.node[3]
    model.graph.node.append(node("MatMul", ["r", "w2"], ["y0"]))
    model.graph.node.append(node("MatMul", ["r", "w2"], ["y1"]))
    model.graph.node.append(node("Add", ["y0", "y1"], ["y"]))

    def plant(w: Weights) -> None:
        w["w1"][:, 0], w["b1"][0] = 0, 0.7

    assert cut(edited(model, plant))[0] == {}


def test_statistics_see_every_channel() -> None:
    """A LayerNormalization in between, and zeros are no longer nothing."""
    nodes = [
        node("MatMul", ["x", "w1"], ["m"]),
        node("LayerNormalization", ["m", "g", "b"], ["n"]),
        node("MatMul", ["n", "w2"], ["y"]),
    ]
    weights = {"w1": weight("w1", 6, 8), "w2": weight("w2", 8, 4)}
    weights |= {"g": np.ones(8, np.float32), "b": np.zeros(8, np.float32)}

    def plant(w: Weights) -> None:
        w["w1"][:, 0], w["w2"][1] = 0, 0

    model = make(nodes, {"x": ["N", 6]}, {"y": ["N", 4]}, weights)
    assert cut(edited(model, plant))[0] == {}


def test_all_channels_but_one() -> None:
    found, pruned = cut(
        edited(perceptron(), lambda w: (w["w1"].fill(0), w["b1"].fill(0.3)))  # type: ignore[func-returns-value]
    )
    assert len(found["w1"].kinds) == 7 and constants(pruned)["w2"].shape == (1, 4)


@pytest.mark.parametrize("seed", range(20))
def test_planted_at_random(seed: int) -> None:
    """A fifth of all channels of the residual network, drawn at random, and none but those."""
    rng = np.random.default_rng(seed)
    expected: dict[str, set[int]] = {"a1": set(), "pw": set()}

    def plant(w: Weights) -> None:
        for name, bias, reader in (("a1", "a1b", "a2"), ("pw", None, None)):
            n = len(w[name])
            chosen = rng.choice(n, max(1, n // 5), replace=False)
            alive = np.setdiff1d(np.arange(n), chosen)
            for k in chosen:
                kind = rng.choice(["dead", "alike", "unread"] if bias else ["dead", "alike"])
                if kind == "dead":
                    w[name][k] = 0
                    if bias:
                        w[bias][k] = rng.normal()
                elif kind == "alike":
                    twin, factor = rng.choice(alive), rng.uniform(0.5, 2)
                    _twin(w, [each for each in (name, bias) if each], twin, k, factor)
                    if twin > k:
                        k = twin
                else:
                    w[reader][:, k] = 0
                expected[name].add(int(k))

    found, _ = cut(edited(residual(), plant))
    assert {name: set(each.kinds) for name, each in found.items()} == {
        name: channels for name, channels in expected.items() if channels
    }


# -- the whole command ---------------------------------------------------------------------------


def planted() -> ModelProto:
    def plant(w: Weights) -> None:
        w["w1"][1], w["b1"][1] = w["w1"][0] * 0.5, w["b1"][0] * 0.5
        w["w1"][2], w["b1"][2] = 0, -1
        w["w2"][:, 3] = 0

    return edited(two_convs(32), plant)


def test_lossless_removes_that_and_nothing_else() -> None:
    result = onnxprune.prune(planted(), lossless=True, benchmark=False)
    assert [len(group.kept) for group in result.plan.groups] == [29]
    assert result.report.lossless is not None
    assert result.report.lossless["channels"] == {"w1": [1, 2, 3]}
    before, after = outputs(planted()), outputs(result.model)
    assert np.abs(before["y"] - after["y"]).max() <= 1e-5 * np.abs(before["y"]).max()
    assert result.report.certificate is not None and result.report.certificate.ok
    again = onnxprune.apply(planted(), result.plan)
    assert again.model.SerializeToString() == result.model.SerializeToString()


def test_what_carries_nothing_goes_first() -> None:
    """At a ratio that takes a quarter, they are among it, however large their weights are."""
    model = edited(planted(), lambda w: w["w1"].__setitem__(3, w["w1"][3] * 100))
    kept = onnxprune.plan(model, ratio=0.25, round_to=1).groups[0].kept
    assert not {1, 2, 3} & set(kept) and len(kept) == 24
    kept = onnxprune.plan(model, ratio=0.25, round_to=1, lossless=False).groups[0].kept
    assert 3 in kept


def test_rounding_keeps_some_of_them() -> None:
    result = onnxprune.prune(planted(), lossless=True, round_to=2, benchmark=False)
    assert len(result.plan.groups[0].kept) == 30


def test_excluded_layers_are_not_edited() -> None:
    with pytest.raises(onnxprune.NotPrunable, match="no group is left"):
        onnxprune.prune(planted(), lossless=True, exclude=["conv2"], benchmark=False)


def test_nothing_to_remove_is_said() -> None:
    with pytest.raises(onnxprune.NotPrunable, match="no channel carries nothing"):
        onnxprune.prune(two_convs(16), lossless=True, benchmark=False)


def test_dead_on_calibration_data_is_measured() -> None:
    """A Relu that positive inputs never open: no weight says so, the data does."""

    def plant(w: Weights) -> None:
        w["w1"][:, 5], w["b1"][5] = -np.abs(w["w1"][:, 5]), -0.1

    model = edited(perceptron(), plant)
    data = np.random.default_rng(0).random((64, 6), dtype=np.float32)
    result = onnxprune.prune(model, lossless=True, calibration=data, benchmark=False)
    assert result.report.lossless is not None
    weights = constants(model)
    silent = ~((data @ weights["w1"] + weights["b1"]) > 0).any(axis=0)
    assert silent[5] and not silent.all()
    assert result.report.lossless["channels"] == {"w1": np.flatnonzero(silent).tolist()}
    assert result.report.lossless["measured"] == silent.sum()
    before, after = (
        run(session(each, optimize=False), {"x": data})["y"] for each in (model, result.model)
    )
    assert np.abs(before - after).max() <= 1e-5 * np.abs(before).max()
    with pytest.raises(onnxprune.NotPrunable):
        onnxprune.prune(model, lossless=True, benchmark=False)


def test_made_up_inputs_measure_nothing() -> None:
    """A channel that needs brighter images than were made up is alive."""
    model = edited(two_convs(), lambda w: w["b1"].__setitem__(slice(4), -60.0))
    bright = {"x": 100 * make_inputs(model, dynamic=3)["x"]}
    whole = run(session(model, optimize=False), bright)["y"]
    result = onnxprune.prune(model, ratio=0.25, calibration="synthetic", benchmark=False)
    assert not any("carry nothing" in note for note in result.report.notes)
    with pytest.raises(NotPrunable, match="no channel carries nothing"):
        onnxprune.prune(model, lossless=True, calibration="synthetic", benchmark=False)
    # Real images of which none is bright: as far as they say, those channels are dead.
    dim = onnxprune.prune(
        model,
        lossless=True,
        calibration={"x": 0.1 * bright["x"] / 100},
        round_to=1,
        benchmark=False,
    )
    assert np.abs(run(session(dim.model, optimize=False), bright)["y"] - whole).max() > 1


def test_a_real_network_has_some(corpus: Path) -> None:
    """The visual-wake-words network of MLPerf Tiny: 233 duplicates and 4 constants, by padding."""
    path = corpus / "models" / "conv_mlperftiny_vww_mnv1_fp32.onnx"
    result = onnxprune.prune(path, lossless=True, benchmark=False)
    assert sum(group.size - len(group.kept) for group in result.plan.groups) == 237
    comparison = onnxprune.compare(path, result.model, rtol=1e-5)
    assert comparison.ok and comparison.proves


def test_many_rows_of_one_kind_are_one_label() -> None:
    """A bias of zeros and ones in a wide layer: every row is a multiple of every other."""
    labels, scale = alike(np.repeat([[2.0], [-1.0], [0.0]], 10_000, axis=0))
    assert len(set(labels.tolist())) == 2 and (labels[20_000:] == ONES).all()
    assert set(scale.tolist()) == {2.0, -1.0, 0.0}


def test_rows_that_lie_across_memory_are_summed_up_exactly() -> None:
    """As of a MatMul's weight, where float32 would lose more digits than rows may differ by."""
    w = np.random.default_rng(0).random((30_000, 40), dtype=np.float32)
    w[:, 20:] = w[:, :20] * np.float32(2.3)
    labels, scale = alike(w.T)
    assert (labels[20:] == labels[:20]).all() and len(set(labels.tolist())) == 20
    assert np.allclose(scale[20:] / scale[:20], 2.3)
    bias = np.ones((40, 1))  # not in proportion
    labels, _ = alike(w.T, 1e4 * bias)
    assert len(set(labels.tolist())) == 40
    labels, _ = alike(w.T, within=np.arange(40) // 30)
    assert len(set(labels.tolist())) == 30


def test_large_weights_are_read_once(monkeypatch: pytest.MonkeyPatch) -> None:
    model = make(
        [
            node("MatMul", ["x", "w1"], ["h"]),
            node("Add", ["h", "b1"], ["a"]),
            node("Relu", ["a"], ["r"]),
            node("MatMul", ["r", "w2"], ["y"]),
        ],
        {"x": ["N", 64]},
        {"y": ["N", 64]},
        {"w1": weight("w1", 64, 128), "b1": weight("b1", 128), "w2": weight("w2", 128, 64)},
    )
    network = infer(load(model), with_user_rules(()))
    groups, reads = find_groups(network), Counter[str]()
    read = Model.read

    def counted(self: Model, name: str) -> Array:
        reads[name] += 1
        return read(self, name)

    monkeypatch.setattr(Model, "read", counted)
    assert find_removable(network, groups) == []
    assert reads["w1"] == reads["w2"] == 1


def upsampled(mode: str) -> ModelProto:
    """x -> conv, Relu -> Resize -> conv of negative weights, Relu -> conv -> y."""
    made = make(
        [
            node("Conv", ["x", "w1"], ["c"]),
            node("Relu", ["c"], ["r"]),
            node("Resize", ["r", "", "scales"], ["u"], mode=mode),
            node("Conv", ["u", "w2"], ["d"]),
            node("Relu", ["d"], ["e"]),
            node("Conv", ["e", "w3"], ["y"]),
        ],
        {"x": [1, 3, 6, 6]},
        {"y": [1, 4, 12, 12]},
        {
            **{"w1": weight("w1", 8, 3, 1, 1), "w2": weight("w2", 8, 8, 1, 1)},
            **{"w3": weight("w3", 4, 8, 1, 1), "scales": np.float32([1, 1, 2, 2])},
        },
    )
    return edited(made, lambda w: w["w2"].__setitem__(0, -np.abs(w["w2"][0])))


def test_what_overshoots_has_no_bounds() -> None:
    """Cubic interpolation of what is never negative is negative at edges: nothing is dead then."""
    assert kinds(cut(upsampled("linear"))[0]["w2"]) == {"constant": [0]}
    assert cut(upsampled("cubic"))[0] == {}


def test_a_falling_activation_is_not_monotone() -> None:
    """|tanh(x)| is 1 at both ends, and no constant."""
    model = perceptron()
    model.graph.node[2].CopyFrom(node("Tanh", ["a"], ["t"]))
    model.graph.node.insert(3, node("LeakyRelu", ["t"], ["r"], alpha=-1.0))
    assert cut(model)[0] == {}


def test_long_rows_are_compared_to_their_ends() -> None:
    """What begins alike may end otherwise, and what begins with zeros may not stay so."""
    rng = np.random.default_rng(0)
    rows = rng.standard_normal((12, 5000)).astype(np.float32)
    rows[3] = -2 * rows[1]  # alike
    rows[4, :2000] = rows[2, :2000]  # alike at first
    rows[5] = rows[6] = 0
    rows[6, 4000:] = 1
    rows[7, :3000] = 0
    rows[8] = rows[7] / 4  # alike, behind zeros
    labels, scale = alike(rows)
    pairs = {(i, k) for i in range(12) for k in range(i) if labels[i] == labels[k]}
    assert pairs == {(3, 1), (8, 7)}
    assert scale[5] == 0 and (np.delete(scale, 5) != 0).all()
    assert scale[3] / scale[1] == pytest.approx(-2)
    assert scale[8] / scale[7] == pytest.approx(1 / 4)
    apart = alike(rows, within=np.arange(12))[0]
    assert len(set(apart.tolist())) == 12 or apart[5] == -1
    there = nonzero(rows, 0)
    assert there.tolist() == [i != 5 for i in range(12)]
    assert nonzero(rows[[5, 6]], 1).nonzero()[0].tolist() == list(range(4000, 5000))


@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("heads", [1, 3])
def test_rows_are_copied_as_far_as_they_are_looked_at(axis: int, heads: int) -> None:
    """What a row begins with, and some rows, are those of the whole matrix."""
    rng = np.random.default_rng(0)
    tensor = rng.standard_normal((12, 12, 2, 5)).astype(np.float32)
    dim, n = Dim(12 // heads), 12 // heads
    here: Places = {dim: [(np.arange(12), np.arange(12) % n)]}
    found = rows(tensor, [here, {}] if axis == 0 else [{}, here], dim)
    assert found is not None and rows(tensor, [here], Dim(n)) is None
    assert found.width == heads * 120
    moved = np.moveaxis(tensor, axis, 0)
    whole = np.stack([moved[k::n].ravel() for k in range(n)])
    assert np.array_equal(found.all(), whole)
    scale = rng.standard_normal(n)
    for each, wanted in ((found, whole), (found.scaled(scale), whole * scale[:, None])):
        assert np.allclose(each.take(np.array([2, 0])), wanted[[2, 0]])
        for count in (1, 7, 10, 11, 120, 121, 500):
            assert np.allclose(each.begin(count), wanted[:, :count])
    low, high = found.bounds()
    assert np.array_equal(low, whole.min(axis=1)) and np.array_equal(high, whole.max(axis=1))


def test_weights_in_files_are_read_once_and_say_what_weights_inside_say(tmp_path: Path) -> None:
    """A channel of zeros, one that is another's multiple, and a dead one, in external data."""
    w1, w2, w3 = weight("w1", 6, 600), weight("w2", 600, 600), weight("w3", 600, 4)
    w1[:, 7], w1[:, 9] = 0, 2 * w1[:, 8]
    w2[:, 3], w3[5] = 0, 0
    made = make(
        [
            node("MatMul", ["x", "w1"], ["a"]),
            node("Relu", ["a"], ["b"]),
            node("MatMul", ["b", "w2"], ["c"]),
            node("Relu", ["c"], ["d"]),
            node("MatMul", ["d", "w3"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {"w1": w1, "w2": w2, "w3": w3},
    )

    def find(model: ModelProto | Path) -> list[list[int]]:
        network = infer(load(model), with_user_rules(()))
        found = find_removable(network, find_groups(network))
        return [sorted(each.channels.tolist()) for each in found]

    inside, path = find(made), tmp_path / "model.onnx"
    onnx.save(made, path, save_as_external_data=True, location="data", size_threshold=0)
    assert inside == find(path) == [[7, 9], [3, 5]]
