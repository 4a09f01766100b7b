"""Reconstruction as a run asks for it: of a given choice, or with a choice of its own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from .axes import Choice, Index, Rows, kept_size
from .calibration import SYNTHETIC_SAMPLES, Calibration, CalibrationData
from .model_costs import macs_cost
from .network import Network
from .planning import Planner
from .reconstruction import Kept, Outcome, Rounds, choose_and_reconstruct, reconstruct
from .rounding import steps_of

#: Made-up inputs say less than data: so many samples are made, as long as one pass over all of
#: them takes no more multiply-accumulates than this.
_SYNTHETIC, _SYNTHETIC_WORK = 2000, 2e11


@dataclass
class Rebuilder:
    """What `--reconstruct` needs to know."""

    data: CalibrationData
    seed: int = 0
    progress: Callable[[str], None] | None = None
    #: The records of a command that can be resumed.
    kept: Kept | None = None

    def _open(self, network: Network) -> Calibration:
        data = self.data
        if isinstance(data.source, str) and data.source == "synthetic" and data.samples is None:
            macs = max(macs_cost(network, data.shapes).total(), 1.0)
            affordable = int(_SYNTHETIC_WORK / macs)
            data = replace(data, samples=max(SYNTHETIC_SAMPLES, min(_SYNTHETIC, affordable)))
        return data.open(network.model.proto, network.model.base_dir)

    def refit(self, network: Network, choice: Choice) -> Outcome:
        """The model with a given choice, refitted."""
        return reconstruct(
            network,
            choice,
            self._open(network),
            seed=self.seed,
            kept=self.kept,
            progress=self.progress or (lambda _: None),
        )

    def choose(self, planner: Planner) -> tuple[list[Index | Rows], Outcome]:
        """What is kept of each of the planner's groups, and the refitted model.

        The budget is what the planner's own choice comes to in MACs, whatever it was asked for.
        """
        network, groups = planner.network, planner.groups
        cost = macs_cost(network, self.data.shapes)
        kept = planner.keep()
        widths = {g.dim: kept_size(each) for g, each in zip(groups, kept, strict=True)}
        steps = steps_of(network, groups, planner.budget.round_to)
        outcome = choose_and_reconstruct(
            network,
            groups,
            cost,
            cost.total(widths),
            self._open(network),
            rounds=Rounds(steps={g.dim: s for g, s in zip(groups, steps, strict=True)}),
            seed=self.seed,
            kept=self.kept,
            progress=self.progress or (lambda _: None),
            planned={
                group.dim: each
                for group, each in zip(groups, kept, strict=True)
                if kept_size(each) < group.size
            },
        )
        whole = [np.arange(group.size, dtype=np.int64) for group in groups]
        return [outcome.choice.get(g.dim, w) for g, w in zip(groups, whole, strict=True)], outcome
