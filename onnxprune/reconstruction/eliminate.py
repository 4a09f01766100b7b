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
from functools import partial

import numpy as np

from ..axes import Index
from ..model import Array
from .beside import in_order
from .gram import Gram, Matrix
from .solve import factor, solve_factored

#: Of many channels, one of so many goes at a time.
_AT_ONCE = 192
#: Rows that are updated at a time: what is taken from them stays in the processor's cache.
_STRIP = 64
#: Against rounding, where little is left of a diagonal.
_LEAST_RIDGE = 1e-13


@dataclass
class Consumer:
    """A site that reads a group: its problem, and which channel each unknown belongs to."""

    gram: Gram
    w: Array
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


@dataclass
class _Blocks:
    """Channels that have equally many unknowns in one group of a consumer: `at` `[c, b]`."""

    group: int
    channels: Index
    at: Index


class _Inverse:
    """W `[k, o]` and H⁻¹ `[k, k]` of each group of one consumer, while channels go."""

    def __init__(self, consumer: Consumer, ridge: float) -> None:
        xx, _ = consumer.gram.covariance()
        g, k, _ = xx.shape
        self.weight = consumer.weight / max(float(consumer.gram.spread().sum()), 1e-30)
        lower = factor(xx, ridge)
        del xx
        self.inverse = list(solve_factored(lower, np.broadcast_to(np.eye(k), (g, k, k))))
        self.w = [_narrow(w.astype(np.float64)) for w in consumer.w]
        #: Unknowns that are left, of each group.
        self.left = [np.ones(k, dtype=bool) for _ in range(g)]
        self.blocks: list[_Blocks] = []
        for group in range(g):
            ids = consumer.channels[group]
            channels, sizes = np.unique(ids, return_counts=True)
            order = np.argsort(ids, kind="stable")
            starts = np.cumsum(sizes) - sizes
            for size in np.unique(sizes):
                here = np.flatnonzero((sizes == size) & (channels >= 0))
                if len(here):
                    at = order[starts[here][:, None] + np.arange(size)]
                    self.blocks.append(_Blocks(group, channels[here], at))

    def costs(self, count: int) -> Matrix:
        """What the squared error grows by if each channel went, relative to the spread `[count]`.

        Zero for those that are gone.
        """
        found = np.zeros(count)
        for block in self.blocks:
            if not len(block.at):
                continue
            w, inverse = self.w[block.group], self.inverse[block.group]
            if block.at.shape[1] == 1:
                size = np.einsum("ko,ko->k", w, w) / inverse.diagonal()
                found[block.channels] += size[block.at[:, 0]]
            else:
                own = inverse[block.at[:, :, None], block.at[:, None, :]]
                parts = w[block.at]
                found[block.channels] += np.einsum("cbo,cbo->c", parts, np.linalg.solve(own, parts))
        return found * self.weight

    def remove(self, going: Index) -> Matrix:
        """Do without some channels, and refit the others.

        Returns:
            what the squared error grows by with each of them, one after the other, relative to the
            spread `[len(going)]`.
        """
        grown = np.zeros(len(going))
        turn = {int(channel): i for i, channel in enumerate(going)}
        gone: dict[int, list[tuple[int, Index]]] = {}
        for block in self.blocks:
            mine = np.isin(block.channels, going)
            for channel, at in zip(block.channels[mine], block.at[mine], strict=True):
                gone.setdefault(block.group, []).append((turn[int(channel)], at))
            block.channels, block.at = block.channels[~mine], block.at[~mine]
        for group, parts in gone.items():
            parts.sort(key=lambda part: part[0])
            at = np.concatenate([each for _, each in parts])
            turns = np.repeat([i for i, _ in parts], [len(each) for _, each in parts])
            grown += self._without(group, at, turns, len(going))
        return grown * self.weight

    def _without(self, group: int, at: Index, turns: Index, count: int) -> Matrix:
        """Do without some unknowns, in this order, that belong to these turns."""
        inverse, w = self.inverse[group], self.w[group]
        # (H⁻¹)ₛₛ = L Lᵀ: row by row, L⁻¹ Wₛ is what each costs once those before it have gone.
        (lower,) = factor(inverse[np.ix_(at, at)][None], _LEAST_RIDGE)
        both = np.linalg.solve(lower, np.hstack([inverse[at], w[at]]))
        rows, own = both[:, : len(inverse)], both[:, len(inverse) :]
        for i in range(0, len(inverse), _STRIP):
            strip = rows[:, i : i + _STRIP].T
            inverse[i : i + _STRIP] -= strip @ rows
            w[i : i + _STRIP] -= strip @ own
        left = self.left[group]
        left[at] = False
        if 2 * left.sum() < len(left):
            self._shrink(group)
        else:  # what is gone must not come back by rounding
            inverse[at] = 0.0
            inverse[:, at] = 0.0
            inverse[at, at] = 1.0
            w[at] = 0.0
        found = np.bincount(turns, np.square(own).sum(axis=1), minlength=count)
        return found.astype(np.float64, copy=False)

    def _shrink(self, group: int) -> None:
        """Forget the unknowns that are gone."""
        left = np.flatnonzero(self.left[group])
        places = np.zeros(len(self.left[group]), dtype=np.int64)
        places[left] = np.arange(len(left))
        self.inverse[group] = self.inverse[group][np.ix_(left, left)]
        self.w[group] = self.w[group][left]
        self.left[group] = np.ones(len(left), dtype=bool)
        for block in self.blocks:
            if block.group == group:
                block.at = places[block.at]


def _narrow(w: Matrix) -> Matrix:
    """As many columns as rows at most: all that counts of W is W Wᵀ, of what is left as well."""
    if w.shape[1] <= w.shape[0]:
        return np.array(w)
    upper: Matrix = np.asarray(np.linalg.qr(w.T, mode="r"))
    return np.ascontiguousarray(upper.T)


def eliminate(
    consumers: Sequence[Consumer],
    channels: Index,
    least: int = 1,
    ridge: float = 1e-3,
    threads: int = 1,
) -> Order:
    """The order in which `channels` of a group go, until `least` are left.

    Of many channels, several go at a time: those that cost least alone.
    """
    problems = list(in_order(lambda each: _Inverse(each, ridge), consumers, threads))
    alive = np.asarray(channels, dtype=np.int64)
    count = int(alive.max()) + 1
    removed: list[Index] = []
    grown: list[Matrix] = []
    while len(alive) > least:
        costs = in_order(partial(_Inverse.costs, count=count), problems, threads)
        cost = np.sum(list(costs), axis=0)[alive]
        many = max(1, min(len(alive) // _AT_ONCE, len(alive) - least))
        cheapest = np.argsort(cost, kind="stable")[:many]
        going = alive[cheapest]
        parts = in_order(partial(_Inverse.remove, going=going), problems, threads)
        grown.append(np.sum(list(parts), axis=0))
        removed.append(going)
        alive = np.delete(alive, cheapest)
    if not removed:
        return Order(np.zeros(0, dtype=np.int64), np.zeros(0))
    return Order(np.concatenate(removed), np.cumsum(np.concatenate(grown)))
