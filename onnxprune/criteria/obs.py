"""Second-order reconstruction error: what a consumer's output loses for good with a channel.

Hassibi & Stork, "Second order derivatives for network pruning: Optimal Brain Surgeon", 1993;
Frantar & Alistarh, "Optimal Brain Compression", 2022, for one layer at a time. A consumer computes
Y = W X. With H the covariance of X, the least squared error of Y without the inputs of channel g,
when all other weights (and the bias) may be refitted, is larger by

    tr( w_g  (H⁻¹)_gg⁻¹  w_gᵀ ).

The score is that error as a share of the variance of Y, so that consumers and groups can be
compared. H has a ridge of `RIDGE` times its mean diagonal: it counts changes of weights as well.

How X is taken:

1. A convolution's X is all that its kernel sees (the input unfolded, padding and strides too), and
   a channel is the block of its kernel positions. For each convolution group, a matrix of its own.
2. Where that has more than `MAX_FEATURES` rows, X is the channels alone, and the positions of the
   kernel count as outputs of their own: correlations between neighbouring pixels are left out.
3. Where even that is too large, and where a position stands for several cells, H is taken to be
   diagonal: nothing is refitted but the bias.
4. ConvTranspose and other linear operators: as 2.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..groups import Group
from ..model import attributes
from ..reductions import Scores
from ..statistics import Request, Statistic
from ..uses import Consumer
from ..weights import Weights, per_cell
from .base import Criterion

#: The largest matrix that is inverted (rows).
MAX_FEATURES = 4096
#: Of the mean of H's diagonal.
RIDGE = 1e-3

Matrix = NDArray[np.float64]


class Obs(Criterion):
    """The share of its consumers' output that is lost with a channel, after the best refit."""

    name = "obs"
    help = "error of the consumers' output after the best refit (second order)"
    calibrated = True
    normalizer = "none"
    additive = True

    def needs(self, group: Group, weights: Weights) -> Iterable[Request]:
        return [request for each in _inputs(group, weights) for request in each.requests]

    def __call__(self, group: Group, weights: Weights) -> Scores:
        inputs = _inputs(group, weights)
        if not inputs:
            return weights.fallback(group, "no weight is multiplied with its activations")
        found = weights.statistics(group, self.needs(group, weights))
        return weights.reduce([_score(group, each, found, weights) for each in inputs])


@dataclass(frozen=True)
class _Input:
    """What is to be known of a consumer's X."""

    consumer: Consumer
    #: X·Xᵀ, or the squares alone; and the sums.
    requests: tuple[Request, Request]

    @property
    def whole(self) -> bool:
        """Whether all of H is known, and not only its diagonal."""
        return self.requests[0].kind == "gram"


def _inputs(group: Group, weights: Weights) -> list[_Input]:
    found = []
    for consumer in weights.consumers(group):
        if consumer.weight is None:
            continue
        data, place = consumer.data, consumer.weight
        if place.size * _convolution_groups(consumer) != data.size:
            weights.note(
                group, f"a {consumer.node.op_type} that its positions do not fit is left out"
            )
            continue
        unfold = ""
        if consumer.node.op_type in ("Conv", "FusedConv"):
            kernel = math.prod(weights.shape(place.tensor)[2:])
            if data.size * kernel <= MAX_FEATURES:
                unfold = consumer.node.output[0]
        several = len(np.unique(data.positions)) < len(data.positions)
        kind = "square" if several or (data.size > MAX_FEATURES and not unfold) else "gram"
        unfold = unfold if kind == "gram" else ""
        first, second = (Request(data.tensor, data.axis, k, unfold) for k in (kind, "sum"))
        found.append(_Input(consumer, (first, second)))
    return found


def _convolution_groups(consumer: Consumer) -> int:
    return int(attributes(consumer.node).get("group", 1)) if consumer.unfolds else 1


def _score(group: Group, each: _Input, found: dict[Request, Statistic], weights: Weights) -> Scores:
    second, first = (found[request].mean for request in each.requests)
    if not each.whole:
        variance = np.maximum(second - first**2, 0)
        return _without_refit(group, each.consumer, variance, weights)
    covariance = second - np.outer(first, first)
    cells = np.full(each.consumer.data.size, -1, dtype=np.int64)
    cells[each.consumer.data.positions] = each.consumer.data.cells
    errors, energy = np.zeros(group.cells), 0.0
    for w, h, of in _blocks(each, covariance, cells, weights):
        errors += removal_errors(w, h, of, group.cells)
        energy += float(np.einsum("fo,fo->", w, h @ w))
    return errors / energy if energy > 0 else errors


def _blocks(
    each: _Input, covariance: Matrix, cells: NDArray[np.int64], weights: Weights
) -> Iterator[tuple[Matrix, Matrix, NDArray[np.int64]]]:
    """W `[features, outputs]`, H and the cell of each feature, for each convolution group."""
    place = each.consumer.weight
    assert place is not None
    value = weights.value(place.tensor).astype(np.float64)
    if not each.consumer.unfolds:
        yield np.moveaxis(value, place.axis, 0).reshape(place.size, -1), covariance, cells
        return
    groups = _convolution_groups(each.consumer)
    kernel = math.prod(value.shape[2:])
    seen = kernel if each.requests[0].unfold else 1  # features for each channel
    inputs = place.size
    for q in range(groups):
        out = len(value) // groups
        w = value[q * out : (q + 1) * out].reshape(out, inputs, kernel)
        # [inputs * seen, outputs]: kernel positions that are no features are outputs
        order = (1, 2, 0) if seen == kernel else (1, 0, 2)
        mine = slice(q * inputs * seen, (q + 1) * inputs * seen)
        yield (
            w.transpose(order).reshape(inputs * seen, -1),
            covariance[mine, mine],
            np.repeat(cells[q * inputs : (q + 1) * inputs], seen),
        )


def removal_errors(
    w: Matrix, h: Matrix, cells: NDArray[np.int64], count: int, ridge: float = RIDGE
) -> Scores:
    """tr(w_g (H⁻¹)_gg⁻¹ w_gᵀ) for each of `count` cells, `[count]`.

    Args:
        w: weights, `[features, outputs]`.
        h: covariance of the features, `[features, features]`.
        cells: the cell of each feature, `[features]`; -1 for those that stay.
        ridge: added to H's diagonal, times the mean of it.
    """
    errors = np.zeros(count)
    least = max(ridge * float(np.trace(h)) / max(len(h), 1), np.finfo(np.float64).tiny ** 0.5)
    inverse = np.linalg.inv(h + least * np.eye(len(h)))
    mine = np.flatnonzero(cells >= 0)
    if not mine.size:
        return errors
    order = mine[np.argsort(cells[mine], kind="stable")]
    counts = np.bincount(cells[mine], minlength=count)
    starts = np.cumsum(counts) - counts
    for size in np.unique(counts[counts > 0]):  # blocks of one size at a time, all at once
        of = np.flatnonzero(counts == size)
        index = order[starts[of][:, None] + np.arange(size)]
        block = inverse[index[:, :, None], index[:, None, :]]
        part = w[index]
        if size == 1:
            errors[of] = np.square(part[:, 0]).sum(axis=1) / block[:, 0, 0]
        else:
            errors[of] = np.einsum("cbo,cbo->c", part, np.linalg.solve(block, part))
    return np.maximum(errors, 0)


def _without_refit(group: Group, consumer: Consumer, variance: Scores, weights: Weights) -> Scores:
    data, place = consumer.data, consumer.weight
    assert place is not None
    value = np.moveaxis(weights.value(place.tensor), place.axis, 0).astype(np.float64)
    norms = np.square(value.reshape(place.size, -1)).sum(axis=1)
    # A slice of a grouped convolution's weight meets the channels of all of its groups.
    lost = np.tile(norms, data.size // place.size) * variance
    errors = per_cell(lost, data.positions, data.cells, group.cells)
    energy = float(lost.sum())
    return errors / energy if energy > 0 else errors
