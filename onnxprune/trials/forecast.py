"""How long the trials that are left will take: from what the finished ones took, kind by kind.

Trials of one kind (refitted or not, alone or side by side) take about as long as each other; those
of different kinds do not, so a mean over all of them would promise what it can't hold.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable


class Forecast:
    """The time that is left of a job.

    Args:
        kinds: the kind of each trial that is to be done.
        lanes: how many of a kind run side by side; 1 where nothing is said.
    """

    def __init__(self, kinds: Iterable[Hashable], lanes: dict[Hashable, int] | None = None) -> None:
        self._left = Counter(kinds)
        self._lanes = lanes or {}
        self._seconds: dict[Hashable, list[float]] = {}

    def done(self, kind: Hashable, seconds: float) -> None:
        """One trial of a kind took so many seconds."""
        self._left[kind] -= 1
        self._seconds.setdefault(kind, []).append(seconds)

    def drop(self, kind: Hashable) -> None:
        """One trial of a kind is not to be done after all."""
        self._left[kind] -= 1

    def left(self) -> tuple[float, bool]:
        """Seconds, and whether that is all: of kinds that none is finished of, nothing is known."""
        total, complete = 0.0, True
        for kind, count in self._left.items():
            if count < 1:
                continue
            known = self._seconds.get(kind)
            if known is None:
                complete = False
                continue
            lanes = self._lanes.get(kind, 1)
            mean = sum(known) / len(known)
            # The last round is a whole one, however few are in it.
            total += mean * max(count / lanes, 1.0)
        return total, complete

    def text(self) -> str:
        """In words: "about 3 min left"; empty where nothing is known yet."""
        seconds, complete = self.left()
        if not seconds:
            return ""
        return f"{'about' if complete else 'more than'} {duration(seconds)} left"


def duration(seconds: float) -> str:
    """As people say it, no finer than it is known: 8 s, 3 min, 2.5 h."""
    if seconds < 60:
        return f"{max(1, round(seconds))} s"
    if seconds < 5400:
        return f"{round(seconds / 60)} min"
    return f"{seconds / 3600:.1f} h"
