"""The shapes that a file declares, and those that ONNX's shape inference finds."""

from __future__ import annotations

import contextlib
import math

from onnx import ModelProto, TensorProto, TensorShapeProto

from .external import is_external
from .model import LONGEST, Model, copy_fields, graphs
from .shape_inference import infer_shapes


def declared_shapes(model: Model) -> dict[str, list[int | str | None]]:
    """The shape of every tensor that the file declares or ONNX's shape inference finds.

    Inference runs on a copy without weights: it serialises the model.
    """
    skeleton = without_weights(model)
    # Half-known shapes are better than none: what stays unknown is pinned.
    with contextlib.suppress(Exception):
        skeleton = infer_shapes(skeleton)
    found: dict[str, list[int | str | None]] = {}
    known: dict[bytes, list[int | str | None]] = {}
    for graph in graphs(skeleton.graph) if len(model.graphs) > 1 else (skeleton.graph,):
        values = [*graph.value_info, *graph.output, *graph.input]
        # Most shapes occur many times, and bytes are read faster than fields of a message.
        keys = [value.type.SerializeToString() for value in values]
        for value, key in zip(values, keys, strict=True):
            shape = known.get(key)
            if shape is None:
                tensor = value.type.tensor_type
                if not tensor.HasField("shape"):
                    continue
                known[key] = shape = [_size(dim) for dim in tensor.shape.dim]
            found[value.name] = shape
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
    target.node.extend([node.proto for node in model.nodes])
    # PyTorch's exporter says at length where each node comes from, or of none.
    if any(node.metadata_props for node in target.node[::_SOME]):
        for node in target.node:
            node.ClearField("metadata_props")
    constants = [(tensor.name, tensor) for tensor in source.initializer]
    constants += [(name, model.constants[name]) for name in model.constant_nodes]
    target.initializer.extend([_bare(tensor) for _, tensor in constants])
    for twin, (name, _) in zip(target.initializer, constants, strict=True):
        twin.name = name
    return copy


#: Of so many nodes, one is asked whether it has metadata.
_SOME = 32
#: Tensors of at most so many elements are copied with their values.
_SMALL = 64


def _bare(tensor: TensorProto) -> TensorProto:
    """The tensor, or one of its type and shape if it is large."""
    if math.prod(tensor.dims[:]) <= _SMALL and not is_external(tensor):
        return tensor
    return TensorProto(data_type=tensor.data_type, dims=tensor.dims)
