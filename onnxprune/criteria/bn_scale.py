"""The scale of batch normalisation: how strongly a channel is passed on.

Liu et al., "Learning Efficient Convolutional Networks through Network Slimming", ICCV 2017: |gamma|
of BatchNormalization, meant for models trained with an L1 penalty on it. Exporters often fold the
normalisation away: to a Mul and an Add (then the Mul's constant, gamma / deviation, is read), or
into the convolution's weights, where it can't be told from them any more.
"""

from __future__ import annotations

import numpy as np

from ..errors import UsageError
from ..groups import Group, Member
from ..reductions import Scores
from ..weights import Weights, per_cell
from .base import Criterion


class BnScale(Criterion):
    """|gamma| of each channel, reduced over the normalisations of the group."""

    name = "bn-scale"
    help = "|gamma| of batch normalisation, also where it is a Mul (Network Slimming)"
    normalizer = "none"

    def __call__(self, group: Group, weights: Weights) -> Scores:
        scales = _scales(group, weights)
        if scales:
            return weights.reduce([_magnitude(group, m, weights) for m in scales])
        if not any(_scales(each, weights) for each in weights.groups):
            raise UsageError(
                "criterion 'bn-scale': there is no BatchNormalization and no Mul by a constant for"
                " each channel; where it was folded into the convolutions at export, use group-l2,"
                " or export the model in training mode"
            )
        return weights.fallback(group, "no BatchNormalization (it may be folded into a weight)")


def _scales(group: Group, weights: Weights) -> list[Member]:
    """The members that are scales: of BatchNormalization, or else of a Mul."""
    batch, mul = [], []
    for member in group.members:
        for kind, operand in weights.readers(member.tensor):
            if kind == "BatchNormalization" and operand == 1:
                batch.append(member)
            elif kind == "Mul" and _is_vector(member, weights):
                mul.append(member)
    return batch or mul


def _is_vector(member: Member, weights: Weights) -> bool:
    dims = weights.network.model.constants[member.tensor].dims
    return all(size == 1 for i, size in enumerate(dims) if i != member.axis)


def _magnitude(group: Group, member: Member, weights: Weights) -> Scores:
    along = np.abs(weights.value(member.tensor)).astype(np.float64).ravel()
    return per_cell(along, member.positions, member.channels, group.cells)
