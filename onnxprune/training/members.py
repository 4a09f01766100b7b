"""The weights of one group as parameters, channel by channel."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import Parameter

from ..gradients import Differentiable
from ..groups import Group, Member
from ..network import Network


class Members:
    """One group's parameters; a *cell* is a channel, or one of a head's where heads choose.

    Weights that are no parameters (running statistics, integers) are left out.
    """

    def __init__(self, group: Group, network: Network, student: Differentiable) -> None:
        self.group = group
        #: (parameter, axis, positions along it, cell at each of them)
        self.parts: list[tuple[Parameter, int, Tensor, Tensor]] = []
        #: The same of those that scale a batch normalisation's channels.
        self.scales: list[tuple[Parameter, int, Tensor, Tensor]] = []
        scales = {
            record.node.input[1]
            for record in network.records
            if record.node.op_type == "BatchNormalization"
        }
        for member in group.members:
            if not member.scored:
                continue
            try:
                parameter = student.parameter(member.tensor)
            except KeyError:
                continue
            part = (parameter, *_indices(member, parameter))
            self.parts.append(part)
            if member.tensor in scales:
                self.scales.append(part)

    def norms(self) -> Tensor:
        """The sum of squares of each cell's weights over all members, `[cells]`."""
        return self.sums(lambda parameter: parameter.detach().float().square()).sum(0)

    def sums(self, values: Callable[[Parameter], Tensor]) -> Tensor:
        """What `values` gives for each weight, summed over each cell of each member.

        `[members, cells]`; of a parameter, `values` gives a tensor of its shape.
        """
        rows = []
        for parameter, axis, positions, cells in self.parts:
            found = values(parameter)
            others = [i for i in range(found.ndim) if i != axis]
            along = found.sum(others) if others else found
            row = torch.zeros(self.group.cells, device=found.device, dtype=found.dtype)
            rows.append(row.index_add_(0, cells, along[positions]))
        return torch.stack(rows)

    def multiply(self, factors: Tensor) -> None:
        """Multiply each cell's weights in all members, `[cells]`."""
        for parameter, axis, positions, cells in self.parts:
            along = torch.ones(parameter.shape[axis], device=parameter.device)
            along[positions] = factors[cells]
            shape = [-1 if i == axis else 1 for i in range(parameter.ndim)]
            parameter.data.mul_(along.reshape(shape).to(parameter.dtype))


def _indices(member: Member, parameter: Parameter) -> tuple[int, Tensor, Tensor]:
    positions, cells = (
        torch.as_tensor(index, device=parameter.device)
        for index in (member.positions, member.channels)
    )
    return member.axis, positions, cells
