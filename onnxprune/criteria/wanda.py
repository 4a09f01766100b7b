"""Wanda: the norm of a weight, times the norm of the activations that it meets.

Sun et al., "A Simple and Effective Pruning Approach for Large Language Models", 2023: a weight
counts |w_ij|·||x_j||. Here, for a channel j as a whole, of a consumer: ||w_:j||·||x_j||, the latter
being the root mean square of what is read (over samples and positions) and the weight's L2 norm
over outputs and kernel. Where a channel stands at several positions (a flattened image), the root
of the sum of squares over these.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from ..groups import Group
from ..reductions import Scores
from ..statistics import Request
from ..uses import Consumer
from ..weights import Weights, per_cell
from .base import Criterion


class Wanda(Criterion):
    """||W||·||X|| at the consumers of the group."""

    name = "wanda"
    help = "norm of the consumers' weights times that of what they read"
    calibrated = True

    def needs(self, group: Group, weights: Weights) -> Iterable[Request]:
        return [_request(consumer) for consumer in _weighted(group, weights)]

    def __call__(self, group: Group, weights: Weights) -> Scores:
        consumers = _weighted(group, weights)
        if not consumers:
            return weights.fallback(group, "no weight is multiplied with its activations")
        found = weights.statistics(group, self.needs(group, weights))
        rows = []
        for consumer in consumers:
            square = found[_request(consumer)].mean
            rows.append(np.sqrt(_products(group, consumer, square, weights)))
        return weights.reduce(rows)


def _request(consumer: Consumer) -> Request:
    return Request(consumer.data.tensor, consumer.data.axis, "square")


def _weighted(group: Group, weights: Weights) -> list[Consumer]:
    return [consumer for consumer in weights.consumers(group) if consumer.weight is not None]


def _products(group: Group, consumer: Consumer, square: Scores, weights: Weights) -> Scores:
    """The sum over a cell's positions of ||w||²·||x||²."""
    data, place = consumer.data, consumer.weight
    assert place is not None
    value = np.moveaxis(weights.value(place.tensor), place.axis, 0).astype(np.float64)
    norms = np.square(value.reshape(place.size, -1)).sum(axis=1)
    if place.size == data.size:
        return per_cell(norms * square, data.positions, data.cells, group.cells)
    # A grouped convolution: one slice of the weight meets the channels of several groups.
    ours = per_cell(norms, place.positions, place.cells, group.cells)
    read = per_cell(square, data.positions, data.cells, group.cells)
    return ours * read / np.maximum(np.bincount(data.cells, minlength=group.cells), 1)
