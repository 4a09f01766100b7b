"""How sensitive each group is: what the outputs lose when a share of its channels goes, measured.

One group at a time is really cut, to several widths, and the model is run: on labelled samples, or
on inputs alone, against the original. With reconstruction, each cut is measured as it is and again
with its readers refitted, on other samples than those that it was refitted on.

(`reconstruction.sensitivity` estimates the same for all widths at once, to choose them by; here
nothing is estimated.)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from onnx import ModelProto

from .axes import Choice
from .calibration import CalibrationData
from .errors import CheckFailed, NotPrunable, OnnxPruneError, UsageError
from .evaluation import Evaluation, Judge
from .groups import Group
from .metrics import METRICS
from .planning import Planner
from .reconstruction import reconstruct
from .rewrite import rewrite
from .selection import keep
from .trials.forecast import Forecast
from .trials.journal import Journal
from .work import Work

#: The shares of a group's channels that go where nothing is said.
SHARES = (0.1, 0.25, 0.5, 0.75)
#: Of the samples, one in so many is measured on where the others are refitted on.
_HELD_OUT = 4

#: Told after each trial: how many are done, of how many, and the time left in words.
Told = Callable[[int, int, str], None]


@dataclass
class Point:
    """One group at one width: the evaluations, or why there is none."""

    #: The share of the channels that went: of whole channels, so near the one asked for.
    ratio: float
    kept: int
    cut: Evaluation | None = None
    refitted: Evaluation | None = None
    failed: str | None = None


@dataclass
class Curve:
    """One group, at every width."""

    name: str
    role: str
    size: int
    kind: str
    points: list[Point] = field(default_factory=list)

    def at(self, share: float) -> Point | None:
        """The point where so much was to go; None where that is less than one channel."""
        kept = width_of(self.size, share)
        return next((point for point in self.points if point.kept == kept), None)


@dataclass
class Sensitivity:
    """The curves of all groups; `to_dict` is the document of `sensitivity --json`."""

    model: str
    #: What is measured: a metric's name, or `relative-error` of the outputs.
    measure: str
    higher_is_better: bool
    #: The measure of the original: 0 for a relative error.
    original: float
    samples: int | None
    #: What was measured on, in words.
    data: str
    reconstructed: bool
    #: The shares that were asked for.
    shares: list[float]
    groups: list[Curve]
    options: dict[str, Any]
    notes: list[str] = field(default_factory=list)

    @property
    def is_share(self) -> bool:
        """Whether the measure is a share, from 0 to 1."""
        return self.measure in METRICS

    def value(self, found: Evaluation | None) -> float | None:
        """The measure, of one evaluation."""
        return None if found is None else measured(found)[1]

    def loss(self, found: Evaluation | None) -> float:
        """How much worse than the original; infinite where that can't be said."""
        value = self.value(found)
        if value is None or not np.isfinite(value):
            return float("inf")
        return self.original - value if self.higher_is_better else value - self.original

    def most_sensitive(self) -> list[Curve]:
        """The groups in the order of what they lose, summed over their points; the worst first."""

        def total(curve: Curve) -> float:
            losses = [
                self.loss(point.refitted if self.reconstructed else point.cut)
                for point in curve.points
                if point.failed is None
            ]
            return sum(losses) / max(1, len(losses))

        return sorted(self.groups, key=total, reverse=True)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def width_of(size: int, share: float) -> int:
    """What is left of a group when a share of its channels goes: one at least."""
    return max(1, size - int(size * share + 1e-9))


def measured(found: Evaluation) -> tuple[str, float, bool]:
    """What counts of an evaluation: its name, its value, and whether more is better.

    Without labels that is the relative error: agreement says nothing until classes change.
    """
    if found.metric is not None and found.after is not None:
        return found.metric, found.after, found.higher_is_better
    error = found.relative_error
    return "relative-error", float("inf") if error is None else error, False


@dataclass(frozen=True)
class _Trial:
    """One model to make and to measure."""

    group: int
    width: int
    refitted: bool

    def key(self, groups: Sequence[Group]) -> str:
        """What the journal calls it."""
        return f"{groups[self.group].name} {self.width}{' refitted' if self.refitted else ''}"


def measure_groups(
    work: Work,
    planner: Planner,
    shares: Sequence[float],
    *,
    evaluated: str | None,
    metric: str | None,
    data: CalibrationData | None,
    refit: bool,
    threads: int,
    seed: int,
    journal: Journal,
    tell: Told,
) -> Sensitivity:
    """The curves of the planner's groups, its scores telling which channels go first.

    Args:
        evaluated: as for `evaluation.evaluate`; None to measure on inputs without labels, of `data`
            or made up.
        refit: whether each cut is measured refitted on `data` as well; without data, with the means
            of what was removed in its biases.

    Raises UsageError where the data does not fit; CheckFailed where no trial came to anything.
    """
    model, groups = work.model, planner.groups
    fitted = held = (data or CalibrationData("synthetic", seed=seed)).open(
        model.proto, model.base_dir
    )
    if refit and data is not None and evaluated is None:
        fitted, held = held.split(_HELD_OUT)
    judge = Judge(model.proto, evaluated or held, model.base_dir, threads, metric)

    def make(choice: Choice, refitted: bool) -> ModelProto:
        if not refitted:
            return rewrite(work.network, choice)
        if data is None:
            return work.compensated(choice).model
        return reconstruct(work.network, choice, fitted, threads=threads, seed=seed).model

    def result(choice: Choice, refitted: bool) -> dict[str, Any]:
        try:
            return {"evaluation": asdict(judge(make(choice, refitted)))}
        except UsageError:
            raise
        except OnnxPruneError as error:  # that it can't be made or run is a result, too
            return {"failed": str(error)}

    trials = list(_trials(groups, shares, refit))
    if not trials:
        raise NotPrunable("no group loses a channel at these shares; use larger ones with --at")
    forecast = Forecast(t.refitted for t in trials if t.key(groups) not in journal.finished)
    done = sum(t.key(groups) in journal.finished for t in trials)
    tell(done, len(trials), "")
    for trial in trials:
        key = trial.key(groups)
        if key in journal.finished:
            continue
        start = time.perf_counter()
        group, scores = groups[trial.group], planner.scores[trial.group]
        choice = {group.dim: keep([group], [scores], [trial.width])[0]}
        journal.add(key, result(choice, trial.refitted))
        forecast.done(trial.refitted, time.perf_counter() - start)
        done += 1
        tell(done, len(trials), forecast.text())
    source = evaluated or held.source
    if held is not fitted:
        source = f"a quarter of {source}, the rest being refitted on"
    return _collected(work, planner, trials, journal, source, refit, sorted(shares))


def _trials(groups: Sequence[Group], shares: Sequence[float], refit: bool) -> Iterator[_Trial]:
    for share in shares:
        if not 0 < share < 1:
            raise UsageError(f"--at {share:g} is outside of (0, 1); 0.5 removes half of a group")
    for i, group in enumerate(groups):
        widths = {width_of(group.size, share) for share in shares}
        for width in sorted(widths - {group.size}, reverse=True):
            for refitted in (False, True)[: 1 + refit]:
                yield _Trial(i, width, refitted)


def _collected(
    work: Work,
    planner: Planner,
    trials: Sequence[_Trial],
    journal: Journal,
    data: str,
    refit: bool,
    shares: list[float],
) -> Sensitivity:
    curves = [Curve(g.name, g.role, g.size, g.kind) for g in planner.groups]
    first: Evaluation | None = None
    for trial in trials:
        curve, result = curves[trial.group], journal.finished[trial.key(planner.groups)]
        if not curve.points or curve.points[-1].kept != trial.width:
            curve.points.append(Point(1 - trial.width / curve.size, trial.width))
        point = curve.points[-1]
        point.failed = result.get("failed") or point.failed
        if found := result.get("evaluation"):
            evaluation = Evaluation(**found)
            first = first or evaluation
            if trial.refitted:
                point.refitted = evaluation
            else:
                point.cut = evaluation
    if first is None:
        reason = next(p.failed for c in curves for p in c.points)
        raise CheckFailed(f"no trial came to a result: {reason}")
    measure, _, higher = measured(first)
    curves = [curve for curve in curves if curve.points]
    return Sensitivity(
        work.name,
        measure,
        higher,
        first.before if first.metric and first.before is not None else 0.0,
        first.samples,
        data,
        refit,
        shares,
        curves,
        work.options,
        list(work.notes),
    )
