"""Second order, with the diagonal of the Hessian: ½ Σ H w², optimal brain damage.

LeCun et al., "Optimal Brain Damage" (NeurIPS 1989). The diagonal is estimated as the mean of z ⊙ Hz
over vectors z of random signs (Bekas et al., "An estimator for the diagonal of a matrix", 2007).
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from ..members import Members
from .base import Score


class Hessian(Score):
    """½ Σ H w² over each cell of each member."""

    name: ClassVar[str] = "hessian"
    likeliest: ClassVar[bool] = True

    def add(self, loss: Tensor) -> None:
        """One batch, and one vector of signs."""
        if not self.batches:
            self._diagonal = {id(p): torch.zeros_like(p) for p in self.parameters}
        gradients = self.gradients(loss, graph=True)
        signs = {
            id(p): torch.randint(0, 2, p.shape, generator=self._rng).to(p) * 2 - 1
            for p in self.parameters
        }
        along = sum((gradients[key] * z).sum() for key, z in signs.items())
        assert isinstance(along, Tensor)
        if along.requires_grad:
            for key, product in self.gradients(along).items():
                self._diagonal[key] += signs[key] * product

    def of(self, members: Members) -> Tensor:
        """The sums over cells."""
        count = max(1, self.batches)
        return members.sums(lambda p: self._diagonal[id(p)] / count * p.detach().square() / 2)
