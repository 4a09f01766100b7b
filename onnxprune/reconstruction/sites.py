"""Which nodes are refitted: those that multiply data by constant weights, and where each ends.

A site's output is compared where it counts. If it runs into a residual Add, through operators that
scale and shift each channel (a BatchNormalization, a bias), the target is the *sum*: then the site
also corrects the error that the residual stream has gathered so far. If all that reads the result
is a Relu, only what passes it counts.
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, field

from onnx import NodeProto, TensorProto

from ..axes import Axis
from ..model import Model, captured, node_name, subgraphs
from ..network import Network
from .operators import Linear, Unsupported, linear_of
from .writing import ARRANGING


@dataclass(frozen=True)
class Step:
    """An operator on the way from a site to its end; `data` is the operand that comes from it."""

    node: NodeProto
    data: int


@dataclass(eq=False)
class Site:
    """One node that can be refitted, and what its result runs into."""

    node: NodeProto
    index: int
    linear: Linear
    #: Operators that scale and shift each channel, up to `end`.
    steps: list[Step]
    #: The tensor that is compared: the node's own output, or the sum that it runs into.
    end: str
    #: What is added to it there, or "".
    other: str
    #: The Add whose constant takes the intercept, if the node has no bias: (node, operand).
    absorber: tuple[NodeProto, int] | None
    #: True where only what is positive at `end` is read.
    relu: bool
    axes: list[Axis] = field(default_factory=list)

    @property
    def name(self) -> str:
        return node_name(self.node)

    @property
    def x(self) -> str:
        return str(self.node.input[self.linear.x])

    @property
    def y(self) -> str:
        return str(self.node.output[0])

    @property
    def weight(self) -> str:
        return str(self.node.input[self.linear.w])

    @property
    def hidden(self) -> bool:
        """True where the product is no tensor of the graph: more is done inside of the node."""
        return any(a.name == "activation" for a in self.node.attribute) or len(self.node.input) > 3


_SCALES = {"Add", "Sub", "Mul", "Div", "BatchNormalization"}
_PASSES = {"Identity", "Dropout"}


def find_sites(network: Network) -> tuple[list[Site], list[tuple[str, str]]]:
    """The sites of a model in graph order, and the nodes left out: (node, reason)."""
    graph = _Graph(network.model)
    found: list[Site] = []
    skipped: list[tuple[str, str]] = []
    for index, node in enumerate(graph.nodes):
        try:
            site = _site(network, graph, index, node)
        except Unsupported as error:
            skipped.append((node_name(node), str(error)))
            continue
        if site is not None:
            found.append(site)
    return found, skipped


class _Graph:
    """Who reads what, and what comes before what."""

    def __init__(self, model: Model) -> None:
        self.nodes: Sequence[NodeProto] = model.proto.graph.node
        self.constants = model.constants
        self.readers: dict[str, list[tuple[int, int]]] = defaultdict(list)
        self.first: dict[str, int] = {}
        self.outputs = {value.name for value in model.proto.graph.output}
        for i, node in enumerate(self.nodes):
            for slot, name in enumerate(node.input):
                self.readers[name].append((i, slot))
            for body in subgraphs(node):
                for name in captured(body):
                    self.readers[name].append((i, -1))
            for name in node.output:
                self.first[name] = i
        self._before: dict[int, frozenset[int]] = {}

    def weight(self, name: str) -> TensorProto | None:
        """The constant that a tensor is, or is only another arrangement of."""
        for _ in range(8):
            if name in self.constants:
                return self.constants[name]
            i = self.first.get(name)
            if i is None or self.nodes[i].op_type not in ARRANGING or len(self.readers[name]) > 1:
                return None
            name = self.nodes[i].input[0]
        return None

    def before(self, name: str) -> set[int]:
        """The nodes that a tensor depends on."""
        found: set[int] = set()
        todo = [name]
        while todo:
            i = self.first.get(todo.pop())
            if i is not None and i not in found:
                found.add(i)
                todo.extend(self.nodes[i].input)
                for body in subgraphs(self.nodes[i]):
                    todo.extend(captured(body))
        return found


def _site(network: Network, graph: _Graph, index: int, node: NodeProto) -> Site | None:
    constant = [graph.weight(name) is not None for name in node.input]
    rank = [len(network.axes.get(name) or ()) for name in node.input]
    linear = linear_of(node, constant, rank)
    if linear is None:
        return None
    weight = node.input[linear.w]
    if len(graph.readers[weight]) > 1:
        raise Unsupported("its weights are shared with another node")
    made_of = graph.weight(weight)
    if made_of is None or made_of.data_type not in (1, 10, 11):
        raise Unsupported("its weights are no floats")
    axes = network.axes.get(node.output[0])
    if axes is None:
        raise Unsupported("the rank of its output is unknown")
    _check_bias(network, node, linear)
    site = Site(node, index, linear, [], node.output[0], "", None, False, list(axes))
    if site.hidden:
        site.other = node.input[3] if len(node.input) > 3 else ""
        site.relu = any(a.name == "activation" and a.s == b"Relu" for a in node.attribute)
        return site
    _follow(network, graph, site)
    return site


def _check_bias(network: Network, node: NodeProto, linear: Linear) -> None:
    if linear.bias is None or linear.bias >= len(node.input) or not node.input[linear.bias]:
        return
    constant = network.model.constants.get(node.input[linear.bias])
    if constant is None:
        raise Unsupported("its bias is computed at run time")
    size = (network.axes.get(node.output[0]) or [])[linear.channel_axis].size
    if math.prod(constant.dims) != size or (constant.dims and constant.dims[-1] != size):
        raise Unsupported("its bias is not one number for each channel")


def _follow(network: Network, graph: _Graph, site: Site) -> None:
    """Follow a site's output to the residual Add that it runs into, or as far as it is alone."""
    name, steps = site.y, []
    while name not in graph.outputs and len(graph.readers[name]) == 1:
        i, slot = graph.readers[name][0]
        node = graph.nodes[i]
        if slot < 0 or node.domain not in ("", "ai.onnx"):
            break
        others = [n for j, n in enumerate(node.input) if j != slot and n]
        if node.op_type in _PASSES and slot == 0:
            steps.append(Step(node, slot))
        elif (
            node.op_type in _SCALES
            and all(n in graph.constants for n in others)
            and not (node.op_type == "Div" and slot != 0)
            and not (node.op_type == "BatchNormalization" and slot != 0)
        ):
            steps.append(Step(node, slot))
            if node.op_type == "Add" and len(steps) == 1 and _per_channel(network, site, others[0]):
                site.absorber = node, 1 - slot
        elif node.op_type == "Add" and _same_shape(network, node, others[0]):
            # The other operand must be known before this site is fitted, and not come from it.
            before = graph.before(others[0])
            if site.index not in before and all(
                j < site.index or not _is_product(graph, j) for j in before
            ):
                steps.append(Step(node, slot))
                site.other, name = others[0], node.output[0]
            break
        else:
            break
        name = node.output[0]
    if not site.other:
        while steps and steps[-1].node.op_type in _PASSES:
            steps.pop()
        name = steps[-1].node.output[0] if steps else site.y
    site.steps, site.end = steps, name
    readers = graph.readers[name]
    site.relu = (
        bool(readers)
        and name not in graph.outputs
        and all(slot == 0 and graph.nodes[i].op_type == "Relu" for i, slot in readers)
    )


def _is_product(graph: _Graph, i: int) -> bool:
    node = graph.nodes[i]
    return any(graph.weight(name) is not None for name in node.input[:2]) and node.op_type in (
        "Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "FusedMatMul", "FusedGemm",
        "NhwcFusedConv", "LSTM", "GRU",
    )  # fmt: skip


def _per_channel(network: Network, site: Site, name: str) -> bool:
    """True where a constant has one number for each channel of the site's output."""
    dims = list(network.model.constants[name].dims)
    rank, axis = len(site.axes), site.linear.channel_axis % len(site.axes)
    at = axis - (rank - len(dims))
    size = site.axes[axis].size
    return at >= 0 and all(d == (size if i == at else 1) for i, d in enumerate(dims))


def _same_shape(network: Network, node: NodeProto, other: str) -> bool:
    ours = network.axes.get(node.output[0]) or []
    theirs = network.axes.get(other) or []
    return len(ours) == len(theirs) and all(
        a.size == b.size and not (b.size == 1 and a.size != 1)
        for a, b in zip(ours, theirs, strict=True)
    )
