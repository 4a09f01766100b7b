"""A decay that grows, on the channels that are to go: GrowingReg.

Wang et al., "Neural Pruning via Growing Regularization" (ICLR 2021), GReg-1: what goes is chosen at
the start, and is then pushed out slowly enough that the rest of the network takes over.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor

from .base import Penalty


class Growing(Penalty):
    """The least important channels of each group, chosen once, shrink more from epoch to epoch."""

    name: ClassVar[str] = "growing"
    help: ClassVar[str] = "a decay that grows on the share --ratio of each group's channels"

    #: Epochs in which the decay reaches its whole strength.
    _EPOCHS = 10

    def __init__(self, *given: Any) -> None:
        super().__init__(*given)
        #: For each group, one where a cell is to go.
        self._going: list[Tensor] = []
        for group in self.groups:
            norms = group.norms()
            count = min(round(len(norms) * self.ratio), len(norms) - 1)
            going = torch.zeros_like(norms)
            going[norms.argsort()[:count]] = 1
            self._going.append(going)
        self._decay = 0.0

    def look(self, epoch: int) -> None:
        """The decay grows."""
        self._decay = self.strength * min(1.0, epoch / self._EPOCHS)

    def shrink(self, rate: float) -> None:
        """The chosen shrink."""
        for group, going in zip(self.groups, self._going, strict=True):
            group.multiply(1 - min(1.0, rate * self._decay) * going)

    def state(self) -> dict[str, Any]:
        """Which were chosen."""
        return {"going": self._going}

    def restore(self, state: Mapping[str, Any]) -> None:
        """The same are chosen."""
        self._going = [
            going.to(mine.device) for going, mine in zip(state["going"], self._going, strict=True)
        ]
