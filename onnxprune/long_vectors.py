"""Shape inference that is not asked to write out long vectors.

To follow constants, ONNX's inference lists the elements of every vector that a Cast, an Add or a
Concat reads, as unknown ones if need be: 2^24 elements take six seconds and 4 GB, and 2^48 all of
the memory (onnx 1.23.2). A damaged file asks for that, and so does a sound one that works on long
signals. The vectors that shapes are computed with are short: what reads others is left out.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence

from onnx import ModelProto

from .model import graphs

#: A model, and whether constants are followed: the model with its shapes.
Inference = Callable[[ModelProto, bool], ModelProto]
#: Graph and node of it, by number.
Place = tuple[int, int]

#: Operators that look at the elements of a vector.
_LOOK = frozenset(
    {
        *("Add", "Cast", "Concat", "Div", "Gather", "Identity", "Mul", "Size", "Slice"),
        *("Squeeze", "Sub", "Unsqueeze"),
    }
)
#: Elements: no shape arithmetic has vectors of more; the words that language models know are fewer.
_LONG = 2**18
#: Where only constants say how long a vector is, what reads it waits for the round that tells.
_ROUNDS = 8


def inferred(model: ModelProto, infer: Inference) -> ModelProto | None:
    """The model with its shapes, but for those of what reads long vectors.

    None where nothing does: all of it may be inferred at once.
    """
    places = places_of(model, _LOOK)
    if not places:
        return None
    found = infer(model, False)
    long, unknown = _not_short(places, model, found)
    for _ in range(_ROUNDS):
        if not unknown:
            break
        before = long, unknown
        found = infer(without(model, long + unknown), True)
        long, unknown = _not_short(places, model, found)
        if (long, unknown) == before:  # no constant says it: inference will not know it, either
            break
    else:
        return found
    return infer(without(model, long), True) if long else None


def without(model: ModelProto, places: Collection[Place]) -> ModelProto:
    """A copy of the model without these nodes: what they make has no shape."""
    left_out = set(places)
    copy = ModelProto()
    copy.CopyFrom(model)
    for i, graph in enumerate(graphs(copy.graph)):
        kept = [node for j, node in enumerate(graph.node) if (i, j) not in left_out]
        if len(kept) < len(graph.node):
            del graph.node[:]
            graph.node.extend(kept)
    return copy


def places_of(model: ModelProto, operators: Collection[str]) -> list[Place]:
    """The nodes of these operators; none of them may have graphs inside."""
    return [
        (i, j)
        for i, graph in enumerate(graphs(model.graph))
        for j, node in enumerate(graph.node)
        if node.op_type in operators
    ]


def _not_short(
    places: Sequence[Place], model: ModelProto, found: ModelProto
) -> tuple[list[Place], list[Place]]:
    """Of `places`, those that read a long vector, and those that read what may be one."""
    short = {""}
    vectors: set[str] = set()
    for graph in graphs(found.graph):
        for tensor in graph.initializer:
            is_long = len(tensor.dims) == 1 and tensor.dims[0] > _LONG
            (vectors if is_long else short).add(tensor.name)
        for values in (graph.input, graph.value_info, graph.output):
            for value in values:
                kind = value.type.tensor_type
                dims = kind.shape.dim
                if len(dims) == 1:
                    if dims[0].HasField("dim_value"):
                        (vectors if dims[0].dim_value > _LONG else short).add(value.name)
                elif dims or kind.HasField("shape"):
                    short.add(value.name)
    short -= vectors  # of graphs inside, where names may be used twice
    nodes = [graph.node for graph in graphs(model.graph)]
    long: list[Place] = []
    unknown: list[Place] = []
    for i, j in places:
        operands = nodes[i][j].input
        if not short.issuperset(operands):
            (unknown if vectors.isdisjoint(operands) else long).append((i, j))
    return long, unknown
