"""Group sparsity with a strength of its own for each channel: DepGraph's.

Fang et al., "DepGraph: Towards Any Structural Pruning" (CVPR 2023), section 3.3: the regulariser is
sum_k gamma_k ||w_g[k]||^2 over all coupled weights of a group, where gamma_k = 2^(alpha (I_max -
I_k) / (I_max - I_min)) is larger the less channel k matters, alpha = 4.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from .base import Penalty

ALPHA = 4.0


class GroupSparsity(Penalty):
    """All coupled weights of a channel shrink together, those that matter least the most."""

    name: ClassVar[str] = "group"
    help: ClassVar[str] = "all coupled weights of the channels that matter least (DepGraph)"

    def look(self, epoch: int) -> None:
        """Importance is measured anew before each epoch."""
        #: gamma of each group's cells, relative to that of the least important: in [2^-alpha, 1].
        self._gamma: list[Tensor] = []
        for group in self.groups:
            norms = group.norms()
            spread = (norms.max() - norms.min()).clamp_min(torch.finfo(norms.dtype).tiny)
            self._gamma.append(2.0 ** (ALPHA * ((norms.max() - norms) / spread - 1)))

    def shrink(self, rate: float) -> None:
        """The step of the regulariser: each weight less a share of it."""
        for group, gamma in zip(self.groups, self._gamma, strict=True):
            group.multiply(1 - min(1.0, rate * self.strength) * gamma)
