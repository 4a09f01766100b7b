"""The shapes that a file declares, and those that ONNX's shape inference finds."""

from __future__ import annotations

import contextlib
import math

import onnx
from onnx import ModelProto, TensorProto, TensorShapeProto

from .model import LONGEST, Model, copy_fields, graphs, is_external


def declared_shapes(model: Model) -> dict[str, list[int | str | None]]:
    """The shape of every tensor that the file declares or ONNX's shape inference finds.

    Inference runs on a copy without weights: it serialises the model.
    """
    skeleton = without_weights(model)
    # Half-known shapes are better than none: what stays unknown is pinned.
    with contextlib.suppress(Exception):
        skeleton = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    found: dict[str, list[int | str | None]] = {}
    known: dict[bytes, list[int | str | None]] = {}
    for graph in graphs(skeleton.graph) if len(model.graphs) > 1 else (skeleton.graph,):
        for value in (*graph.value_info, *graph.output, *graph.input):
            # Most shapes occur many times, and bytes are read faster than fields of a message.
            key = value.type.SerializeToString()
            if key not in known:
                tensor = value.type.tensor_type
                if not tensor.HasField("shape"):
                    continue
                known[key] = [_size(d) for d in tensor.shape.dim]
            found[value.name] = known[key]
    return found


def _size(dim: TensorShapeProto.Dimension) -> int | str | None:
    size: int = dim.dim_value
    if size > LONGEST:
        return None
    if size > 0 or (size == 0 and dim.HasField("dim_value")):
        return size
    return dim.dim_param or None


def without_weights(model: Model) -> ModelProto:
    """A copy of the model whose larger tensors have their shape and type, but no bytes.

    Nodes that are constants become initializers, which inference reads faster.
    """
    copy = ModelProto()
    copy_fields(model.proto, copy, without="graph")
    copy.ir_version = max(copy.ir_version, 4)  # before, initializers had to be inputs as well
    source, target = model.proto.graph, copy.graph
    target.name = source.name
    for name in ("input", "output", "value_info"):
        getattr(target, name).extend(getattr(source, name))
    for node in model.nodes:
        twin = target.node.add()
        twin.CopyFrom(node.proto)
        if twin.metadata_props:  # of PyTorch's exporter: where each node comes from, at length
            twin.ClearField("metadata_props")
    for tensor in source.initializer:
        _copy_tensor(tensor, target.initializer.add(), tensor.name)
    for name in model.constant_nodes:
        _copy_tensor(model.constants[name], target.initializer.add(), name)
    return copy


#: Tensors of at most so many elements are copied with their values.
_SMALL = 64


def _copy_tensor(source: TensorProto, target: TensorProto, name: str) -> None:
    if math.prod(source.dims[:]) <= _SMALL and not is_external(source):
        target.CopyFrom(source)
    else:
        target.data_type = source.data_type
        target.dims.extend(source.dims)
    target.name = name
