"""Scores of channels from gradients, one small file each, one protocol (see `base`).

taylor     what removing a channel changes the loss by, to first order
fisher     the same to second order, with the diagonal of the Fisher information
hessian    the same with the diagonal of the Hessian (optimal brain damage)
snip       sensitivity of the connections (pruning at initialisation)
grasp      what a channel does for the flow of gradients (pruning at initialisation)
momentum   smoothed gradients times weights
synflow    the flow through the weights' absolute values: no data at all
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from ...calibration import CalibrationData
from ...groups import Group
from ...network import Network
from .base import Score as Score
from .fisher import Fisher
from .grasp import Grasp
from .hessian import Hessian
from .momentum import Momentum
from .snip import Snip
from .synflow import SynFlow
from .taylor import Taylor

SCORES: dict[str, type[Score]] = {
    each.name: each for each in (Taylor, Fisher, Hessian, Snip, Grasp, Momentum, SynFlow)
}


def scores(
    name: str, network: Network, groups: Sequence[Group], data: CalibrationData | None
) -> tuple[list[NDArray[np.float64] | None], list[str]]:
    """For each group its members' scores, `[members, cells]`; None where none can be trained.

    And what there is to say of them. Raises UsageError where labels don't fit, UnsupportedModel
    where an operator has no gradient.
    """
    score = SCORES[name](network, groups, data)
    score.measure()
    rows = [None if found is None else found.double().cpu().numpy() for found in score.rows()]
    return rows, score.notes
