"""Which groups hold the time: the kernels of a profile, and the channels that each works on.

onnxruntime runs another graph than the file's: it fuses nodes, and puts some in between. So nodes
are numbered before the model is given to it. A kernel still has in its name

1. the number of one node or of several, those that it was made of; or
2. the tensor that it makes (convolutions and pooling in blocks of channels, `nchwc`): it stands for
   the nearest node of its kind that this tensor comes from; or
3. neither: a fused kernel with a name of its own, a change of layout. No group is charged with it.
"""

from __future__ import annotations

import os
import re
from collections import defaultdict, deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from onnx import GraphProto, ModelProto

from .axes import Dim, leaves
from .groups import Group
from .model import subgraphs
from .network import Network
from .profiling import Kernels, kernel_times
from .runtime import find_inputs

#: How node i is called, and what that becomes in a kernel's name.
_NUMBERED = re.compile(r"#(\d+)#")
_BLOCKED = "_nchwc"


@dataclass(frozen=True)
class GroupTimes:
    """What kernels take in one run, ms; a kernel counts for each group that it works on."""

    groups: list[float]
    whole: float
    #: Of kernels that stand for no node of the file, by operator; the longest first.
    elsewhere: dict[str, float]


def group_times(
    network: Network,
    groups: Sequence[Group],
    *,
    threads: int = 1,
    input_shapes: Mapping[str, Sequence[int]] | None = None,
) -> GroupTimes:
    """Run the model on random inputs, and share its time out among groups.

    Raises UnsupportedModel where onnxruntime can't run it, UsageError where `input_shapes`
    contradicts it.
    """
    model = network.model
    base_dir: os.PathLike[str] = model.base_dir
    feeds = find_inputs(model.proto, input_shapes, base_dir=base_dir).feeds[0]
    kernels, _ = kernel_times(numbered(model.proto), feeds, threads, base_dir)
    made_of = origins(kernels, model.proto.graph)
    spent: dict[Dim, float] = defaultdict(float)
    elsewhere: dict[str, float] = defaultdict(float)
    for kernel, (ms, _) in kernels.items():
        nodes = made_of[kernel]
        if not nodes:
            elsewhere[kernel[0]] += ms
        for dim in {dim for i in nodes for dim in _dims(network, i)}:
            spent[dim] += ms
    return GroupTimes(
        [spent[group.dim] for group in groups],
        sum(ms for ms, _ in kernels.values()),
        dict(sorted(elsewhere.items(), key=lambda each: -each[1])),
    )


def numbered(model: ModelProto) -> ModelProto:
    """A copy whose nodes are called by their numbers; what is in a body, as the node around it."""
    copy = ModelProto()
    copy.CopyFrom(model)
    for i, node in enumerate(copy.graph.node):
        node.name = f"#{i}#"
        inside = deque(subgraphs(node))
        while inside:
            for each in inside.popleft().node:
                each.name = node.name
                inside.extend(subgraphs(each))
    return copy


def origins(kernels: Kernels, graph: GraphProto) -> dict[tuple[str, str], list[int]]:
    """The nodes that each kernel stands for, by number; none where its name does not tell."""
    found = {kernel: [int(i) for i in _NUMBERED.findall(kernel[1])] for kernel in kernels}
    makers = {name: i for i, node in enumerate(graph.node) for name in node.output if name}
    taken = {i for nodes in found.values() for i in nodes}
    # Those that make what a node of the file makes come first: where two of a kind are added, and
    # one of them with the sum is one kernel, it is that which is not a kernel of its own.
    waiting = []
    for kernel, nodes in found.items():
        tensor = kernel[1].partition(_BLOCKED)[0]
        if not nodes and _BLOCKED in kernel[1] and tensor in makers:
            waiting.append((kernel, makers[tensor]))
    waiting.sort(key=lambda each: graph.node[each[1]].op_type != each[0][0])
    for kernel, last in waiting:
        first = _nearest(graph, makers, last, kernel[0], taken)
        if first is not None:
            found[kernel].append(first)
            taken.add(first)
    return found


def _nearest(
    graph: GraphProto, makers: Mapping[str, int], last: int, operator: str, taken: set[int]
) -> int | None:
    """The nearest node of a kind, back from node `last`, that stands for no kernel yet."""
    seen, ahead = {last}, deque([last])
    while ahead:
        i = ahead.popleft()
        if graph.node[i].op_type == operator:
            if i not in taken:
                return i
            continue  # what is behind a kernel is not in this one
        behind = [makers[name] for name in graph.node[i].input if name in makers]
        ahead.extend(each for each in behind if each not in seen)
        seen.update(behind)
    return None


def _dims(network: Network, number: int) -> set[Dim]:
    """The dims of all that a node reads and makes."""
    node = network.model.proto.graph.node[number]
    names = (*node.input, *node.output)
    return {dim for name in names for axis in network.axes.get(name) or () for dim in leaves(axis)}
