"""Choosing widths for a budget: which cost is counted, what it may be, and in how many stages."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property

import numpy as np

from .axes import Choice, Rows
from .budgets import Budget, matched
from .costs import Cost
from .errors import CheckFailed, OnnxPruneError
from .groups import Group
from .importance import Scores
from .measure import bytes_of
from .model_costs import bytes_cost, macs_cost, parameters_cost
from .network import Network
from .runtime import find_inputs
from .selection import Space, fastest_enough, neighbour, within
from .words import counted

#: How often the default steps are halved where a small model can't meet its budget with them.
_FINER = 4

Shapes = Mapping[str, Sequence[int]]


class Chooser:
    """Chooses the widths of a network's groups, as a budget says."""

    def __init__(
        self,
        network: Network,
        groups: Sequence[Group],
        budget: Budget,
        *,
        input_shapes: Shapes | None = None,
        threads: int = 1,
        seed: int = 0,
    ) -> None:
        self.network = network
        self.groups = groups
        self.budget = budget
        self.threads = threads
        self.seed = seed
        self.notes: list[str] = []
        self._given_shapes = input_shapes

    # -- costs -----------------------------------------------------------------------------------

    @cached_property
    def shapes(self) -> Shapes | None:
        """The shapes of the inputs that MACs and times are counted for."""
        model = self.network.model
        try:
            found = find_inputs(
                model.proto, self._given_shapes, seed=self.seed, base_dir=model.base_dir
            )
        except OnnxPruneError:  # it does not run: then it is counted for what was given
            return self._given_shapes
        return found.shapes

    @cached_property
    def cost(self) -> Cost:
        """What the target is of: MACs where there is none."""
        goal = self.budget.goal
        if goal is None or goal.kind in ("macs", "latency"):
            macs = macs_cost(self.network, self.shapes)
            if macs.total() or goal is not None:
                return macs
            return parameters_cost(self.network)  # nothing multiplies
        return parameters_cost(self.network) if goal.kind == "params" else bytes_cost(self.network)

    @cached_property
    def time(self) -> Cost:
        """The latency in ms, as onnxruntime takes it here."""
        return self._timing[0]

    @cached_property
    def base_ms(self) -> float:
        """The measured latency of the original."""
        return self._timing[1]

    @cached_property
    def _timing(self) -> tuple[Cost, float]:
        from .timing import latency_cost

        found = latency_cost(self.network, self.shapes, self.threads, seed=self.seed)
        self.notes += found.notes
        return found.cost, found.wall_ms

    @cached_property
    def whole(self) -> float:
        """What the model costs as it is, in the target's unit."""
        goal = self.budget.goal
        if goal is not None and goal.kind == "bytes":
            model = self.network.model
            return bytes_of(model.path or model.proto, model.proto)
        return self.cost.total()

    # -- widths ----------------------------------------------------------------------------------

    def weighted(self, scores: Sequence[Scores]) -> list[Scores]:
        """The scores, times the sensitivity of their groups."""
        weights = matched(self.budget.sensitivity, [group.name for group in self.groups])
        return [each * weights.get(i, 1.0) for i, each in enumerate(scores)]

    def widths(
        self,
        scores: Sequence[Scores],
        *,
        done: float = 1.0,
        most: Sequence[int] | None = None,
        coarser: int = 0,
        correction: float = 1.0,
    ) -> list[int]:
        """The width of each group for a budget of MACs, parameters, bytes, or a ratio.

        Args:
            done: the share of the way to the budget, for pruning in stages.
            most: the widths that groups have come down to already.
            coarser: how often steps are doubled.
            correction: what the amount is to be multiplied by: counting the result said so.

        Raises CheckFailed where the budget can't be met.
        """
        budget = self.budget
        goal = budget.goal
        space = self._space(scores, most, coarser)
        if goal is None:
            ratio = 1 - (1 - budget.removed) ** done
            if not budget.measured:
                return space.at_ratio(ratio)
            free = Space.of(self.network, self.groups, scores, _unrounded(budget), most=most)
            amount = self.cost.total(free.named(free.at_ratio(ratio)))
            tolerance = 0.02
        else:
            amount = goal.stage(self.whole, done) * correction
            tolerance = goal.tolerance
        if amount >= self.whole:
            raise CheckFailed(
                f"the target {budget.target} is met already: the model has"
                f" {self.whole:.4g} {self.cost.unit}"
            )
        time = self.time if budget.measured else None
        for halved in range(_FINER + 1):
            try:
                found = within(space, self.cost, amount, tolerance, time)
                if halved:
                    self.notes.append(
                        f"widths are rounded to finer steps than usual (divided by {2**halved})"
                        f" to meet {budget.target}"
                    )
                return found
            except CheckFailed:
                if budget.round_to not in (None, "auto") or coarser or halved == _FINER:
                    raise
                space = self._space(scores, most, -1 - halved)
        raise AssertionError("every pass returns or raises")

    @cached_property
    def share_of_time(self) -> float:
        """The share of its time that the target leaves the model. Raises CheckFailed from 1 on."""
        goal = self.budget.goal
        assert goal is not None
        share = goal.of(self.base_ms) / self.base_ms
        if share >= 1:
            raise CheckFailed(
                f"the target {self.budget.target} is met already: the model takes"
                f" {self.base_ms:.3g} ms with {counted(self.threads, 'thread')}"
            )
        return share

    def in_time(
        self, scores: Sequence[Scores], amount: float, most: Sequence[int] | None = None
    ) -> list[int] | None:
        """Widths of most importance that are predicted to take `amount` ms; None without any."""
        return fastest_enough(self._space(scores, most, 0), self.time, amount)

    def least_time(self, scores: Sequence[Scores], most: Sequence[int] | None = None) -> float:
        """The ms that the narrowest widths are predicted to take."""
        space = self._space(scores, most, 0)
        return self.time.total(space.named([each[0] for each in space.widths]))

    def near(
        self,
        scores: Sequence[Scores],
        most: Sequence[int] | None,
        widths: Sequence[int],
        factor: float,
        known: Sequence[Sequence[int]],
    ) -> list[int] | None:
        """Widths that differ from others in one or two groups and take `factor` times as long.

        As predicted, and within a share of a few thousandths; of those, of most importance.
        """
        space = self._space(scores, most, 0)
        return neighbour(space, self.time, widths, factor, {tuple(each) for each in known})

    def _space(self, scores: Sequence[Scores], most: Sequence[int] | None, coarser: int) -> Space:
        return Space.of(self.network, self.groups, scores, self.budget, most=most, coarser=coarser)


def _unrounded(budget: Budget) -> Budget:
    return replace(budget, round_to=1)


# -- stages --------------------------------------------------------------------------------------


def carried_over(group: Group, choice: Choice, now: Scores) -> Scores | None:
    """Scores of what is left of a group, among those of all its cells; what is gone ranks last.

    Args:
        choice: what is kept of every dim so far.
        now: scores of what is left, computed on the rewritten model.

    Returns None where `now` is not about the same cells.
    """
    chosen = choice.get(group.dim)
    rows = np.arange(group.rows)
    if group.outer is not None and group.outer in choice:
        left = choice[group.outer]
        rows = left.indices.ravel() if isinstance(left, Rows) else left
    kept = np.arange(group.size) if chosen is None else chosen
    each = kept.indices[rows] if isinstance(kept, Rows) else np.tile(kept, (len(rows), 1))
    if now.size != each.size:
        return None
    found = np.full((group.rows, group.size), -_LAST)
    fresh = now.reshape(each.shape)
    # Rows that are gone take nothing from the mean of those that are left.
    found[:, group.size - each.shape[1] :] = np.sort(fresh, axis=1).mean(axis=0)
    found[rows] = -_LAST
    found[rows[:, None], each] = fresh
    return found.ravel()


#: Below any score.
_LAST = 1e30
