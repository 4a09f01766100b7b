"""Latency of one model, or of two against each other.

One process, rounds of A B A B …: what drifts (clock, temperature, neighbours) drifts for both, and
cancels in the ratio of each round. Both sessions are loaded at once, with threads that sleep when
idle, so that neither takes the cores from the other.

Where a session's weights come to lie in memory can change its speed by several percent for as long
as it lives, which no number of rounds averages out: one model against itself then seems faster with
great certainty. So the rounds are spread over several pairs of sessions, and the interval is taken
over the pairs, unless loading takes so long that fewer than six pairs fit.
"""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from onnx import ModelProto

from onnxprune.errors import UsageError
from onnxprune.runtime import Feeds, Model, find_inputs, runner, session

__all__ = ["Benchmark", "Latency", "benchmark"]

#: a round runs each model often enough to take this long: far above the clock's resolution
_ROUND_S = 0.002
#: rounds beyond this many add time, not precision
_MAX_ROUNDS = 200
#: pairs of sessions; six are the fewest that have a 95 % interval
_MAX_PAIRS = 12


@dataclass(frozen=True)
class Latency:
    """Times of single runs, in milliseconds."""

    median: float
    p90: float
    min: float
    runs: int


@dataclass(frozen=True)
class Benchmark:
    """The result of :func:`benchmark`."""

    a: Latency
    b: Latency | None
    #: median over the rounds of A's time over B's: above 1, B is faster
    speedup: float | None
    #: interval for ``speedup`` that covers the true median with 95 % or more
    interval: tuple[float, float] | None
    rounds: int
    #: pairs of sessions that the rounds were spread over
    sessions: int
    threads: int
    #: shapes of the inputs that were timed
    shapes: dict[str, list[int]]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; times in ms."""
        return asdict(self)


def benchmark(
    a: Model,
    b: Model | None = None,
    *,
    threads: int = 1,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    rounds: int | None = None,
    seconds: float = 2.0,
    seed: int = 0,
    base_dir: str | os.PathLike[str] | None = None,
) -> Benchmark:
    """Time A, and B against it, on the same random inputs with graph optimisations on.

    Args:
        threads: for the work inside one operator, the same for both models.
        input_shapes: `{input: [d, ...]}` for dynamic dims; else sizes that A runs with are found.
        rounds: None for as many as fit into ``seconds``: from 10 to 200, or from 6 (the fewest
            that have a 95 % interval) where one run of a model takes more than a second.
        seconds: time to spend on timing, s; loading and warming up take about as long again.
        base_dir: the folder of external weights, for models given as protos.

    Raises:
        UsageError: ``threads``, ``rounds`` or ``seconds`` is not positive, or ``input_shapes``
            contradicts the model.
        UnsupportedModel: a model does not run.
    """
    if threads < 1 or seconds <= 0 or (rounds is not None and rounds < 1):
        raise UsageError(f"not positive: threads {threads}, rounds {rounds} or seconds {seconds}")
    found = find_inputs(a, input_shapes, seed=seed, base_dir=base_dir)
    feeds = found.feeds[0]
    models = [a] if b is None else [a, b]
    started = time.perf_counter()
    timers = [_timer(model, feeds, threads, base_dir) for model in models]
    loading = time.perf_counter() - started
    single = [_warm_up(timer, seconds / len(timers)) for timer in timers]
    # Odd, so that the median is one of the runs: the mean of two has half of an interruption.
    repeats = [math.ceil(_ROUND_S / run) | 1 for run in single]
    if rounds is None:
        fit = seconds / sum(n * run for n, run in zip(repeats, single, strict=True))
        rounds = max(6 if max(single) > 1 else 10, min(_MAX_ROUNDS, int(fit)))
    pairs = min(_MAX_PAIRS, rounds, int(seconds / 2 / (loading + 10 * sum(single))))
    pairs = pairs if pairs >= 6 and b is not None else 1

    times: list[list[float]] = [[] for _ in timers]
    ratios: list[list[float]] = []
    for pair in range(pairs):
        if pair:
            # Made while the old ones live, so that they can't come to lie in the same place, and
            # in turn A first, B first.
            order = range(len(models))[:: -1 if pair % 2 else 1]
            fresh = {i: _timer(models[i], feeds, threads, base_dir) for i in order}
            timers = [fresh[i] for i in range(len(models))]
            for timer in timers:
                _warm_up(timer, seconds / 4 / pairs)
        ratios.append([])
        for _ in range(rounds // pairs + (pair < rounds % pairs)):
            middle = []
            for timer, n, into in zip(timers, repeats, times, strict=True):
                measured = [timer() for _ in range(n)]
                into += measured
                middle.append(median(measured))
            ratios[-1].append(middle[0] / middle[-1])
    independent = [median(rs) for rs in ratios] if pairs > 1 else ratios[0]
    return Benchmark(
        a=_latency(times[0]),
        b=_latency(times[1]) if b is not None else None,
        speedup=median(independent) if b is not None else None,
        interval=_median_interval(independent) if b is not None else None,
        rounds=rounds,
        sessions=pairs,
        threads=threads,
        shapes=found.shapes,
    )


def _timer(
    model: Model, feeds: Feeds, threads: int, base_dir: str | os.PathLike[str] | None
) -> Callable[[], float]:
    """A function that runs the model once and returns how long it took, in seconds."""
    folder = base_dir if isinstance(model, ModelProto) else Path(model).parent
    live = session(model, optimize=True, threads=threads, base_dir=folder)
    run, clock = runner(live, feeds), time.perf_counter

    def timed() -> float:
        start = clock()
        run()
        return clock() - start

    return timed


def _warm_up(timer: Callable[[], float], seconds: float) -> float:
    """Run until two windows of five agree within 5 %, or time is up; the last window's median."""
    times = [timer()]
    spent = times[0]
    window = [timer()]
    while spent < seconds:
        previous, window = window, [timer() for _ in range(5 if times[-1] < seconds / 10 else 1)]
        times += window
        spent += sum(window)
        if abs(median(window) - median(previous)) < 0.05 * median(previous):
            break
    return max(median(window), 1e-7)


def _latency(times: Sequence[float]) -> Latency:
    ms = np.asarray(times) * 1e3
    return Latency(float(np.median(ms)), float(np.percentile(ms, 90)), float(ms.min()), len(ms))


def _median_interval(values: Sequence[float]) -> tuple[float, float] | None:
    """The order statistics that enclose the median with a probability of 95 % or more.

    Free of assumptions on the distribution (the sign test turned round); None where there are
    fewer than six values, the fewest of which even the extremes reach 95 %.
    """
    n, ordered = len(values), sorted(values)
    below, rank = 0.0, 0
    while below + math.comb(n, rank) / 2**n <= 0.025:
        below += math.comb(n, rank) / 2**n
        rank += 1
    return (ordered[rank - 1], ordered[n - rank]) if rank else None
