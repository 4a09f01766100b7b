"""What a channel does for the flow of gradients: Σ w ⊙ Hg.

Wang et al., "Picking Winning Tickets Before Training by Preserving Gradient Flow" (ICLR 2020):
removing what has the highest -w ⊙ Hg harms the gradient's norm the least. It is negative where a
channel stands in the gradients' way, so scores are moved to begin at zero in each group.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..members import Members
from .base import Score


class Grasp(Score):
    """Σ w ⊙ Hg over each cell of each member."""

    name: ClassVar[str] = "grasp"
    likeliest: ClassVar[bool] = True

    def add(self, loss: Tensor) -> None:
        """One batch."""
        if not self.batches:
            self._flow = {id(p): torch.zeros_like(p) for p in self.parameters}
        gradients = self.gradients(loss, graph=True)
        along = sum((gradient * gradient.detach()).sum() for gradient in gradients.values())
        assert isinstance(along, Tensor)
        if along.requires_grad:
            for key, product in self.gradients(along).items():
                self._flow[key] += product

    def of(self, members: Members) -> Tensor:
        """The sums over cells, from zero."""
        found = members.sums(lambda p: p.detach() * self._flow[id(p)] / max(1, self.batches))
        return found - found.min(dim=1, keepdim=True).values
