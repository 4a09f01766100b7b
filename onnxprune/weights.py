"""What a criterion may look at: the weights of a model's groups, and statistics of activations.

Weights are float arrays: codes of quantised weights less their zero point, times their scale. Each
is read when it is asked for; a few stay in memory.
"""

from __future__ import annotations

import math
import os
from collections import OrderedDict
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
from onnx import helper, numpy_helper

from .axes import Index
from .calibration import CalibrationData
from .errors import UsageError
from .groups import Group, Member
from .model import Array
from .network import Network, Quantised
from .reductions import REDUCTIONS, Scores, finite
from .runtime import run, session
from .statistics import Request, Statistic
from .uses import Consumer, Uses, chain

#: How many tensors are summed at a time; and elements: smaller ones are not worth a thread.
_THREADS, _SMALL = min(os.cpu_count() or 1, 4), 1 << 16
#: Elements that are summed at a time: what is made of them stays in the processor's cache.
_STRIP = 1 << 16
#: Bytes of weights that stay in memory.
_HELD = 1 << 27


class Weights:
    """The weights of `groups`, for criteria: `criterion(group, weights) -> scores`, `[cells]`.

    A group's `members` are the constants that it occurs in; `member.channels` are its *cells*, of
    which it has `group.cells` (its channels; or those of each attention head, where every head
    keeps channels of its own).
    """

    def __init__(
        self,
        network: Network,
        groups: Sequence[Group],
        reduction: str = "mean",
        measure: Callable[[Group, Sequence[Request]], dict[Request, Statistic]] | None = None,
        data: CalibrationData | None = None,
    ) -> None:
        self.network = network
        #: All groups that are scored, in the order of the graph.
        self.groups = list(groups)
        #: What there was to say about single groups: `{sentence: group names}`.
        self.notes: dict[str, list[str]] = {}
        #: What there was to say of all of them.
        self.said: list[str] = []
        #: What the user said of calibration data.
        self.data = data
        self._once: dict[str, Any] = {}
        self._reduction = REDUCTIONS[reduction]
        self._measure = measure
        self._quantised = network.quantised()
        self._norms: dict[float, dict[tuple[str, int], Scores]] = {}
        self._values: OrderedDict[str, Array] = OrderedDict()
        self._uses: Uses | None = None
        self._readers: dict[str, list[tuple[str, int]]] | None = None

    # -- weights ---------------------------------------------------------------------------------

    def scored(self, group: Group) -> list[Member]:
        """The members that carry importance: weights and biases, not running statistics."""
        return [member for member in group.members if member.scored]

    def value(self, name: str) -> Array:
        """A constant, or a tensor computed from constants alone, as float32 (or float64)."""
        if name in self._values:
            self._values.move_to_end(name)
            return self._values[name]
        found = self._read(name) if name in self.network.model.constants else self._fold(name)
        self._values[name] = found
        while len(self._values) > 1 and sum(x.nbytes for x in self._values.values()) > _HELD:
            self._values.popitem(last=False)
        return found

    def shape(self, name: str) -> list[int]:
        """The shape of a tensor whose sizes are known."""
        return [axis.size or 0 for axis in self.network.axes.get(name) or ()]

    def readers(self, name: str) -> list[tuple[str, int]]:
        """Every (operator, operand) that reads a tensor."""
        if self._readers is None:
            self._readers = {}
            for record in self.network.records:
                for i, each in enumerate(record.node.input):
                    self._readers.setdefault(each, []).append((record.node.op_type, i))
        return self._readers.get(name, [])

    def slices(self, group: Group, member: Member) -> Array:
        """A member's weights as a matrix with one row for each cell, `[cells, rest]`.

        Rows are of equal length; where a cell has less weights than another, zeros follow.
        """
        value = np.moveaxis(self.value(member.tensor), member.axis, 0)
        rows = value.reshape(len(value), -1)[member.positions]
        order = np.argsort(member.channels, kind="stable")
        cells = group.cells
        counts = np.bincount(member.channels, minlength=cells)
        if (counts == counts[0]).all():
            return rows[order].reshape(cells, -1)
        starts = np.cumsum(counts) - counts
        sorted_cells = member.channels[order]
        place = np.arange(len(order)) - starts[sorted_cells]
        wide = np.zeros((cells, int(counts.max()), rows.shape[1]), rows.dtype)
        wide[sorted_cells, place] = rows[order]
        return wide.reshape(cells, -1)

    def norms(self, group: Group, member: Member, power: float = 2.0) -> Scores:
        """The sum of |w|^power over each cell's slice of a member, `[cells]`.

        The first call for a power reads every weight of all groups once.
        """
        if power not in self._norms:
            self._norms[power] = self._all_norms(power)
        along = self._norms[power][member.tensor, member.axis]
        return per_cell(along, member.positions, member.channels, group.cells)

    def reduce(self, rows: Sequence[Scores]) -> Scores:
        """One score for each cell from one for each member or consumer, by `--reduction`."""
        return self._reduction(finite(np.stack(rows)))

    def _all_norms(self, power: float) -> dict[tuple[str, int], Scores]:
        wanted: dict[str, set[int]] = {}
        for group in self.groups:
            for member in group.members:
                if member.scored:
                    wanted.setdefault(member.tensor, set()).add(member.axis)
        constants = self.network.model.constants
        large = [name for name in wanted if math.prod(constants[name].dims) > _SMALL]
        found = {}
        # Numpy lets go of the interpreter while it reads and sums. Each tensor is one thread's, so
        # sums do not depend on how many there are.
        with ThreadPoolExecutor(_THREADS) as pool:
            jobs = {name: pool.submit(self._sums, name, wanted[name], power) for name in large}
            for name, axes in wanted.items():
                job = jobs.get(name)
                sums = self._sums(name, axes, power) if job is None else job.result()
                found.update({(name, axis): each for axis, each in sums.items()})
        return found

    def _sums(self, name: str, axes: Iterable[int], power: float) -> dict[int, Scores]:
        """The sum of |w|^power at each position of these axes of a constant, in one pass."""
        shape = self.network.model.constants[name].dims[:]
        found = {axis: np.zeros(shape[axis]) for axis in axes}
        for start, block in self.network.model.blocks(name):
            value = self._floats(name, block, shape, slice(start, start + len(block)))
            step = max(1, _STRIP * len(value) // max(1, value.size))
            for first in range(0, len(value), step):
                powers = _powers(value[first : first + step], power)
                rows = slice(start + first, start + first + len(powers))
                for axis, sums in found.items():
                    sums[rows if axis == 0 else slice(None)] += _sums_along(powers, axis)
        return found

    def _read(self, name: str) -> Array:
        value = self.network.model.read(name)
        return self._floats(name, value, value.shape, slice(None))

    def _floats(self, name: str, value: Array, shape: Sequence[int], rows: slice) -> Array:
        """These rows of a constant of `shape` as floats."""
        codes = self._quantised.get(name)
        if codes is not None or value.dtype not in (np.float32, np.float64):
            value = value.astype(np.float32)
        return value if codes is None else _dequantised(self.network, value, codes, shape, rows)

    def _fold(self, name: str) -> Array:
        """A tensor that nodes compute from constants: those nodes are run, and nothing else."""
        model = self.network.model
        nodes = chain(self.network, name)
        names = dict.fromkeys(each for node in nodes for each in node.input)
        held = [each for each in names if each in model.constants]
        tensors = [numpy_helper.from_array(model.read(each), each) for each in held]
        graph = helper.make_graph(
            nodes, "folded", [], [helper.make_empty_tensor_value_info(name)], tensors
        )
        proto = helper.make_model(
            graph, ir_version=model.proto.ir_version, opset_imports=model.proto.opset_import
        )
        value = run(session(proto, optimize=False), {})[name]
        return value if value.dtype == np.float64 else value.astype(np.float32)

    # -- uses ------------------------------------------------------------------------------------

    def consumers(self, group: Group) -> list[Consumer]:
        """The operators of the main graph that sum over the group's channels."""
        if self._uses is None:
            self._uses = Uses(self.network)
        return self._uses.consumers(group)

    # -- activations -----------------------------------------------------------------------------

    @property
    def calibrated(self) -> bool:
        """Whether there is calibration data."""
        return self._measure is not None

    def statistics(self, group: Group, requests: Iterable[Request]) -> dict[Request, Statistic]:
        """Measurements of activations on the calibration data.

        What the criterion's `needs` has announced for many groups is measured in one pass; anything
        else takes a pass of its own.

        Raises UsageError where there is no calibration data.
        """
        if self._measure is None:
            raise UsageError(NO_DATA.format(what="this criterion"))
        return self._measure(group, list(requests))

    def once(self, key: str, make: Callable[[], Any]) -> Any:
        """What `make` gives: made when it is first asked for."""
        if key not in self._once:
            self._once[key] = make()
        return self._once[key]

    def note(self, group: Group, sentence: str) -> None:
        """Something that the user should know of this group's scores."""
        self.notes.setdefault(sentence, []).append(group.name)

    def fallback(self, group: Group, reason: str) -> Scores:
        """The group's L2 norm, where a criterion has nothing to go by; a note says why.

        Scaled to a mean of one, since it is compared with scores of another kind.
        """
        self.note(group, f"{reason}: scored by group-l2")
        rows = [self.norms(group, member) for member in self.scored(group)]
        found = self.reduce(rows)
        mean = float(found.mean())
        return found / mean if mean else found


NO_DATA = (
    "{what} looks at activations and needs inputs: give --calibration (a .npz, a .npy, a folder of"
    " arrays or images, or `synthetic`); in Python calibration="
)


def per_cell(along: Scores, positions: Index, cells: Index, count: int) -> Scores:
    """Numbers along an axis, `[size of axis]`, summed up for each of `count` cells."""
    return np.bincount(cells, along[positions], minlength=count).astype(np.float64)


def _powers(value: Array, power: float) -> Array:
    """|w|^power in float64."""
    found = value.astype(np.float64)
    if power == 2:
        found *= found
        return found
    return np.asarray(np.abs(found) ** power)


def _sums_along(value: Array, axis: int) -> Scores:
    """The sum at each position of an axis; leading axes go first, over what lies side by side."""
    before, size, after = (
        math.prod(value.shape[part])
        for part in (slice(axis), slice(axis, axis + 1), slice(axis + 1, None))
    )
    rest = value.reshape(before, size * after).sum(axis=0) if before > 1 else value
    return np.asarray(rest.reshape(size, after).sum(axis=1))


def _dequantised(
    network: Network, value: Array, codes: Quantised, shape: Sequence[int], rows: slice
) -> Array:
    """Rows of codes less their zero point, times their scale, as far as these are constants."""
    constants = network.model.constants
    if codes.point in constants:
        point = network.model.read(codes.point).astype(np.float32)
        value = value - codes.spread(point, shape, rows)
    if codes.scale in constants:
        scale = network.model.read(codes.scale).astype(np.float32)
        value = value * codes.spread(scale, shape, rows)
    return value
