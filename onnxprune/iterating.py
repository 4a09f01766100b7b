"""Pruning in stages that are trained in between: prune, refit, fine-tune, and again.

Each stage prunes the model that the last one has left by the same factor. The plan of the whole,
and its certificate, are of the original: what each stage kept of the kept.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .bisection import eased
from .budgets import DEFAULT_RATIO
from .errors import UsageError
from .loading import ModelLike
from .plans import choice_from, composed, make_plan
from .report import Report, target_result
from .targets import Target, parse_target
from .training.settings import Settings
from .version import __version__
from .work import Result, Work

#: What is done once, with the last stage's model, and not in between.
_AT_THE_END = {"verify": False, "benchmark": False, "eval": None, "metric": None, "max_drop": None}


def iterated(
    prune: Callable[..., Result],
    source: ModelLike,
    ratio: float | None,
    target: str | None,
    steps: int,
    settings: Settings,
    options: Mapping[str, Any],
) -> Result:
    """Prune in `steps` stages, each of which `prune` does with these options.

    Raises UsageError for a target that is an amount and no share.
    """
    if options["rewind"] is not None:
        raise UsageError("--rewind and --steps: weights can be taken back once, not in each stage")
    goal = None if target is None else parse_target(target)
    if goal is not None and goal.share is None:
        raise UsageError(f"--steps with --finetune goes towards a share, as in macs=0.5: {target}")
    stage = eased(DEFAULT_RATIO if target is None and ratio is None else ratio, target, 1 / steps)
    tell = options["progress"] or (lambda _: None)
    inner = {**options, **_AT_THE_END, "finetune": settings}
    last = first = prune(source, **stage, **inner)
    whole = first.report.before
    kept = first.plan.kept
    notes = list(first.report.notes)
    for number in range(2, steps + 1):
        tell(f"stage {number} of {steps}")
        wanted = dict(stage)
        if goal is not None and number == steps:
            wanted["target"] = _rest(goal, first.report, last.report)
        last = prune(last.model, **wanted, **{**inner, "lossless": False})
        kept = composed(kept, last.plan.kept)
        notes += last.report.notes
    assert whole is not None
    work = Work(source, options["rules"], options["progress"])
    work.provenance = options["provenance"]
    work.empty_again(first.plan)
    choice = choice_from(kept, work.network, work.groups)
    groups = [group for group in work.groups if group.dim in choice]
    made = make_plan(
        work.network,
        groups,
        [choice[group.dim] for group in groups],
        [np.zeros(group.cells) for group in groups],
        {**first.plan.options, "ratio": ratio, "target": target, "steps": steps},
        __version__,
    )
    shared = {name: options[name] for name in ("input_shapes", "threads", "metric", "max_drop")}
    result = work.carry_out(
        made,
        **shared,
        rebuilt=lambda _: Refined(last),
        verified=options["verify"],
        timed=options["benchmark"],
        evaluated=options["eval"],
        seed=options["seed"],
    )
    result.report.training = last.report.training
    result.report.notes += [note for note in dict.fromkeys(notes) if note]
    result.report.target = target_result(goal, result.report)
    return result


class Refined:
    """The last stage's model, as the weights of the whole cut."""

    def __init__(self, last: Result) -> None:
        self.model, self._last = last.model, last

    def to_dict(self) -> dict[str, Any]:
        """What the last stage's report says of its refitting."""
        return self._last.report.reconstruction or {}

    def text(self) -> str:
        """A sentence for people."""
        return "weights are those of the last stage"


def _rest(goal: Target, first: Report, last: Report) -> str:
    """What is left to do for the last stage: a share of the model that it is given."""
    assert goal.share is not None
    name = {"params": "parameters"}.get(goal.kind, goal.kind)
    whole, now = getattr(first.before, name, None), getattr(last.after, name, None)
    if not whole or not now:  # time is not measured in between
        return goal.text
    return f"{goal.kind}={goal.share * whole / now:.6g}"
