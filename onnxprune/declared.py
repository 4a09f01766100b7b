"""The shapes that a file declares, and those that ONNX's shape inference finds."""

from __future__ import annotations

import contextlib
import math

import onnx
from onnx import GraphProto, ModelProto, TensorProto, TensorShapeProto

from .model import Model, copy_fields, graphs


def declared_shapes(model: Model) -> dict[str, list[int | str | None]]:
    """The shape of every tensor that the file declares or ONNX's shape inference finds.

    Inference runs on a copy without weights: it serialises the model.
    """
    skeleton = without_weights(model)
    # Half-known shapes are better than none: what stays unknown is pinned.
    with contextlib.suppress(Exception):
        skeleton = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    found: dict[str, list[int | str | None]] = {}
    for graph in graphs(skeleton.graph):
        for value in (*graph.value_info, *graph.output, *graph.input):
            tensor = value.type.tensor_type
            if tensor.HasField("shape"):
                found[value.name] = [_size(d) for d in tensor.shape.dim]
    return found


def _size(dim: TensorShapeProto.Dimension) -> int | str | None:
    size: int = dim.dim_value
    if size > 0 or (size == 0 and dim.HasField("dim_value")):
        return size
    return dim.dim_param or None


def without_weights(model: Model) -> ModelProto:
    """A copy of the model whose larger tensors have their shape and type, but no bytes."""
    copy = ModelProto()
    copy_fields(model.proto, copy, without="graph")
    _copy_graph(model.proto.graph, copy.graph)
    return copy


def _copy_graph(source: GraphProto, target: GraphProto) -> None:
    target.name = source.name
    for name in ("input", "output", "value_info"):
        getattr(target, name).extend(getattr(source, name))
    for tensor in source.initializer:
        _copy_tensor(tensor, target.initializer.add())
    for node in source.node:
        large = node.op_type == "Constant" and (
            a.t for a in node.attribute if a.name == "value" and not _small(a.t)
        )
        tensor = next(large, None) if large else None
        if tensor is None:
            target.node.append(node)
            continue
        copy = target.node.add()
        copy.op_type, copy.name, copy.domain = node.op_type, node.name, node.domain
        copy.input.extend(node.input)
        copy.output.extend(node.output)
        attribute = copy.attribute.add()
        attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
        _copy_tensor(tensor, attribute.t)


def _copy_tensor(source: TensorProto, target: TensorProto) -> None:
    if _small(source):
        target.CopyFrom(source)
    else:
        target.name, target.data_type = source.name, source.data_type
        target.dims.extend(source.dims)


def _small(tensor: TensorProto) -> bool:
    if tensor.data_location == TensorProto.EXTERNAL:
        return False
    return bool(math.prod(tensor.dims) <= 64)
