"""A model as the bytes of its file, tensor by tensor.

`SerializeToString` builds the whole in a buffer of its own and copies it out, and `ByteSize` builds
it to count: with hundreds of megabytes of weights, that is what takes the time and the memory of
writing a model. But fields of a protobuf message may come in any order, and a message inside it is
its length and its bytes: so everything but the initializers of the main graph is serialised as one,
and each of those on its own, after it.
"""

from __future__ import annotations

from collections.abc import Iterator

from onnx import GraphProto, ModelProto

from .model import copy_fields

_GRAPH = ModelProto.GRAPH_FIELD_NUMBER
_INITIALIZER = GraphProto.INITIALIZER_FIELD_NUMBER


def byte_size(model: ModelProto) -> int:
    """The size of the model's file (bytes)."""
    return sum(map(len, _frame(model))) + sum(
        len(_length(_INITIALIZER, size)) + size for size in _sizes(model)
    )


def pieces(model: ModelProto) -> Iterator[bytes]:
    """The bytes of the model's file; the same model always gives the same."""
    yield from _frame(model)
    for tensor in model.graph.initializer:
        data = tensor.SerializeToString()
        yield _length(_INITIALIZER, len(data))
        yield data


def _frame(model: ModelProto) -> tuple[bytes, bytes, bytes]:
    """The model without its graph, the length of the graph, the graph without its initializers."""
    head, graph = ModelProto(), GraphProto()
    copy_fields(model, head, without="graph")
    copy_fields(model.graph, graph, without="initializer")
    inside = graph.SerializeToString()
    size = len(inside) + sum(len(_length(_INITIALIZER, each)) + each for each in _sizes(model))
    return head.SerializeToString(), _length(_GRAPH, size), inside


def _sizes(model: ModelProto) -> Iterator[int]:
    return (tensor.ByteSize() for tensor in model.graph.initializer)


def _length(field: int, size: int) -> bytes:
    """What stands before a message in a field: the field's number, and the message's length."""
    found = bytearray([field << 3 | 2])
    while size > 127:
        found.append(size & 127 | 128)
        size >>= 7
    return bytes(found) + bytes([size])
