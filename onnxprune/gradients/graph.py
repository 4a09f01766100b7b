"""A graph made runnable: every node a step, in order, on slots that are freed when last read.

A step is a kernel (see `table`) and the slots that it reads and writes. Bodies of If, Loop and Scan
are blocks of their own; what they read from outside they are given as further operands.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from onnx import GraphProto
from torch import Tensor
from torch.utils.checkpoint import checkpoint

from ..errors import OnnxPruneError, UnsupportedModel
from ..model import Model, Node, node_name, subgraphs
from . import operators as _operators  # noqa: F401 - fills the table
from .constants import Roles, everything, nodes_of
from .fallback import fallback
from .operators.quantised import latent
from .table import Kernel, Spec, find


class Step(NamedTuple):
    """One node: what it calls, reads and writes."""

    run: Kernel
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    #: Operands that stay on the CPU; None where the kernel places its operands itself.
    host: frozenset[int] | None
    node: Node


class Ready(NamedTuple):
    """A step of a plan, and the slots that nothing reads after it."""

    run: Kernel
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    drops: tuple[int, ...]
    node: Node


@dataclass
class Context:
    """What is the same for a graph and all of its bodies."""

    model: Model
    versions: dict[str, int]
    dtype: torch.dtype
    roles: Roles
    #: Element types of constants and inputs.
    types: dict[str, int]
    #: Where it runs; set before each run.
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))


class Block:
    """The nodes of one graph as steps. Called with a body's inputs, then with what it captures."""

    def __init__(self, nodes: Sequence[Node], inputs: Sequence[str], context: Context) -> None:
        #: Slot 0 is what is left out: always None.
        self.slots: dict[str, int] = {"": 0}
        self.context = context
        self.inputs = tuple(inputs)
        for name in inputs:
            self.slot(name)
        self.steps = [self._step(node) for node in nodes]

    def slot(self, name: str) -> int:
        """The slot of a tensor; a new one where it has none."""
        return self.slots.setdefault(name, len(self.slots))

    def _step(self, node: Node) -> Step:
        context = self.context
        captured: list[str] = []

        def compiled(graph: GraphProto) -> Body:
            body = Body(graph, context)
            captured.extend(body.captured)
            return body

        version = context.versions.get(node.proto.domain, 1)
        spec = Spec(node, version, context.dtype, compiled, context.types)
        run, host = kernel_of(spec, context)
        reads = tuple(self.slot(name) for name in (*node.inputs, *captured))
        writes = tuple(self.slot(name) for name in node.outputs)
        return Step(run, reads, writes, None if subgraphs(node.proto) else host, node)

    def plan(
        self, wanted: Collection[int], given: Collection[int], device: torch.device
    ) -> list[Ready]:
        """The steps that `wanted` slots depend on; these and `given` ones are never freed."""
        needed = set(wanted)
        steps: list[Step] = []
        for step in reversed(self.steps):
            if any(slot in needed and slot for slot in step.writes):
                needed.update(step.reads)
                steps.append(step)
        kept = {0, *wanted, *given}
        plan: list[Ready] = []
        for step in steps:  # the last comes first
            drops = tuple({*step.reads, *step.writes} - kept)
            kept.update(drops)
            run = step.run
            if device.type != "cpu" and step.host is not None:
                run = _placed(run, step.host, device)
            plan.append(Ready(run, step.reads, step.writes, drops, step.node))
        return plan[::-1]


class Body(Block):
    """The body of a node, which is called once or many times."""

    def __init__(self, graph: GraphProto, context: Context) -> None:
        nodes = nodes_of(graph)
        outputs = [value.name for value in graph.output]
        inputs = [value.name for value in graph.input]
        own = {name for node in everything(nodes) for name in node.outputs}
        reads = {name: None for node in everything(nodes) for name in node.inputs}
        for node in everything(nodes):
            for body in subgraphs(node.proto):
                own.update(value.name for value in body.input)
                reads.update((value.name, None) for value in body.output)
        reads.update((name, None) for name in outputs)
        self.captured = tuple(n for n in reads if n and n not in own and n not in inputs)
        super().__init__(nodes, (*inputs, *self.captured), context)
        self.results = tuple(self.slot(name) for name in outputs)
        self._plans: dict[torch.device, list[Ready]] = {}

    def __call__(self, *operands: Any) -> tuple[Any, ...]:
        """The body's outputs, from its inputs and then what it captures."""
        device = self.context.device
        plan = self._plans.get(device)
        if plan is None:
            plan = self._plans[device] = self.plan(self.results, (), device)
        values: list[Any] = [None] * len(self.slots)
        for name, value in zip(self.inputs, operands, strict=True):
            values[self.slots[name]] = value
        execute(plan, values)
        return tuple(values[slot] for slot in self.results)


def kernel_of(spec: Spec, context: Context) -> tuple[Kernel, frozenset[int]]:
    """A node's kernel, and its operands that stay on the CPU.

    Raises UnsupportedModel where there is no torch call for an operator that gradients of weights
    would have to come through.
    """
    node, found = spec.node, context.roles
    if node.inputs and node.inputs[0] in found.codes:
        return latent(found.codes[node.inputs[0]]), frozenset((1, 2))
    entry = find(node.kind, spec.version)
    if entry is not None:
        return entry.build(spec), entry.host
    if not found.live.isdisjoint(node.outputs) and not found.carrying.isdisjoint(node.inputs):
        raise spec.refuse(f"there is no torch call for version {spec.version} of this operator")
    return fallback(spec, context.model), frozenset(range(len(node.inputs)))


def _placed(run: Kernel, host: frozenset[int], device: torch.device) -> Kernel:
    """A kernel that moves what is small and on the CPU to what is not; shapes never move."""
    moved: dict[int, tuple[Tensor, Tensor]] = {}

    def place(i: int, value: Any) -> Any:
        if i in host or not isinstance(value, Tensor) or value.device.type != "cpu":
            return value
        last = moved.get(i)
        if last is None or last[0] is not value:  # a constant is the same at every run
            last = moved[i] = (value, value.to(device))
        return last[1]

    def placed(*operands: Any) -> Any:
        for i, value in enumerate(operands):
            if i not in host and isinstance(value, Tensor) and value.device.type != "cpu":
                return run(*[place(j, each) for j, each in enumerate(operands)])
        return run(*operands)

    return placed


def execute(plan: Sequence[Ready], values: list[Any]) -> None:
    """Run steps on `values`, one slot each, in place."""
    node = None
    try:
        for run, reads, writes, drops, node in plan:  # noqa: B007 - the error names it
            result = run(*[values[i] for i in reads])
            if type(result) is tuple:
                for i, value in zip(writes, result):  # noqa: B905 - trailing ones may be left out
                    if i:
                        values[i] = value
            else:
                values[writes[0]] = result
            for i in drops:
                values[i] = None
    except (OnnxPruneError, torch.OutOfMemoryError):
        raise
    except (RuntimeError, ValueError, IndexError, TypeError, AttributeError) as error:
        assert node is not None
        shapes = [
            list(v.shape) if isinstance(v, Tensor) else type(v).__name__
            for v in (values[i] for i in reads)
        ]
        raise UnsupportedModel(
            f"node {node_name(node.proto)!r} ({node.kind}) can't be run in torch on operands"
            f" {shapes}: {' '.join(str(error).split())[:300]}"
        ) from error


class Graph(Block):
    """The main graph: which steps a run takes, and in what pieces."""

    def __init__(self, nodes: Sequence[Node], inputs: Sequence[str], context: Context) -> None:
        super().__init__(nodes, inputs, context)
        self._segments: dict[Any, list[Segment]] = {}

    def fold(self, values: dict[int, Any], most: int) -> None:
        """Run what depends on constants alone once, and add it to `values` (slot -> value).

        Results of more than `most` elements are left to each run.
        """
        left = []
        for step in self.steps:
            if not self._folds(step, values):
                left.append(step)
                continue
            try:
                with torch.no_grad():
                    result = step.run(*[values.get(i) for i in step.reads])
            except Exception:  # the run will say so, if it comes to it
                left.append(step)
                continue
            results = result if type(result) is tuple else (result,)
            if all(isinstance(r, Tensor) and r.numel() <= most for r in results if r is not None):
                values.update((i, r) for i, r in zip(step.writes, results) if i)  # noqa: B905
            else:
                left.append(step)
        self.steps = left

    def _folds(self, step: Step, values: dict[int, Any]) -> bool:
        entry = find(step.node.kind, self.context.versions.get(step.node.proto.domain, 1))
        if step.host is None or entry is None or entry.random:
            return False
        return all(i == 0 or i in values for i in step.reads)

    def run(
        self, constants: dict[int, Any], feeds: dict[int, Any], wanted: tuple[int, ...], cuts: int
    ) -> list[Any]:
        """The values of `wanted` slots.

        Args:
            constants: value of each constant's slot.
            cuts: segments to keep the ends of alone, for gradients; 0 keeps everything.
        """
        values: list[Any] = [None] * len(self.slots)
        for slot, value in (*constants.items(), *feeds.items()):
            values[slot] = value
        cuts = cuts if torch.is_grad_enabled() else 0
        device = self.context.device
        key = (wanted, cuts, device)
        if key not in self._segments:
            plan = self.plan(wanted, tuple(constants), device)
            self._segments[key] = segments(plan, wanted, set(constants), cuts)
        for segment in self._segments[key]:
            if not cuts:
                execute(segment.plan, values)
                continue
            segment.run_again(values, constants)
        return [values[slot] for slot in wanted]


class Segment(NamedTuple):
    """Steps one after the other, what they read from before, and what is read after them."""

    plan: list[Ready]
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    drops: tuple[int, ...]

    def run_again(self, values: list[Any], constants: dict[int, Any]) -> None:
        """Run so that the backward pass computes again what is between the ends."""

        def inner(*operands: Any) -> tuple[Any, ...]:
            local: list[Any] = [None] * len(values)
            for slot, value in constants.items():
                local[slot] = value
            for slot, value in zip(self.reads, operands, strict=True):
                local[slot] = value
            execute(self.plan, local)
            return tuple(local[slot] for slot in self.writes)

        given = [values[slot] for slot in self.reads]
        for slot in self.drops:
            values[slot] = None
        made = checkpoint(inner, *given, use_reentrant=False)
        for slot, value in zip(self.writes, made, strict=True):
            values[slot] = value


def segments(
    plan: list[Ready], wanted: tuple[int, ...], constants: set[int], cuts: int
) -> list[Segment]:
    """A plan cut in pieces of equally many steps; in one piece where `cuts` is 0."""
    if not cuts:
        return [Segment(plan, (), (), ())]
    size = max(1, -(-len(plan) // cuts))
    pieces = [plan[at : at + size] for at in range(0, len(plan), size)]
    needed = set(wanted)
    found: list[Segment] = []
    for piece in reversed(pieces):
        writes = {slot for step in piece for slot in step.writes} - {0}
        reads = {slot for step in piece for slot in step.reads} - writes - constants - {0}
        ends = writes & needed
        # Inside a segment its ends stay, whoever reads them last.
        kept = [step._replace(drops=tuple(set(step.drops) - ends)) for step in piece]
        last = tuple(reads - needed)
        found.append(Segment(kept, tuple(sorted(reads)), tuple(sorted(ends)), last))
        needed |= reads
    return found[::-1]
