"""A failing model made small: nodes are taken out while it still fails in the same way.

Every step leaves a model that runs, since it is made from tensors that the model before had:

1. an output is dropped, or a tensor inside becomes the only output;
2. readers of a tensor read one of the operands that it was made of, if that has its shape and type;
3. a tensor becomes an input of the model, fed with what it was.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto, ValueInfoProto, helper

from onnxprune.errors import OnnxPruneError
from onnxprune.model import captured, subgraphs
from onnxprune.runtime import run, session

Feeds = list[dict[str, NDArray[Any]]]
Case = tuple[ModelProto, Feeds]


def shrink(model: ModelProto, feeds: Feeds, fails: Callable[[ModelProto, Feeds], bool]) -> Case:
    """The smallest model found for which `fails` still holds, and inputs for it."""
    case = model, feeds
    tried: set[bytes] = set()
    again = True
    while again:
        again = False
        for smaller in _smaller(*case):
            key = smaller[0].SerializeToString(deterministic=True)
            if key in tried:
                continue
            tried.add(key)
            if _size(smaller[0]) < _size(case[0]) and fails(*smaller):
                case, again = smaller, True
                break
    return case


def _size(model: ModelProto) -> tuple[int, int, int]:
    graph = model.graph
    return len(graph.node), len(graph.output), len(graph.input)


def _smaller(model: ModelProto, feeds: Feeds) -> Iterator[Case]:
    graph = model.graph
    inside = [name for node in graph.node for name in node.output if name]
    try:
        values = _values(model, feeds, inside)
    except OnnxPruneError:
        return
    floats = [name for name in inside if values[0][name].dtype == np.float32]
    for value in graph.output if len(graph.output) > 1 else ():
        yield _with_outputs(model, feeds, [value])
    for name in floats[len(floats) // 4 :: max(1, len(floats) // 8)]:
        yield _with_outputs(model, feeds, [_info(name, values)])
    for i in reversed(range(len(graph.node))):
        node = graph.node[i]
        for name in node.output:
            if name not in values[0]:
                continue
            for other in node.input:
                if other in values[0] and _alike(name, other, values):
                    yield _swept(_renamed(model, name, other), feeds)
            if node.op_type != "Constant" and values[0][name].dtype == np.float32:
                yield _as_input(model, feeds, name, values)
    for name in reversed(floats):
        yield _with_outputs(model, feeds, [_info(name, values)])


def _values(model: ModelProto, feeds: Feeds, names: Sequence[str]) -> Feeds:
    """What each tensor of the main graph is, for each set of inputs."""
    every = ModelProto()
    every.CopyFrom(model)
    known = {value.name for value in model.graph.output}
    every.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in known)
    live = session(every, optimize=False)
    found = [{**feed, **run(live, feed)} for feed in feeds[:2]]
    try:
        return found + [{**feed, **run(live, feed)} for feed in feeds[2:]]
    except OnnxPruneError:
        return found  # it never ran with inputs of another size


def _info(name: str, values: Feeds) -> ValueInfoProto:
    """A declaration of a tensor: sizes that differ between inputs are the run's."""
    shapes = [each[name].shape for each in values]
    declared = [
        n[0] if len(set(n)) == 1 else f"{name}_{i}" for i, n in enumerate(zip(*shapes, strict=True))
    ]
    kind = helper.np_dtype_to_tensor_dtype(values[0][name].dtype)
    return helper.make_tensor_value_info(name, kind, declared)


def _alike(a: str, b: str, values: Feeds) -> bool:
    return all(each[a].shape == each[b].shape and each[a].dtype == each[b].dtype for each in values)


def _with_outputs(model: ModelProto, feeds: Feeds, outputs: Sequence[ValueInfoProto]) -> Case:
    made = ModelProto()
    made.CopyFrom(model)
    del made.graph.output[:]
    made.graph.output.extend(outputs)
    return _swept(made, feeds)


def _renamed(model: ModelProto, name: str, other: str) -> ModelProto:
    """The model in which what read `name` reads `other`."""
    made = ModelProto()
    made.CopyFrom(model)
    todo = [made.graph]
    while todo:
        for node in todo.pop().node:
            node.input[:] = [other if each == name else each for each in node.input]
            todo.extend(subgraphs(node))
    return made


def _as_input(model: ModelProto, feeds: Feeds, name: str, values: Feeds) -> Case:
    made = ModelProto()
    made.CopyFrom(model)
    for node in made.graph.node:
        node.output[:] = ["" if each == name else each for each in node.output]
    made.graph.input.append(_info(name, values))
    return _swept(
        made, [{**feed, name: each[name]} for feed, each in zip(feeds, values, strict=False)]
    )


def _swept(model: ModelProto, feeds: Sequence[Mapping[str, NDArray[Any]]]) -> Case:
    """Without the nodes, constants and inputs that nothing reads."""
    graph = model.graph
    used = {value.name for value in graph.output}
    for i in reversed(range(len(graph.node))):
        node = graph.node[i]
        if used.isdisjoint(name for name in node.output if name):
            del graph.node[i]
            continue
        used.update(node.input)
        for body in subgraphs(node):
            used |= captured(body)
    for values in (graph.initializer, graph.input):
        for i in reversed(range(len(values))):
            if values[i].name not in used:
                del values[i]
    names = {value.name for value in graph.input}
    return model, [{name: x for name, x in feed.items() if name in names} for feed in feeds]
