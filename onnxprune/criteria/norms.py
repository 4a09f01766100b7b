"""Norms of a group's weights: DepGraph's importance.

Fang et al., "DepGraph: Towards Any Structural Pruning", CVPR 2023: the score of channel k is the
sum over all coupled parameters of ||w[k]||^p. Here each member contributes the p-th power of the Lp
norm of its slice, and `--reduction` makes one score of these.
"""

from __future__ import annotations

import math

from ..errors import UsageError
from ..groups import Group
from ..reductions import Scores
from ..weights import Weights
from .base import Criterion


class _Norm(Criterion):
    additive = True
    power: float

    def __call__(self, group: Group, weights: Weights) -> Scores:
        return weights.reduce([weights.norms(group, m, self.power) for m in weights.scored(group)])


class GroupL1(_Norm):
    """Sums of magnitudes."""

    name = "group-l1"
    help = "sum of |w| over all coupled weights"
    power = 1.0


class GroupL2(_Norm):
    """Sums of squares."""

    name = "group-l2"
    help = "sum of w² over all coupled weights (DepGraph's, the default)"
    power = 2.0


class GroupLp(_Norm):
    """Sums of |w|^p: a large p looks for the largest weight, a small one counts them."""

    name = "group-lp"
    help = "sum of |w|^P over all coupled weights"
    argument = "P"

    def __init__(self, power: float) -> None:
        self.power = power

    @classmethod
    def parse(cls, argument: str) -> Criterion:
        try:
            power = float(argument)
        except ValueError:
            power = math.nan
        if not 0 < power < math.inf:
            raise UsageError(
                f"criterion 'group-lp' wants a power above zero, as in group-lp:3, not {argument!r}"
            )
        return cls(power)
