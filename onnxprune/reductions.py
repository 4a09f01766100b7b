"""How many scores become one: over the members of a group, and over its channels.

The words are those of Torch-Pruning.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

#: One number for each cell of a group, the larger the more it matters.
Scores = NDArray[np.float64]

#: How rows `[members, cells]` become one, `[cells]`.
REDUCTIONS: dict[str, Callable[[NDArray[np.float64]], Scores]] = {
    "mean": lambda x: np.asarray(x.mean(axis=0)),
    "sum": lambda x: np.asarray(x.sum(axis=0)),
    "max": lambda x: np.asarray(x.max(axis=0)),
    "prod": lambda x: np.asarray(x.prod(axis=0)),
    "first": lambda x: x[0],
}


def finite(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Channels of a model that has diverged (NaN) count as nothing, and overflow as very much."""
    return np.nan_to_num(x, nan=0.0, posinf=1e100, neginf=-1e100)


def _divided(x: Scores, by: float) -> Scores:
    return x / by if by else x


def _of_the_strong(x: Scores) -> float:
    """The mean of the larger half: DepGraph's relative score is the multiple of it (section 3.3).

    After sparse training, the smaller half says how far that went, and not what matters.
    """
    return float(np.sort(x, axis=None)[x.size // 2 :].mean())


#: How the scores of a group, `[rows, size]`, are scaled, so that groups can be compared: with
#: several rows, their mean is what is compared.
NORMALIZERS: dict[str, Callable[[Scores], Scores]] = {
    "none": lambda x: x,
    "mean": lambda x: _divided(x, float(x.mean())),
    "max": lambda x: _divided(x, float(x.max())),
    "sum": lambda x: _divided(x, float(x.sum()) / (x.size // x.shape[-1])),
    "standardize": lambda x: _divided(x - x.min(), float(x.max() - x.min())),
    "relative": lambda x: _divided(x, _of_the_strong(x)),
    "gaussian": lambda x: _divided(x - x.mean(), float(x.std())),
}
