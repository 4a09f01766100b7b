"""How well a model meets the samples held out, which nothing was learned from."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from .batches import Batches
from .objective import Objective

Run = Callable[[Mapping[str, Any]], dict[str, Tensor]]


@dataclass(frozen=True)
class Score:
    """What was measured on the samples held out."""

    #: The distance from the original's outputs, as `Objective.distance` has it.
    distance: float
    #: The share of samples that both models put into the same class; None without classes.
    agreement: float | None = None
    #: The share of samples with a label that are put into its class; None without labels.
    accuracy: float | None = None

    @property
    def order(self) -> tuple[float, float]:
        """The higher, the better: what counts first is the labels, and the original else."""
        first = self.accuracy if self.accuracy is not None else self.agreement
        return (first or 0.0, -self.distance)

    def text(self) -> str:
        """A few words for people."""
        words = []
        if self.accuracy is not None:
            words.append(f"accuracy {100 * self.accuracy:.2f} %")
        if self.agreement is not None:
            words.append(f"agreement {100 * self.agreement:.2f} %")
        return ", ".join([*words, f"distance {self.distance:.4g}"])

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


class Jury:
    """The samples held out, and what the original says of them: run once, and kept.

    Where none are, labels are no judges: they were learned from, and are few where the original has
    an opinion on everything.
    """

    def __init__(self, batches: Batches, objective: Objective, teacher: Run) -> None:
        self._batches, self._objective = batches, objective
        self._wanted = [
            {name: value for name, value in teacher(batch.feeds).items() if name in objective.kinds}
            for batch in batches.judging()
        ]

    @torch.no_grad()
    def __call__(self, student: Run) -> Score:
        """The score of a model."""
        objective = self._objective
        distance, samples, same, right, count, labelled = 0.0, 0, 0, 0, 0, 0
        for batch, wanted in zip(self._batches.judging(), self._wanted, strict=True):
            given = student(batch.feeds)
            if batch.filled:
                given = {name: x[: batch.real] for name, x in given.items()}
                wanted = {name: x[: batch.real] for name, x in wanted.items()}
            distance += batch.real * float(objective.distance(given, wanted))
            samples += batch.real
            found, theirs = objective.classes(given), objective.classes(wanted)
            if found is not None and theirs is not None:
                same += int((found == theirs).sum())
                count += found.numel()
                if batch.labels is not None and self._batches.held_out:
                    labels = torch.as_tensor(batch.labels)
                    labels = (labels[: batch.real] if batch.filled else labels).reshape(-1)
                    right += int((found.cpu() == labels)[labels >= 0].sum())
                    labelled += int((labels >= 0).sum())
        return Score(
            distance / samples,
            same / count if count else None,
            right / labelled if labelled else None,
        )
