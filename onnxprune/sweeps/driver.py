"""All trials of a sweep: what is in the journal is not done again, everything else once.

First, side by side, the trials in which nothing is timed. Then, with nothing beside them, those
whose widths are chosen by measured time. Last, the latency of every model, where that is asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterator, Sequence
from typing import Any

from ..trials.forecast import Forecast
from ..trials.journal import Journal
from .backends import Backend, Task
from .grid import Trial
from .trial import Result

Told = Callable[[int, int, str], None]


def run(
    trials: Sequence[Trial], backend: Backend, journal: Journal, timed: bool, told: Told
) -> tuple[dict[str, Result], dict[str, Result]]:
    """What every trial came to, and, where `timed`, what measuring it did; by the trials' ids.

    Args:
        told: called with how many tasks are done, of how many, and the time left in words.
    """
    known = {key: found for key, found in journal.finished.items() if found["status"] != "fault"}
    by_kind: dict[tuple[bool, str], list[Task]] = {}
    for trial in _varied(trials):
        if trial.id not in known:
            task = Task(trial.id, "prune", dict(trial.options))
            by_kind.setdefault((trial.measured, _effort(trial)), []).append(task)
    total = len(trials) * (1 + timed)
    lanes: dict[Hashable, int] = {
        kind: backend.hosts if kind[0] else backend.lanes for kind in by_kind
    }
    kinds = {task.key: kind for kind, tasks in by_kind.items() for task in tasks}
    measuring = (True, "time")
    left = [*kinds.values()]
    if timed:
        dead = {t.id for t in trials if known.get(t.id, {}).get("status", "done") != "done"}
        total -= len(dead)
        left += [measuring] * sum(_timing(t.id) not in known for t in trials if t.id not in dead)
        lanes[measuring] = backend.hosts
    forecast = Forecast(left, lanes)
    done = total - len(left)
    told(done, total, "")

    def noted(finished: Iterator[tuple[str, Result]]) -> None:
        nonlocal done, total
        for key, result in finished:
            journal.add(key, result)
            known[key] = result
            forecast.done(kinds.get(key, measuring), result["seconds"])
            done += 1
            if timed and key in kinds and result["status"] != "done":
                total -= 1  # there is nothing to measure
                forecast.drop(measuring)
            told(done, total, forecast.text())

    noted(backend.side_by_side([t for k, ts in by_kind.items() if not k[0] for t in ts]))
    noted(backend.alone([t for k, ts in by_kind.items() if k[0] for t in ts]))
    if timed:
        plans = {t.id: known[t.id]["plan"] for t in trials if known[t.id]["status"] == "done"}
        waiting = [key for key in plans if _timing(key) not in known]
        noted(backend.alone([Task(_timing(key), "time", plans[key]) for key in waiting]))
    pruned = {trial.id: known[trial.id] for trial in trials}
    measured = {t.id: known[_timing(t.id)] for t in trials if _timing(t.id) in known}
    return pruned, measured


def _timing(trial: str) -> str:
    """What the journal calls the measurement of a trial's latency."""
    return f"{trial} latency"


def _effort(trial: Trial) -> str:
    """Trials of one effort take about as long as each other."""
    options: dict[str, Any] = dict(trial.options)
    if options.get("reconstruct"):
        return "reconstruct"
    return f"{options.get('criterion', '')} {options.get('steps', 1)}"


def _varied(trials: Sequence[Trial]) -> list[Trial]:
    """The first trial of each effort in front: soon, all of them are known by example."""
    seen: set[str] = set()
    first = []
    for trial in trials:
        if _effort(trial) not in seen:
            seen.add(_effort(trial))
            first.append(trial)
    return first + [trial for trial in trials if trial not in first]
