"""The solver of widths against brute force, on instances small enough to try everything."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from onnxprune.axes import Axis, Concat, Dim
from onnxprune.costs import Cost, Scaled, Term
from onnxprune.solver import Limit, Problem


def _instance(seed: int, groups: int = 4, places: int = 5) -> tuple[Problem, list[Cost]]:
    """A chain of layers with a shortcut; their MACs, and a time of stairs of 16."""
    rng = np.random.default_rng(seed)
    dims = [Dim(8 * places * int(rng.integers(1, 3))) for _ in range(groups)]
    widths = [[(dim.size or 0) * (i + 1) // places for i in range(places)] for dim in dims]
    ladders = [np.sort(rng.gamma(1.0, size=dim.size or 0)) for dim in dims]
    pairs: list[tuple[Axis, Axis]] = [
        *itertools.pairwise(dims),
        (Concat((dims[0], dims[1])), dims[-1]),
    ]
    weights = rng.random(len(pairs)) + 0.1
    macs = [Term("", pair, Scaled(float(w))) for pair, w in zip(pairs, weights, strict=True)]
    time = [
        Term("", pair, lambda a, b, w=float(w): w * -(-a // 16) * -(-b // 16))
        for pair, w in zip(pairs, weights, strict=True)
    ]
    costs = [Cost(macs, "MACs"), Cost(time, "ms", fixed=0.5)]
    return Problem(dims, widths, ladders, []), costs


def _brute(problem: Problem) -> float:
    fitting = (w for w in itertools.product(*problem.widths) if problem.fits(w))
    return max((problem.importance(w) for w in fitting), default=-np.inf)


@pytest.mark.parametrize("seed", range(12))
@pytest.mark.parametrize("share", [0.8, 0.5, 0.3])
def test_near_the_optimum_under_one_limit(seed: int, share: float) -> None:
    for which in (0, 1):
        problem, costs = _instance(seed)
        problem.limits = [Limit(costs[which], share * costs[which].total())]
        found, best = problem.solve(), _brute(problem)
        if found is None:
            assert best == -np.inf
            continue
        assert problem.fits(found)
        assert problem.importance(found) >= 0.95 * best


@pytest.mark.parametrize("seed", range(12))
def test_near_the_optimum_under_two_limits(seed: int) -> None:
    problem, (macs, time) = _instance(seed)
    problem.limits = [Limit(macs, 0.5 * macs.total()), Limit(time, 0.45 * time.total())]
    found, best = problem.solve(), _brute(problem)
    assert found is not None and problem.fits(found)
    assert problem.importance(found) >= 0.93 * best


@pytest.mark.parametrize("seed", range(8))
def test_never_worse_than_where_it_starts(seed: int) -> None:
    problem, (macs, _) = _instance(seed)
    start = [each[2] for each in problem.widths]
    dims = dict(zip(problem.dims, start, strict=True))
    problem.limits = [Limit(macs, macs.total(dims), 0.9 * macs.total(dims))]
    found = problem.solve([start])
    assert found is not None and problem.fits(found)
    assert problem.importance(found) >= problem.importance(start)


@pytest.mark.parametrize("seed", range(8))
def test_the_greedy_path_is_monotone(seed: int) -> None:
    """A tighter budget keeps nothing that a looser one dropped."""
    problem, (macs, _) = _instance(seed, groups=6)
    before = [each[-1] for each in problem.widths]
    for share in np.linspace(0.95, 0.1, 30):
        problem.limits = [Limit(macs, float(share) * macs.total())]
        now = problem.greedy()
        assert all(a <= b for a, b in zip(now, before, strict=True))
        before = now


def test_nothing_fits() -> None:
    problem, (macs, _) = _instance(0)
    problem.limits = [Limit(macs, 1e-6)]
    assert problem.solve() is None
