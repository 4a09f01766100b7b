"""The pages of what many trials have measured: the plot, a table of all figures, and the JSON."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .. import figures
from ..display import measure_words, number, percent
from ..sensitivities import Point, Sensitivity
from ..sweeps.grid import Trial
from ..sweeps.results import COSTS, SweepReport
from ..words import counted
from . import facts, plots
from .facts import Figure
from .page import markup, page, require

#: In the page's colours, and narrow enough for a phone; it grows with the window.
_INK = figures.Ink(plots.INK, plots.LINE, 4.8, None)


@dataclass
class Row:
    """One line of the table: words, and figures that say where they stand in the JSON."""

    cells: list[str | Figure]
    #: Whether it is the one that was chosen.
    mark: bool = False


@dataclass
class Trials:
    """What the page says of the trials."""

    lead: str
    title: str
    notes: list[str]
    #: Their heads, and whether they hold numbers.
    columns: list[tuple[str, bool]]
    rows: list[Row]


def of_sensitivity(found: Sensitivity) -> bytes:
    """The page of `sensitivity`. Raises UsageError where jinja2 or matplotlib is missing."""
    require()
    columns = [("group", False), ("role", False), ("channels", True), ("kept", True)]
    columns.append((f"{found.measure}, as cut", True))
    if found.reconstructed:
        columns.append((f"{found.measure}, refitted", True))
    rows = []
    for i, curve in enumerate(found.groups):
        for j, point in enumerate(curve.points):
            cells: list[str | Figure] = [curve.name, curve.role, str(curve.size), str(point.kept)]
            for which in ("cut", "refitted")[: 1 + found.reconstructed]:
                cells.append(_figure(found, point, f"groups.{i}.points.{j}.{which}", which))
            rows.append(Row(cells))
    ranked = ", ".join(curve.name for curve in found.most_sensitive()[:3])
    trials = Trials(
        f"What the outputs lose when a share of one group's channels goes, group by group,"
        f" measured on {found.data}.",
        f"{found.measure} against the share removed",
        [f"Most sensitive: {ranked}."],
        columns,
        rows,
    )
    svg = plots.svg_of(figures.of_sensitivity(found, _INK), trials.title)
    return _page(Path(found.model).name, trials, svg, found.to_dict())


def of_sweep(found: SweepReport) -> bytes:
    """The page of `sweep`. Raises UsageError where jinja2 or matplotlib is missing."""
    require()
    timed = any(trial.ms is not None for trial in found.trials)
    columns = [("trial", False), ("parameters", True), ("MACs", True)]
    columns += [("ms", True)][: 1 * timed]
    columns += [(found.measure, True), ("points lost", True), ("", False)]
    order = sorted(range(len(found.trials)), key=lambda i: found.trials[i].point)
    rows = []
    for i in order:
        trial, key = found.trials[i], f"trials.{i}"
        cells: list[str | Figure] = [Trial(trial.options).text()]
        cells += [number(trial.parameters), number(trial.macs)]
        if timed:
            ms = trial.ms
            at = f"{key}.latency.b.median"
            cells.append("–" if ms is None else Figure(f"{ms:.3g}", ms, at))
        if trial.value is None or trial.drop is None or trial.evaluation is None:
            cells += ["–", "–", trial.reason or "–"]
        else:
            which = "after" if trial.evaluation["metric"] else "agreement"
            words = percent(trial.value) if abs(trial.value) <= 1 else f"{trial.value:.4g}"
            cells.append(Figure(words, trial.value, f"{key}.evaluation.{which}"))
            cells.append(Figure(f"{trial.drop:.2f}", trial.drop, f"{key}.drop"))
            cells.append("chosen" if trial.chosen else "on the front" if trial.on_front else "")
        rows.append(Row(cells, trial.chosen))
    done = sum(trial.status == "done" for trial in found.trials)
    trials = Trials(
        f"{counted(len(found.trials), 'way')} to prune it, of which {done} came to a model; the"
        f" line is the front: nothing that was tried costs less and loses less. {_chosen(found)}.",
        f"{COSTS[found.cost]} against {found.measure}",
        [f"Note: {note}." for note in found.notes],
        columns,
        rows,
    )
    svg = plots.svg_of(figures.of_sweep(found, _INK), trials.title)
    return _page(
        Path(found.model).name,
        trials,
        svg,
        found.to_dict(),
        replay=found.command,
        replay_notes=[],
    )


def _chosen(found: SweepReport) -> str:
    if found.chosen is None:
        return f"None was chosen: {found.unmet}"
    return f"Chosen ({found.rule}): {Trial(found.of(found.chosen).options).text()}"


def _figure(found: Sensitivity, point: Point, key: str, which: str) -> str | Figure:
    evaluation = getattr(point, which)
    value = found.value(evaluation)
    if value is None:
        return point.failed or "–"
    name = "after" if evaluation.metric else "relative_error"
    return Figure(measure_words(found, value), value, f"{key}.{name}")


def _page(heading: str, trials: Trials, svg: str, document: dict[str, Any], **more: Any) -> bytes:
    versions = facts.versions()
    return page(
        kind="trials",
        heading=heading,
        trials=trials,
        plot=markup(svg),
        json={**document, "versions": versions},
        versions=versions,
        **more,
    )
