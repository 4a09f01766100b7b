"""Selection: which channels of each group are kept, from their scores and a budget.

First widths, then channels: `Space` holds the widths that may be left of each group and how its
channels rank, and finds widths for a ratio or for a cost; `keep` takes the best channels of each
group. Ties are broken by position, so the same input gives the same choice.
"""

from __future__ import annotations

import math
from collections.abc import Container, Sequence
from dataclasses import dataclass, field

import numpy as np

from .axes import Dim, Index, Rows
from .budgets import Budget, matched
from .costs import Cost
from .groups import Group
from .importance import Scores
from .network import Network
from .ranking import classes_of, ladder, pressures
from .reach import MARGIN, Reach, Step, at_ratio, path_of
from .rounding import admissible, fitting, nearest, steps_of
from .solver import Limit, Problem

__all__ = ["Budget", "Space", "keep", "select"]

#: No ranking leaves a group less than this share: layers that collapse cut the network in two
#: (SynFlow, NeurIPS 2020), and scores of one layer, taken for all, do make them collapse.
COLLAPSE = 1 / 16
#: Uniform widths in multiples of these are what measured widths start from, and have to beat.
UNIFORM_STEPS = (8, 16, 32)
#: Where they can be beaten by one of these shares of the time, as predicted, they are, by the first
#: that can be had at no less importance: predictions err.
_DOUBTS = (0.09, 0.05)


@dataclass
class Space:
    """What there is to choose from."""

    groups: Sequence[Group]
    budget: Budget
    #: Scores of each group, ascending.
    ladders: list[Scores]
    #: The widths that may be left of each group, ascending.
    widths: list[list[int]]
    #: Pressure of each group's channels, ascending (see `ranking`).
    pressures: list[Scores]
    network: Network | None = None
    _path: list[Step] = field(init=False)

    def __post_init__(self) -> None:
        self._path = path_of(self.pressures, self.widths)

    @classmethod
    def of(
        cls,
        network: Network | None,
        groups: Sequence[Group],
        scores: Sequence[Scores],
        budget: Budget,
        *,
        most: Sequence[int] | None = None,
        coarser: int = 0,
    ) -> Space:
        """The space of a budget.

        Args:
            network: None where groups are not of a network (then rounding is as the budget says).
            most: the widths that groups have come down to already.
            coarser: how often steps are doubled (or, below 0, halved) against the budget's.
        """
        ladders = [ladder(g, s) for g, s in zip(groups, scores, strict=True)]
        if network is None:
            step = budget.round_to if isinstance(budget.round_to, int) else 1
            steps = [step] * len(groups)
        else:
            steps = steps_of(network, groups, budget.round_to)
        if coarser > 0:  # stairs wider than the rule for small groups would have them
            steps = [min(step << coarser, g.size) for step, g in zip(steps, groups, strict=True)]
        elif coarser < 0:
            steps = [max(1, step >> -coarser) for step in steps]
        given = matched(budget.ratios, [g.name for g in groups])
        classes = classes_of(network, groups, budget.scope)
        widths, floors = [], []
        for i, (group, step) in enumerate(zip(groups, steps, strict=True)):
            least = budget.least(group.size)
            if budget.ranked:
                least = max(least, math.ceil(group.size * COLLAPSE))
            allowed = admissible(group.size, step, least)
            if most is not None:
                allowed = [w for w in allowed if w < most[i]] + [most[i]]
            floors.append(allowed[0])
            if i in given:
                # Chosen by the user: ranked with nobody.
                classes[i] = ("given", i)
                allowed = [nearest(group.size - int(group.size * given[i] + 1e-9), allowed)]
            widths.append(allowed)
        return cls(groups, budget, ladders, widths, pressures(ladders, floors, classes), network)

    @property
    def dims(self) -> list[Dim]:
        """The dim of each group."""
        return [group.dim for group in self.groups]

    def named(self, widths: Sequence[int]) -> dict[Dim, int]:
        """The widths by dim, as a cost takes them."""
        return dict(zip(self.dims, widths, strict=True))

    def importance(self, widths: Sequence[int]) -> float:
        """The sum of the scores that are kept."""
        pairs = zip(self.ladders, widths, strict=True)
        return float(sum(each[len(each) - width :].sum() for each, width in pairs))

    def at_ratio(self, ratio: float) -> list[int]:
        """The widths that a ratio leaves."""
        return at_ratio(self._path, self.widths, ratio)

    def at_cost(self, cost: Cost, amount: float, tolerance: float) -> list[int]:
        """Widths that cost `amount`. Raises CheckFailed where none do, within the tolerance."""
        return self._reach(cost).solve(amount, tolerance)

    def near_cost(self, cost: Cost, amount: float, tolerance: float) -> list[list[int]]:
        """All widths along the path that cost `amount`, within the tolerance."""
        return self._reach(cost).prefixes(amount * (1 - tolerance), amount * (1 + tolerance))

    def _reach(self, cost: Cost) -> Reach:
        return Reach(self.dims, self.widths, self._path, cost)

    def best(
        self, limits: Sequence[Limit], starts: Sequence[Sequence[int]] = ()
    ) -> list[int] | None:
        """The widths of most importance within limits, or None where none were found."""
        known = [set(each) for each in self.widths]
        starts = [
            start
            for start in starts
            if all(w in each for w, each in zip(start, known, strict=True))
        ]
        return Problem(self.dims, self.widths, self.ladders, limits).solve(starts)


def keep(
    groups: Sequence[Group], scores: Sequence[Scores], widths: Sequence[int]
) -> list[Index | Rows]:
    """The kept indices of each group, ascending: the best of each row, as many in every one."""
    found: list[Index | Rows] = []
    for group, each, width in zip(groups, scores, widths, strict=True):
        rows = np.asarray(each).reshape(group.rows, -1)
        best = np.sort(np.argsort(-rows, kind="stable")[:, :width]).astype(np.int64)
        found.append(best[0] if group.outer is None else Rows(group.outer, best))
    return found


def select(groups: Sequence[Group], scores: Sequence[Scores], budget: Budget) -> list[Index | Rows]:
    """The kept indices of each group, where a ratio is all that is asked for."""
    space = Space.of(None, groups, scores, budget)
    return keep(groups, scores, space.at_ratio(budget.removed))


# -- costs ---------------------------------------------------------------------------------------


def within(
    space: Space, cost: Cost, amount: float, tolerance: float, time: Cost | None
) -> list[int]:
    """Widths that cost `amount`; where a model of time is given, of most importance.

    With `time`, they are no slower (as predicted) than the fastest uniform widths, in multiples of
    8, 16 or 32, that cost as much, and keep no less importance than these.

    Raises CheckFailed where the amount can't be reached.
    """
    if time is None:
        return space.at_cost(cost, amount, tolerance)
    uniform = _uniform(space, cost, amount, tolerance)
    fastest = min(uniform, key=lambda widths: time.total(space.named(widths)), default=None)
    bound = time.total() if fastest is None else time.total(space.named(fastest))
    bound = min(bound, time.total())
    margin = tolerance * MARGIN
    macs = Limit(cost, amount * (1 + margin), amount * (1 - margin))
    # More starts hardly find better: the fastest, and of those as fast the most important.
    fast = [w for w in uniform if time.total(space.named(w)) <= bound * 1.001]
    richest = max(fast, key=space.importance, default=None)
    found = None
    least = space.importance(fastest) if fastest is not None else 0.0
    for doubt in _DOUBTS if fastest is not None else ():
        found = space.best([macs, Limit(time, bound * (1 - doubt))])
        if found is not None and space.importance(found) >= least:
            break
        found = None
    if found is None:
        found = space.best(
            [macs, Limit(time, bound)], [w for w in (fastest, richest) if w is not None]
        )
    return space.at_cost(cost, amount, tolerance) if found is None else found


def fastest_enough(space: Space, time: Cost, amount: float) -> list[int] | None:
    """Widths of most importance that take `amount` (ms, as predicted) at most."""
    starts = []
    for step in UNIFORM_STEPS:
        reach = _stepped(space, step)
        starts += reach.near_cost(time, amount * 0.98, 0.02)[:1]
    return space.best([Limit(time, amount)], starts)


def neighbour(
    space: Space,
    time: Cost,
    widths: Sequence[int],
    factor: float,
    known: Container[tuple[int, ...]],
) -> list[int] | None:
    """Widths that differ in one or two groups and take `factor` times as long, as predicted.

    Of those that are predicted as near to that as can be told, those of most importance; None where
    all are `known`.
    """
    tally = time.tally(space.named(widths))
    aim = tally.total * factor
    ones = [
        (abs(tally.after(dim, width) - aim), i, width)
        for i, dim in enumerate(space.dims)
        for width in space.widths[i]
        if width != widths[i]
    ]
    found: list[tuple[float, tuple[tuple[int, int], ...]]] = [
        (off, ((i, width),)) for off, i, width in ones
    ]
    for _, i, width in sorted(ones)[:_PARTNERS]:
        tally.set(space.dims[i], width)
        found += [
            (abs(tally.after(space.dims[j], other) - aim), ((i, width), (j, other)))
            for _, j, other in ones
            if j != i
        ]
        tally.set(space.dims[i], widths[i])
    best: tuple[bool, float, list[int]] | None = None
    for off, changes in found:
        changed = list(widths)
        for i, width in changes:
            changed[i] = width
        if tuple(changed) in known:
            continue
        close = off <= _CLOSE * aim
        key = (close, space.importance(changed) if close else -off, changed)
        if best is None or key[:2] > best[:2]:
            best = key
    return None if best is None else best[2]


#: Groups whose change is combined with that of another, and what counts as equally near.
_PARTNERS, _CLOSE = 24, 0.01


def _uniform(space: Space, cost: Cost, amount: float, tolerance: float) -> list[list[int]]:
    margin = tolerance * MARGIN
    return [
        widths
        for step in UNIFORM_STEPS
        for widths in _stepped(space, step).near_cost(cost, amount, margin)
    ]


def _stepped(space: Space, step: int) -> Space:
    """The space of uniform widths (the same share of each group) in multiples of a step."""
    widths = []
    for group, allowed in zip(space.groups, space.widths, strict=True):
        size = fitting(step, group.size)
        widths.append([w for w in allowed if w % size == 0 or w == allowed[-1]])
    alone = list(range(len(space.groups)))
    pressure = pressures(space.ladders, [each[0] for each in widths], alone)
    return Space(space.groups, space.budget, space.ladders, widths, pressure, space.network)
