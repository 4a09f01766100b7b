"""Random scores: what every other criterion has to beat."""

from __future__ import annotations

import zlib

import numpy as np

from ..errors import UsageError
from ..groups import Group
from ..reductions import Scores
from ..weights import Weights
from .base import Criterion


class Random(Criterion):
    """Uniform in [0, 1): the same for the same seed and group, whatever other groups there are."""

    name = "random"
    help = "by chance, the same for the same SEED"
    normalizer = "none"
    argument = "SEED"

    def __init__(self, seed: int = 0) -> None:
        self.seed = seed

    @classmethod
    def parse(cls, argument: str) -> Criterion:
        if argument and not argument.isdecimal():
            raise UsageError(f"criterion 'random' wants a seed, as in random:1, not {argument!r}")
        return cls(int(argument or 0))

    def __call__(self, group: Group, weights: Weights) -> Scores:
        name = zlib.crc32(group.name.encode())
        return np.random.default_rng([self.seed, name]).random(group.cells)
