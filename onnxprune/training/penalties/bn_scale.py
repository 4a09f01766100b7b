"""An L1 penalty on the scales of batch normalisations.

Liu et al., "Learning Efficient Convolutional Networks through Network Slimming" (ICCV 2017). The
step is the proximal one (soft thresholding), so that scales become zero and not merely small.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from ...errors import NotPrunable
from ..members import Members
from .base import Penalty


class BnScale(Penalty):
    """Scales of batch normalisation move towards zero, all by the same amount."""

    name: ClassVar[str] = "bn-scale"
    help: ClassVar[str] = "L1 on the scales of batch normalisation (network slimming)"

    def __init__(self, groups: Sequence[Members], strength: float, ratio: float) -> None:
        super().__init__(groups, strength, ratio)
        parts = [part for group in self.groups for part in group.scales]
        self._scales = list({id(part[0]): part[0] for part in parts}.values())
        if not self._scales:
            raise NotPrunable(
                "--sparse bn-scale: the model has no batch normalisation (exporters fold it into"
                " convolutions); --sparse group needs none"
            )
        #: What a decay of this strength takes from the mean scale, at a learning rate of 1.
        sizes = [float(scale.detach().abs().mean()) for scale in self._scales]
        self._amount = strength * sum(sizes) / len(sizes)

    def shrink(self, rate: float) -> None:
        """Soft thresholding."""
        for scale in self._scales:
            size = scale.data.abs().sub_(self._amount * rate).clamp_min_(0)
            scale.data.copy_(scale.data.sign() * size)
