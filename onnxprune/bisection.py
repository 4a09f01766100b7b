"""Bisection over a budget: the smallest model that passes a gate."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Generic, TypeVar

from .errors import UsageError
from .targets import parse_target

T = TypeVar("T")

#: Trials: the budget is found to 1/2⁷ of its range.
TRIALS = 8


@dataclass(frozen=True)
class Trial(Generic[T]):
    """One try: how much of the way to the given budget it went, what it lost, and the result."""

    pressure: float
    drop: float
    result: T


def smallest(
    attempt: Callable[[float], Trial[T] | None], most: float, trials: int = TRIALS
) -> tuple[Trial[T] | None, list[Trial[T]]]:
    """The trial of most pressure that loses no more than `most`, and all trials that were made.

    `attempt(pressure)` tries a pressure in (0, 1], and returns None where there is no such model.
    The whole pressure is tried first. What passes is assumed to pass with less pressure too; where
    that is not so, what is returned has passed nonetheless.
    """
    made: list[Trial[T]] = []
    best: Trial[T] | None = None
    low, high = 0.0, 1.0
    pressure = 1.0
    for _ in range(trials):
        trial = attempt(pressure)
        if trial is not None:
            made.append(trial)
        if trial is not None and trial.drop <= most:
            if best is None or trial.pressure > best.pressure:
                best = trial
            low = pressure
        else:
            high = pressure
        if low == 1.0:
            break
        pressure = (low + high) / 2
    return best, made


#: The share of channels that a search goes up to where no budget is given.
FURTHEST = 0.9


def eased(ratio: float | None, target: str | None, pressure: float) -> dict[str, float | str]:
    """The budget at a share of the way to the one given: equal steps, equal factors.

    Raises UsageError for a target that is an amount.
    """
    if target is None:
        return {"ratio": 1 - (1 - (FURTHEST if ratio is None else ratio)) ** pressure}
    goal = parse_target(target)
    if goal.share is None or ratio is not None:
        raise UsageError(
            f"--search goes towards a share that is kept, as in macs=0.3, not {target!r}"
        )
    share = math.exp(math.log(goal.share) * pressure)
    return {"target": f"{goal.kind}={share:.6g}"}
