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
from .infer import Network
from .model import Array, attributes

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
    scales = _scales(network)
    found = {}
    for name, axes in wanted.items():
        value = network.model.read(name)
        scale, point, axis = (
            _quantisation(network, scales[name]) if name in scales else (None, None, 0)
        )
        if value.dtype not in (np.float32, np.float64) or scale is not None:
            value = value.astype(np.float32)
        if scale is not None:
            shape = [1] * value.ndim
            if scale.ndim and scale.size > 1:
                shape[axis] = scale.size
            if scale.size == 1 or scale.ndim == 1:
                if point is not None:
                    value = value - point.astype(np.float32).reshape(shape)
                value = value * scale.astype(np.float32).reshape(shape)
        for axis in axes:
            found[name, axis] = _norm(value, axis, power)
    return found


def _norm(value: Array, axis: int, power: float) -> Scores:
    if power == 2:
        matrix = value.reshape(int(np.prod(value.shape[:axis])), value.shape[axis], -1)
        return np.asarray(np.einsum("abc,abc->b", matrix, matrix), dtype=np.float64)
    others = tuple(i for i in range(value.ndim) if i != axis)
    return np.asarray(np.sum(np.abs(value) ** power, axis=others, dtype=np.float64))


def _scales(network: Network) -> dict[str, tuple[str, str, int]]:
    """Quantised weights, with the names of their scale and zero point and their axis."""
    found = {}
    for record in network.records:
        node = record.node
        if node.op_type == "DequantizeLinear" and node.input[0] in network.scored:
            point = node.input[2] if len(node.input) > 2 else ""
            found[node.input[0]] = node.input[1], point, attributes(node).get("axis", 1)
        elif node.op_type == "QLinearConv":
            found[node.input[3]] = node.input[4], node.input[5], 0
    return found


def _quantisation(
    network: Network, names: tuple[str, str, int]
) -> tuple[Array | None, Array | None, int]:
    scale, point, axis = names
    constants = network.model.constants
    return (
        network.model.read(scale) if scale in constants else None,
        network.model.read(point) if point in constants else None,
        axis,
    )
