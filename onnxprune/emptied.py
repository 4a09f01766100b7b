"""The lossless step: fold what carries nothing into its consumers, and rank it behind all else."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from .axes import Index, Rows
from .calibration import Calibration
from .groups import Group
from .importance import Scores
from .lossless import KINDS, Removable, find_removable, fold
from .lossless.measuring import measure_zero
from .model import Model
from .network import Network
from .selection import keep
from .words import counted


@dataclass(frozen=True)
class Emptied:
    """Channels that carry nothing, by the name of their group."""

    channels: Mapping[str, Index] = field(default_factory=dict)
    #: How many are unused, constant, duplicates.
    kinds: Mapping[str, int] = field(default_factory=dict)
    #: How many of them calibration inputs showed, and not the weights alone.
    measured: int = 0

    @property
    def count(self) -> int:
        """How many there are."""
        return sum(len(index) for index in self.channels.values())

    def text(self) -> str:
        """One line for a report."""
        kinds = ", ".join(f"{n} {kind}" for kind, n in self.kinds.items() if n)
        verb, go = ("carries", "it goes") if self.count == 1 else ("carry", "they go")
        how = f"{self.measured} measured on calibration inputs, " if self.measured else ""
        return (
            f"{counted(self.count, 'channel')} {verb} nothing ({kinds}; {how}"
            f"{self.count - self.measured} proved from the weights): {go} first, and the"
            " function stays"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {
            **asdict(self),
            "channels": {name: index.tolist() for name, index in self.channels.items()},
        }

    def last(self, groups: Sequence[Group], scores: Sequence[Scores]) -> list[Scores]:
        """The scores, with those of emptied channels below all others of their group."""
        found = []
        for group, each in zip(groups, scores, strict=True):
            index = self.channels.get(group.name)
            if index is not None:
                cells = np.array(each, dtype=float).reshape(group.rows, -1)
                spread = max(float(np.ptp(cells)), 1e-6)
                cells[:, index] = min(0.0, float(cells.min())) - spread
                each = cells.ravel()
            found.append(each)
        return found

    def kept(
        self, groups: Sequence[Group], scores: Sequence[Scores], step: int
    ) -> list[Index | Rows]:
        """All other channels of each group, filled up to a multiple of `step` with emptied ones."""
        widths = []
        for group in groups:
            alive = group.size - len(self.channels.get(group.name, ()))
            widths.append(min(group.size, max(1, -(-alive // step)) * step))
        return keep(groups, self.last(groups, scores), widths)


def empty(
    network: Network, groups: Sequence[Group], calibration: Calibration | None = None
) -> tuple[Model | None, Emptied]:
    """The model with its emptied channels folded away, and which they are; None without any."""
    measured = None if calibration is None else measure_zero(network, groups, calibration)
    found = find_removable(network, groups, measured)
    if not found:
        return None, Emptied()
    old = network.model
    model = Model(
        fold(network, found), old.base_dir, old.path, dict(old.copies), old.sha256, old.files
    )
    return model, _emptied(groups, found)


def _emptied(groups: Sequence[Group], found: Sequence[Removable]) -> Emptied:
    names = {group.dim: group.name for group in groups}
    kinds = [kind for each in found for kind in each.kinds.values()]
    return Emptied(
        {names[each.dim]: each.channels for each in found},
        {kind: kinds.count(kind) for kind in KINDS},
        sum(len(each.measured) for each in found),
    )
