"""Reaching a budget with one knob: a path of single steps down, and the place on it that fits.

A *path* lists, for rising pressure, each step of a group from one admissible width to the next
lower one. Choices are prefixes of it, so of two budgets the tighter one takes all steps of the
looser one, and keeps nothing that this one dropped.

Where a single step costs more than the budget's tolerance (16 of a stem's 32 channels), no prefix
may fit. Then widths near the end of the prefix are moved up or down by single steps until one does:
meeting the budget goes before that order.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise

from .axes import Dim
from .costs import Cost, Tally
from .errors import CheckFailed
from .importance import Scores
from .rounding import most_for_below

#: Of the tolerance this much is used while choosing: counting the result may differ a little.
MARGIN = 0.75
#: Moves up or down before giving up.
_MOVES = 400


@dataclass(frozen=True)
class Step:
    """Group `group` goes down to `width`, once the ratio is `pressure`."""

    pressure: float
    group: int
    width: int


def path_of(pressures: Sequence[Scores], widths: Sequence[Sequence[int]]) -> list[Step]:
    """The steps of all groups in order, each where its nearest admissible width changes.

    Args:
        pressures: of each group's channels, ascending, infinite for those that always stay.
        widths: the admissible widths of each group, ascending.
    """
    steps = []
    for i, (pressure, admissible) in enumerate(zip(pressures, widths, strict=True)):
        size = len(pressure)
        for below, above in pairwise(admissible):
            removed = size - most_for_below(below, above)
            if removed <= size and math.isfinite(pressure[removed - 1]):
                steps.append(Step(float(pressure[removed - 1]), i, below))
    # Of equal pressure, wider first: a group's own steps stay in order.
    return sorted(steps, key=lambda step: (step.pressure, step.group, -step.width))


def at_ratio(steps: Sequence[Step], widths: Sequence[Sequence[int]], ratio: float) -> list[int]:
    """The widths of all groups where the knob stands at `ratio`."""
    found = [each[-1] for each in widths]
    for step in steps:
        if step.pressure > ratio + 1e-9:
            break
        found[step.group] = step.width
    return found


@dataclass
class Reach:
    """A cost to be brought to an amount by moving along a path."""

    dims: Sequence[Dim]
    #: Admissible widths of each group, ascending.
    widths: Sequence[Sequence[int]]
    steps: Sequence[Step]
    cost: Cost

    def solve(self, amount: float, tolerance: float) -> list[int]:
        """Widths at which the cost is `amount`, within `tolerance` (a share of it).

        Raises CheckFailed where there are none, with what can be reached.
        """
        length, tally = self._prefix(amount)
        aim = tolerance * MARGIN
        if abs(tally.total / amount - 1) > aim:
            self._tune(tally, length, amount, aim)
        if abs(tally.total / amount - 1) > tolerance:
            raise CheckFailed(self._out_of_reach(amount, tally.total))
        return [tally.width(dim) for dim in self.dims]

    def prefixes(self, least: float, most: float) -> list[list[int]]:
        """The widths of all prefixes that cost no less than `least` and no more than `most`."""
        length, tally = self._prefix(most)
        found = []
        for step in [None, *self.steps[length:]]:
            if step is not None:
                tally.set(self.dims[step.group], step.width)
            if tally.total < least:
                break
            if tally.total <= most:
                found.append([tally.width(dim) for dim in self.dims])
        return found

    def _at(self, length: int) -> dict[Dim, int]:
        widths = {dim: each[-1] for dim, each in zip(self.dims, self.widths, strict=True)}
        for step in self.steps[:length]:
            widths[self.dims[step.group]] = step.width
        return widths

    def _prefix(self, amount: float) -> tuple[int, Tally]:
        """The prefix of the path whose cost is nearest to `amount`."""
        low, high = 0, len(self.steps)  # the shortest that costs no more is in between
        while low < high:
            middle = (low + high) // 2
            if self.cost.total(self._at(middle)) > amount:
                low = middle + 1
            else:
                high = middle
        near = [(n, self.cost.tally(self._at(n))) for n in {max(0, low - 1), low}]
        return min(near, key=lambda each: (abs(each[1].total - amount), each[0]))

    def _tune(self, tally: Tally, length: int, amount: float, tolerance: float) -> None:
        """Move widths by single steps until the cost fits; of those that do, near the path."""
        last = {step.group: i for i, step in enumerate(self.steps[:length])}
        next_ = {step.group: -i for i, step in enumerate(self.steps) if i >= length}
        for _ in range(_MOVES):
            off = abs(tally.total - amount)
            moves = []
            for i, (dim, widths) in enumerate(zip(self.dims, self.widths, strict=True)):
                at = widths.index(tally.width(dim))
                for to in (at - 1, at + 1):
                    if 0 <= to < len(widths):
                        left = abs(tally.after(dim, widths[to]) - amount)
                        fits = left <= tolerance * amount
                        place = -next_.get(i, 0) - length if to < at else length - last.get(i, 0)
                        moves.append((not fits, place if fits else left, left, i, widths[to]))
            pair = None
            if not moves or min(moves)[2] >= off:
                pair = self._exchange(tally, amount)
                if pair is None:
                    return
            else:
                _, _, _, i, width = min(moves)
                pair = [(i, width)]
            for i, width in pair:
                tally.set(self.dims[i], width)
            if abs(tally.total / amount - 1) <= tolerance:
                return

    def _exchange(self, tally: Tally, amount: float) -> list[tuple[int, int]] | None:
        """One group up and another down, which together come nearer than any of them alone."""
        best, found = abs(tally.total - amount) * (1 - 1e-9), None
        for i, (dim, widths) in enumerate(zip(self.dims, self.widths, strict=True)):
            at = widths.index(tally.width(dim))
            if at + 1 == len(widths):
                continue
            tally.set(dim, widths[at + 1])
            for j, (other, below) in enumerate(zip(self.dims, self.widths, strict=True)):
                place = below.index(tally.width(other))
                for to in range(max(0, place - 4), place) if i != j else ():
                    left = abs(tally.after(other, below[to]) - amount)
                    if left < best:
                        best, found = left, [(i, widths[at + 1]), (j, below[to])]
            tally.set(dim, widths[at])
        return found

    def _out_of_reach(self, amount: float, nearest: float) -> str:
        least = self.cost.total({d: w[0] for d, w in zip(self.dims, self.widths, strict=True)})
        most = self.cost.total()
        unit = self.cost.unit
        return (
            f"the target of {amount:.4g} {unit} can't be met with the widths that are allowed:"
            f" the least is {least:.4g} {unit} ({least / most:.1%} of {most:.4g}), the nearest"
            f" {nearest:.4g} {unit} ({nearest / most:.1%}); allow finer widths (--round-to 1),"
            " more groups or a larger --max-ratio"
        )
