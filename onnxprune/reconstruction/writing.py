"""Putting refitted weights and biases into a ModelProto, each as a tensor of its own."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from ..model import Array, captured, constant_tensor, replace_value, subgraphs, tensor_array
from ..runtime import run, session

#: Operators that only arrange their first operand anew.
ARRANGING = frozenset({"Reshape", "Transpose", "Identity", "Flatten", "Squeeze", "Unsqueeze"})


class Written(NamedTuple):
    """One thing that a `Writer` has done: enough to do it again on an equal model."""

    #: `operand`, `add` or `absorb`: the method.
    kind: str
    #: The first output of the node.
    node: str
    slot: int
    value: Array
    wish: str


class Writer:
    """The constants of a model by node and operand."""

    def __init__(
        self,
        model: ModelProto,
        base_dir: Path = Path("."),
        ranks: Mapping[str, int] | None = None,
    ) -> None:
        self.model, self.base_dir = model, base_dir
        #: The number of axes of each tensor.
        self.ranks = ranks or {}
        #: What the Add behind a tensor has taken of its intercept, `[channels]`.
        self.absorbed: dict[str, Array] = {}
        #: What has been done, where that is to be known.
        self.log: list[Written] | None = None
        self.reindex()

    def reindex(self) -> None:
        """Read the graph anew."""
        graph = self.model.graph
        self.nodes: dict[str, NodeProto] = {
            name: node for node in graph.node for name in node.output if name
        }
        self.initializers: dict[str, TensorProto] = {t.name: t for t in graph.initializer}
        self.uses: dict[str, int] = {}
        for node in graph.node:
            for name in node.input:
                self.uses[name] = self.uses.get(name, 0) + 1
            for body in subgraphs(node):
                for name in captured(body):
                    self.uses[name] = self.uses.get(name, 0) + 1
        self.taken = {*self.initializers, *self.nodes, *(v.name for v in graph.input)}

    def node(self, output: str) -> NodeProto:
        """The node that makes a tensor."""
        return self.nodes[output]

    def read(self, name: str) -> Array:
        """The value of a constant, or of one that is only arranged anew."""
        if name in self.initializers:
            return tensor_array(self.initializers[name], self.base_dir, name)
        if self.nodes[name].op_type in ARRANGING:
            return self._arranged(self.nodes[name])
        return tensor_array(constant_tensor(self.nodes[name]), self.base_dir, name)

    def shape(self, name: str) -> list[int]:
        """The shape of a constant."""
        found = self.initializers.get(name)
        if found is not None:
            return list(found.dims)
        if self.nodes[name].op_type in ARRANGING:
            return list(self.read(name).shape)
        return list(constant_tensor(self.nodes[name]).dims)

    def _arranged(self, node: NodeProto) -> Array:
        graph = GraphProto(name="arranged", node=[node])
        for name in node.input:
            if name:
                graph.initializer.append(numpy_helper.from_array(self.read(name), name))
        graph.output.append(onnx.ValueInfoProto(name=node.output[0]))
        piece = ModelProto(ir_version=max(self.model.ir_version, 4), graph=graph)
        piece.opset_import.extend(self.model.opset_import)
        return next(iter(run(session(piece, optimize=False), {}).values()))

    def write(self, node: NodeProto, slot: int, value: Array, wish: str) -> None:
        """Give operand `slot` of `node` this value; nobody else's operand changes."""
        self._note("operand", node, slot, value, wish)
        self._write(node, slot, value, wish)

    def _write(self, node: NodeProto, slot: int, value: Array, wish: str) -> None:
        while len(node.input) <= slot:
            node.input.append("")
        name = node.input[slot]
        own = name in self.initializers and self.uses.get(name, 0) == 1
        value = np.ascontiguousarray(value)
        if own and not self._is_output(name):
            replace_value(self.initializers[name], value)
            return
        new, n = wish, 1
        while new in self.taken:
            n += 1
            new = f"{wish}_{n}"
        self.taken.add(new)
        graph = self.model.graph
        graph.initializer.append(numpy_helper.from_array(value, new))
        self.initializers[new] = graph.initializer[-1]
        if self.model.ir_version < 4:  # every initializer is listed as an input as well
            kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
            graph.input.append(onnx.helper.make_tensor_value_info(new, kind, value.shape))
        if name:
            self.uses[name] -= 1
        node.input[slot] = new
        self.uses[new] = 1

    def _is_output(self, name: str) -> bool:
        return any(value.name == name for value in self.model.graph.output)

    def sweep(self) -> None:
        """Remove what nothing reads any more since it was written anew."""
        graph = self.model.graph
        idle = {name for name, n in self.uses.items() if n == 0}
        for i in reversed(range(len(graph.node))):
            node = graph.node[i]
            if node.op_type in ARRANGING and idle.intersection(node.output):
                for name in node.input:
                    self.uses[name] = self.uses.get(name, 0) - 1
                    if not self.uses[name]:
                        idle.add(name)
                del graph.node[i]
        gone = {name for name, n in self.uses.items() if n == 0 and not self._is_output(name)}
        for i in reversed(range(len(graph.initializer))):
            if graph.initializer[i].name in gone:
                del graph.initializer[i]
        for i in reversed(range(len(graph.input))):
            if graph.input[i].name in gone:
                del graph.input[i]
        for i in reversed(range(len(graph.node))):
            node = graph.node[i]
            if node.op_type == "Constant" and node.output[0] in gone:
                del graph.node[i]

    def insert_add(self, node: NodeProto, value: Array) -> None:
        """Add a constant to the first output of `node`, by a node of its own behind it."""
        self._note("add", node, 0, value, "")
        graph = self.model.graph
        name = node.output[0]
        inner, n = f"{name}_product", 1
        while inner in self.taken:
            n += 1
            inner = f"{name}_product_{n}"
        at = next(i for i, each in enumerate(graph.node) if name in each.output)
        graph.node[at].output[0] = inner
        added = onnx.helper.make_node("Add", [inner, ""], [name], name=f"{inner}_bias")
        graph.node.insert(at + 1, added)
        self.taken.add(inner)
        self.nodes[inner], self.nodes[name] = graph.node[at], graph.node[at + 1]
        self._write(self.nodes[name], 1, value, f"{inner}_bias_value")

    def absorb(self, node: NodeProto, shift: Array) -> None:
        """Say that the Add behind the first output of `node` has taken this of its intercept."""
        self._note("absorb", node, 0, shift, "")
        name = node.output[0]
        self.absorbed[name] = self.absorbed.get(name, 0.0) + shift

    def repeat(self, done: Written) -> None:
        """Do what a writer of an equal model has done."""
        node = self.nodes[done.node]
        if done.kind == "operand":
            self.write(node, done.slot, done.value, done.wish)
        elif done.kind == "add":
            self.insert_add(node, done.value)
        else:
            self.absorb(node, done.value)

    def _note(self, kind: str, node: NodeProto, slot: int, value: Array, wish: str) -> None:
        if self.log is not None:
            first = next(name for name in node.output if name)
            self.log.append(Written(kind, first, slot, value, wish))
