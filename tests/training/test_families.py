"""Training networks that are no image classifiers: on the nodes of graphs, on tokens, on points."""

from __future__ import annotations

import numpy as np
import pytest

import onnxprune
from models import FAMILIES, example_inputs
from onnxprune.errors import UsageError
from onnxprune.runtime import run, session
from onnxprune.samples import spared
from onnxprune.training.settings import Settings

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.torch

NODES = 60
QUICK = Settings(epochs=40, threads=1, lr=3e-3, batch=4)


def graph(seed):
    """Features `[n, 48]`, and an adjacency matrix `[n, n]` with a link from each node to itself."""
    rng = np.random.default_rng(seed)
    links = (rng.random((NODES, NODES)) < 0.1) | np.eye(NODES, dtype=bool)
    features = rng.standard_normal((NODES, 48), np.float32)
    return {"features": features, "adjacency": links.astype(np.float32)}


def classes_of(model, feeds):
    return next(iter(run(session(model, optimize=True), feeds).values())).argmax(1)


@pytest.fixture(scope="module")
def gat():
    """A graph attention network, and what pruning has left of it."""
    model = FAMILIES["gat"](0)
    return model, onnxprune.prune(model, ratio=0.5, round_to=1, benchmark=False)


@pytest.mark.filterwarnings("error:The given NumPy array is not writable")
def test_the_only_graph_is_learned_from_and_judges(gat, tmp_path):
    model, cut = gat
    file = tmp_path / "graph.npz"  # mapped, and not to be written to
    np.savez(file, **graph(0))
    result = onnxprune.finetune(cut.model, model, file, plan=cut.plan, settings=QUICK)
    training = result.report.training
    assert (training["samples"], training["held_out"]) == (1, 0)
    assert training["after"]["distance"] < 0.5 * training["before"]["distance"]
    assert "on the same sample" in result.report.notes[0]
    # All of its nodes judge, and not the first of them.
    before, after, wanted = (classes_of(m, graph(0)) for m in (cut.model, result.model, model))
    assert training["before"]["agreement"] == pytest.approx((before == wanted).mean())
    assert training["after"]["agreement"] == pytest.approx((after == wanted).mean())


def test_nodes_whose_label_is_below_zero_have_none(gat):
    model, cut = gat
    known = np.arange(NODES) % 3 == 0
    labels = np.random.default_rng(3).integers(0, 7, NODES)
    found = []
    for nothing in (-1, -100):
        data = graph(0) | {"labels": np.where(known, labels, nothing)}
        found.append(onnxprune.finetune(cut.model, model, data, settings=QUICK))
    first, second = (each.report.training for each in found)
    assert first["history"] == second["history"]
    before, after = (classes_of(m, graph(0)) == labels for m in (cut.model, found[0].model))
    assert after[known].mean() > before[known].mean()
    # What was learned from does not judge.
    assert first["after"]["accuracy"] is None


def test_a_series_of_graphs_has_labels_for_each(gat):
    model, cut = gat
    graphs = [graph(seed) for seed in range(6)]
    data = {name: np.stack([each[name] for each in graphs]) for name in graphs[0]}
    labels = np.random.default_rng(4).integers(-1, 7, (len(graphs), NODES))
    settings = Settings(epochs=2, threads=1, held_out=0.34)
    given = {**data, "labels": labels}
    training = onnxprune.finetune(cut.model, model, given, settings=settings).report.training
    held = np.flatnonzero(spared(len(graphs), settings.every))
    assert training["held_out"] == len(held) == 2
    right = np.array([classes_of(cut.model, graphs[i]) == labels[i] for i in held])
    expected = right[labels[held] >= 0].mean()
    assert training["before"]["accuracy"] == pytest.approx(expected)


def test_one_image_is_no_set_of_samples():
    model = FAMILIES["resnet"](0)
    with pytest.raises(UsageError, match="two samples or more"):
        onnxprune.finetune(model, model, np.zeros((1, 3, 32, 32), np.float32))


@pytest.mark.parametrize("family", ["lstm", "dgcnn"])
def test_tokens_and_points_are_learned_from(family):
    model = FAMILIES[family](0)
    data = example_inputs(model, 64, size=12)
    settings = Settings(epochs=5, threads=1, lr=3e-3, batch=16)
    given = {"ratio": 0.5, "round_to": 1, "benchmark": False, "verify": False}
    result = onnxprune.prune(model, **given, calibration=data, finetune=settings)
    training = result.report.training
    assert training["after"]["distance"] < 0.8 * training["before"]["distance"]
    assert training["best"] > 0
