"""Outputs whose sizes depend on what the model computes: how many boxes were found, for one.

A pruned model computes something else, and then such an output has another size, as it should.
"""

from __future__ import annotations

from collections.abc import Collection

from onnx import GraphProto, ModelProto, NodeProto

from .model import captured, subgraphs

#: Operators whose outputs' sizes follow from the values of these operands; None for any of them.
_SIZED_BY: dict[str, Collection[int] | None] = {
    **dict.fromkeys(("NonMaxSuppression", "NonZero", "Unique", "Compress", "Range")),
    **dict.fromkeys(("StringSplit", "StringNormalizer", "Tokenizer")),
    **dict.fromkeys(("BeamSearch", "GreedySearch", "Sampling", "WhisperBeamSearch")),
    **dict.fromkeys(("Expand", "Tile", "Reshape", "TopK", "OneHot", "Upsample", "Pad"), (1,)),
    **dict.fromkeys(("Split", "SplitToSequence"), (1,)),
    **dict.fromkeys(("ConstantOfShape", "If"), (0,)),
    "Loop": (0, 1),
    "Slice": (1, 2, 3, 4),
    "Resize": (2, 3),
}
#: What makes the conditions that such operators read.
_CONDITIONS = frozenset(
    {
        *("Greater", "GreaterOrEqual", "Less", "LessOrEqual", "Equal", "Not", "And", "Or", "Xor"),
        *("Cast", "Where", "Squeeze", "Unsqueeze", "Reshape", "Identity"),
    }
)


def sized_by_data(model: ModelProto) -> set[str]:
    """Tensors whose sizes may depend on the values of inputs, and not only on the inputs' sizes."""
    return _traced(model)[1]


def measurable(model: ModelProto) -> list[str]:
    """The outputs; in place of those whose sizes depend on data, the numbers that decide these.

    Two models' numbers can be compared, where the boxes that follow from them can't.
    """
    outputs = [value.name for value in model.graph.output]
    values, sizes = _traced(model)
    if not sizes.intersection(outputs):
        return outputs
    producer = {name: node for node in model.graph.node for name in node.output if name}
    found: dict[str, None] = {}
    seen: set[str] = set()
    todo = outputs[::-1]
    while todo:
        name = todo.pop()
        node = producer.get(name)
        if name in seen or name not in values or node is None:
            continue
        seen.add(name)
        if name in sizes or (node.op_type in _CONDITIONS and name not in outputs):
            inside = {each for body in subgraphs(node) for each in captured(body)}
            todo.extend(reversed([*node.input, *sorted(inside)]))
        else:
            found[name] = None
    return list(found)


def _traced(model: ModelProto) -> tuple[set[str], set[str]]:
    """What is computed from values of the inputs, and of that what has sizes of that kind."""
    constant = {tensor.name for tensor in model.graph.initializer}
    values = {value.name for value in model.graph.input if value.name not in constant}
    sizes: set[str] = set()
    _follow(model.graph, values, sizes)
    return values, sizes


def _follow(graph: GraphProto, values: set[str], sizes: set[str]) -> None:
    """Add what is computed from values of the inputs, and to `sizes` what is sized by that."""
    for node in graph.node:
        reads = {name for name in node.input if name}
        for body in subgraphs(node):
            # Which operand an input of a body is depends on the operator: any of them.
            inner = {value.name for value in body.input}
            values.update(inner if reads & values else ())
            sizes.update(inner if reads & sizes else ())
            _follow(body, values, sizes)
            reads |= {value.name for value in body.output}
        if node.op_type in ("Shape", "Size"):
            values.update(node.output if reads & sizes else ())
        elif reads & values:
            values.update(node.output)
            if reads & sizes or _decides(node, values):
                sizes.update(node.output)


def _decides(node: NodeProto, values: set[str]) -> bool:
    """True where values of the inputs say how large this node's outputs are."""
    if node.op_type not in _SIZED_BY:
        return False
    operands = _SIZED_BY[node.op_type]
    return any(
        name in values for i, name in enumerate(node.input) if operands is None or i in operands
    )
