"""Importance: one score for each channel of a group, over all its coupled weights.

A criterion (see `criteria`) gives each member of a group, or each operator that reads its channels,
a number for each channel; these are reduced to one (`mean`, `sum`, `max`, `prod`, `first`), and the
scores of a group are normalised, so that groups can be compared (`none`, `mean`, `max`, `sum`,
`standardize`, `gaussian`). The words are those of Torch-Pruning; with the defaults (`group-l2`,
`mean`, `mean`) the ranking inside a group is DepGraph's: the sum over the group's parameters of
||w[k]||^2.

Which operands carry importance is for each operator's rule to say.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from .calibration import Calibration, CalibrationData
from .criteria import CRITERIA as CRITERIA
from .criteria import CriterionLike, criterion_of
from .errors import UsageError
from .groups import Group
from .network import Network
from .reductions import NORMALIZERS as NORMALIZERS
from .reductions import REDUCTIONS as REDUCTIONS
from .reductions import Scores as Scores
from .reductions import finite
from .statistics import Request, Statistic, collect, needed_bytes
from .weights import NO_DATA, Weights
from .words import counted

#: Bytes that the statistics of one pass over the calibration data may take.
_HELD = 1 << 29


@dataclass(frozen=True)
class Importance:
    """How channels are scored.

    Raises UsageError where a word is unknown, or where the criterion looks at activations and there
    is no calibration data.
    """

    #: A name, or any callable `(group, weights) -> scores`.
    criterion: CriterionLike = "group-l2"
    reduction: str = "mean"
    #: `auto` is the criterion's own: `mean`, or `none` where its scores can be compared as is.
    normalizer: str = "auto"
    data: CalibrationData | None = None
    #: What there was to say while scoring; emptied by each `scores`.
    notes: list[str] = field(default_factory=list, compare=False)

    def __post_init__(self) -> None:
        score = criterion_of(self.criterion)
        if self.normalizer == "auto":
            object.__setattr__(self, "normalizer", getattr(score, "normalizer", "mean"))
        for value, known, what in (
            (self.reduction, REDUCTIONS, "reduction"),
            (self.normalizer, NORMALIZERS, "normalizer"),
        ):
            if value not in known:
                raise UsageError(f"unknown {what} {value!r}; known are {', '.join(known)}")
        if getattr(score, "calibrated", False) and self.data is None:
            raise UsageError(NO_DATA.format(what=f"criterion {self.name!r}"))

    @property
    def name(self) -> str:
        """The criterion's name; of a callable, what Python calls it."""
        if isinstance(self.criterion, str):
            return self.criterion
        named = getattr(self.criterion, "__qualname__", type(self.criterion).__qualname__)
        return f"Python {named}"

    def options(self) -> dict[str, Any]:
        """What a plan records: plain JSON types."""
        return {
            "criterion": self.name,
            "reduction": self.reduction,
            "normalizer": self.normalizer,
            **(self.data.options() if self.data else {}),
        }

    def scores(self, network: Network, groups: Sequence[Group]) -> list[Scores]:
        """The scores of each group, `[rows * size]` each. Every weight is read once for norms."""
        score = criterion_of(self.criterion)
        measured = None
        self.notes.clear()
        if self.data is not None and not isinstance(score, _plain()):
            calibration = self.data.open(network.model.proto, network.model.base_dir)
            measured = _Measured(network, groups, score, calibration)
        weights = Weights(network, groups, self.reduction, measured, self.data)
        if measured is not None:
            measured.weights = weights
            self.notes.append(f"calibrated on {measured.calibration.source}")
        found = [self._scores(score, group, weights) for group in groups]
        self.notes.extend([*weights.said, *_told(weights.notes, len(groups))])
        return found

    def _scores(
        self, score: Callable[[Group, Weights], Scores], group: Group, weights: Weights
    ) -> Scores:
        given = np.asarray(score(group, weights), dtype=np.float64)
        if given.shape != (group.cells,):
            raise UsageError(
                f"criterion {self.name!r} gave scores of shape {list(given.shape)} for group"
                f" {group.name!r}, which has {group.cells}"
            )
        cells = finite(given).reshape(group.rows, -1)
        if getattr(score, "additive", False):
            # A channel counts as much as its cells in all rows: chosen in common, it is their sum.
            cells = cells * group.rows
        return finite(NORMALIZERS[self.normalizer](cells)).ravel()


def _plain() -> tuple[type, ...]:
    """The built-in criteria that do not look at data: it is not even opened for them."""
    return tuple(each for each in CRITERIA.values() if not each.calibrated)


def _told(notes: dict[str, list[str]], groups: int) -> list[str]:
    said = []
    for sentence, names in notes.items():
        names = list(dict.fromkeys(names))
        where = f"{len(names)} of {counted(groups, 'group')} ({', '.join(names[:2])}"
        said.append(f"{where}{', …' if len(names) > 2 else ''}): {sentence}")
    return said


class _Measured:
    """Statistics of activations, for as many groups in one pass over the data as memory allows."""

    def __init__(
        self,
        network: Network,
        groups: Sequence[Group],
        criterion: Callable[[Group, Weights], Scores],
        calibration: Calibration,
    ) -> None:
        self.network = network
        self.groups = list(groups)
        self.calibration = calibration
        self.weights: Weights | None = None
        self._needs: Callable[[Group, Weights], Iterable[Request]] | None = getattr(
            criterion, "needs", None
        )
        self._held: dict[Request, Statistic] = {}

    def __call__(self, group: Group, requests: Sequence[Request]) -> dict[Request, Statistic]:
        missing = [request for request in requests if request not in self._held]
        if missing:
            kept = {each: self._held[each] for each in requests if each in self._held}
            self._held = kept | collect(self.network, self._with(group, missing), self.calibration)
        return {request: self._held[request] for request in requests}

    def _with(self, group: Group, requests: Sequence[Request]) -> list[Request]:
        """`requests`, and what the groups behind this one will ask for, as far as there is room."""
        wanted = dict.fromkeys(requests)
        size = sum(needed_bytes(self.network, request) for request in wanted)
        at = next((i for i, each in enumerate(self.groups) if each is group), len(self.groups))
        for each in self.groups[at + 1 :] if self._needs and self.weights else []:
            assert self._needs is not None and self.weights is not None
            more = [r for r in self._needs(each, self.weights) if r not in wanted]
            size += sum(needed_bytes(self.network, request) for request in more)
            if size > _HELD:
                break
            wanted.update(dict.fromkeys(more))
        return list(wanted)
