"""The size of a model: parameters, multiply-accumulates, bytes.

Sizes are those of the model as it stands: a tensor that nothing uses counts too.
"""

from __future__ import annotations

import math
import os
from collections import defaultdict
from collections.abc import Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto
from onnx.inliner import inline_local_functions

from onnxprune import external
from onnxprune.inputs import Model, proto
from onnxprune.macs import MULTIPLYING, multiplications
from onnxprune.model import subgraphs
from onnxprune.shapes import graphs, infer, weightless
from onnxprune.wire import byte_size

__all__ = ["Size", "count"]


@dataclass(frozen=True)
class Size:
    """What :func:`count` found."""

    #: elements of weights, biases, statistics: floats, and integers that stand for floats
    parameters: int
    #: multiply-accumulates of one run; None where no node could be counted
    macs: int | None
    #: of the file, with its external data
    bytes: int
    #: nodes that multiply, with a shape that inference could not find: they are not in ``macs``
    uncounted: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def count(
    model: Model,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
    *,
    loaded: ModelProto | None = None,
    without: Container[str] = (),
) -> Size:
    """Count parameters, MACs and bytes.

    Parameters are the elements of float tensors of rank 1 and more, in initializers and Constant
    nodes, subgraphs and functions included, and of the quantised tensors that operators take as
    weights and biases; shapes, indices and zero points are none. MACs are those of convolutions,
    matrix products, recurrent layers and attention, each node once, however often its subgraph
    runs; both branches of an If are counted.

    Args:
        input_shapes: `{input: [d, ...]}`; dynamic dims that it leaves open have
            `shapes.dynamic_size`, mostly 1.
        loaded: what `model` holds, where it has been read already.
        without: names of tensors that are not counted.

    Raises:
        UsageError: ``input_shapes`` contradicts the model.
        BrokenModel: the file can't be read.
    """
    loaded = proto(model) if loaded is None else loaded
    macs, uncounted = _macs(loaded, input_shapes)
    return Size(_parameters(loaded, without), macs, bytes_of(model, loaded), uncounted)


# --- parameters and bytes -----------------------------------------------------------------------

_FLOATS = frozenset(
    code
    for name, code in TensorProto.DataType.items()
    if name.startswith(("FLOAT", "BFLOAT", "DOUBLE"))
)
#: operands that are weights or biases although they are integers
_QUANTISED = {
    "DequantizeLinear": (0,),
    "ConvInteger": (1,),
    "MatMulInteger": (0, 1),
    "DynamicQuantizeMatMul": (1,),
    "MatMulIntegerToFloat": (1,),
    "QLinearConv": (3, 8),
    "QLinearMatMul": (0, 3),
    "QGemm": (3, 6),
    "QAttention": (1, 2),
    "DynamicQuantizeLSTM": (1, 2),
    "MatMulNBits": (1,),
}


def _graphs(model: ModelProto) -> Iterator[tuple[Sequence[NodeProto], GraphProto | None]]:
    """Every list of nodes in the model, with the graph that it belongs to; functions have none."""
    for graph in graphs(model.graph):
        yield graph.node, graph
    for function in model.functions:
        yield function.node, None
        for node in function.node:
            for inner in subgraphs(node):
                yield from ((graph.node, graph) for graph in graphs(inner))


def _parameters(model: ModelProto, without: Container[str] = ()) -> int:
    total: int = sum(math.prod(t.dims) for name, t in parameters(model) if name not in without)
    for _, graph in _graphs(model):
        total += sum(math.prod(t.values.dims) for t in graph.sparse_initializer) if graph else 0
    return total


def parameters(model: ModelProto) -> Iterator[tuple[str, TensorProto]]:
    """The dense tensors that count as parameters, by name: an initializer's or a Constant's."""
    for nodes, graph in _graphs(model):
        quantised = {
            node.input[i]
            for node in nodes
            for i in _QUANTISED.get(node.op_type, ())
            if i < len(node.input)
        }
        tensors = {t.name: t for t in graph.initializer} if graph else {}
        for node in nodes:
            for a in node.attribute if node.op_type == "Constant" else ():
                if a.type == AttributeProto.TENSOR:
                    tensors[node.output[0]] = a.t
                elif a.type == AttributeProto.SPARSE_TENSOR:
                    tensors[node.output[0]] = TensorProto(
                        data_type=TensorProto.FLOAT, dims=a.sparse_tensor.values.dims
                    )
                elif a.floats:
                    tensors[node.output[0]] = TensorProto(
                        data_type=TensorProto.FLOAT, dims=[len(a.floats)]
                    )
        for name, tensor in tensors.items():
            if tensor.dims and (tensor.data_type in _FLOATS or name in quantised):
                yield name, tensor


def bytes_of(model: Model, loaded: ModelProto) -> int:
    """The bytes of a model and of its external data; `loaded` is what `model` holds."""
    outside: dict[str, dict[object, int]] = defaultdict(dict)
    recipes = 0  # of cuts: they are gone when what they stand for is written
    for nodes, graph in _graphs(loaded):
        tensors = [a.t for n in nodes for a in n.attribute if a.type == AttributeProto.TENSOR]
        for tensor in [*tensors, *(graph.initializer if graph else ())]:
            if external.is_external(tensor):
                location = external.Place.of(tensor).location
                outside[location][external.region(tensor)] = stored_bytes(tensor)
                recipes += external.recipe_bytes(tensor)
    # Of a file that others share, a part may be used: what a pruned model has left of it.
    sizes = {location: sum(lengths.values()) for location, lengths in outside.items()}
    if isinstance(model, ModelProto):
        return byte_size(model) - recipes + sum(sizes.values())
    path = Path(os.fspath(model))
    for location in outside:
        if (path.parent / location).is_file():
            sizes[location] = (path.parent / location).stat().st_size
    return path.stat().st_size + sum(sizes.values())


def stored_bytes(tensor: TensorProto) -> int:
    """The bytes that a tensor's values take, where they are stored."""
    if external.is_external(tensor):
        return external.stored_bytes(tensor)
    if tensor.HasField("raw_data"):
        return len(tensor.raw_data)
    frame = TensorProto(name=tensor.name, dims=tensor.dims, data_type=tensor.data_type)
    size: int = tensor.ByteSize() - frame.ByteSize()
    return max(0, size)


# --- MACs ---------------------------------------------------------------------------------------


def _macs(
    model: ModelProto, input_shapes: Mapping[str, Sequence[int]] | None
) -> tuple[int | None, list[str]]:
    if model.functions:
        model = inline_local_functions(weightless(model))
    total, counted, uncounted = 0.0, 0, []
    for graph, shapes in infer(model, input_shapes):
        for node in graph.node:
            products = multiplications(node, shapes)
            if products is None:
                label = node.name or (node.output[0] if node.output else "?")
                uncounted.append(f"{node.op_type} {label}")
            elif node.op_type in MULTIPLYING:
                total += sum(product.size(shapes) for product in products)
                counted += 1
    return (round(total) if counted or not uncounted else None), uncounted
