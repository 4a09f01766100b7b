"""Shared vectors, split so that each use has a copy of its own.

Exporters deduplicate equal biases, gammas, scales and shape constants that have nothing to do with
each other. A tool that slices such a vector for one user breaks the other, and one that couples all
of its users prunes nothing. Matrices with several uses are really tied and are left alone, and so
is a vector that is cut in parts (Slice, Split, Gather): its uses read one parameter.
"""

from __future__ import annotations

from collections import Counter

import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto

from .model import constant_tensor, graphs

_PARTS = frozenset({"Slice", "Split", "Gather"})


def split_shared_vectors(proto: ModelProto) -> dict[str, str]:
    """Give every use of a shared vector its own copy, in place; return copy -> original.

    PyTorch writes a deduplicated bias as an Identity of the other one. Such an Identity is removed,
    and the copy is called by its output: the name that the parameter had.
    """
    return _Splitter(proto).run()


class _Splitter:
    def __init__(self, proto: ModelProto) -> None:
        self.proto = proto
        self.owners: dict[str, tuple[GraphProto, TensorProto]] = {}
        self.taken: set[str] = set()
        self.outputs: set[str] = set()
        self.copies: dict[str, str] = {}
        for graph in graphs(proto.graph):
            for tensor in graph.initializer:
                self._add(graph, tensor)
                self.taken.add(tensor.name)
            for node in graph.node:
                self.taken.update(node.output)
                if node.op_type == "Constant" and node.domain in ("", "ai.onnx"):
                    self._add(graph, constant_tensor(node), node.output[0])
            self.taken.update(value.name for value in graph.input)
            self.outputs.update(value.name for value in graph.output)
        self.listed = {value.name for value in proto.graph.input}

    def _add(self, graph: GraphProto, tensor: TensorProto, name: str = "") -> None:
        dims = tensor.dims[:]
        if sum(dim > 1 for dim in dims) == 1 and 0 not in dims:
            self.owners[name or tensor.name] = graph, tensor

    def run(self) -> dict[str, str]:
        behind = self._identities()
        uses = [
            (node, i)
            for graph in graphs(self.proto.graph)
            for node in graph.node
            if not (node.op_type == "Identity" and node.output[0] in behind)
            for i, name in enumerate(node.input[:])
            if behind.get(name, name) in self.owners
        ]
        direct = Counter(node.input[i] for node, i in uses if node.input[i] not in behind)
        used: set[str] = set(self.outputs)
        for node, i in uses:
            known = node.input[i]
            name = behind.get(known, known)
            if node.op_type in _PARTS:
                node.input[i] = name
            elif name not in used and (known == name or not direct[name]):
                node.input[i] = name
                used.add(name)
            else:
                node.input[i] = self._copy(name, known)
        if behind:
            self._remove(behind)
        return self.copies

    def _identities(self) -> dict[str, str]:
        """Identity nodes over vectors: their output -> the vector."""
        behind: dict[str, str] = {}
        for graph in graphs(self.proto.graph):
            for node in graph.node:
                if node.op_type == "Identity" and node.output[0] not in self.outputs:
                    source = behind.get(node.input[0], node.input[0])
                    if source in self.owners:
                        behind[node.output[0]] = source
        return behind

    def _copy(self, name: str, known: str) -> str:
        """A new initializer with the value of `name`, called `known` where that is free."""
        owner, tensor = self.owners[name]
        fresh, n = known, 1
        while fresh == name or fresh in self.copies or (fresh != known and fresh in self.taken):
            n += 1
            fresh = f"{name}_{n}"
        self.taken.add(fresh)
        self.copies[fresh] = name
        copy = owner.initializer.add()
        copy.CopyFrom(tensor)
        copy.name = fresh
        if owner is self.proto.graph and (name in self.listed or self.proto.ir_version < 4):
            listing = onnx.helper.make_tensor_value_info(fresh, tensor.data_type, tensor.dims)
            self.proto.graph.input.append(listing)
        return fresh

    def _remove(self, behind: dict[str, str]) -> None:
        def gone(node: NodeProto) -> bool:
            return node.op_type == "Identity" and node.output[0] in behind

        for graph in graphs(self.proto.graph):
            for i in reversed(range(len(graph.node))):
                if gone(graph.node[i]):
                    del graph.node[i]
