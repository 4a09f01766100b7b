"""What is measured decides: a target of time is corrected by what was measured, and a model that
turns out slower is given wider stairs until it doesn't.

Predictions say where to look; both loops take the measurement as a function, and know nothing of
models.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

from .errors import CheckFailed

C = TypeVar("C")

#: Measurements of different choices before giving up, and after how many to stop predicting.
_ROUNDS, _PREDICTED = 12, 4
#: How often a prediction that gives a known choice is moved on.
_NUDGES = 12
#: Of the tolerance, this much is used: a measurement that follows may differ a little.
_MARGIN = 0.7


@dataclass(frozen=True)
class Try(Generic[C]):
    """A choice that was measured."""

    choice: C
    #: The prediction that it was made for; None where it was made without one.
    aim: float | None
    #: In the target's unit.
    measured: float


def meet(
    wanted: float,
    aim: float,
    choose: Callable[[float], C | None],
    measure: Callable[[C], float],
    tolerance: float,
    *,
    bounds: tuple[float, float] = (0.0, math.inf),
    near: Callable[[C, float, Sequence[C]], C | None] = lambda choice, factor, known: None,
) -> Try[C]:
    """Choose, measure, correct what is aimed at, until the measurement is what is wanted.

    Where predictions lead no nearer (choices of nearly one predicted time may differ by more than
    the tolerance), choices beside the nearest are measured.

    Args:
        wanted: what the measurement is to say.
        aim: the prediction to begin with; `choose` makes a choice for a prediction.
        tolerance: the share by which the measurement may differ.
        bounds: the least and the greatest prediction that there are choices for.
        near: a choice that is predicted to take so many times as long as another, and little else
            than it; none of those given. None where there is none.

    Raises CheckFailed where it can't be met, with the least and the nearest that was measured.
    """
    tries: list[Try[C]] = []
    for _ in range(_ROUNDS):
        predicted, choice = _fresh(wanted, aim, choose, tries, bounds)
        if choice is None:
            choice = _beside(wanted, tries, near)
        if choice is None:
            break
        got = measure(choice)
        if abs(got / wanted - 1) <= _MARGIN * tolerance:
            again = measure(choice)  # by itself: the first may have been chosen for its luck
            if abs(again / wanted - 1) <= tolerance:
                return Try(choice, predicted, again)
            got = (got + again) / 2
        tries.append(Try(choice, predicted, got))
        aim = _next_aim(wanted, aim, tries)
    if not tries:
        raise CheckFailed(
            "the target of time can't be met: even the least widths are predicted to take longer"
        )
    found = [each.measured for each in tries]
    nearest = min(found, key=lambda got: abs(got / wanted - 1))
    raise CheckFailed(
        f"the target of time ({wanted:.4g}) was not met in {len(tries)} tries: the least that was"
        f" measured is {min(found):.4g}, the nearest {nearest:.4g}"
    )


def _fresh(
    wanted: float,
    aim: float,
    choose: Callable[[float], C | None],
    tries: Sequence[Try[Any]],
    bounds: tuple[float, float],
) -> tuple[float | None, C | None]:
    """A choice that was not measured yet, and its prediction; None where predictions lead no on."""
    if len(tries) >= _PREDICTED and None not in _nearest(wanted, tries):
        return None, None
    for _ in range(_NUDGES):
        aim = min(max(aim, bounds[0]), bounds[1])
        choice = choose(aim)
        known = next((each for each in tries if each.choice == choice), None)
        if choice is None or known is None:
            return aim, choice
        if None not in _nearest(wanted, tries):
            break
        off = wanted / known.measured
        aim *= max(off, 1.02) if off > 1 else min(off, 0.98)
    return None, None


def _nearest(wanted: float, tries: Sequence[Try[C]]) -> tuple[Try[C] | None, Try[C] | None]:
    """The slowest of those that are too fast, and the fastest of those that are too slow."""
    under = [each for each in tries if each.measured <= wanted]
    over = [each for each in tries if each.measured > wanted]
    return (
        max(under, key=lambda each: each.measured, default=None),
        min(over, key=lambda each: each.measured, default=None),
    )


def _beside(
    wanted: float,
    tries: Sequence[Try[C]],
    near: Callable[[C, float, Sequence[C]], C | None],
) -> C | None:
    """A choice beside the nearest that was measured, as much slower or faster as that was off."""
    if not tries:
        return None
    closest = min(tries, key=lambda each: abs(each.measured / wanted - 1))
    known = [each.choice for each in tries]
    return near(closest.choice, wanted / closest.measured, known)


def _next_aim(wanted: float, aim: float, tries: list[Try[C]]) -> float:
    """Between the nearest tries on both sides, else in proportion to how far the last was off."""
    under, over = _nearest(wanted, [each for each in tries if each.aim is not None])
    if under and over and under.aim is not None and over.aim is not None and under.aim < over.aim:
        part = (wanted - under.measured) / (over.measured - under.measured)
        # Not at the ends: those were tried.
        return under.aim + (over.aim - under.aim) * min(0.9, max(0.1, part))
    return (tries[-1].aim or aim) * wanted / tries[-1].measured


def not_slower(
    first: C,
    speedup: Callable[[C], float | None],
    wider: Callable[[int], C | None],
    most: int,
) -> tuple[C, int, float | None]:
    """Try wider stairs until the pruned model is not slower than the original.

    Args:
        speedup: by how much a choice is faster than the original, at best: the upper end of what
            was measured. None where it was not measured.
        wider: the n-th choice with wider stairs, from 1 on; None where there is none.
        most: how many of them to try.

    Returns the first choice that is not slower, or the fastest; its number (0 is `first`); and what
    was measured of it.
    """
    found = [(first, 0, speedup(first))]
    for n in range(1, most + 1):
        if found[-1][2] is None or found[-1][2] >= 1:
            return found[-1]
        choice = wider(n)
        if choice is not None:
            found.append((choice, n, speedup(choice)))
    return max(found, key=lambda each: math.inf if each[2] is None else each[2])
