"""What is said in a plainer way when a file is read: constants that the graph writes into.

PyTorch exports `bias[64:128] = 0` as a ScatterND into a constant, at indices that are constants as
well. Which positions such a node writes is data, so it would pin its axes, though nothing there
depends on the model's inputs. The result takes the place, and where it can the name, of what was
written into.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from .external import is_external
from .model import (
    attributes,
    constant_tensor,
    copy_fields,
    reads,
    replace_value,
    subgraphs,
)
from .unread import remove_unread

_WRITES = frozenset({"ScatterND", "ScatterElements", "Scatter"})
#: What indices and updates are made with.
_ARITHMETIC = frozenset(
    {
        *("Identity", "Cast", "Reshape", "Transpose", "Unsqueeze", "Squeeze", "Concat", "Slice"),
        *("Gather", "Shape", "ConstantOfShape", "Expand", "Range", "Where", "Equal"),
        *("Add", "Sub", "Mul", "Div", "Neg"),
    }
)
#: Constants of more elements than this are left alone.
_MOST = 2**24


def plain_splits(proto: ModelProto) -> None:
    """Leave out the sizes of a SplitToSequence where they are 1 and `keepdims` is 0, in place.

    The standard ignores `keepdims` where sizes are given; onnxruntime does not, and PyTorch writes
    models for it. Without sizes, which are 1 then as well, all agree on the rank of the elements.
    """
    for node in proto.graph.node:
        if node.op_type == "SplitToSequence" and len(node.input) > 1:
            keep = attributes(node).get("keepdims", 1)
            if keep == 0 and _one(proto.graph, node.input[1]):
                del node.input[1:]


def _one(graph: GraphProto, name: str) -> bool:
    tensors = [tensor for tensor in graph.initializer if tensor.name == name]
    tensors += [
        constant_tensor(node)
        for node in graph.node
        if node.op_type == "Constant" and node.output[0] == name
    ]
    return any(not tensor.dims and numpy_helper.to_array(tensor) == 1 for tensor in tensors)


def fold_writes(proto: ModelProto) -> None:
    """Replace nodes that write constants into constants by their result, in place."""
    graph = proto.graph
    if any(node.op_type in _WRITES for node in graph.node):
        _Folder(proto).run()


class _Folder:
    def __init__(self, proto: ModelProto) -> None:
        self.proto = proto
        self.graph: GraphProto = proto.graph
        given = {value.name for value in self.graph.input}
        self.stored = {t.name: t for t in self.graph.initializer if t.name not in given}
        tensors = dict(self.stored)
        for node in self.graph.node:
            if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                tensors[node.output[0]] = constant_tensor(node)
        #: Constants, and what is computed from them and nothing else.
        self.tensors = {name: t for name, t in tensors.items() if _readable(t)}
        self.makers: dict[str, NodeProto] = {}
        self.uses = Counter(value.name for value in self.graph.output)
        for node in self.graph.node:
            self.uses.update(reads(node))

    def run(self) -> None:
        done: list[NodeProto] = []
        for node in self.graph.node:
            if node.domain not in ("", "ai.onnx") or not node.output:
                continue
            known = all(n in self.tensors or n in self.makers for n in node.input if n)
            if known and node.op_type in _ARITHMETIC:
                self.makers.update((name, node) for name in node.output)
            elif known and node.op_type in _WRITES and self._fold(node):
                done.append(node)
        if not done:
            return
        folded = {node.output[0] for node in done} - {""}
        for i in reversed(range(len(self.graph.node))):
            if not folded.isdisjoint(self.graph.node[i].output):
                del self.graph.node[i]
        remove_unread(self.graph, {*folded, *(name for node in done for name in reads(node))})

    def _fold(self, node: NodeProto) -> bool:
        value = self._evaluate(node)
        if value is None:
            return False
        data, name = node.input[0], node.output[0]
        own = data in self.stored and self.uses[data] == 1
        if own and name not in {value.name for value in self.graph.output}:
            tensor = self.stored[data]
            replace_value(tensor, value)
            self._rename(name, data)
            self.tensors[data] = tensor
        else:
            tensor = numpy_helper.from_array(value, name)
            self.graph.initializer.append(tensor)
            self.tensors[name] = tensor
        return True

    def _evaluate(self, node: NodeProto) -> np.ndarray | None:
        """The value of `node`, whose operands are all made from constants."""
        from onnx.reference import ReferenceEvaluator

        nodes, names = _cone(node, self.makers)
        small = ModelProto()
        copy_fields(self.proto, small, without="graph")
        graph = onnx.helper.make_graph(
            nodes,
            "constants",
            [],
            [onnx.ValueInfoProto(name=node.output[0])],
            [_named(self.tensors[name], name) for name in sorted(names)],
        )
        small.graph.CopyFrom(graph)
        try:
            (value,) = ReferenceEvaluator(small).run(None, {})
        except Exception:  # of any type: what it can't compute stays a node
            return None
        return np.asarray(value)

    def _rename(self, old: str, new: str) -> None:
        todo = [self.graph]
        while todo:
            graph = todo.pop()
            for node in graph.node:
                for i, name in enumerate(node.input):
                    if name == old:
                        node.input[i] = new
                todo.extend(subgraphs(node))
        self.uses[new] += self.uses.pop(old, 0)


def _readable(tensor: TensorProto) -> bool:
    return not is_external(tensor) and math.prod(tensor.dims) <= _MOST


def _cone(node: NodeProto, makers: Mapping[str, NodeProto]) -> tuple[list[NodeProto], set[str]]:
    """The nodes that `node` depends on, in order, itself the last; and the constants they read."""
    order: list[NodeProto] = []
    names: set[str] = set()
    todo: list[tuple[NodeProto, bool]] = [(node, False)]
    seen: set[str] = set()
    while todo:
        node, ready = todo.pop()
        if ready:
            order.append(node)
            continue
        if node.output[0] in seen:
            continue
        seen.add(node.output[0])
        todo.append((node, True))
        for name in node.input:
            if name in makers:
                todo.append((makers[name], False))
            elif name:
                names.add(name)
    return order, names


def _named(tensor: TensorProto, name: str) -> TensorProto:
    """`tensor`, under the name that a Constant node gives it."""
    if tensor.name == name:
        return tensor
    copy = TensorProto()
    copy.CopyFrom(tensor)
    copy.name = name
    return copy
