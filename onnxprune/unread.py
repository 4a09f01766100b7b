"""Taking out what nothing reads any more."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable

from onnx import GraphProto

from .model import reads


def remove_unread(graph: GraphProto, names: Iterable[str]) -> None:
    """Take out those of these tensors that nothing reads, and what only they have read.

    Nodes and initializers go; outputs and inputs of the graph stay, and so do nodes of which
    another output is read.
    """
    makers = {name: node for node in graph.node for name in node.output if name}
    uses = Counter(value.name for value in graph.output)
    for node in graph.node:
        uses.update(reads(node))
    gone: set[str] = set()
    todo = list(names)
    while todo:
        name = todo.pop()
        node = makers.get(name)
        if uses[name] or name in gone or (node and any(uses[each] for each in node.output if each)):
            continue
        # An output that is left out has no name, and is not the same as that of another node.
        gone.update([each for each in node.output if each] if node else [name])
        if node:
            read = reads(node)
            uses.subtract(read)
            todo.extend(read)
    given = {value.name for value in graph.input}
    for i in reversed(range(len(graph.node))):
        if gone.intersection(graph.node[i].output):
            del graph.node[i]
    for i in reversed(range(len(graph.initializer))):
        name = graph.initializer[i].name
        if name in gone and name not in given:
            del graph.initializer[i]
