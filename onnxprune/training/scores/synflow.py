"""The flow through the absolute values of all weights, from an input of ones: no data at all.

Tanaka et al., "Pruning neural networks without any data by iteratively conserving synaptic flow"
(NeurIPS 2020): the score of a weight is |w| dR/d|w|, where R is the sum of the outputs. What flows
into a channel flows out of it, so no layer is cut off before the others are nearly as thin: if
scores are computed anew in many stages (`--steps 100`).

Whether flow is conserved is measured: where a network has biases, or functions that are not
homogeneous, it is so only nearly, and a note says how nearly.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from torch import Tensor

from ...gradients import Differentiable
from ...gradients.function import key_of
from ...runtime import find_inputs
from ..members import Members
from .base import Score

#: Operators that add, and where their operands begin and end that may be vectors to add; of
#: BatchNormalization these are the bias and the running mean.
_ADDED = {
    **{"Add": (0, 2), "Sub": (1, 2), "BiasGelu": (1, 2), "FastGelu": (1, 2)},
    **dict.fromkeys(["Conv", "ConvTranspose", "Gemm", "LayerNormalization"], (2, 3)),
    "BatchNormalization": (2, 4),
}
#: More than this share lost between two sides of a channel is worth a note.
_LOST = 0.01


class SynFlow(Score):
    """Σ |w| dR/d|w| over each cell of each member."""

    name: ClassVar[str] = "synflow"

    def measure(self) -> None:
        """One pass over an input of ones."""
        # The flow multiplies from layer to layer: single precision would overflow.
        self.function = Differentiable(self.network.model, dtype=torch.float64)
        self.members = [Members(each.group, self.network, self.function) for each in self.members]
        self.parameters = list(self.function.parameters())
        with torch.no_grad():
            added = self._added()
            for name, parameter in self.function.named_weights():
                flows = name not in added or parameter.ndim > 1
                parameter.abs_() if flows else parameter.zero_()
            for key, statistic in self.function.statistics.named_buffers():
                if key in {key_of(name) for name in added}:
                    statistic.zero_()
        outputs = self.function(self._ones())
        floats = [x for x in outputs.values() if isinstance(x, Tensor) and x.is_floating_point()]
        self._gradients = self.gradients(sum((x.sum() for x in floats), torch.zeros(())))
        self._check()

    def of(self, members: Members) -> Tensor:
        """The flow through each cell at each member, `[members, cells]`."""
        return members.sums(lambda p: self._gradients[id(p)] * p.detach())

    def _ones(self) -> dict[str, Any]:
        """Ones in place of every float that the model can be fed with."""
        model = self.network.model
        feeds = find_inputs(model.proto, base_dir=model.base_dir).feeds[0]
        return {
            name: torch.ones(x.shape, dtype=torch.float64) if x.dtype.kind == "f" else x
            for name, x in feeds.items()
        }

    def _added(self) -> set[str]:
        """Constants that are added: what is added does not flow."""
        names: set[str] = set()
        for record in self.network.records:
            node = record.node
            first, last = _ADDED.get(node.op_type, (0, 0))
            names.update(node.input[first:last])
        return names

    def _check(self) -> None:
        """What flows into a group's channels by some members, flows out by the others."""
        worst = 0.0
        for members in self.members:
            if len(members.parts) < 2:
                continue
            flow = self.of(members).sum(1)
            flow = flow[flow > 0]
            if len(flow) > 1:
                worst = max(worst, float(1 - flow.min() / flow.max()))
        if worst > _LOST:
            self.notes.append(
                f"the flow is conserved but for {100 * worst:.0f} %: some functions of this model"
                " are not homogeneous, or channels are read by several layers"
            )
