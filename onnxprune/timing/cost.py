"""The time of a model for any widths, in ms, as a sum over the operators that onnxruntime runs.

Each operator's time in the original model comes from that model's own profile. How it changes with
the widths is

- for operators that multiply (and take more than a trifle of the time): measured, alone, on a grid
  of widths (`templates`, `timer`, `stairs`), relative to what it takes there at full width;
- for the others: in proportion to the elements they read and write, but for a fixed part.

What the run takes beyond its kernels, and operators whose axes are not known, stay as they are.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Container, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import product

from onnxprune.axes import Axis
from onnxprune.costs import Cost, Term
from onnxprune.inputs import Feeds
from onnxprune.network import Network
from onnxprune.runtime import find_inputs

from . import hardware
from .cache import Cache
from .convolutions import CONVOLUTIONS, convolution
from .executed import Executed, Execution, execute
from .reorders import reorders
from .stairs import Table, settled
from .templates import Coordinates, Template, evaluate, operator
from .tensors import Axes, blocked, sizes_of, tensor_axes
from .timer import Timer, onnxruntime_timer

#: Operators whose time is measured over widths.
_MULTIPLYING = {
    *("Gemm", "FusedGemm", "MatMul", "FusedMatMul", "LSTM", "GRU", "RNN", "Attention"),
    *("MultiHeadAttention", "GroupQueryAttention", "MatMulNBits", "QLinearConv", "ConvInteger"),
    *("MatMulInteger", "QLinearMatMul", "QGemm", "DynamicQuantizeMatMul", "MatMulIntegerToFloat"),
}
#: An operator with less than this share of the time is not measured.
_TRIFLE = 0.001
#: ms that an operator takes however little it computes, at most.
_OVERHEAD = 0.002
#: ms between two kernels, at most: more is not the model's, but another process's.
_BETWEEN = 0.002


@dataclass
class Measured:
    """The model's time, and how it was found."""

    cost: Cost
    #: ms of the original, unprofiled
    wall_ms: float
    threads: int
    #: operators that were timed over widths, of how many that are run
    timed: int = 0
    nodes: int = 0
    #: times that were measured now, and those that were in the cache
    fresh: int = 0
    cached: int = 0
    notes: list[str] = field(default_factory=list)


def latency_cost(
    network: Network,
    shapes: Mapping[str, Sequence[int]] | None = None,
    threads: int = 1,
    *,
    seed: int = 0,
    cache: Cache | None = None,
    timer: Timer | None = None,
    execution: Execution | None = None,
) -> Measured:
    """Measure what a model's latency depends on.

    Args:
        shapes: `{input: [d, ...]}` for dynamic dims; else sizes that the model runs with are found.
        cache: where times are kept; by default a file for this hardware among the user's caches.
        timer, execution: stand-ins for onnxruntime, for tests.

    Raises:
        UnsupportedModel: the model does not run.
    """
    notes: list[str] = []
    model = network.model
    if execution is None:
        feeds: Feeds = find_inputs(model.proto, shapes, seed=seed, base_dir=model.base_dir).feeds[0]
        execution = execute(model.proto, feeds, threads=threads, base_dir=model.base_dir)
    if cache is None:
        cache = Cache(hardware.fingerprint(threads), note=notes.append)
    notes += _unpacked(execution)
    axes = tensor_axes(network, execution)
    whole = sum(done.ms for done in execution.nodes)
    templates = [
        _template(network, execution, axes, done) if done.ms > _TRIFLE * whole else None
        for done in execution.nodes
    ]
    found = Measured(
        Cost((), "ms"), execution.wall_ms, threads, nodes=len(execution.nodes), notes=notes
    )
    padded = blocked(execution)
    tables = _tables(templates, cache, timer or onnxruntime_timer(threads), found)
    terms = []
    fixed = min(max(0.0, execution.wall_ms - whole), _BETWEEN * len(execution.nodes))
    for done, template in zip(execution.nodes, templates, strict=True):
        table = None if template is None else tables.get(_table_key(template))
        if template is not None and table is not None:
            found.timed += 1
            terms.append(Term(done.node.name, template.axes, _relative(table, done.ms)))
        elif (term := _proportional(done, axes, padded)) is not None:
            terms.append(term)
        else:
            fixed += done.ms
    terms += reorders(execution, axes, padded, hardware.block())
    found.cost = Cost(terms, "ms", fixed)
    return found


def _unpacked(execution: Execution) -> list[str]:
    """A note, where weights are inputs as well: that alone can double a model's time."""
    loose = [
        done
        for done in execution.nodes
        if done.node.op_type in CONVOLUTIONS
        and len(done.inputs) > 1
        and not done.inputs[1].constant
    ]
    if not loose:
        return []
    return [
        f"the weights of {len(loose)} convolutions are listed among the model's inputs, which"
        " switches onnxruntime's fast kernels off"
    ]


def _template(
    network: Network, execution: Execution, axes: Mapping[str, Axes], done: Executed
) -> Template | None:
    """What to time for a node, if it is one of those that multiply."""
    if not done.inputs or not done.outputs:
        return None
    if done.node.op_type in CONVOLUTIONS:
        given, made = (sizes_of(axes, o)[1] for o in (done.inputs[0], done.outputs[0]))
        return convolution(done, given, made, hardware.block())
    if done.node.op_type not in _MULTIPLYING:
        return None
    original = execution.originals.get(done.node.name)
    bound: dict[str, Axis] = {}
    if original is not None:
        output = next((name for name in original.output if name), "")
        for patch in network.patches:
            if isinstance(patch.slot, str) and output in patch.node.output and None in patch.sizes:
                bound[patch.slot] = patch.sizes[None]
    shapes = [sizes_of(axes, operand) for operand in done.inputs]
    return operator(done, shapes, bound, execution.constants, network.model.opset)


def _table_key(template: Template) -> tuple[str, tuple[int, ...]]:
    return template.key, template.full


def _tables(
    templates: Sequence[Template | None], cache: Cache, timer: Timer, found: Measured
) -> dict[tuple[str, tuple[int, ...]], Table]:
    """A table for each distinct operator; what is not in the cache is timed and put there."""
    distinct = {_table_key(t): t for t in templates if t is not None}
    grids = {key: list(product(*t.edges)) for key, t in distinct.items()}
    missing: dict[tuple[str, tuple[int, ...]], Template] = {}
    for key, template in distinct.items():
        known = cache.times(template.key)
        found.cached += sum(at in known for at in grids[key])
        missing.update(((template.key, at), template) for at in grids[key] if at not in known)
    tasks = [(template, at) for (_, at), template in missing.items()]
    for (template, at), ms in zip(tasks, timer(tasks) if tasks else [], strict=True):
        if ms is not None:
            cache.add(template.key, {at: ms})
            found.fresh += 1
    if tasks:
        cache.save()
    tables = {}
    for key, template in distinct.items():
        known = cache.times(template.key)
        if all(at in known for at in grids[key]):
            times = settled({at: known[at] for at in grids[key]})
            tables[key] = Table(template.edges, times, template.steps)
    return tables


def _relative(table: Table, ms: float) -> Callable[..., float]:
    """A node's time: that in the model, times how the operator alone changes with its widths."""
    scale = ms / table.full
    return _remembered(lambda *sizes: scale * table(*sizes))


def _proportional(done: Executed, axes: Mapping[str, Axes], padded: Container[str]) -> Term | None:
    """A time in proportion to the elements of what is read and written; None where these stay.

    Args:
        padded: tensors whose channels count in whole blocks.
    """
    coordinates = Coordinates()
    shapes = []
    for operand in (*done.inputs, *done.outputs):
        sizes = [coordinates.size(axis) for axis in sizes_of(axes, operand)]
        blocks = operand.name in padded and len(sizes) > 2
        shapes.append((sizes, hardware.block() if blocks else 1))
    if not coordinates.axes:
        return None

    def elements(at: Sequence[int]) -> int:
        total = 0
        for sizes, block in shapes:
            shape = [evaluate(size, at) for size in sizes]
            if block > 1:
                shape[1] = -(-shape[1] // block) * block
            total += math.prod(shape)
        return total

    fixed = min(done.ms / 2, _OVERHEAD)
    per_element = (done.ms - fixed) / elements(coordinates.full)

    def value(*sizes: int) -> float:
        return fixed + per_element * elements(sizes)

    return Term(done.node.name, tuple(coordinates.axes), _remembered(value))


def _remembered(value: Callable[..., float]) -> Callable[..., float]:
    known: dict[tuple[int, ...], float] = {}

    def remembered(*sizes: int) -> float:
        found = known.get(sizes)
        if found is None:
            found = known[sizes] = value(*sizes)
        return found

    return remembered
