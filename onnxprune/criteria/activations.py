"""How active a channel is, where what follows reads it: mean magnitude, and share of zeros.

Both are taken of what the consumers of the group read (behind the activation function), each tensor
once. A group that nothing sums over in the main graph is scored by its norm, and a note says so.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

import numpy as np

from ..groups import Group
from ..reductions import Scores
from ..statistics import Request
from ..uses import Place
from ..weights import Weights, per_cell
from .base import Criterion


class _Read(Criterion):
    """The mean of a statistic over what the consumers read, for each cell."""

    calibrated = True
    kind: ClassVar[str]

    def needs(self, group: Group, weights: Weights) -> Iterable[Request]:
        return [Request(place.tensor, place.axis, self.kind) for place in _read(group, weights)]

    def __call__(self, group: Group, weights: Weights) -> Scores:
        places = _read(group, weights)
        if not places:
            return weights.fallback(group, "no operator sums over its activations")
        found = weights.statistics(group, self.needs(group, weights))
        rows = []
        for place in places:
            mean = found[Request(place.tensor, place.axis, self.kind)].mean
            total = per_cell(mean, place.positions, place.cells, group.cells)
            rows.append(total / np.bincount(place.cells, minlength=group.cells))
        return weights.reduce(rows)


class Activation(_Read):
    """Mean magnitude (Molchanov et al., ICLR 2017, compare with it)."""

    name = "activation"
    help = "mean magnitude of the activations"
    kind = "absolute"


class Apoz(_Read):
    """1 - APoZ, the average percentage of zeros: the share of activations above zero.

    Hu et al., "Network Trimming", 2016. Meant for ReLU; behind other activation functions, values
    that are not above zero count as zeros.
    """

    name = "apoz"
    help = "share of activations above zero (1 - APoZ)"
    kind = "positive"


def _read(group: Group, weights: Weights) -> list[Place]:
    """The tensors that the group's consumers read, each once."""
    places = {(c.data.tensor, c.data.axis): c.data for c in weights.consumers(group)}
    return list(places.values())
