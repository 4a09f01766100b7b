"""What came out of a sweep: every trial, the front, the choice; as JSON and as CSV."""

from __future__ import annotations

import csv
import io
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from ..errors import CheckFailed
from ..evaluation import Evaluation
from ..words import counted
from . import pareto
from .grid import OPTIONS, Trial

#: What a cost is called by people.
COSTS = {"macs": "MACs", "latency": "latency", "params": "parameters", "bytes": "bytes"}
_SIZES = {"macs": "macs", "params": "parameters", "bytes": "bytes"}


@dataclass
class TrialResult:
    """One trial: what it was, and what came of it."""

    id: str
    options: dict[str, Any]
    #: `done`; `failed` where the options lead to no model; `fault` where something broke.
    status: str
    reason: str | None = None
    parameters: int | None = None
    macs: int | None = None
    bytes: int | None = None
    #: A Benchmark as JSON: ms, and the paired ratio to the original.
    latency: dict[str, Any] | None = None
    evaluation: dict[str, Any] | None = None
    #: What was lost against the original, in points.
    drop: float | None = None
    #: The share of the original's cost that is left.
    cost: float | None = None
    notes: list[str] = field(default_factory=list)
    seconds: float = 0.0
    #: The machine that it ran on.
    host: str = ""
    on_front: bool = False
    chosen: bool = False

    @property
    def ms(self) -> float | None:
        """The median latency."""
        return None if self.latency is None else float(self.latency["b"]["median"])

    @property
    def value(self) -> float | None:
        """The metric, or the agreement with the original where there is none."""
        found = self.evaluation or {}
        value = found.get("after") if found.get("metric") else found.get("agreement")
        return None if value is None else float(value)

    @property
    def point(self) -> pareto.Point:
        """Cost and loss; infinite where it has none."""
        inf = float("inf")
        cost, drop = self.cost, self.drop
        return (inf if cost is None else cost, inf if drop is None else drop)


@dataclass
class SweepReport:
    """A whole sweep; `to_dict` is the document of `sweep --json`."""

    model: str
    #: What is weighed against accuracy: macs, latency, params or bytes.
    cost: str
    #: How accuracy is measured: a metric's name, or `agreement`.
    measure: str
    higher_is_better: bool
    #: What it was measured on, in words.
    data: str
    #: Of the original: parameters, macs, bytes, value, and ms where latency was measured.
    original: dict[str, Any]
    trials: list[TrialResult]
    #: Ids, from the cheapest on.
    front: list[str]
    chosen: str | None = None
    #: Why: `knee`, or the constraints in words.
    rule: str = "knee"
    #: Why none was chosen.
    unmet: str | None = None
    #: The file of the chosen model, and the command that makes it.
    output: str | None = None
    command: str | None = None
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)

    def of(self, trial: str) -> TrialResult:
        """A trial by its id."""
        return next(each for each in self.trials if each.id == trial)

    def to_csv(self) -> str:
        """One line for each trial: its options, then what came of it."""
        names = list(dict.fromkeys(name for each in self.trials for name in each.options))
        figures = ["parameters", "macs", "bytes", "latency_ms", "speedup", "drop", "cost"]
        rest = ["seconds", "host", "on_front", "chosen", "status", "reason"]
        out = io.StringIO()
        writer = csv.writer(out, lineterminator="\n")
        writer.writerow(["id", *names, self.measure, *figures, *rest])
        for each in self.trials:
            speedup = each.latency["speedup"] if each.latency else None
            numbers = [each.parameters, each.macs, each.bytes, each.ms, speedup]
            numbers += [each.drop, each.cost]
            options = [_cell(each.options.get(name, OPTIONS[name])) for name in names]
            last = [each.seconds, each.host, each.on_front, each.chosen, each.status, each.reason]
            writer.writerow([each.id, *options, each.value, *numbers, *last])
        return out.getvalue()


def _cell(value: Any) -> Any:
    return " ".join(map(str, value)) if isinstance(value, (list, tuple)) else value


def collect(
    model: str,
    trials: Sequence[Trial],
    pruned: Mapping[str, Mapping[str, Any]],
    timed: Mapping[str, Mapping[str, Any]],
    cost: str,
    data: str,
) -> SweepReport:
    """The report of all trials, from what tasks returned; nothing is chosen yet.

    Raises CheckFailed where no trial came to a model.
    """
    results = [_result(t, pruned.get(t.id), timed.get(t.id), cost) for t in trials]
    done = [each for each in results if each.status == "done" and each.evaluation]
    if not done:
        reasons = list(dict.fromkeys(str(each.reason) for each in results))
        tried = counted(len(results), "trial")
        raise CheckFailed(f"no model came of {tried}: {reasons[0]}")
    before, found = pruned[done[0].id]["before"], done[0].evaluation or {}
    original = {name: before[name] for name in ("parameters", "macs", "bytes")}
    metric = found.get("metric")
    original["value"] = found["before"] if metric else 1.0
    times = [float(each.latency["a"]["median"]) for each in done if each.latency]
    original["ms"] = sorted(times)[len(times) // 2] if times else None
    # The original is in it, though it is no trial: what it beats is not on the front.
    points = [(1.0, 0.0), *(each.point for each in results)]
    on = [i - 1 for i in pareto.front(points) if i]
    for i in on:
        results[i].on_front = True
    return SweepReport(
        model,
        cost,
        metric or "agreement",
        found["higher_is_better"] if metric else True,
        data,
        original,
        results,
        [results[i].id for i in on],
    )


def _result(
    trial: Trial,
    pruned: Mapping[str, Any] | None,
    timed: Mapping[str, Any] | None,
    cost: str,
) -> TrialResult:
    options = dict(trial.options)
    if pruned is None:
        return TrialResult(trial.id, options, "fault", "it was not run")
    made = TrialResult(
        trial.id,
        options,
        pruned["status"],
        pruned.get("reason"),
        seconds=pruned["seconds"],
        host=pruned["host"],
        notes=list(pruned.get("notes", ())),
    )
    if made.status != "done":
        return made
    before, after = pruned["before"], pruned["after"]
    made.parameters, made.macs, made.bytes = (after[n] for n in ("parameters", "macs", "bytes"))
    made.evaluation = dict(pruned["evaluation"])
    made.drop = made.evaluation["drop"] = Evaluation(**pruned["evaluation"]).drop
    if timed is not None and timed["status"] == "done":
        made.latency = timed["latency"]
    elif timed is not None:
        made.notes.append(f"its latency could not be measured: {timed.get('reason')}")
    if cost == "latency":
        made.cost = 1 / made.latency["speedup"] if made.latency else None
    else:
        name = _SIZES[cost]
        known = before[name] and after[name] is not None
        made.cost = after[name] / before[name] if known else None
    return made


def choose(
    report: SweepReport, max_drop: float | None, max_cost: float | None, max_ms: float | None
) -> None:
    """Choose the best model within the bounds; without any, the knee of the front.

    `max_cost` is a share of the original's, `max_ms` is in ms. Where there is no such model, none
    is chosen, and `report.unmet` says why.
    """
    nowhere = (float("inf"), float("inf"))
    # Whatever it loses or not: what costs as much as the original is no choice.
    points = [each.point if each.point[0] < 1 else nowhere for each in report.trials]
    bounds = []
    if max_drop is not None:
        bounds.append(f"at most {counted(max_drop, 'point')} lost")
    if max_cost is not None:
        bounds.append(f"at most {100 * max_cost:g} % of the {COSTS[report.cost]}")
    if max_ms is not None:
        bounds.append(f"at most {max_ms:g} ms")
        points = [
            point if each.ms is not None and each.ms <= max_ms else nowhere
            for each, point in zip(report.trials, points, strict=True)
        ]
    if bounds:
        report.rule = " and ".join(bounds)
        index = pareto.best(points, max_drop, max_cost)
    else:
        index = pareto.knee(points, (1.0, 0.0))
    if index is None:
        cheaper = [each.point for each in report.trials if each.point[0] < 1]
        report.unmet = f"no trial is cheaper than the original in {COSTS[report.cost]}"
        if cheaper:
            loss, cost = min(loss for _, loss in cheaper), min(cost for cost, _ in cheaper)
            report.unmet = (
                f"no trial is within the bounds ({report.rule}): of those that are cheaper than the"
                f" original, the best loses {loss:.2f} points, and the cheapest has"
                f" {100 * cost:.3g} % of its {COSTS[report.cost]}"
            )
        return
    if len(report.trials) > 1:
        report.notes.append(
            f"the best of {len(report.trials)} was chosen by the samples that it is judged on, so"
            " it looks a little better than it is: judge it on others"
        )
    report.trials[index].chosen = True
    report.chosen = report.trials[index].id
