"""Second order, with the diagonal of the Fisher information: ½ Σ E[g²] w².

Theis et al., "Faster gaze prediction with dense networks and Fisher pruning" (2018). Gradients are
those of small batches, whose mean square is the Fisher information over the size of the batch.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..members import Members
from .base import Score


class Fisher(Score):
    """½ Σ E[g²] w² over each cell of each member."""

    name: ClassVar[str] = "fisher"

    def add(self, loss: Tensor) -> None:
        """One batch."""
        if not self.batches:
            self._squares = {id(p): torch.zeros_like(p) for p in self.parameters}
        for key, gradient in self.gradients(loss).items():
            self._squares[key] += gradient.square()

    def of(self, members: Members) -> Tensor:
        """The sums over cells."""
        count = max(1, self.batches)
        return members.sums(lambda p: self._squares[id(p)] / count * p.detach().square() / 2)
