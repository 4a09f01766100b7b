"""Scores from gradients, against what they stand for: derivatives and losses worked out plainly."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import onnx
import pytest

import onnxprune
from models import FAMILIES, densenet, resnet
from onnxprune.calibration import CalibrationData
from onnxprune.criteria import CRITERIA
from onnxprune.criteria.by_gradient import ByGradient
from onnxprune.groups import find_groups
from onnxprune.importance import Importance
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.rewrite import rewrite
from onnxprune.runtime import run, session
from onnxprune.tables import built_in
from tests.graphs import make, node, weight

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

ROOT = Path(__file__).resolve().parents[2]


def perceptron():
    """x [N, 6] -> Gemm [8], Tanh, Gemm [4] -> y."""
    return make(
        [
            node("Gemm", ["x", "w1", "b1"], ["h"]),
            node("Tanh", ["h"], ["a"]),
            node("Gemm", ["a", "w2", "b2"], ["y"]),
        ],
        {"x": ["N", 6]},
        {"y": ["N", 4]},
        {
            "w1": weight("w1", 6, 8) / 3,
            "b1": weight("b1", 8),
            "w2": weight("w2", 8, 4) / 3,
            "b2": weight("b2", 4),
        },
    )


def network_of(model):
    network = infer(load(model), built_in())
    return network, find_groups(network)


def data_of(count=64):
    x = np.random.default_rng(1).standard_normal((count, 6)).astype(np.float32)
    labels = np.random.default_rng(2).integers(0, 4, count)
    return {"x": x, "labels": labels}


def by_hand(arrays):
    """The loss of the labels as a function of the weights, and the weights."""
    x, labels = torch.tensor(arrays["x"]), torch.tensor(arrays["labels"])
    held = {
        t.name: torch.tensor(onnx.numpy_helper.to_array(t)) for t in perceptron().graph.initializer
    }

    def loss(w1, b1, w2, b2):
        y = torch.tanh(x @ w1 + b1) @ w2 + b2
        return torch.nn.functional.cross_entropy(y, labels)

    return loss, [held[name].requires_grad_() for name in ("w1", "b1", "w2", "b2")]


def scores_of(name, count=16):
    """Scores of the one group with one batch, `[8]`; members reduced by their sum."""
    network, groups = network_of(perceptron())
    arrays = data_of(count)
    (group,) = groups
    importance = Importance(name, "sum", "none", CalibrationData(arrays))
    return importance.scores(network, [group])[0], arrays


def test_taylor_is_the_square_of_gradient_times_weight():
    found, arrays = scores_of("taylor")
    loss, weights = by_hand(arrays)
    g = torch.autograd.grad(loss(*weights), weights)
    w1, b1, w2, _ = ((w * d).detach() for w, d in zip(weights, g, strict=True))
    expected = w1.sum(0).square() + b1.square() + w2.sum(1).square()
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-4)


def test_snip_and_fisher_of_one_batch():
    loss, weights = by_hand(data_of(16))
    g = torch.autograd.grad(loss(*weights), weights)
    snip = [(w * d).detach().abs() for w, d in zip(weights, g, strict=True)]
    fisher = [(w * d).detach().square() / 2 for w, d in zip(weights, g, strict=True)]
    for name, each in (("snip", snip), ("fisher", fisher)):
        expected = each[0].sum(0) + each[1] + each[2].sum(1)
        np.testing.assert_allclose(scores_of(name)[0], expected.numpy(), rtol=1e-4)


def test_grasp_is_weight_times_hessian_times_gradient():
    found, arrays = scores_of("grasp")
    loss, weights = by_hand(arrays)
    g = torch.autograd.grad(loss(*weights), weights, create_graph=True)
    along = sum((d * d.detach()).sum() for d in g)
    flow = [
        (w * h).detach() for w, h in zip(weights, torch.autograd.grad(along, weights), strict=True)
    ]
    rows = [flow[0].sum(0), flow[1], flow[2].sum(1)]
    expected = sum(row - row.min() for row in rows)
    np.testing.assert_allclose(found, expected.numpy(), rtol=1e-3, atol=1e-6)


def test_hessian_is_near_the_diagonal_of_the_hessian():
    found, arrays = scores_of("hessian", 2048)
    loss, weights = by_hand(arrays)
    whole = torch.autograd.functional.hessian(loss, tuple(weights))
    diagonal = [
        whole[i][i].reshape(w.numel(), w.numel()).diagonal().reshape(w.shape)
        for i, w in enumerate(weights)
    ]
    each = [(d * w.square() / 2).detach() for d, w in zip(diagonal, weights, strict=True)]
    expected = (each[0].sum(0) + each[1] + each[2].sum(1)).numpy()
    assert np.corrcoef(found, expected)[0, 1] > 0.9


@pytest.mark.parametrize("family", ["resnet", "decoder", "lstm", "gat"])
def test_every_score_is_one_finite_number_for_each_cell(family):
    network, groups = network_of(FAMILIES[family](0))
    data = CalibrationData("synthetic", samples=2)
    for name, each in CRITERIA.items():
        if issubclass(each, ByGradient):
            found = Importance(name, data=data).scores(network, groups)
            for score, group in zip(found, groups, strict=True):
                assert score.shape == (group.cells,) and np.isfinite(score).all(), name
            assert max(np.ptp(score) for score in found) > 0, name


@pytest.mark.parametrize("name", ["taylor", "fisher"])
def test_without_labels_scores_say_what_outputs_change_by(name):
    """A channel's score goes with the divergence of the outputs when it is masked."""
    network, groups = network_of(ROOT / "models" / "digits_cnn.onnx")
    images = np.load(ROOT / "models" / "digits_test.npz")["images"]
    group = max(groups, key=lambda each: each.size)
    importance = Importance(name, "mean", "none", CalibrationData(images))
    found = importance.scores(network, [group])[0]
    assert any("no labels" in note for note in importance.notes)
    proto = network.model.proto
    feed = {network.model.inputs[0].name: images}

    def classes(model):
        y = next(iter(run(session(model, optimize=False), feed).values())).astype(np.float64)
        y = y - y.max(1, keepdims=True)
        return y - np.log(np.exp(y).sum(1, keepdims=True))

    before = classes(proto)
    changed = []
    for channel in range(group.size):
        kept = np.delete(np.arange(group.size), channel)
        after = classes(rewrite(network, {group.dim: kept}))
        changed.append((np.exp(before) * (before - after)).sum(1).mean())
    assert np.ptp(found) > 0
    ranks = [np.argsort(np.argsort(each)) for each in (found, changed)]
    assert np.corrcoef(*ranks)[0, 1] > 0.8


def test_synaptic_flow_is_conserved_and_asks_for_no_data():
    model = make(
        [
            node("Conv", ["x", "w1"], ["h"], pads=[1, 1, 1, 1]),
            node("Relu", ["h"], ["a"]),
            node("Conv", ["a", "w2"], ["b"]),
            node("Relu", ["b"], ["c"]),
            node("GlobalAveragePool", ["c"], ["d"]),
            node("Flatten", ["d"], ["e"]),
            node("Gemm", ["e", "w3"], ["y"]),
        ],
        {"x": ["N", 3, 8, 8]},
        {"y": ["N", 5]},
        {
            "w1": weight("w1", 8, 3, 3, 3),
            "w2": weight("w2", 6, 8, 1, 1),
            "w3": weight("w3", 6, 5),
        },
    )
    from onnxprune.training.scores import scores

    network, groups = network_of(model)
    rows, notes = scores("synflow", network, groups, None)
    assert not notes
    for row in rows:
        np.testing.assert_allclose(row[0], row[1], rtol=1e-6)  # in and out of every channel
    totals = [row[0].sum() for row in rows]
    np.testing.assert_allclose(totals[0], totals[1], rtol=1e-6)  # and through every layer


def test_a_flow_that_is_not_conserved_is_said():
    importance = Importance("synflow")
    network, groups = network_of(densenet.build(0))
    importance.scores(network, groups)
    assert any("conserved" in note for note in importance.notes)


def test_synflow_leaves_every_layer_something_where_magnitude_does_not():
    """One network with a thin layer of small weights; 1 % of all channels, by the raw scores."""
    model = resnet.build(0)
    for tensor in model.graph.initializer:
        if "layer1" in tensor.name and len(tensor.dims) == 4:
            value = onnx.numpy_helper.to_array(tensor) * 1e-3
            tensor.CopyFrom(onnx.numpy_helper.from_array(value, tensor.name))

    def layers_left(criterion, share=0.05):
        network, groups = network_of(model)
        found = Importance(criterion, "mean", "none").scores(network, groups)
        bar = np.quantile(np.concatenate(found), 1 - share)
        return sum(bool((each >= bar).any()) for each in found), len(found)

    assert layers_left("group-l2")[0] < layers_left("group-l2")[1]
    result = onnxprune.prune(
        model, target="params=0.05", scope="global", criterion="synflow", normalizer="none",
        steps=20, round_to=1, benchmark=False, lossless=False,
    )  # fmt: skip
    assert min(group.kept for group in result.report.groups) >= 1
