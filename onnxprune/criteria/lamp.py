"""LAMP: a channel's squared norm, relative to all that would be left if it were the next to go.

Lee et al., "Layer-adaptive Sparsity for the Magnitude-based Pruning", ICLR 2021: with the weights
of a layer in ascending order, score(u) = w[u]² / sum over v >= u of w[v]². The largest has score 1,
so no group can be emptied, and scores of groups can be compared as they are. Here the squared norms
of channels take the place of single weights, as in Torch-Pruning.
"""

from __future__ import annotations

import numpy as np

from ..groups import Group
from ..reductions import Scores
from ..weights import Weights
from .base import Criterion


class Lamp(Criterion):
    """Layer-adaptive magnitude. Where norms are equal, the first channel counts as the larger."""

    name = "lamp"
    help = "squared norm, relative to that of all larger channels (for --scope global)"
    normalizer = "none"

    def __call__(self, group: Group, weights: Weights) -> Scores:
        squares = weights.reduce([weights.norms(group, m) for m in weights.scored(group)])
        order = np.argsort(-squares, kind="stable")
        left = np.cumsum(squares[order])
        scores = np.zeros_like(squares)
        scores[order] = np.divide(squares[order], left, out=np.zeros_like(left), where=left > 0)
        return scores
