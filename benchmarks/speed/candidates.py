"""What is compared at one budget of MACs: our choice, uniform widths, and unaligned ones."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from onnx import ModelProto

import onnxprune
from onnxprune.axes import Dim, kept_size
from onnxprune.costs import Cost
from onnxprune.filters import Filter
from onnxprune.groups import Group, find_groups
from onnxprune.importance import Importance, Scores
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.model_costs import macs_cost
from onnxprune.plans import choice_of
from onnxprune.ranking import ladder
from onnxprune.rewrite import rewrite
from onnxprune.rounding import fitting
from onnxprune.selection import keep
from onnxprune.tables import with_user_rules

#: Uniform widths are swept in multiples of these.
STEPS = (8, 16, 32)


@dataclass
class Candidate:
    """A pruned model, and the shares of the MACs and of the importance that it keeps."""

    model: ModelProto
    macs: float
    importance: float
    #: s that choosing took, timing included
    seconds: float = 0.0


class Bench:
    """One file: its groups, scores and MACs."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.network = infer(load(path), with_user_rules(()))
        self.groups: list[Group] = Filter().apply(self.network, find_groups(self.network))
        self.scores: list[Scores] = list(Importance().scores(self.network, self.groups))
        self.macs: Cost = macs_cost(self.network)
        self.ladders = [ladder(g, s) for g, s in zip(self.groups, self.scores, strict=True)]

    @property
    def model(self) -> ModelProto:
        """The original, as loading has it."""
        return self.network.model.proto

    def ours(self, kept: float, threads: int, round_to: int | str) -> Candidate:
        """What `--target macs=KEPT --round-to ROUND_TO` gives; raises what that raises."""
        started = time.perf_counter()
        plan = onnxprune.plan(self.path, target=f"macs={kept}", round_to=round_to, threads=threads)
        seconds = time.perf_counter() - started
        choice = choice_of(plan, self.network, self.groups)
        widths = {dim: kept_size(index) for dim, index in choice.items()}
        made = self._measure(rewrite(self.network, choice), widths)
        made.seconds = seconds
        return made

    def uniform(self, kept: float, step: int) -> Candidate:
        """The same share of every group, in multiples of a step, with MACs nearest to `kept`."""
        ways = [self._rounded(share / 400, step) for share in range(20, 400)]
        whole = self.macs.total()
        widths = min(ways, key=lambda each: abs(self.macs.total(each) / whole - kept))
        kept_indices = keep(self.groups, self.scores, [widths[g.dim] for g in self.groups])
        choice = {
            group.dim: index
            for group, index in zip(self.groups, kept_indices, strict=True)
            if kept_size(index) < group.size
        }
        return self._measure(rewrite(self.network, choice), widths)

    def _rounded(self, share: float, step: int) -> dict[Dim, int]:
        found = {}
        for group in self.groups:
            size = fitting(step, group.size)
            width = max(size, round(group.size * share / size) * size)
            found[group.dim] = min(width, group.size)
        return found

    def _measure(self, model: ModelProto, widths: Mapping[Dim, int]) -> Candidate:
        kept = whole = 0.0
        for group, each in zip(self.groups, self.ladders, strict=True):
            whole += float(each.sum())
            kept += float(each[group.size - widths.get(group.dim, group.size) :].sum())
        return Candidate(model, self.macs.total(widths) / self.macs.total(), kept / whole)
