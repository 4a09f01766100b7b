"""Editing a model so that removable channels are missed by nobody: the same function as before.

Columns of duplicates are added to those of their twins, constants go into biases (which are added
where an operator has none), and all columns of removable channels are zero then.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from ..axes import Axis, Dim, leaves, occurrences
from ..model import Array, graphs, replace_value, tensor_array
from ..network import Network
from .contraction import Contraction, contraction
from .removable import Removable
from .rows import Floats


def fold(network: Network, removable: Sequence[Removable]) -> ModelProto:
    """The network's model with the consumers of all removable channels edited."""
    by_consumer: dict[str, list[Removable]] = defaultdict(list)
    for each in removable:
        for record in network.records:
            if any(each.dim in set(leaves(axis)) for axis in record.contracted):
                by_consumer[record.node.output[0]].append(each)
    model = ModelProto()
    model.CopyFrom(network.model.proto)
    editor = Editor(model, network.model.base_dir)
    for record in network.records:
        output = next((name for name in record.node.output if name), "")
        if output in by_consumer:
            product = contraction(network, record.node)
            assert product is not None  # or its channels were not removable
            _edit(network, editor, product, by_consumer[output])
    return model


def _edit(
    network: Network, editor: Editor, product: Contraction, removable: Sequence[Removable]
) -> None:
    output = product.node.output[0]
    weight = network.model.read(product.weight)
    value = weight.astype(np.float64)
    added: Floats | None = None
    for each in removable:
        axis = product.order[1]
        columns = _Columns(value, (network.axes.get(product.weight) or [])[axis], axis, each.dim)
        constants = each.constants.get(output, {})
        if constants:
            total = share(network, product, each.dim, constants)
            added = total if added is None else added + total
        for kept, gone, factor in each.merges.get(output, []):
            columns.put(value, kept, columns.get(kept) + factor * columns.get(gone))
        for k in each.channels:
            columns.put(value, int(k), 0.0)
    editor.set(product.weight, value.astype(weight.dtype))
    if added is not None:
        editor.shift(product, added)


def share(
    network: Network, product: Contraction, dim: Dim, constants: Mapping[int, float]
) -> Floats:
    """What channels of a dim add to a product's outputs `[out]` where they have these values."""
    value = network.model.read(product.weight).astype(np.float64)
    axis = product.order[1]
    columns = _Columns(value, (network.axes.get(product.weight) or [])[axis], axis, dim)
    part = np.zeros_like(value)
    for k, constant in constants.items():
        columns.put(part, k, columns.get(k) * constant)
    total: Floats = product.matrix(part).sum(axis=(2, 3)).ravel()
    return total


class _Columns:
    """A weight's columns: its slices at each index of one dim of the axis that is summed over."""

    def __init__(self, value: Array, axis: Axis, number: int, dim: Dim) -> None:
        self.value = value
        self.axis = number
        found = [(p, c) for each, p, c in occurrences(axis) if each is dim]
        channels = np.concatenate([c for _, c in found])
        order = np.concatenate([p for p, _ in found])[np.argsort(channels, kind="stable")]
        self.positions = order.reshape(dim.size or 1, -1)

    def _at(self, k: int) -> tuple[slice | Array, ...]:
        return (*(slice(None),) * self.axis, self.positions[k])

    def get(self, k: int) -> Array:
        found: Array = self.value[self._at(k)]
        return found

    def put(self, into: Array, k: int, column: Array | float) -> None:
        into[self._at(k)] = column


class Editor:
    """A model whose constants and nodes are edited by name."""

    def __init__(self, model: ModelProto, base_dir: Path) -> None:
        self.model, self.base_dir = model, base_dir
        self.tensors: dict[str, TensorProto] = {}
        self.nodes: dict[str, tuple[NodeProto, GraphProto]] = {}
        self.names: set[str] = set()
        for graph in graphs(model.graph):
            for tensor in graph.initializer:
                self.tensors[tensor.name] = tensor
            for node in graph.node:
                self.names.update(node.output)
                for name in node.output:
                    self.nodes[name] = node, graph
                if node.op_type == "Constant" and node.attribute[0].name == "value":
                    self.tensors[node.output[0]] = node.attribute[0].t
        self.names.update(self.tensors)

    def set(self, name: str, value: Array) -> None:
        replace_value(self.tensors[name], value)

    def shift(self, product: Contraction, added: Floats) -> None:
        """Add `[out]` to a product's result: to its bias, or by one of its own."""
        if product.bias:
            bias = tensor_array(self.tensors[product.bias], self.base_dir, product.bias)
            shifted = bias.astype(np.float64) + added.reshape(bias.shape)
            self.set(product.bias, shifted.astype(bias.dtype))
            return
        dtype = helper.tensor_dtype_to_np_dtype(self.tensors[product.weight].data_type)
        self._add_bias(product.node, added.astype(dtype))

    def _add_bias(self, node: NodeProto, bias: Array) -> None:
        """Give a product a bias: as an operand where it takes one, else by an Add."""
        mine, graph = self.nodes[node.output[0]]
        name = self._name(f"{node.output[0]}_bias")
        graph.initializer.append(numpy_helper.from_array(bias, name))
        if mine.op_type != "MatMul":
            while len(mine.input) < 3:
                mine.input.append("")
            mine.input[2] = name
            return
        output = mine.output[0]
        mine.output[0] = self._name(f"{output}_unbiased")
        at = next(i for i, each in enumerate(graph.node) if each is mine)
        graph.node.insert(at + 1, helper.make_node("Add", [mine.output[0], name], [output], name))

    def _name(self, wanted: str) -> str:
        while wanted in self.names:
            wanted += "_"
        self.names.add(wanted)
        return wanted
