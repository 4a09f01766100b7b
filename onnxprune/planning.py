"""From scores to what is kept: in one stage or several, confirmed by counting or by measuring.

`choosing` says which widths a budget leaves. Here they are tried: a budget of bytes on the model
rewritten, a budget of time in onnxruntime. In several stages, scores are computed anew on the
rewritten model in between; the choice stays one of the original's indices all the while, so that
the plan is one, and can be replayed.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from functools import cached_property

from onnx import ModelProto

from . import saving
from .axes import Dim, Index, Rows, kept_size
from .budgets import Budget
from .choosing import Chooser, carried_over
from .errors import CheckFailed
from .groups import Group
from .importance import Scores
from .latency import benchmark
from .measure import bytes_of
from .network import Network
from .pace import meet
from .rewrite import rewrite
from .selection import keep
from .words import counted

#: Reads a rewritten model and scores its groups: their scores by name.
Rescore = Callable[[ModelProto], Mapping[str, Scores]]
#: Seconds that one measurement of a try takes.
_SECONDS = 1.5
#: Corrections of a budget of bytes.
_COUNTS = 3


class Planner:
    """Finds what is kept of each group."""

    def __init__(
        self,
        network: Network,
        groups: Sequence[Group],
        scores: Sequence[Scores],
        budget: Budget,
        rescore: Rescore,
        *,
        input_shapes: Mapping[str, Sequence[int]] | None = None,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        self.network = network
        self.groups = groups
        self.budget = budget
        self.threads = threads
        self.seed = seed
        self.chooser = Chooser(
            network, groups, budget, input_shapes=input_shapes, threads=threads, seed=seed
        )
        #: As the plan records them.
        self.scores = self.chooser.weighted(scores)
        self._first = self.scores
        self._rescore = rescore
        self._aim: float | None = None

    @property
    def notes(self) -> list[str]:
        """What a user should know of how widths were found."""
        return list(dict.fromkeys(self.chooser.notes))

    def keep(self, *, coarser: int = 0, correction: float = 1.0) -> list[Index | Rows]:
        """The kept indices of each group.

        Args:
            coarser: how often the steps of rounding are doubled: to be faster.
            correction: what the wanted time is to be multiplied by: a later measurement said so.

        Raises CheckFailed where the budget can't be met.
        """
        scores, most = self._first, None
        stages = int(self.budget.steps)
        for stage in range(1, stages + 1):
            if stage == stages:
                kept = self._last_stage(scores, most, coarser, correction)
                break
            try:
                widths = self._on_the_way(scores, most, stage / stages, coarser)
            except CheckFailed:
                continue  # of a thin model no widths cost just this; what counts is the last stage
            kept = keep(self.groups, scores, widths)
            most = [kept_size(each) for each in kept]
            scores = self._scores_after(kept, scores)
        return kept

    def _on_the_way(
        self, scores: Sequence[Scores], most: Sequence[int] | None, done: float, coarser: int
    ) -> list[int]:
        """Widths for a stage before the last: their cost is predicted, not measured."""
        goal, chooser = self.budget.goal, self.chooser
        if goal is None or not goal.measured:
            return chooser.widths(scores, done=done, most=most, coarser=coarser)
        aim = chooser.time.total() * chooser.share_of_time**done
        found = chooser.in_time(scores, max(aim, chooser.least_time(scores, most)), most)
        return [group.size for group in self.groups] if found is None else found

    # -- one stage -------------------------------------------------------------------------------

    def _last_stage(
        self,
        scores: Sequence[Scores],
        most: Sequence[int] | None,
        coarser: int,
        correction: float,
    ) -> list[Index | Rows]:
        goal = self.budget.goal
        if goal is not None and goal.measured:
            return self._in_time(scores, most, correction)
        amended = correction
        for _ in range(_COUNTS):
            widths = self.chooser.widths(scores, most=most, coarser=coarser, correction=amended)
            kept = keep(self.groups, scores, widths)
            if goal is None or goal.kind != "bytes":
                return kept
            pruned = self._rewritten(kept)
            ratio = bytes_of(pruned, pruned) / goal.of(self.chooser.whole)
            if abs(ratio - 1) <= goal.tolerance:
                return kept
            amended /= ratio
        raise CheckFailed(
            f"the target {self.budget.target} can't be met: the file would have"
            f" {ratio:.1%} of the bytes wanted"
        )

    def _choice(self, kept: Sequence[Index | Rows]) -> dict[Dim, Index | Rows]:
        return {
            group.dim: index
            for group, index in zip(self.groups, kept, strict=True)
            if kept_size(index) < group.size
        }

    def _rewritten(self, kept: Sequence[Index | Rows]) -> ModelProto:
        return rewrite(self.network, self._choice(kept))

    # -- time ------------------------------------------------------------------------------------

    @cached_property
    def wanted(self) -> float:
        """The target of time, as `_measured` has it: a share of the original's, or ms."""
        goal = self.budget.goal
        assert goal is not None
        return goal.share if goal.share is not None else goal.amount or math.inf

    def _in_time(
        self, scores: Sequence[Scores], most: Sequence[int] | None, correction: float
    ) -> list[Index | Rows]:
        goal = self.budget.goal
        assert goal is not None
        whole, share = self.chooser.time.total(), self.chooser.share_of_time
        if self._aim is None:
            self._aim = whole * share

        least = self.chooser.least_time(scores, most)
        if least > min(1.0, share * (1 + goal.tolerance)) * whole:
            raise CheckFailed(
                f"the target {self.budget.target} can't be met: the least widths that are allowed"
                f" are predicted to take {least:.3g} of {whole:.3g} ms ({least / whole:.1%})"
            )

        def choose(aim: float) -> list[int] | None:
            self._aim = aim
            return self.chooser.in_time(scores, aim, most)

        def near(widths: list[int], factor: float, known: Sequence[list[int]]) -> list[int] | None:
            return self.chooser.near(scores, most, widths, factor, known)

        found = meet(
            self.wanted,
            self._aim * correction,
            choose,
            lambda widths: self._measured(keep(self.groups, scores, widths)),
            goal.tolerance,
            bounds=(least, whole),
            near=near,
        )
        return keep(self.groups, scores, found.choice)

    def _measured(self, kept: Sequence[Index | Rows]) -> float:
        """What a paired measurement says of a choice: the share of time it takes, or ms."""
        model = self.network.model
        found = benchmark(
            model.proto,
            self._rewritten(kept),
            threads=self.threads,
            input_shapes=self.chooser.shapes,
            seconds=_SECONDS,
            seed=self.seed,
            base_dir=model.base_dir,
        )
        goal = self.budget.goal
        assert goal is not None and found.b is not None
        return found.b.median if goal.share is None else 1 / (found.speedup or math.inf)

    # -- stages ----------------------------------------------------------------------------------

    def _scores_after(self, kept: Sequence[Index | Rows], before: Sequence[Scores]) -> list[Scores]:
        """Scores of the rewritten model, for all cells of the original's groups."""
        choice = self._choice(kept)
        pruned = rewrite(self.network, choice)
        saving.inline_all(pruned, self.network.model.base_dir)
        found = self._rescore(pruned)
        fresh = [
            carried_over(group, choice, found[group.name]) if group.name in found else None
            for group in self.groups
        ]
        lost = sum(each is None for each in fresh)
        if lost:
            what = (
                "keeps its first scores: it is"
                if lost == 1
                else "keep their first scores: they are"
            )
            self.chooser.notes.append(f"{counted(lost, 'group')} {what} not the same after pruning")
        weighted = self.chooser.weighted(
            [b if f is None else f for f, b in zip(fresh, before, strict=True)]
        )
        return [before[i] if each is None else weighted[i] for i, each in enumerate(fresh)]
