"""What training minimises: the distance from the original's outputs, from labels, from features.

What an output is, is seen on its values: classes (scores or probabilities) are compared by the
Kullback-Leibler divergence of their softened distributions (Hinton et al., "Distilling the
Knowledge in a Neural Network", 2015), anything else by the squared error over its spread.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor
from torch.nn import functional

from ..errors import UsageError
from ..reconstruction.probes import output_kinds
from .features import Feature

#: Added to probabilities before their logarithm.
_TINY = 1e-9
#: Any label below 0 is taken for this one: not counted.
_UNLABELLED = -1


class Objective:
    """The loss of one batch.

    Args:
        wanted: the original's outputs on some samples, from which it is seen what they are.
        compared: tensors inside of both models that are compared too, with this `weight`.
        labelled: the share of the labels in the loss, where a batch has any.

    Raises UsageError where no output can be learned from.
    """

    def __init__(
        self,
        wanted: Mapping[str, Tensor],
        temperature: float,
        compared: Sequence[Feature] = (),
        weight: float = 0.0,
        labelled: float = 0.0,
    ) -> None:
        arrays = {
            name: value.detach().float().cpu().numpy()
            for name, value in wanted.items()
            if isinstance(value, Tensor) and value.is_floating_point()
        }
        self.kinds = {name: kind for name, kind in output_kinds(arrays).items() if kind}
        if not self.kinds:
            raise UsageError("no output of the model is made of numbers that can be learned from")
        self.first = next(iter(self.kinds))
        self.temperature, self.weight, self.labelled = temperature, weight, labelled
        self.compared = list(compared) if weight else []
        #: The spread of each output that is no classes: the unit that its error is counted in.
        self._spread = {
            name: max(float(wanted[name].detach().float().var(correction=0)), _TINY)
            for name in self.kinds
        }

    @property
    def names(self) -> list[str]:
        """The features: what is wanted of both models beside their outputs."""
        return [feature.name for feature in self.compared]

    @property
    def of_classes(self) -> bool:
        """Whether the first output says of each sample what class it is of."""
        return self.kinds[self.first] != "values"

    def __call__(
        self, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor], labels: Tensor | None
    ) -> Tensor:
        """The loss, of which gradients are taken; `labels` are `[n]` classes, or values."""
        loss = self.distance(given, wanted)
        if labels is not None and self.labelled:
            loss = (1 - self.labelled) * loss + self.labelled * self.by_labels(given, labels)
        for feature in self.compared:
            target = wanted[feature.name].float()
            for axis, kept in enumerate(feature.kept):
                if kept is not None:
                    index = torch.as_tensor(kept, device=target.device)
                    target = target.index_select(axis, index)
            error = functional.mse_loss(given[feature.name].float(), target)
            loss = loss + self.weight / len(self.compared) * error / (
                target.var(correction=0) + _TINY
            )
        return loss

    def distance(self, given: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> Tensor:
        """How far outputs are from those wanted, averaged over samples."""
        total = torch.zeros((), device=given[self.first].device)
        for name, kind in self.kinds.items():
            a, b = given[name].float(), wanted[name].float()
            if kind == "values":
                total = total + functional.mse_loss(a, b) / self._spread[name]
                continue
            x, y = (self._softened(value, kind) for value in (a, b))
            divergence = functional.kl_div(x, y, reduction="none", log_target=True).sum(-1).mean()
            total = total + self.temperature**2 * divergence
        return total

    def by_labels(self, given: Mapping[str, Tensor], labels: Tensor) -> Tensor:
        """The cross-entropy of classes, or the squared error of values, for the first output.

        What has a label below 0 (-1, or torch's own -100) has none.
        """
        output, kind = given[self.first].float(), self.kinds[self.first]
        if kind == "values":
            return functional.mse_loss(output, labels.to(output).reshape(output.shape))
        scores = output if kind == "logits" else torch.log(output.clamp_min(0) + _TINY)
        flat = labels.to(output.device).long().reshape(-1)
        total = functional.cross_entropy(
            scores.reshape(-1, scores.shape[-1]),
            flat.clamp_min(_UNLABELLED),
            ignore_index=_UNLABELLED,
            reduction="sum",
        )
        return total / (flat >= 0).sum().clamp_min(1)

    def classes(self, outputs: Mapping[str, Tensor]) -> Tensor | None:
        """The class of each sample; None where the first output is no classes."""
        return outputs[self.first].argmax(-1).reshape(-1) if self.of_classes else None

    def _softened(self, value: Tensor, kind: str) -> Tensor:
        scores = value if kind == "logits" else torch.log(value.clamp_min(0) + _TINY)
        return functional.log_softmax(scores / self.temperature, dim=-1)
