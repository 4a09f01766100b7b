"""Least squares through a Relu: what lies below zero in both models is no error.

A linear fit spends most of its freedom on negative values, which nobody reads. Here the loss is
|max(XW + b, f) - max(Y, f)|², f being the floor of each element (zero, less what is added later).
Where Y is below the floor, the target becomes what the fit gives now, or the floor if that is more;
solving again, with the same factor, lowers a bound on the loss (Zhang et al., "Accelerating Very
Deep Convolutional Networks", 2015). Of all passes the best on the held-out rows is kept.
"""

from __future__ import annotations

import numpy as np

from ..model import Array
from .gram import Gram, Matrix
from .problem import Block, Problem
from .solve import Fit, factor, solve_factored


def refine(
    problem: Problem,
    train: Gram,
    held: Gram,
    found: Fit,
    w0: Matrix,
    b0: Matrix,
    passes: int,
) -> Fit:
    """The best of the weights as they were, of `found`, and of some passes from there."""
    both = train + held
    ridge = found.ridge if found.ridge is not None else 1e-2
    xx, _ = both.covariance()
    lower = factor(xx, ridge)
    first, spread = _loss(problem, both, w0, b0)
    best = Fit(w0, b0, None, first / spread, first / spread)
    w, b = found.w, found.b
    for turn in range(passes + 1):
        xy, sy, loss = _targets(problem, both, w, b)
        if loss / spread < best.after * (1 - 1e-4):
            best = Fit(w, b, ridge, best.before, loss / spread)
        elif turn:
            break
        n = both.rows
        centred = xy - both.sx[:, :, None] * sy[:, None, :] / n
        w = w0 + solve_factored(lower, centred - xx @ w0)
        x, y = both.sx / n + both.x0, sy / n + both.y0
        b = y - np.einsum("gk,gko->go", x, w)
    return best


def _targets(problem: Problem, like: Gram, w: Matrix, b: Matrix) -> tuple[Matrix, Matrix, float]:
    """XᵀT and the sum of T for the targets T that follow from a fit, and its loss."""
    x0, y0 = like.x0[:, None], like.y0[:, None]

    def of(block: Block) -> tuple[Matrix, Matrix, float]:
        y, floor = block.y, _floor(block)
        given = _given(block, w, b)
        loss = 0.0
        if block.held or not problem.holds_out:
            loss = _square(np.maximum(given, floor) - np.maximum(y, floor))
        target = np.where(y > floor, y, np.minimum(given, floor))
        x, target = block.x - x0.astype(block.x.dtype), target - y0.astype(target.dtype)
        return x.transpose(0, 2, 1) @ target, target.sum(axis=1, dtype=np.float64), loss

    xy, sy, loss = np.zeros_like(like.xy), np.zeros_like(like.sy), 0.0
    for product, total, part in problem.over(of):
        xy += product
        sy += total
        loss += part
    return xy, sy, loss


def _loss(problem: Problem, like: Gram, w: Matrix, b: Matrix) -> tuple[float, float]:
    """The loss of a fit on held-out rows, and how far Y is from its mean there."""

    def of(block: Block) -> tuple[float, float]:
        if problem.holds_out and not block.held:
            return 0.0, 0.0
        floor = _floor(block)
        given = np.maximum(_given(block, w, b), floor)
        return _square(given - np.maximum(block.y, floor)), _square(block.y - like.y0[:, None])

    parts = list(problem.over(of))
    return sum(loss for loss, _ in parts), max(sum(spread for _, spread in parts), 1e-30)


def _square(value: Array) -> float:
    return float(np.square(value).sum(dtype=np.float64))


def _floor(block: Block) -> Array:
    assert block.floor is not None
    return block.floor


def _given(block: Block, w: Matrix, b: Matrix) -> Array:
    kind = block.x.dtype
    return np.asarray(block.x @ w.astype(kind) + b[:, None].astype(kind))
