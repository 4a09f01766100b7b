"""What drives the weights of whole channels to zero while a model is trained.

One small file each, one protocol: `look` before an epoch, `shrink` after each step. The decay acts
on the weights and not on their gradients, in proportion to the learning rate (Loshchilov and
Hutter, "Decoupled Weight Decay Regularization", 2019): its strength is a weight decay as AdamW's
is, that of a channel which is to go.
"""

from __future__ import annotations

from collections.abc import Sequence

from ...errors import NotPrunable, UsageError
from ...gradients import Differentiable
from ...groups import Group
from ...network import Network
from ..members import Members
from .base import Penalty as Penalty
from .bn_scale import BnScale
from .group import GroupSparsity
from .growing import Growing

PENALTIES: dict[str, type[Penalty]] = {
    each.name: each for each in (GroupSparsity, Growing, BnScale)
}


def penalty_of(
    name: str,
    network: Network,
    groups: Sequence[Group],
    student: Differentiable,
    strength: float,
    ratio: float,
) -> Penalty:
    """The penalty of a name.

    Args:
        strength: the weight decay of a channel that is to go; above 0.
        ratio: the share of channels that are to go, for those that choose them beforehand.

    Raises UsageError where there is none of this name, NotPrunable where it finds no weights.
    """
    if name not in PENALTIES:
        raise UsageError(f"unknown --sparse {name!r}; known are {', '.join(PENALTIES)}")
    if not strength > 0:
        raise UsageError(f"--strength {strength}: write a weight decay above 0")
    if not 0 < ratio < 1:
        raise UsageError(f"--ratio {ratio} is outside of (0, 1)")
    members = [Members(group, network, student) for group in groups]
    members = [each for each in members if each.parts]
    if not members:
        raise NotPrunable("no group of this model has weights that can be trained")
    return PENALTIES[name](members, strength, ratio)
