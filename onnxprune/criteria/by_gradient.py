"""Criteria that look at gradients: torch takes them (see `training.scores`), and is an extra."""

from __future__ import annotations

from typing import ClassVar

import numpy as np

from ..groups import Group
from ..reductions import Scores
from ..weights import Weights
from .base import Criterion


class ByGradient(Criterion):
    """What a score of `training.scores` says; all groups are scored in one pass over the data."""

    calibrated: ClassVar[bool] = True
    normalizer: ClassVar[str] = "none"
    additive: ClassVar[bool] = True

    def __call__(self, group: Group, weights: Weights) -> Scores:
        found = weights.once(self.name, lambda: self._all(weights))
        rows = found[group.name]
        if rows is None:
            return weights.fallback(group, "none of its weights has a gradient")
        return weights.reduce(list(rows))

    def _all(self, weights: Weights) -> dict[str, np.ndarray | None]:
        from .. import gradients  # noqa: F401 (it says so where torch is missing)
        from ..training.scores import scores

        rows, notes = scores(self.name, weights.network, weights.groups, weights.data)
        weights.said.extend(notes)
        return {each.name: row for each, row in zip(weights.groups, rows, strict=True)}


class Taylor(ByGradient):
    """First order."""

    name = "taylor"
    help = "squared change of the loss, to first order (torch)"


class Fisher(ByGradient):
    """Second order, by the Fisher information."""

    name = "fisher"
    help = "change of the loss by the diagonal Fisher information (torch)"


class Hessian(ByGradient):
    """Second order, by the Hessian."""

    name = "hessian"
    help = "change of the loss by the diagonal Hessian, as in optimal brain damage (torch)"


class Snip(ByGradient):
    """At initialisation, by sensitivity."""

    name = "snip"
    help = "gradient times weight, for a model that is not trained yet (torch)"


class Grasp(ByGradient):
    """At initialisation, by the flow of gradients."""

    name = "grasp"
    help = "what a channel does for the flow of gradients, before training (torch)"


class Momentum(ByGradient):
    """Smoothed gradients."""

    name = "momentum"
    help = "smoothed gradient times weight (torch)"


class SynFlow(ByGradient):
    """At initialisation, without data."""

    name = "synflow"
    help = "flow through the weights' absolute values, without data; best with --steps (torch)"
    calibrated = False
