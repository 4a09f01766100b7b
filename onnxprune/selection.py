"""Selection: which channels of each group are kept, from their scores and a ratio.

The ratio is the share of channels to remove: 0.5 keeps half of each group (`local`), or half of all
channels, wherever they matter least (`global`). Ties are broken by position, so the same input
gives the same choice.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from .axes import Index
from .errors import UsageError
from .groups import Group
from .importance import Scores


@dataclass(frozen=True)
class Budget:
    """How much is removed.

    Raises UsageError where a number is out of its range.
    """

    ratio: float = 0.5
    scope: str = "local"
    #: Channels are left in multiples of this, and never fewer than this.
    round_to: int = 1
    #: The largest share of its channels that one group may lose.
    max_ratio: float = 1.0

    def __post_init__(self) -> None:
        for value in (self.ratio, self.round_to, self.max_ratio):
            if not isinstance(value, (int, float)):
                raise UsageError(f"a number was expected, not {value!r}")
        if not 0 < self.ratio < 1:
            raise UsageError(
                f"ratio {self.ratio} is outside of (0, 1); it is the share of channels to remove"
            )
        if self.scope not in ("local", "global"):
            raise UsageError(f"unknown scope {self.scope!r}; known are local, global")
        if self.round_to < 1:
            raise UsageError(f"round_to {self.round_to} is not a positive number of channels")
        if not 0 < self.max_ratio <= 1:
            raise UsageError(f"max_ratio {self.max_ratio} is outside of (0, 1]")

    def floor(self, size: int) -> int:
        """The fewest channels that a group of `size` may be left with."""
        least = max(1, math.ceil(size * (1 - self.max_ratio) - 1e-9))
        return self.rounded(least, size)

    def rounded(self, count: int, size: int) -> int:
        """`count` rounded up to a width that may be left of a group of `size`."""
        return min(size, -(-count // self.round_to) * self.round_to)


def select(groups: Sequence[Group], scores: Sequence[Scores], budget: Budget) -> list[Index]:
    """The kept indices of each group, ascending."""
    if budget.scope == "local":
        counts = [
            max(
                budget.rounded(group.size - int(group.size * budget.ratio + 1e-9), group.size),
                budget.floor(group.size),
            )
            for group in groups
        ]
    else:
        counts = _global_counts(groups, scores, budget)
    return [
        np.sort(np.argsort(-each, kind="stable")[:count]).astype(np.int64)
        for each, count in zip(scores, counts, strict=True)
    ]


def _global_counts(groups: Sequence[Group], scores: Sequence[Scores], budget: Budget) -> list[int]:
    """How many channels each group keeps when the least of all groups' channels are removed."""
    total = sum(group.size for group in groups)
    removable = []
    for i, (group, each) in enumerate(zip(groups, scores, strict=True)):
        floor = budget.floor(group.size)
        removable += [(value, i) for value in np.sort(each, kind="stable")[: group.size - floor]]
    removable.sort(key=lambda pair: pair[0])
    counts = [group.size for group in groups]
    for _, i in removable[: int(total * budget.ratio + 1e-9)]:
        counts[i] -= 1
    return [budget.rounded(count, group.size) for count, group in zip(counts, groups, strict=True)]
