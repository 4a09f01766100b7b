"""Initial states that are zero are left out when a file is read: that is what none means.

PyTorch makes one tensor of zeros for all layers of a stacked LSTM, GRU or RNN, and slices it. It
says nothing, but through it every layer would have to keep the same channels.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from pathlib import Path

from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from .external import is_external
from .model import attributes, constant_tensor, graphs, tensor_array
from .unread import remove_unread

#: The operands that are initial states; without them, they are zero (the ONNX specification).
_STATES = {"LSTM": (5, 6), "GRU": (5,), "RNN": (5,)}
#: Operators whose outputs hold what their first operand holds, in another shape or type.
_MOVES = frozenset(
    {
        *("Identity", "Cast", "Reshape", "Squeeze", "Unsqueeze", "Transpose", "Flatten"),
        *("Slice", "Gather", "Split", "Expand", "Tile"),
    }
)
#: Constants of more elements than this are not looked at.
_MOST = 2**20


def drop_zero_states(proto: ModelProto) -> None:
    """Take initial states of zero away from recurrent nodes, in place."""
    for graph in graphs(proto.graph):
        cells = [node for node in graph.node if node.op_type in _STATES and _standard(node)]
        if cells:
            _drop(graph, cells)


def _drop(graph: GraphProto, cells: Iterable[NodeProto]) -> None:
    zeros = _Zeros(graph)
    dropped = set()
    for node in cells:
        for i in _STATES[node.op_type]:
            if i < len(node.input) and node.input[i] and node.input[i] in zeros:
                dropped.add(node.input[i])
                node.input[i] = ""
        while node.input and not node.input[-1]:
            del node.input[-1]
    if dropped:
        remove_unread(graph, dropped)


class _Zeros:
    """The tensors of a graph that are zero throughout, whatever its inputs are."""

    def __init__(self, graph: GraphProto) -> None:
        given = {value.name for value in graph.input}
        self.makers = {name: node for node in graph.node for name in node.output if name}
        self.stored = {t.name: t for t in graph.initializer if t.name not in given}
        self.known: dict[str, bool] = {}

    def __contains__(self, name: object) -> bool:
        todo = [str(name)]
        while todo:
            here = todo[-1]
            asked = [] if here in self.known else self._operands(here)
            unknown = [each for each in asked if each not in self.known]
            if unknown:
                todo.extend(unknown)
                continue
            if here not in self.known:
                self.known[here] = all(self.known[each] for each in asked) and self._can_be(here)
            todo.pop()
        return self.known[str(name)]

    def _operands(self, name: str) -> list[str]:
        """What has to be zero for this to be."""
        node = self.makers.get(name)
        if node is None or not _standard(node):
            return []
        if node.op_type == "Concat":
            return list(node.input)
        return list(node.input[:1]) if node.op_type in _MOVES else []

    def _can_be(self, name: str) -> bool:
        """Whether it is zero where its operands are."""
        node = self.makers.get(name)
        if node is None:
            return name in self.stored and _is_zero(self.stored[name])
        if not _standard(node):
            return False
        if node.op_type == "ConstantOfShape":
            value = attributes(node).get("value")
            return value is None or _is_zero(value)
        if node.op_type == "Constant":
            return _is_zero(constant_tensor(node))
        return node.op_type == "Concat" or node.op_type in _MOVES


def _is_zero(tensor: TensorProto) -> bool:
    if is_external(tensor) or tensor.data_type == TensorProto.STRING:
        return False
    return math.prod(tensor.dims) <= _MOST and not tensor_array(tensor, Path()).any()


def _standard(node: NodeProto) -> bool:
    return node.domain in ("", "ai.onnx")
