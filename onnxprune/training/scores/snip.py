"""Sensitivity of connections: Σ |g w|.

Lee et al., "SNIP: Single-shot Network Pruning based on Connection Sensitivity" (ICLR 2019).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..members import Members
from .base import Score


class Snip(Score):
    """Σ |g w| over each cell of each member, with the gradient of all batches together."""

    name: ClassVar[str] = "snip"
    likeliest: ClassVar[bool] = True

    def add(self, loss: Tensor) -> None:
        """One batch."""
        if not self.batches:
            self._total = {id(p): torch.zeros_like(p) for p in self.parameters}
        for key, gradient in self.gradients(loss).items():
            self._total[key] += gradient

    def of(self, members: Members) -> Tensor:
        """The sums over cells."""
        count = max(1, self.batches)
        return members.sums(lambda p: (self._total[id(p)] / count * p.detach()).abs())
