"""Where the time goes: onnxruntime's own profile of a model, kernel times summed by operator."""

from __future__ import annotations

import json
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeAlias

from onnx import ModelProto

from .runtime import Model, find_inputs, runner, session

#: Runs that are not counted: memory is allocated in the first, caches are warm after the second.
_UNCOUNTED = 2
#: Time to spend on one model, s.
_SECONDS = 0.5
_MAX_RUNS = 100
#: Operators run while profiling; each is about 1 kB in the profile's file.
_MAX_EVENTS = 30_000
#: How the events of kernels are called, behind the name of their node.
_KERNEL = "_kernel_time"

#: `{(operator, node): (ms, how often)}` of one run, as onnxruntime runs and names them.
Kernels: TypeAlias = dict[tuple[str, str], tuple[float, float]]


@dataclass(frozen=True)
class OperatorTime:
    """The kernels of one operator, in one run of a model."""

    #: As onnxruntime runs it, after its optimisations: `Conv`, `FusedMatMul`, `ReorderInput`.
    operator: str
    #: ms of one run
    before: float
    #: None where there is one model only
    after: float | None
    #: How many there are in one run.
    nodes_before: float
    nodes_after: float | None


@dataclass(frozen=True)
class Profile:
    """The kernel times of one model, or of two."""

    #: The longest first.
    operators: list[OperatorTime]
    #: Runs that were counted, of each model.
    runs: list[int]

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types; times in ms."""
        return asdict(self)


def profile(
    a: Model,
    b: Model | None = None,
    *,
    threads: int = 1,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    base_dir: str | os.PathLike[str] | None = None,
) -> Profile:
    """Profile one model or two, on the same random inputs with graph optimisations on.

    The arguments are those of `latency.benchmark`. Profiling itself takes time, so the sums are for
    comparing operators; what a run takes is for `benchmark` to say.

    Raises UnsupportedModel where a model does not run.
    """
    feeds = find_inputs(a, input_shapes, seed=seed, base_dir=base_dir).feeds[0]
    found = [_one(model, feeds, threads, base_dir) for model in ([a] if b is None else [a, b])]
    times = [spent for spent, _ in found]
    names = dict.fromkeys(name for spent in times for name in spent)
    nothing = (0.0, 0.0)
    operators = [
        OperatorTime(
            name,
            times[0].get(name, nothing)[0],
            None if b is None else times[1].get(name, nothing)[0],
            times[0].get(name, nothing)[1],
            None if b is None else times[1].get(name, nothing)[1],
        )
        for name in names
    ]
    operators.sort(key=lambda each: (-max(each.before, each.after or 0.0), each.operator))
    return Profile(operators, [runs for _, runs in found])


def _one(
    model: Model, feeds: Mapping[str, Any], threads: int, base_dir: str | os.PathLike[str] | None
) -> tuple[dict[str, tuple[float, float]], int]:
    """ms and nodes of each operator in one run, and how many runs were counted."""
    kernels, runs = kernel_times(model, feeds, threads, base_dir)
    return by_operator(kernels), runs


def kernel_times(
    model: Model,
    feeds: Mapping[str, Any],
    threads: int = 1,
    base_dir: str | os.PathLike[str] | None = None,
) -> tuple[Kernels, int]:
    """The kernels of one run with graph optimisations on, and how many runs were counted.

    Raises UnsupportedModel where the model does not run.
    """
    folder = base_dir if isinstance(model, ModelProto) else Path(model).parent
    nodes = len(model.graph.node) if isinstance(model, ModelProto) else 1000
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as scratch:
        live = session(
            model,
            optimize=True,
            threads=threads,
            base_dir=folder,
            profile=os.path.join(scratch, "profile"),
        )
        run = runner(live, feeds)  # which runs once itself
        run()
        most = min(_MAX_RUNS, max(3, _MAX_EVENTS // max(nodes, 1)))
        start, runs = time.perf_counter(), 0
        while runs < most and (runs < 3 or time.perf_counter() - start < _SECONDS):
            run()
            runs += 1
        events = json.loads(
            Path(live.end_profiling()).read_text(encoding="utf-8", errors="replace")
        )
    return by_kernel(events, _UNCOUNTED)


def by_operator(kernels: Kernels) -> dict[str, tuple[float, float]]:
    """`{operator: (ms, nodes)}` of one run."""
    found: dict[str, tuple[float, float]] = {}
    for (operator, _), (ms, nodes) in kernels.items():
        before = found.get(operator, (0.0, 0.0))
        found[operator] = (before[0] + ms, before[1] + nodes)
    return found


def by_kernel(events: Sequence[Mapping[str, Any]], uncounted: int = 0) -> tuple[Kernels, int]:
    """The kernels of one run, and the number of runs, from a profile's events.

    The first `uncounted` runs are left out. An operator that runs a graph of its own (If, Loop)
    counts without what that graph's operators take.
    """
    starts = sorted(each["ts"] for each in events if each.get("name") == "model_run")
    counted = starts[uncounted:]
    if not counted:
        return {}, 0
    kernels = sorted(
        (
            each["ts"],
            -each["dur"],
            (
                str(each.get("args", {}).get("op_name", "?")),
                str(each["name"]).removesuffix(_KERNEL),
            ),
        )
        for each in events
        if each.get("cat") == "Node"
        and str(each.get("name", "")).endswith(_KERNEL)
        and each["ts"] >= counted[0]
    )
    spent: dict[tuple[str, str], float] = defaultdict(float)
    number: dict[tuple[str, str], int] = defaultdict(int)
    around: list[tuple[float, tuple[str, str]]] = []
    for start, minus, kernel in kernels:
        duration = -minus
        while around and (around[-1][0] <= start or around[-1][0] < start + duration):
            around.pop()
        if around:
            spent[around[-1][1]] -= duration
        spent[kernel] += duration
        number[kernel] += 1
        # Times are whole µs: one of less than that has nothing inside.
        if duration > 1:
            around.append((start + duration, kernel))
    runs = len(counted)
    return {each: (spent[each] / 1e3 / runs, number[each] / runs) for each in spent}, runs
