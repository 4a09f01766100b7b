"""The size of a model: parameters, multiply-accumulates, bytes.

Sizes are those of the model as it stands: a tensor that nothing uses counts too.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, helper
from onnx.external_data_helper import ExternalDataInfo, uses_external_data
from onnx.inliner import inline_local_functions

from onnxprune.inputs import Model, proto
from onnxprune.shapes import Shapes, graphs, infer, int_attribute, subgraphs, weightless
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
        input_shapes: `{input: [d, ...]}`; dynamic dims that it leaves open are 1.
        loaded: what `model` holds, where it has been read already.
        without: names of tensors that are not counted.

    Raises:
        UsageError: ``input_shapes`` contradicts the model.
        BrokenModel: the file can't be read.
    """
    loaded = proto(model) if loaded is None else loaded
    macs, uncounted = _macs(loaded, input_shapes)
    return Size(_parameters(loaded, without), macs, _bytes(model, loaded), uncounted)


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
    total = 0
    for nodes, graph in _graphs(model):
        quantised = {
            node.input[i]
            for node in nodes
            for i in _QUANTISED.get(node.op_type, ())
            if i < len(node.input)
        }
        tensors = {t.name: t for t in graph.initializer} if graph else {}
        for node in nodes:
            if node.op_type == "Constant":
                for a in node.attribute:
                    total += len(a.floats)
                    if a.type == AttributeProto.TENSOR:
                        tensors[node.output[0]] = a.t
                    elif a.type == AttributeProto.SPARSE_TENSOR:
                        total += math.prod(a.sparse_tensor.values.dims)
        for name, tensor in tensors.items():
            weight = tensor.data_type in _FLOATS or name in quantised
            if weight and tensor.dims and name not in without:
                total += math.prod(tensor.dims)
        total += sum(math.prod(t.values.dims) for t in graph.sparse_initializer) if graph else 0
    return total


def _bytes(model: Model, loaded: ModelProto) -> int:
    external: dict[str, int] = {}
    for nodes, graph in _graphs(loaded):
        tensors = [a.t for n in nodes for a in n.attribute if a.type == AttributeProto.TENSOR]
        for tensor in [*tensors, *(graph.initializer if graph else ())]:
            if uses_external_data(tensor):
                info = ExternalDataInfo(tensor)
                end = int(info.offset or 0) + int(info.length or _stored(tensor))
                external[info.location] = max(external.get(info.location, 0), end)
    if isinstance(model, ModelProto):
        return byte_size(model) + sum(external.values())
    path = Path(os.fspath(model))
    for location in external:
        if (path.parent / location).is_file():
            external[location] = (path.parent / location).stat().st_size
    return path.stat().st_size + sum(external.values())


def _stored(tensor: TensorProto) -> int:
    elements: int = math.prod(tensor.dims)
    return elements * helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize


# --- MACs ---------------------------------------------------------------------------------------


def _macs(
    model: ModelProto, input_shapes: Mapping[str, Sequence[int]] | None
) -> tuple[int | None, list[str]]:
    if model.functions:
        model = inline_local_functions(weightless(model))
    total, counted, uncounted = 0, 0, []
    for graph, shapes in infer(model, input_shapes):
        for node in graph.node:
            rule = _RULES.get(node.op_type)
            if rule is None:
                continue
            try:
                total += rule(node, shapes)
                counted += 1
            except (KeyError, IndexError, ValueError):
                label = node.name or (node.output[0] if node.output else "?")
                uncounted.append(f"{node.op_type} {label}")
    return (total if counted or not uncounted else None), uncounted


# One short function per kind of operator: shapes `[...]` in, MACs out. A shape that is not known
# is a KeyError, which puts the node among the uncounted.


def _conv(weight: int) -> Callable[[NodeProto, Shapes], int]:
    def macs(node: NodeProto, shapes: Shapes) -> int:  # y [n, o, ...], w [o, i/g, k...]
        return math.prod(shapes[node.output[0]]) * math.prod(shapes[node.input[weight]][1:])

    return macs


def _conv_transpose(node: NodeProto, shapes: Shapes) -> int:  # x [n, i, ...], w [i, o/g, k...]
    return math.prod(shapes[node.input[0]]) * math.prod(shapes[node.input[1]][1:])


def _gemm(node: NodeProto, shapes: Shapes) -> int:
    a = shapes[node.input[0]]
    inner = a[0] if int_attribute(node, "transA", 0) else a[1]
    return math.prod(shapes[node.output[0]]) * inner


def _matmul(node: NodeProto, shapes: Shapes) -> int:
    inner = shapes[node.input[0]][-2 if int_attribute(node, "transA", 0) else -1]
    return math.prod(shapes[node.output[0]]) * inner


def _matmul_nbits(node: NodeProto, shapes: Shapes) -> int:
    return math.prod(shapes[node.input[0]]) * int_attribute(node, "N", 0)


def _einsum(node: NodeProto, shapes: Shapes) -> int:
    equation = next(a.s.decode() for a in node.attribute if a.name == "equation").replace(" ", "")
    left, _, right = equation.partition("->")
    sizes: dict[str, int] = {}
    for term, name in zip(left.split(","), node.input, strict=True):
        shape = shapes[name]
        head, dots, tail = term.partition("...")
        ends = len(shape) - len(tail)
        for letter, size in zip(head + tail, shape[: len(head)] + shape[ends:], strict=True):
            sizes[letter] = max(size, sizes.get(letter, 1))
        for i, size in enumerate(reversed(shape[len(head) : ends] if dots else ())):
            sizes[f".{i}"] = max(size, sizes.get(f".{i}", 1))
    if "->" not in equation:
        right = "".join(c for c in sizes if left.count(c) == 1)
    contracted = len(node.input) > 1 and any(c not in right for c in sizes if c[0] != ".")
    return math.prod(sizes.values()) if contracted else 0


def _recurrent(node: NodeProto, shapes: Shapes) -> int:  # x [t, b, i], w [d, 4h, i], r [d, 4h, h]
    x, w, r = (shapes[name] for name in node.input[:3])
    return x[0] * x[1] * (math.prod(w) + math.prod(r))


def _attention(node: NodeProto, shapes: Shapes) -> int:
    """com.microsoft Attention: x [b, s, d], w [d, q + k + v]."""
    batch, length, _ = shapes[node.input[0]]
    width, out = shapes[node.input[1]]
    value = shapes[node.output[0]][-1]
    query = (out - value) // 2
    return batch * length * width * out + batch * length * length * (query + value)


def _scores(node: NodeProto, shapes: Shapes) -> int:
    """Products with keys and values alone: q [b, s, h] or [b, n, s, d], k and v like it."""
    q, k = shapes[node.input[0]], shapes[node.input[1]]
    v = shapes[node.input[2]] if len(node.input) > 2 and node.input[2] else k
    if node.op_type == "GroupQueryAttention":
        past = shapes[node.input[3]][2] if node.input[3] else 0
        return q[0] * q[1] * (k[1] + past) * 2 * q[2]
    total = k[-2]
    if node.op_type == "Attention" and len(node.input) > 4 and node.input[4]:
        total += shapes[node.input[4]][-2]
    heads = int_attribute(node, "q_num_heads", 1) if len(q) == 3 else q[1]
    shared = (int_attribute(node, "kv_num_heads", 1) if len(q) == 3 else k[1]) or 1
    value = v[-1] * (heads // shared if len(q) == 3 else heads)
    query = q[-1] * (1 if len(q) == 3 else heads)
    return q[0] * q[-2] * total * (query + value)


def _any_attention(node: NodeProto, shapes: Shapes) -> int:
    return (_attention if node.domain == "com.microsoft" else _scores)(node, shapes)


_RULES: dict[str, Callable[[NodeProto, Shapes], int]] = {
    **dict.fromkeys(["Conv", "FusedConv", "ConvInteger", "NhwcFusedConv"], _conv(1)),
    "QLinearConv": _conv(3),
    "ConvTranspose": _conv_transpose,
    **dict.fromkeys(["Gemm", "FusedGemm", "QGemm"], _gemm),
    **dict.fromkeys(["MatMul", "FusedMatMul", "MatMulInteger", "QLinearMatMul"], _matmul),
    **dict.fromkeys(["MatMulIntegerToFloat", "DynamicQuantizeMatMul"], _matmul),
    "MatMulNBits": _matmul_nbits,
    "Einsum": _einsum,
    **dict.fromkeys(["LSTM", "GRU", "RNN"], _recurrent),
    "Attention": _any_attention,
    **dict.fromkeys(["MultiHeadAttention", "GroupQueryAttention"], _scores),
}
