"""Ridge least squares by Cholesky, towards the weights that there are, the ridge held-out chosen.

    W = W0 + (XᵀX + λ D)⁻¹ (XᵀY - XᵀX W0)

with the means taken off, so that the intercept is free, and D the mean of the diagonal: λ has no
unit. With λ → ∞ the weights stay as they were: few images change little. Of several λ the one is
taken whose weights do best on the rows that were held out, "as they were" being one of the choices;
then all rows are used with it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .beside import in_order
from .gram import Gram, Matrix

RIDGES = (1e-6, 1e-4, 1e-3, 1e-2, 3e-2, 1e-1, 3e-1, 1.0)
#: unknowns beyond which fewer ridges are tried
_MANY = 1200
_BLOCK = 96
#: Better by less than this share is not better: nothing is changed for it.
_GAIN = 1e-6
#: A relative squared error that is rounding.
NOTHING = 1e-10


@dataclass
class Fit:
    """Weights W `[g, k, o]` and intercept b `[g, o]`, and how well they do on held-out rows.

    `before` and `after` are squared errors relative to the spread of Y; `ridge` is None where the
    weights stayed as they were.
    """

    w: Matrix
    b: Matrix
    ridge: float | None
    before: float
    after: float


def factor(xx: Matrix, ridge: float) -> Matrix:
    """The Cholesky factor of `xx + ridge · D`, with as much more ridge as it takes to exist."""
    k = xx.shape[-1]
    scale = np.trace(xx, axis1=1, axis2=2)[:, None] / k
    scale = np.where(scale > 0, scale, 1.0)
    for _ in range(12):
        shifted = xx.copy()
        shifted[:, range(k), range(k)] += ridge * scale
        try:
            lower = np.linalg.cholesky(shifted)
        except np.linalg.LinAlgError:
            ridge *= 10
            continue
        diagonal = np.diagonal(lower, axis1=1, axis2=2)
        # The squared ratio bounds the condition from below; beyond this, digits are lost.
        if (diagonal.min() / diagonal.max()) ** 2 > 1e-13:
            return np.asarray(lower)
        ridge *= 10
    raise np.linalg.LinAlgError("no ridge makes it positive")


def solve_factored(lower: Matrix, b: Matrix) -> Matrix:
    """`(L Lᵀ)⁻¹ b` for L `[g, k, k]`, b `[g, k, o]`, block by block."""
    k = lower.shape[-1]
    x = np.array(b, dtype=np.float64)
    starts = range(0, k, _BLOCK)
    for at in starts:
        end = min(at + _BLOCK, k)
        if at:
            x[:, at:end] -= lower[:, at:end, :at] @ x[:, :at]
        x[:, at:end] = np.linalg.solve(lower[:, at:end, at:end], x[:, at:end])
    upper = lower.transpose(0, 2, 1)
    for at in reversed(starts):
        end = min(at + _BLOCK, k)
        if end < k:
            x[:, at:end] -= upper[:, at:end, end:] @ x[:, end:]
        x[:, at:end] = np.linalg.solve(upper[:, at:end, at:end], x[:, at:end])
    return x


def fit(
    train: Gram,
    held: Gram,
    w0: Matrix,
    b0: Matrix,
    ridges: Sequence[float] = RIDGES,
    threads: int = 1,
) -> Fit:
    """The weights that reproduce Y best on the held-out rows.

    Args:
        w0, b0: the weights and intercept as they are.
        threads: ridges that are tried at once.
    """
    spread = max(float(held.spread().sum()), 1e-30)
    before = float(held.errors(w0, b0).sum()) / spread
    if before < NOTHING:  # as it was before anything was removed: nothing is to be gained
        return Fit(w0, b0, None, before, before)
    if w0.shape[1] > _MANY:
        ridges = ridges[1::2]
    xx, xy = train.covariance()
    wanted = xy - xx @ w0

    def tried(ridge: float) -> float:
        w = w0 + solve_factored(factor(xx, ridge), wanted)
        return float(held.errors(w, train.intercept(w)).sum()) / spread

    best: tuple[float, float | None] = before, None
    for ridge, error in zip(ridges, in_order(tried, ridges, threads), strict=True):
        if error < best[0] * (1 - _GAIN):
            best = error, ridge
    if best[1] is None:
        return Fit(w0, b0, None, before, before)
    both = train + held
    xx, xy = both.covariance()
    w = w0 + solve_factored(factor(xx, best[1]), xy - xx @ w0)
    return Fit(w, both.intercept(w), best[1], before, best[0])
