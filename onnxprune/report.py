"""The record of one run: what was removed, what was proved, what was measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .certify import Certificate
from .evaluation import Evaluation
from .latency import Benchmark
from .measure import Size
from .profiling import Profile
from .targets import Target


@dataclass
class GroupResult:
    """What became of one group."""

    name: str
    role: str
    size: int
    kept: int
    kind: str
    #: How many choices of so many channels were made: one for each head or group, or 1.
    choices: int = 1


@dataclass
class TargetResult:
    """What was asked for, and what came of it."""

    asked: str
    #: macs, params, bytes or latency
    kind: str
    #: In MACs, parameters, bytes or ms; where `share` is true, as a share of the original's.
    wanted: float
    achieved: float
    share: bool
    met: bool

    @property
    def off(self) -> float:
        """What was achieved, as a multiple of what was wanted."""
        return self.achieved / self.wanted

    def text(self) -> str:
        """One line for people."""
        if self.share:
            kept, wanted = 100 * self.achieved, 100 * self.wanted
            found = f"{kept:.1f} % of the {_WORDS[self.kind]} kept, {wanted:.1f} % wanted"
        else:
            unit = {"latency": "ms", "bytes": "bytes"}.get(self.kind, _WORDS[self.kind])
            form = ".3g" if self.kind == "latency" else ",.0f"
            found = f"{self.achieved:{form}} {unit}, {self.wanted:{form}} wanted"
        return f"{self.asked}: {found}"


_WORDS = {"macs": "MACs", "params": "parameters", "bytes": "bytes", "latency": "time"}


def target_result(goal: Target | None, report: Report) -> TargetResult | None:
    """What a report says of a target; None without one, or where it was not measured."""
    if goal is None:
        return None
    before, after = _amounts(goal.kind, report)
    if not before or after is None:
        return None
    share = goal.share is not None
    wanted = goal.share if goal.share is not None else goal.amount or 0.0
    achieved = after / before if share else after
    met = abs(achieved / wanted - 1) <= goal.tolerance + 1e-9
    return TargetResult(goal.text, goal.kind, wanted, achieved, share, met)


def _amounts(kind: str, report: Report) -> tuple[float | None, float | None]:
    if kind == "latency":
        found = report.latency
        if found is None or found.b is None or found.speedup is None:
            return None, None
        # The paired ratio, from which drift is gone; ms are those of the pruned model.
        return found.b.median * found.speedup, found.b.median
    a, b = report.before, report.after
    if a is None or b is None or (kind == "macs" and len(a.uncounted) != len(b.uncounted)):
        return None, None
    name = {"params": "parameters"}.get(kind, kind)
    return getattr(a, name), getattr(b, name)


@dataclass
class Report:
    """Everything that `onnxprune prune` prints; `to_dict` is its `--json` document."""

    model: str
    output: str | None = None
    before: Size | None = None
    after: Size | None = None
    #: The share of parameters that the ratio leaves of the groups, had widths no rounding.
    free_widths_allow: float | None = None
    groups: list[GroupResult] = field(default_factory=list)
    certificate: Certificate | None = None
    latency: Benchmark | None = None
    #: Where the time goes; measured for `--report` only.
    profile: Profile | None = None
    target: TargetResult | None = None
    evaluation: Evaluation | None = None
    #: Why axes of weights stay whole: reason -> elements that lose nothing for it.
    pinned: dict[str, int] = field(default_factory=dict)
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    #: What was refitted, and what came of it (see `reconstruction.Outcome.to_dict`).
    reconstruction: dict[str, Any] | None = None
    #: How what was left was trained (see `training.outcome.Trained.to_dict`).
    training: dict[str, Any] | None = None
    #: What the lossless step found (see `emptied.Emptied`).
    lossless: dict[str, Any] | None = None
    #: What a search tried: a budget and the points that it lost, each.
    trials: list[dict[str, Any]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    #: seconds
    timings: dict[str, float] = field(default_factory=dict)
    #: SHA-256 of `model`, `output` and `plan`; of what is known.
    sha256: dict[str, str] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)

    @property
    def parameters_left(self) -> float | None:
        """The share of parameters left, from 0 to 1."""
        if self.before is None or self.after is None or not self.before.parameters:
            return None
        return self.after.parameters / self.before.parameters

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            "model": self.model,
            "output": self.output,
            "before": self.before.to_dict() if self.before else None,
            "after": self.after.to_dict() if self.after else None,
            "parameters_left": self.parameters_left,
            "free_widths_allow": self.free_widths_allow,
            "groups": [asdict(group) for group in self.groups],
            "certificate": self.certificate.to_dict() if self.certificate else None,
            "latency": self.latency.to_dict() if self.latency else None,
            "profile": self.profile.to_dict() if self.profile else None,
            "target": asdict(self.target) if self.target else None,
            "evaluation": self.evaluation.to_dict() if self.evaluation else None,
            "pinned": self.pinned,
            "refused": [list(each) for each in self.refused],
            "options": self.options,
            "lossless": self.lossless,
            "reconstruction": self.reconstruction,
            "training": self.training,
            "trials": self.trials,
            "notes": self.notes,
            "timings": self.timings,
            "sha256": self.sha256,
            "versions": self.versions,
        }
