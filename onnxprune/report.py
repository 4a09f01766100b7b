"""The record of one run: what was removed, what was proved, what was measured."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from .certify import Certificate
from .evaluation import Evaluation
from .latency import Benchmark
from .measure import Size


@dataclass
class GroupResult:
    """What became of one group."""

    name: str
    role: str
    size: int
    kept: int
    kind: str


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
    evaluation: Evaluation | None = None
    #: Why axes of weights stay whole: reason -> elements that lose nothing for it.
    pinned: dict[str, int] = field(default_factory=dict)
    refused: list[tuple[str, str, str]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)
    #: seconds
    timings: dict[str, float] = field(default_factory=dict)

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
            "evaluation": self.evaluation.to_dict() if self.evaluation else None,
            "pinned": self.pinned,
            "refused": [list(each) for each in self.refused],
            "options": self.options,
            "notes": self.notes,
            "timings": self.timings,
        }
