"""Group-norm importance: one score for each channel of a group, over all its coupled weights.

DepGraph's score of channel k of group g is the sum over the group's parameters of ||w[k]||^2. Here
each member that carries importance contributes the p-th power of the Lp norm of its slice, the
contributions are reduced to one (`mean`, `sum`, `max`, `prod`, `first`), and the scores of a group
are normalised, so that groups can be compared (`none`, `mean`, `max`, `sum`, `standardize`,
`gaussian`). The words are those of Torch-Pruning; with the defaults (p = 2, `mean`, `mean`) the
ranking inside a group is the paper's.

Which operands carry importance is for each operator's rule to say.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .groups import Group
from .model import Array
from .network import Network, Quantised

Scores = NDArray[np.float64]

REDUCTIONS: dict[str, Callable[[NDArray[np.float64]], Scores]] = {
    "mean": lambda x: np.asarray(x.mean(axis=0)),
    "sum": lambda x: np.asarray(x.sum(axis=0)),
    "max": lambda x: np.asarray(x.max(axis=0)),
    "prod": lambda x: np.asarray(x.prod(axis=0)),
    "first": lambda x: x[0],
}


def _finite(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Channels of a model that has diverged (NaN) count as nothing, and overflow as very much."""
    return np.nan_to_num(x, nan=0.0, posinf=1e100, neginf=-1e100)


def _divided(x: Scores, by: float) -> Scores:
    return x / by if by else x


NORMALIZERS: dict[str, Callable[[Scores], Scores]] = {
    "none": lambda x: x,
    "mean": lambda x: _divided(x, float(x.mean())),
    "max": lambda x: _divided(x, float(x.max())),
    "sum": lambda x: _divided(x, float(x.sum())),
    "standardize": lambda x: _divided(x - x.min(), float(x.max() - x.min())),
    "gaussian": lambda x: _divided(x - x.mean(), float(x.std())),
}

#: Criteria by the name that `--criterion` calls them by: the p of their norm.
CRITERIA: dict[str, float] = {"group-l1": 1.0, "group-l2": 2.0}


@dataclass(frozen=True)
class Importance:
    """How channels are scored."""

    criterion: str = "group-l2"
    reduction: str = "mean"
    normalizer: str = "mean"

    def __post_init__(self) -> None:
        for value, known, what in (
            (self.criterion, CRITERIA, "criterion"),
            (self.reduction, REDUCTIONS, "reduction"),
            (self.normalizer, NORMALIZERS, "normalizer"),
        ):
            if value not in known:
                raise UsageError(f"unknown {what} {value!r}; known are {', '.join(known)}")

    def scores(self, network: Network, groups: Sequence[Group]) -> list[Scores]:
        """The scores of each group, `[size]` each. Every weight is read once."""
        power = CRITERIA[self.criterion]
        norms = _norms(network, groups, power)
        found = []
        for group in groups:
            rows = []
            for member in group.members:
                if member.scored:
                    norm = norms[member.tensor, member.axis][member.positions]
                    rows.append(np.bincount(member.channels, norm, minlength=group.size))
            reduced = REDUCTIONS[self.reduction](_finite(np.stack(rows)))
            found.append(_finite(NORMALIZERS[self.normalizer](_finite(reduced))))
        return found


def _norms(
    network: Network, groups: Sequence[Group], power: float
) -> dict[tuple[str, int], Scores]:
    """For each scored (tensor, axis): the sum of |w|^p over all other axes, `[size of axis]`."""
    wanted: dict[str, set[int]] = {}
    for group in groups:
        for member in group.members:
            if member.scored:
                wanted.setdefault(member.tensor, set()).add(member.axis)
    quantised = network.quantised()
    found = {}
    for name, axes in wanted.items():
        value = network.model.read(name)
        if value.dtype not in (np.float32, np.float64) or name in quantised:
            value = value.astype(np.float32)
        if name in quantised:
            value = _dequantised(network, value, quantised[name])
        for axis in axes:
            found[name, axis] = _norm(value, axis, power)
    return found


def _norm(value: Array, axis: int, power: float) -> Scores:
    if power == 2:
        matrix = value.reshape(int(np.prod(value.shape[:axis])), value.shape[axis], -1)
        return np.asarray(np.einsum("abc,abc->b", matrix, matrix), dtype=np.float64)
    others = tuple(i for i in range(value.ndim) if i != axis)
    return np.asarray(np.sum(np.abs(value) ** power, axis=others, dtype=np.float64))


def _dequantised(network: Network, value: Array, codes: Quantised) -> Array:
    """`value` less its zero point, times its scale, as far as these are constants."""
    constants = network.model.constants
    if codes.point in constants:
        point = network.model.read(codes.point).astype(np.float32)
        value = value - codes.spread(point, value.shape)
    if codes.scale in constants:
        scale = network.model.read(codes.scale).astype(np.float32)
        value = value * codes.spread(scale, value.shape)
    return value
