"""First order: the squared change of the loss when a channel's weights become zero.

Molchanov et al., "Importance Estimation for Neural Network Pruning" (CVPR 2019), equation 8: the
square of the sum of gradient times weight over all that goes together, averaged over batches.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..members import Members
from .base import Score


class Taylor(Score):
    """(Σ g w)² over each cell of each member, averaged over batches."""

    name: ClassVar[str] = "taylor"

    def add(self, loss: Tensor) -> None:
        """One batch."""
        if not self.batches:
            self._sums = [torch.zeros(()) for _ in self.members]
        gradients = self.gradients(loss)
        for i, members in enumerate(self.members):
            if members.parts:
                change = members.sums(lambda p: gradients[id(p)] * p.detach())
                self._sums[i] = self._sums[i] + change.square()

    def of(self, members: Members) -> Tensor:
        """The mean over batches."""
        return self._sums[self.members.index(members)] / max(1, self.batches)
