"""Criteria by name: each says how much every channel of a group matters.

`NAME` or `NAME:ARGUMENT`, as `--criterion` has it. From Python any callable
`(group, weights) -> scores` will do; see `base.Criterion` for what more it may say of itself, and
`weights.Weights` for what it may look at.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeAlias

from ..errors import UsageError
from ..groups import Group
from ..reductions import Scores
from ..weights import Weights
from .activations import Activation, Apoz
from .base import Criterion
from .bn_scale import BnScale
from .by_chance import Random
from .by_gradient import Fisher, Grasp, Hessian, Momentum, Snip, SynFlow, Taylor
from .fpgm import Fpgm
from .lamp import Lamp
from .norms import GroupL1, GroupL2, GroupLp
from .obs import Obs
from .wanda import Wanda

__all__ = ["CRITERIA", "Criterion", "CriterionLike", "criterion_of", "described", "spellings"]

#: What a criterion may be given as.
CriterionLike: TypeAlias = str | Callable[[Group, Weights], Scores]

#: Criteria by the name that `--criterion` calls them by.
CRITERIA: Mapping[str, type[Criterion]] = {
    each.name: each
    for each in (
        *(GroupL2, GroupL1, GroupLp, Lamp, BnScale, Fpgm, Random),
        *(Activation, Apoz, Wanda, Obs),
        *(Taylor, Fisher, Hessian, Snip, Grasp, Momentum, SynFlow),
    )
}


def criterion_of(given: CriterionLike) -> Callable[[Group, Weights], Scores]:
    """The criterion that a name means; a callable is one already.

    Raises UsageError where there is none of that name, or its argument can't be.
    """
    if not isinstance(given, str):
        if not callable(given):
            raise UsageError(f"criterion {given!r} is neither a name nor a function")
        return given
    name, _, argument = given.partition(":")
    if name not in CRITERIA:
        raise UsageError(f"unknown criterion {given!r}; known are {', '.join(spellings())}")
    return CRITERIA[name].parse(argument)


def described() -> dict[str, str]:
    """What each criterion is, in a line, by how it is written."""
    return dict(zip(spellings(), (each.help for each in CRITERIA.values()), strict=True))


def spellings() -> list[str]:
    """How each criterion is written, with its argument."""
    return [f"{name}:{each.argument}" if each.argument else name for name, each in CRITERIA.items()]
