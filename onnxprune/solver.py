"""Widths of most importance within one or two costs: a knapsack over groups and their widths.

After HALP (Shen, NeurIPS 2022), which chooses whole steps of channels under a latency table; but
the tables of coupled layers are no sum over groups: what a width costs depends on its neighbours'.
So instead of dynamic programming over independent items:

1. Greedy: the step down (over at most a few stairs) that loses the least importance for each unit
   of cost saved, again and again, each step's saving computed at the widths of that moment. A
   tighter budget is a longer prefix of the same steps.
2. Local search: a step up where there is room, or one up and another down, while importance grows.

Both start from several places (given ones: uniform aligned widths), and the best result is taken;
so it is never worse than any of these.
"""

from __future__ import annotations

import heapq
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .axes import Dim
from .costs import Cost, Tally
from .importance import Scores

#: How many admissible widths a step down may skip: a stair may be several wide.
_AHEAD = 4
#: Passes over all groups before the local search stops.
_PASSES = 60
#: The share by which a pass has to raise importance for another one.
_GAIN = 1e-4
#: Partners that are tried for a step up, those that lose least first.
_TRIES = 4


@dataclass(frozen=True)
class Limit:
    """A cost that is to stay at or below `most`, and at or above `least`."""

    cost: Cost
    most: float
    least: float = 0.0


@dataclass
class Problem:
    """What is chosen: a width for each group, of `widths[i]` (ascending)."""

    dims: Sequence[Dim]
    widths: Sequence[Sequence[int]]
    #: Scores of each group's channels, ascending (see `ranking.ladder`).
    ladders: Sequence[Scores]
    limits: Sequence[Limit]

    def __post_init__(self) -> None:
        self._kept = [
            np.concatenate([[0.0], np.cumsum(each[::-1])])[list(widths)]
            for each, widths in zip(self.ladders, self.widths, strict=True)
        ]
        self._places = [{w: i for i, w in enumerate(each)} for each in self.widths]

    def importance(self, widths: Sequence[int]) -> float:
        """The sum of the scores that are kept."""
        return float(
            sum(
                kept[places[w]]
                for kept, places, w in zip(self._kept, self._places, widths, strict=True)
            )
        )

    def fits(self, widths: Sequence[int]) -> bool:
        """True where every limit holds."""
        given = dict(zip(self.dims, widths, strict=True))
        return all(_inside(limit, limit.cost.total(given)) for limit in self.limits)

    def solve(self, starts: Sequence[Sequence[int]] = ()) -> list[int] | None:
        """The widths of most importance that were found, or None where none fit."""
        found = [self._search(start) for start in (self._greedy(), *starts)]
        fitting = [widths for widths in found if self.fits(widths)]
        return max(fitting, key=self.importance, default=None)

    def greedy(self) -> list[int]:
        """The first widths on the greedy path that exceed no limit."""
        return self._greedy()

    # -- greedy ----------------------------------------------------------------------------------

    def _tallies(self, widths: Sequence[int]) -> list[Tally]:
        given = dict(zip(self.dims, widths, strict=True))
        return [limit.cost.tally(given) for limit in self.limits]

    def _greedy(self) -> list[int]:
        places = [len(widths) - 1 for widths in self.widths]
        tallies = self._tallies([each[-1] for each in self.widths])
        over = self._over(tallies)
        heap = [(self._best_step(i, places[i], tallies, over), i) for i in range(len(places))]
        heapq.heapify(heap)
        while any(over) and heap:
            _, i = heapq.heappop(heap)
            # Savings shrink as the widths around shrink: what was computed earlier is a bound.
            key = self._best_step(i, places[i], tallies, over)
            if not math.isfinite(key[0]):
                continue
            if heap and key > heap[0][0]:
                heapq.heappush(heap, (key, i))
                continue
            places[i] = key[1]
            for tally in tallies:
                tally.set(self.dims[i], self.widths[i][key[1]])
            before, over = over, self._over(tallies)
            heapq.heappush(heap, (self._best_step(i, places[i], tallies, over), i))
            if before != over:  # one limit holds now: what is saved of it no longer counts
                heap = [
                    (self._best_step(j, places[j], tallies, over), j) for j in range(len(places))
                ]
                heapq.heapify(heap)
        return [widths[at] for widths, at in zip(self.widths, places, strict=True)]

    def _over(self, tallies: Sequence[Tally]) -> tuple[bool, ...]:
        return tuple(
            tally.total > limit.most * (1 + 1e-12)
            for tally, limit in zip(tallies, self.limits, strict=True)
        )

    def _best_step(
        self, i: int, at: int, tallies: Sequence[Tally], over: Sequence[bool]
    ) -> tuple[float, int]:
        """Importance lost for each unit saved by group `i`'s best step down, and where it ends."""
        best = (math.inf, at)
        kept = self._kept[i]
        for to in range(at - 1, max(-1, at - 1 - _AHEAD), -1):
            saved = sum(
                (tally.total - tally.after(self.dims[i], self.widths[i][to])) / limit.most
                for tally, limit, counts in zip(tallies, self.limits, over, strict=True)
                if counts
            )
            if saved > 1e-12:
                best = min(best, (float(kept[at] - kept[to]) / saved, to))
        return best

    # -- local search ----------------------------------------------------------------------------

    def _search(self, start: Sequence[int]) -> list[int]:
        """Raise what can be raised, then exchange, while importance grows and the limits hold."""
        tallies = self._tallies(start)
        places = [each[w] for each, w in zip(self._places, start, strict=True)]
        before = -math.inf
        for _ in range(_PASSES):
            moved = self._raise(places, tallies) or self._exchange(places, tallies)
            kept = float(sum(k[at] for k, at in zip(self._kept, places, strict=True)))
            if not moved or kept - before < _GAIN * abs(kept):
                break
            before = kept
        return [widths[at] for widths, at in zip(self.widths, places, strict=True)]

    def _move(self, i: int, to: int, places: list[int], tallies: Sequence[Tally]) -> None:
        places[i] = to
        for tally in tallies:
            tally.set(self.dims[i], self.widths[i][to])

    def _room(self, i: int, to: int, tallies: Sequence[Tally]) -> bool:
        """True where group `i` may have its width number `to`, as the others are."""
        width = self.widths[i][to]
        return all(
            tally.after(self.dims[i], width) <= limit.most
            for tally, limit in zip(tallies, self.limits, strict=True)
        )

    def _raise(self, places: list[int], tallies: Sequence[Tally]) -> bool:
        """Take steps up that exceed no limit, those that gain most importance first."""
        moved = False
        for _, i, to in self._ups(places):
            if to > places[i] and self._room(i, to, tallies):
                self._move(i, to, places, tallies)
                moved = True
        return moved

    def _ups(self, places: Sequence[int]) -> list[tuple[float, int, int]]:
        """(importance gained, group, place) of steps up, the best first."""
        found = []
        for i, at in enumerate(places):
            for to in range(at + 1, min(len(self.widths[i]), at + 1 + _AHEAD)):
                gain = float(self._kept[i][to] - self._kept[i][at])
                if gain > 0:
                    found.append((gain, i, to))
        return sorted(found, reverse=True)

    def _exchange(self, places: list[int], tallies: Sequence[Tally]) -> bool:
        """One group up and another down, for more importance within the limits."""
        steps = [
            (float(self._kept[j][at] - self._kept[j][to]), j, to)
            for j, at in enumerate(places)
            for to in range(max(0, at - _AHEAD), at)
        ]
        if not steps:
            return False
        steps.sort()
        losses = np.array([loss for loss, _, _ in steps])
        groups = np.array([j for _, j, _ in steps])
        saved = np.array(
            [
                [t.total - t.after(self.dims[j], self.widths[j][to]) for t in tallies]
                for _, j, to in steps
            ]
        )
        touched: set[int] = set()
        for gain, i, to in self._ups(places):
            if i in touched:
                continue
            needed = np.array(
                [
                    tally.after(self.dims[i], self.widths[i][to]) - limit.most
                    for tally, limit in zip(tallies, self.limits, strict=True)
                ]
            )
            # Savings as things stand are nearly those after the step up: tried where promising.
            able = (
                (losses < gain * (1 - 1e-9)) & (groups != i) & (saved * 1.05 >= needed).all(axis=1)
            )
            for n in np.flatnonzero(able)[:_TRIES]:
                _, j, lower = steps[n]
                if j in touched:
                    continue
                before = places[i], places[j]
                self._move(i, to, places, tallies)
                self._move(j, lower, places, tallies)
                if all(_inside(x, t.total) for x, t in zip(self.limits, tallies, strict=True)):
                    touched |= {i, j}
                    break
                self._move(i, before[0], places, tallies)
                self._move(j, before[1], places, tallies)
        return bool(touched)


def _inside(limit: Limit, total: float) -> bool:
    return limit.least * (1 - 1e-12) <= total <= limit.most * (1 + 1e-12)
