"""Second-order elimination: in which order a group's channels can go, by what it costs to do
without them once everything else is refitted.

The optimal brain surgeon on the Gram matrix H = XᵀX of each consumer's input (Hassibi and Stork,
1993; channel by channel as in ZipLM, Kurtic et al., 2023): removing channel c, a block of unknowns
(its kernel positions), and refitting the others adds w_c (H⁻¹_cc)⁻¹ w_cᵀ to the squared error. The
least is removed, W and H⁻¹ are updated, and so on. A group with several consumers sums the errors,
each relative to what its outputs vary.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from ..axes import Index
from .gram import Gram, Matrix
from .solve import factor, solve_factored

#: Of many channels, this share goes at a time.
_AT_ONCE = 192


@dataclass
class Consumer:
    """A site that reads a group: its problem, and which channel each unknown belongs to."""

    gram: Gram
    w: Matrix
    #: Channel of each unknown, `[g, k]`; -1 for none of this group's.
    channels: Index
    weight: float = 1.0


@dataclass
class Order:
    """Channels in the order in which they go, and the error when each has gone (cumulative)."""

    removed: Index
    errors: Matrix

    def kept(self, count: int, size: int) -> Index:
        """The channels that are left when there are `count`, ascending."""
        gone = self.removed[: size - count]
        return np.setdiff1d(np.arange(size, dtype=np.int64), gone)


class _Inverse:
    """W and H⁻¹ of one consumer while channels go."""

    def __init__(self, consumer: Consumer, ridge: float) -> None:
        xx, _ = consumer.gram.covariance()
        g, k, _ = xx.shape
        self.weight = consumer.weight / max(float(consumer.gram.spread().sum()), 1e-30)
        eye = np.broadcast_to(np.eye(k), (g, k, k))
        self.inverse = solve_factored(factor(xx, ridge), eye)
        self.w = consumer.w.astype(np.float64).copy()
        self.blocks: dict[int, list[tuple[int, Index]]] = {}
        for group in range(g):
            ids = consumer.channels[group]
            for channel in np.unique(ids[ids >= 0]):
                at = np.flatnonzero(ids == channel)
                self.blocks.setdefault(int(channel), []).append((group, at))

    def costs(self, alive: Sequence[int]) -> Matrix:
        """What the squared error grows by if each of `alive` went, relative to the spread."""
        found = np.zeros(len(alive))
        ready: dict[tuple[int, int], list[tuple[int, Index]]] = {}
        for i, channel in enumerate(alive):
            for group, at in self.blocks.get(channel, ()):
                ready.setdefault((group, len(at)), []).append((i, at))
        for (group, _), items in ready.items():
            at = np.stack([each for _, each in items])
            blocks = self.inverse[group][at[:, :, None], at[:, None, :]]
            w = self.w[group][at]
            cost = np.einsum("cbo,cbo->c", w, np.linalg.solve(blocks, w))
            np.add.at(found, [i for i, _ in items], cost)
        return found * self.weight

    def remove(self, channel: int) -> None:
        """Do without a channel, and refit the others."""
        for group, at in self.blocks.pop(channel, ()):
            inverse, w = self.inverse[group], self.w[group]
            columns = inverse[:, at]
            step = np.linalg.solve(inverse[np.ix_(at, at)], np.hstack([columns.T, w[at]]))
            inverse -= columns @ step[:, : len(inverse)]
            w -= columns @ step[:, len(inverse) :]
            # What is gone must not come back by rounding.
            inverse[at] = 0.0
            inverse[:, at] = 0.0
            inverse[at, at] = 1.0
            w[at] = 0.0


def eliminate(
    consumers: Sequence[Consumer], channels: Index, least: int = 1, ridge: float = 1e-3
) -> Order:
    """The order in which `channels` of a group go, until `least` are left."""
    problems = [_Inverse(consumer, ridge) for consumer in consumers]
    alive = [int(channel) for channel in channels]
    removed: list[int] = []
    errors: list[float] = []
    total = 0.0
    while len(alive) > least:
        cost = np.sum([problem.costs(alive) for problem in problems], axis=0)
        many = max(1, min(len(alive) // _AT_ONCE, len(alive) - least))
        going = np.argsort(cost, kind="stable")[:many]
        for i in going:
            total += float(cost[i])
            removed.append(alive[i])
            errors.append(total)
            for problem in problems:
                problem.remove(alive[i])
        alive = [c for i, c in enumerate(alive) if i not in set(going.tolist())]
    return Order(np.array(removed, dtype=np.int64), np.array(errors))
