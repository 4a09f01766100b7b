"""Indices that count: tensors whose elements rise by one step along each axis.

PyTorch's exporter writes a view with strides as a Gather from the flat tensor, at indices that are
sums of a Range for each axis. Where these count through the whole tensor in its own order, the
Gather is a Reshape. The indices themselves are too many to compute, and depend on the batch; so
they are followed as what they are: a step for each axis, and where they begin.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
from onnx import TensorProto

from .axes import Axis, resolve
from .sizes import UNKNOWN, same, size_of

if TYPE_CHECKING:
    from .model import Array
    from .network import Axes, Network
    from .op import Op

#: Constants of more elements than this are not looked at.
_MOST = 2**20
#: The types of indices.
_INDICES = (TensorProto.INT64, TensorProto.INT32)


@dataclass(frozen=True)
class Count:
    """The element at index i, j, … is `start + steps[0] * i + steps[1] * j + …`."""

    start: Any
    steps: tuple[Any, ...]


def follow(network: Network, op: Op) -> None:
    """Note how the elements of a node's output count, where they do."""
    found = OPERATORS[op.kind](network, op)
    if found is not None:
        network.counts[op.outputs[0]] = found


def count_of(network: Network, name: str) -> Count | None:
    """How the elements of a tensor count, or None where they do not."""
    if name in network.counts or name not in network.model.constants:
        return network.counts.get(name)
    tensor = network.model.constants[name]
    if tensor.data_type not in _INDICES:
        return None
    if not 0 < np.prod(tensor.dims, dtype=np.float64) <= _MOST:
        return None
    found = _of_array(network.model.read(name))
    if found is not None:
        network.counts[name] = found
    return found


def _of_array(array: Array) -> Count | None:
    start = int(array.ravel()[0])
    steps = []
    grid = np.full(array.shape, start, dtype=np.int64)
    for axis, size in enumerate(array.shape):
        first = tuple(int(i == axis) for i in range(array.ndim))
        steps.append(int(array[first]) - start if size > 1 else 0)
        along = [-1 if i == axis else 1 for i in range(array.ndim)]
        grid += steps[-1] * np.arange(size, dtype=np.int64).reshape(along)
    return Count(start, tuple(steps)) if (grid == array).all() else None


def counts_through(network: Network, name: str, axes: Axes, whole: Axis) -> bool:
    """True where the tensor `name`, of these `axes`, holds 0, 1, 2, … up to the size of `whole`."""
    count = count_of(network, name)
    if count is None or not same(count.start, 0):
        return False
    step: Any = 1
    for axis, each in zip(reversed(axes), reversed(count.steps), strict=True):
        if axis.size == 1:
            continue
        if not same(each, step):
            return False
        step = step * size_of(axis)
    return same(step, size_of(whole))


def _range(network: Network, op: Op) -> Count | None:
    values = [network.value_of(name) for name in op.inputs]
    if any(value is None or value.size != 1 for value in values):
        return None
    start, _, step = [value.ravel().tolist()[0] for value in values if value is not None]
    if isinstance(step, float):
        return None  # as integers they would be rounded
    return Count(start, (step,))


def _identity(network: Network, op: Op) -> Count | None:
    return network.counts.get(op.inputs[0])


def _cast(network: Network, op: Op) -> Count | None:
    """Only to what holds every index: others wrap, or are rounded."""
    return _identity(network, op) if op.attr("to") in _INDICES else None


def _unsqueeze(network: Network, op: Op) -> Count | None:
    count = network.counts.get(op.inputs[0])
    if count is None:
        return None
    steps = list(count.steps)
    where = op.ints(1, "axes") or []
    rank = len(steps) + len(where)
    for at in sorted(i % rank for i in where):
        steps.insert(at, 0)
    return Count(count.start, tuple(steps))


def _mul(network: Network, op: Op) -> Count | None:
    """Counts times a number."""
    for name, other in (op.inputs, op.inputs[::-1]):
        count, value = network.counts.get(name), network.value_of(other)
        if count is not None and value is not None and value.ndim == 0:
            by = value.tolist()
            return Count(count.start * by, tuple(step * by for step in count.steps))
    return None


def _add(network: Network, op: Op) -> Count | None:
    if not any(name in network.counts for name in op.inputs):
        return None
    counts = [count_of(network, name) for name in op.inputs]
    found = [count for count in counts if count is not None]
    if len(found) < len(counts):
        return None
    rank = max(len(count.steps) for count in found)
    start: Any = 0
    rising: list[list[tuple[Any, Axis]]] = [[] for _ in range(rank)]
    for count, name in zip(found, op.inputs, strict=True):
        start = start + count.start
        axes = network.axes_of(name) or ()
        for at, step, axis in zip(range(-len(axes), 0), count.steps, axes, strict=True):
            if axis.size != 1:  # else it is broadcast, if the other's is longer: it does not count
                rising[at].append((step, resolve(axis)))
    return Count(start, tuple(_sum_of_steps(each) for each in rising))


def _sum_of_steps(rising: list[tuple[Any, Axis]]) -> Any:
    """The step of a sum along one axis; unknown where a term may be broadcast along it."""
    unlike = any(axis is not rising[0][1] for _, axis in rising)
    if unlike and any(axis.size is None for _, axis in rising):
        return UNKNOWN
    return sum((step for step, _ in rising), start=0)


OPERATORS: dict[str, Callable[[Network, Op], Count | None]] = {
    "Range": _range,
    "Cast": _cast,
    "Identity": _identity,
    "Unsqueeze": _unsqueeze,
    "Mul": _mul,
    "Add": _add,
}
