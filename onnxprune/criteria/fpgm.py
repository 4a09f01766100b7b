"""FPGM: channels near the geometric median can be replaced by the others.

He et al., "Filter Pruning via Geometric Median for Deep Neural Networks Acceleration", CVPR 2019:
the score of a filter is the sum of its distances to all others, so that what goes is what the rest
can stand in for, and not what is small.
"""

from __future__ import annotations

import numpy as np

from ..groups import Group
from ..reductions import Scores
from ..weights import Weights
from .base import Criterion


class Fpgm(Criterion):
    """Sum of the Euclidean distances of a channel's coupled weights, end to end, to all others'."""

    name = "fpgm"
    help = "distance to all other channels of the group (geometric median)"

    def __call__(self, group: Group, weights: Weights) -> Scores:
        squared = np.zeros((group.cells, group.cells))
        for member in weights.scored(group):
            rows = weights.slices(group, member).astype(np.float64)
            # Distances do not depend on where the origin is; near it, less is lost to rounding.
            rows = np.nan_to_num(rows - rows.mean(axis=0))
            gram = rows @ rows.T
            norms = np.diag(gram)
            squared += norms[:, None] + norms[None, :] - 2 * gram
        np.fill_diagonal(squared, 0)
        scores: Scores = np.sqrt(np.maximum(squared, 0)).sum(axis=1)
        return scores
