"""What a penalty is."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from ..members import Members


class Penalty:
    """Shrinks channels of groups; see the package."""

    #: What `--sparse` calls it.
    name: ClassVar[str] = ""
    #: One line for the command line's help.
    help: ClassVar[str] = ""

    def __init__(self, groups: Sequence[Members], strength: float, ratio: float) -> None:
        self.groups, self.strength, self.ratio = list(groups), strength, ratio

    def look(self, epoch: int) -> None:
        """Called before each epoch, which are counted from 1."""

    def shrink(self, rate: float) -> None:
        """Called after each step, with its learning rate."""
        raise NotImplementedError

    def state(self) -> dict[str, Any]:
        """What a run that is resumed has to know beside the weights: tensors and numbers."""
        return {}

    def restore(self, state: Mapping[str, Any]) -> None:
        """Take back what `state` gave."""

    def sparsity(self) -> list[dict[str, Any]]:
        """For each group: its name, its channels, and how many are nearly gone.

        Those are the ones of a norm below a hundredth of the group's largest.
        """
        found = []
        for members in self.groups:
            norms = members.norms().sqrt()
            gone = int((norms < norms.max() / 100).sum())
            found.append({"group": members.group.name, "channels": len(norms), "gone": gone})
        return found
