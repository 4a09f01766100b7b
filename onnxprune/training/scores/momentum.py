"""Smoothed gradients times weights.

The smoothed gradient is what Dettmers and Zettlemoyer, "Sparse Networks from Scratch" (2019), go by
to tell which layers still reduce the loss; times the weight, it is what removing it would change.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..members import Members
from .base import Score

_DECAY = 0.9


class Momentum(Score):
    """Σ |m w| over each cell of each member, m the exponential average of the gradients."""

    name: ClassVar[str] = "momentum"
    likeliest: ClassVar[bool] = True

    def add(self, loss: Tensor) -> None:
        """One batch."""
        if not self.batches:
            self._average = {id(p): torch.zeros_like(p) for p in self.parameters}
        for key, gradient in self.gradients(loss).items():
            self._average[key].lerp_(gradient, 1 - _DECAY)

    def of(self, members: Members) -> Tensor:
        """The sums over cells; the average's beginning at zero is made up for (Adam's way)."""
        whole = 1 - _DECAY ** max(1, self.batches)
        return members.sums(lambda p: (self._average[id(p)] / whole * p.detach()).abs())
