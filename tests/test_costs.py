"""Costs that are predicted from axis expressions, against what is counted after rewriting."""

from __future__ import annotations

import time
from pathlib import Path

import numpy as np
import pytest

from models import FAMILIES
from onnxprune.axes import Concat, Dim, Pin, Product
from onnxprune.costs import Cost, Scaled, Term, at_size
from onnxprune.groups import Group, find_groups
from onnxprune.infer import infer
from onnxprune.loading import ModelLike, load
from onnxprune.measure import count
from onnxprune.model_costs import bytes_cost, macs_cost, parameters_cost
from onnxprune.network import Network
from onnxprune.rewrite import rewrite
from onnxprune.runtime import find_inputs
from onnxprune.tables import with_user_rules
from tests.conftest import corpus_folder


def read(model: ModelLike) -> tuple[Network, list[Group]]:
    network = infer(load(model), with_user_rules([]))
    return network, [g for g in find_groups(network) if g.role != "second-factor"]


def check(model: ModelLike, seeds: int) -> None:
    """Random widths of all groups: what is predicted is what is counted."""
    network, groups = read(model)
    proto = network.model.proto
    shapes = find_inputs(proto, None, base_dir=network.model.base_dir).shapes
    costs = macs_cost(network, shapes), parameters_cost(network), bytes_cost(network)
    whole = count(proto, shapes, without=network.model.copies)
    assert (costs[0].total(), costs[1].total()) == (whole.macs or 0, whole.parameters)
    for seed in range(seeds):
        rng = np.random.default_rng(seed)
        choice = {}
        for group in groups:
            width = int(rng.integers(max(1, group.size // 4), group.size + 1))
            choice[group.dim] = np.sort(rng.permutation(group.size)[:width])
        widths = {dim: len(index) for dim, index in choice.items()}
        choice = {dim: index for dim, index in choice.items() if len(index) < (dim.size or 0)}
        found = count(rewrite(network, choice), shapes)
        macs, parameters, size = (cost.total(widths) for cost in costs)
        if not found.uncounted:  # written anew, shapes may be too much for ONNX's inference
            assert macs == (found.macs or 0)
        assert parameters == found.parameters
        assert size == pytest.approx(found.bytes, rel=0.02, abs=4096)


def test_a_tally_changes_as_the_total_does() -> None:
    """Any sequence of changes, of sums and products that share dims, one of them squared."""
    rng = np.random.default_rng(0)
    dims = [Dim(int(size)) for size in rng.integers(2, 40, 6)]
    a, b, c, d, e, f = dims
    terms = [
        Term("x", (Concat((a, b, c)), Product((a, Dim(9)))), Scaled(3)),
        Term("square", (Product((d, d)), e), Scaled()),
        Term("stairs", (Product((Concat((e, f)), b)),), lambda size: -(-size // 16) * 0.5),
    ]
    cost = Cost(terms, "ms", fixed=7)
    widths: dict[Dim, int] = {}
    tally = cost.tally()
    for _ in range(200):
        dim = dims[rng.integers(6)]
        width = int(rng.integers(1, (dim.size or 0) + 1))
        assert tally.after(dim, width) == pytest.approx(cost.total({**widths, dim: width}))
        widths[dim] = width
        tally.set(dim, width)
        assert tally.total == pytest.approx(cost.total(widths)) and tally.width(dim) == width
    assert {term.where for term in cost.terms_of(b)} == {"x", "stairs"}
    assert cost.terms_of(Dim(3)) == [] and tally.after(Dim(3), 1) == tally.total


def test_sizes_that_only_the_run_time_knows() -> None:
    a, n = Dim(12), Dim(None, (Pin("dynamic"),))
    assert Cost([Term("x", (at_size(Product((n, a)), 60),), Scaled())], "").total({a: 6}) == 30
    assert Cost([Term("x", (at_size(Concat((n, a)), 20),), Scaled())], "").total({a: 6}) == 14
    assert Cost([Term("x", (at_size(n, 20), a), Scaled())], "").total({a: 6}) == 120
    assert Cost([Term("x", (at_size(a, 13),), Scaled())], "").total({a: 6}) == 13


def test_a_change_takes_microseconds() -> None:
    """Densely connected: each of 60 dims stands in the axes of all layers behind it."""
    dims = [Dim(32) for _ in range(60)]
    terms = [Term("", (Concat(dims[:i]), dims[i]), Scaled(49)) for i in range(1, 60)]
    tally = Cost(terms, "MACs").tally()
    start = time.perf_counter()
    for dim in dims:
        for width in range(1, 32):
            tally.after(dim, width)
    assert (time.perf_counter() - start) / (60 * 31) < 500e-6


@pytest.mark.parametrize("family", FAMILIES)
def test_predicted_is_counted(family: str) -> None:
    check(FAMILIES[family](0), seeds=2)


def _corpus() -> list[object]:
    folder = corpus_folder()
    if folder is None:
        return []
    files = sorted((folder / "models").glob("*.onnx"), key=lambda file: file.stat().st_size)
    files = [file for file in files if "qonnx" not in file.stem]  # those do not run
    return [pytest.param(file, id=file.stem) for file in files[10:100:6]]


@pytest.mark.corpus
@pytest.mark.parametrize("path", _corpus())
def test_predicted_is_counted_of_real_models(path: Path) -> None:
    check(path, seeds=1)
