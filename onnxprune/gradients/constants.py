"""What each constant of a graph is to training: a parameter, a running statistic, or just a value.

A constant is a parameter where it is a float that some output has a gradient of. That is read off
the graph: gradients come back through every node but those whose operators have none (ArgMax, a
Cast to integers), and into every operand but those that say how and not what (indices, bounds).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from onnx import GraphProto, TensorProto

from ..model import Model, Node, attributes, subgraphs
from .quantising import Codes, codes_of
from .table import find
from .types import FLOATS

#: The largest number that a weight is; what has larger ones is a mask.
_LARGEST = 1e30
#: Operators that quantised weights are read through.
DEQUANTIZE = ("DequantizeLinear", "com.microsoft.DequantizeLinear")
_STATISTICS = {"BatchNormalization": (3, 4)}


@dataclass
class Roles:
    """The constants of a graph by what they are to training, in the order of their first use."""

    parameters: list[str] = field(default_factory=list)
    statistics: list[str] = field(default_factory=list)
    #: Quantised weights among the parameters.
    codes: dict[str, Codes] = field(default_factory=dict)
    #: Tensors that some output has a gradient of, and those that a float constant has a say in.
    live: set[str] = field(default_factory=set)
    carrying: set[str] = field(default_factory=set)


def everything(nodes: Sequence[Node]) -> Iterator[Node]:
    """The nodes of a graph in order, each before those of its bodies; no constants."""
    for node in nodes:
        yield node
        for body in subgraphs(node.proto):
            yield from everything(nodes_of(body))


def nodes_of(graph: GraphProto) -> list[Node]:
    """The nodes of `graph` alone that compute something."""
    return [
        Node.of(each)
        for each in graph.node
        if not (each.op_type == "Constant" and each.domain in ("", "ai.onnx"))
    ]


def roles(
    model: Model, nodes: Sequence[Node], versions: dict[str, int], numbers: bool = False
) -> Roles:
    """The constants that `nodes` read, sorted by what they are.

    Args:
        nodes: the main graph's, in order, after operators were expanded.
        versions: of operators, by domain.
        numbers: whether floats of rank 0 are parameters as well.
    """
    found = Roles()
    _walk_back(nodes, [value.name for value in model.proto.graph.output], versions, found)
    quantised = _quantised(model, nodes, found.live)
    running: dict[str, None] = {}
    seen: dict[str, None] = {}
    for node in everything(nodes):
        for i in _STATISTICS.get(node.kind, ()):
            running[node.inputs[i]] = None
        seen.update(dict.fromkeys(node.inputs))
    for node in everything(nodes):
        for body in subgraphs(node.proto):
            seen.update(dict.fromkeys(value.name for value in body.output))
    for name in seen:
        if name not in model.constants:
            continue
        if name in running:
            found.statistics.append(name)
        elif name in quantised:
            found.codes[name] = quantised[name]
            found.parameters.append(name)
        elif name in found.live and is_weight(model, name, numbers):
            found.parameters.append(name)
    _walk_on(nodes, versions, set(found.parameters), found)
    return found


def is_weight(model: Model, name: str, numbers: bool) -> bool:
    """Whether a constant holds what could have been learned."""
    tensor = model.constants[name]
    if tensor.data_type not in FLOATS and tensor.data_type != TensorProto.DOUBLE:
        return False
    if not tensor.dims and not numbers:
        return False
    value = model.read(name)
    return value.size > 0 and bool((np.abs(value.astype(np.float64)) < _LARGEST).all())


def passes(node: Node, version: int) -> bool:
    """Whether gradients come back through a node."""
    if node.kind in ("Cast", "CastLike"):
        to = attributes(node.proto).get("to", TensorProto.FLOAT)
        return to in FLOATS or to == TensorProto.DOUBLE
    entry = find(node.kind, version)
    return entry is None or entry.differentiable


def _walk_back(
    nodes: Sequence[Node], outputs: Sequence[str], versions: dict[str, int], found: Roles
) -> None:
    live = found.live
    live.update(outputs)
    for node in reversed(nodes):
        version = versions.get(node.proto.domain, 1)
        if live.isdisjoint(node.outputs) or not passes(node, version):
            continue
        entry = find(node.kind, version)
        fixed = entry.fixed if entry else frozenset()
        live.update(name for i, name in enumerate(node.inputs) if name and i not in fixed)
        for body in subgraphs(node.proto):
            _walk_back(nodes_of(body), [value.name for value in body.output], versions, found)


def _walk_on(
    nodes: Sequence[Node], versions: dict[str, int], weights: set[str], found: Roles
) -> None:
    carrying = found.carrying
    carrying |= weights
    for node in nodes:
        reads = set(node.inputs)
        for body in subgraphs(node.proto):
            inner = nodes_of(body)
            for each in everything(inner):
                reads.update(each.inputs)
            reads.update(value.name for value in body.output)
            if not carrying.isdisjoint(node.inputs):
                carrying.update(value.name for value in body.input)
            _walk_on(inner, versions, weights, found)
        if not carrying.isdisjoint(reads) and passes(node, versions.get(node.proto.domain, 1)):
            carrying.update(name for name in node.outputs if name)


def _quantised(model: Model, nodes: Sequence[Node], live: set[str]) -> dict[str, Codes]:
    """Integer constants that are read as weights, and as nothing else."""
    readers: dict[str, list[Node]] = {}
    for node in everything(nodes):
        for name in node.inputs:
            if name in model.constants:
                readers.setdefault(name, []).append(node)
    found = {}
    for name, uses in readers.items():
        if len({(node.kind, node.inputs, _axis(node)) for node in uses}) != 1:
            continue
        node = uses[0]
        if node.kind not in DEQUANTIZE or node.inputs[0] != name or live.isdisjoint(node.outputs):
            continue
        codes = codes_of(model, node)
        if codes is not None:
            found[name] = codes
    return found


def _axis(node: Node) -> str:
    return repr(sorted(attributes(node.proto).items()))
