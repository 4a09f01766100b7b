"""What a score from gradients is: what is gathered from batch to batch, and what is made of it.

The loss is that of the labels where there are any. Without labels, the targets are the model's own
outputs, drawn as it says them: a class with the probability that it has, a value with noise of its
spread. (With the outputs themselves every gradient would be zero.) The mean square of such a
gradient along a change of the weights is what that change does to the outputs, to second order: the
KL divergence of classes, the squared error of values. See Kunstner et al., "Limitations of the
Empirical Fisher Approximation" (2019).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.nn import Parameter

from ...calibration import CalibrationData
from ...errors import UsageError
from ...gradients import Differentiable
from ...gradients.types import to_torch
from ...groups import Group
from ...network import Network
from ...samples import LABELLED
from ..members import Members
from ..objective import Objective

_BATCH = 16


class Score:
    """Scores of all groups of a network."""

    #: What `--criterion` calls it.
    name: ClassVar[str] = ""
    #: Targets are the likeliest class, and not drawn: for scores that average gradients of a sign.
    likeliest: ClassVar[bool] = False

    def __init__(
        self, network: Network, groups: Sequence[Group], data: CalibrationData | None
    ) -> None:
        self.network, self.data = network, data
        self.function = Differentiable(network.model)
        self.members = [Members(group, network, self.function) for group in groups]
        self.parameters: list[Parameter] = list(self.function.parameters())
        self.notes: list[str] = []
        self._rng = torch.Generator().manual_seed(0)
        self.batches = 0

    def measure(self) -> None:
        """Go through the data once."""
        for loss in self.losses():
            self.add(loss)
            self.batches += 1

    def add(self, loss: Tensor) -> None:
        """One batch."""
        raise NotImplementedError

    def rows(self) -> list[Tensor | None]:
        """For each group `[members, cells]`, the higher the more a cell matters."""
        return [self.of(each) if each.parts else None for each in self.members]

    def of(self, members: Members) -> Tensor:
        """The scores of one group's members, `[members, cells]`."""
        raise NotImplementedError

    # -- the loss ----------------------------------------------------------------------------------

    def losses(self) -> Iterator[Tensor]:
        """The loss of each batch, with its graph."""
        if self.data is None:
            raise UsageError(f"criterion {self.name!r} looks at gradients and needs --calibration")
        opened = self.data.open(self.network.model.proto, self.network.model.base_dir, labels="")
        objective: Objective | None = None
        labelled = False
        for feeds in opened.batches(_BATCH):
            given: dict[str, Any] = dict(feeds)
            labels = given.pop(LABELLED, None)
            outputs = self.function(given)
            if objective is None:
                objective = Objective(outputs, 1.0)
            if labels is not None:
                labelled = True
                yield objective.by_labels(outputs, to_torch(labels, torch.float32))
            else:
                yield self._by_itself(outputs, objective)
        what = "labels" if labelled else "the model's own outputs as targets: no labels"
        self.notes.append(f"gradients on {opened.source}, with {what}")

    def _by_itself(self, outputs: Mapping[str, Tensor], objective: Objective) -> Tensor:
        loss = torch.zeros(())
        for name, kind in objective.kinds.items():
            value = outputs[name].float()
            if kind == "values":
                noise = torch.randn(value.shape, generator=self._rng) * value.detach().std()
                loss = loss + (value - value.detach() - noise).square().mean() / 2
                continue
            scores = value if kind == "logits" else torch.log(value.clamp_min(0) + 1e-9)
            scores = scores.reshape(-1, scores.shape[-1])
            if self.likeliest:
                targets = scores.detach().argmax(-1)
            else:
                chances = torch.softmax(scores.detach(), -1)
                targets = torch.multinomial(chances, 1, generator=self._rng)[:, 0]
            loss = loss + torch.nn.functional.cross_entropy(scores, targets)
        return loss

    def gradients(self, loss: Tensor, graph: bool = False) -> dict[int, Tensor]:
        """The gradient of each parameter, by its id; zero where the loss does not depend on it."""
        found = torch.autograd.grad(
            loss, self.parameters, create_graph=graph, allow_unused=True, materialize_grads=True
        )
        return {id(p): g for p, g in zip(self.parameters, found, strict=True)}
