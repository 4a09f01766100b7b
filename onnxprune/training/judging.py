"""How well a model meets the samples held out, which nothing was learned from."""

from __future__ import annotations

import math
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
    #: How many classes `agreement` is a share of.
    compared: int = 0

    @property
    def first(self) -> float:
        """What counts first, the labels where there are any. The higher, the better."""
        return (self.accuracy if self.accuracy is not None else self.agreement) or 0.0

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


def better(new: Score, best: Score, top: float) -> bool:
    """Whether `new` takes the place of the best so far.

    By labels the higher accuracy is better, if only by one sample. Agreement and distance are two
    measures of one thing, and distance is the finer: from epoch to epoch, agreement on some hundred
    samples jumps by more than the model gets better, and its highest value is luck. So of all that
    agree with the original as often as the best did, within a standard error, the one at the least
    distance is taken.

    Args:
        top: the highest agreement so far, those of `new` and of the model as it came included.
    """
    if new.accuracy is not None or new.agreement is None:
        return (new.first, -new.distance) > (best.first, -best.distance)
    least = top - math.sqrt(top * (1 - top) / max(new.compared, 1))
    if best.first < least:
        return new.first >= least
    return new.first >= least and new.distance < best.distance


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
            count,
        )
