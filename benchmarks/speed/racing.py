"""Several models against an original, all in one run: rounds in which each has its turn.

What drifts, drifts for all; what a session's place in memory does to it is averaged over several
sets of sessions. A model's ratio is its time over the original's in the same round.
"""

from __future__ import annotations

import math
import os
import random
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from statistics import median
from typing import Any

from onnx import ModelProto

from onnxprune.inputs import Feeds
from onnxprune.runtime import runner, session

ORIGINAL = "original"
#: Sets of sessions: with six, least and largest enclose the median with 97 %.
SETS = 6
#: In a round, each model runs for this long (s) at least: far above the clock's resolution.
_TURN = 0.003
_FEWEST, _MOST = 4, 40

Run = Callable[[], object]


@dataclass(frozen=True)
class Lap:
    """How a model did: ms, and its time over the original's with a 95 % interval."""

    ms: float
    ratio: float
    interval: tuple[float, float]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def raise_priority() -> str:
    """Ask for real-time priority, so that neighbours don't count; what was granted."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(5))
    except (AttributeError, OSError):
        return "normal"
    return "real-time"


def race(
    models: Mapping[str, ModelProto], feeds: Feeds, *, threads: int, seconds: float
) -> dict[str, Lap]:
    """Time all models, `ORIGINAL` among them, for about so many seconds altogether."""
    ratios: dict[str, list[float]] = {name: [] for name in models}
    times: dict[str, list[float]] = {name: [] for name in models}
    for number in range(SETS):
        order = list(models)
        random.Random(number).shuffle(order)
        runs = {
            name: runner(session(models[name], optimize=True, threads=threads), feeds)
            for name in order
        }
        rounds = _rounds(runs, seconds / SETS)
        for name in models:
            mine = [each[name] for each in rounds]
            times[name] += mine
            ratios[name].append(median(each[name] / each[ORIGINAL] for each in rounds))
    return {
        name: Lap(1e3 * median(times[name]), median(each), (min(each), max(each)))
        for name, each in ratios.items()
    }


def _rounds(runs: Mapping[str, Run], seconds: float) -> list[dict[str, float]]:
    """Rounds of one run each (s, the fastest of a turn's), after one that warms up."""
    repeats = {name: max(1, math.ceil(_TURN / _turn(run, 2))) for name, run in runs.items()}
    found: list[dict[str, float]] = []
    started = time.perf_counter()
    while len(found) < _FEWEST or (len(found) < _MOST and time.perf_counter() - started < seconds):
        found.append({name: _turn(run, repeats[name]) for name, run in runs.items()})
    return found


def _turn(run: Run, times: int) -> float:
    best = math.inf
    for _ in range(times):
        start = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - start)
    return best
