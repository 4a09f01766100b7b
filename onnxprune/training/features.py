"""Tensors inside the original that a pruned model's are compared with, at the channels it kept.

FitNets' hints (Romero et al., 2015) need layers of their own to compare widths that differ. Here
the plan says which channels of the original a pruned model still has, so they are compared as is.
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass

from onnx import ModelProto

from ..axes import Choice, Index
from ..infer import infer
from ..loading import load
from ..network import Network
from ..rewrite import changed_positions
from ..tables import built_in

#: As many places say what there is to say; each keeps its tensor for the backward pass.
MOST = 8
#: Operators whose first operand is worth comparing: what they read is what a layer hands on.
_LINEAR = frozenset(
    {"Conv", "ConvTranspose", "Gemm", "MatMul", "FusedConv", "QLinearConv", "QLinearMatMul"}
)


@dataclass(frozen=True)
class Feature:
    """One tensor, of the same name in both models."""

    name: str
    #: For each axis the positions of the original's that the pruned model has; None for all.
    kept: list[Index | None]


def features(network: Network, choice: Choice, pruned: ModelProto) -> list[Feature]:
    """Up to `MOST` tensors of a network (the original) and of what a choice left of it.

    Where the graph branches if it does (a residual stream: what is between is the layers' own
    business), else what linear operators read; evenly spread, the last of them always.
    """
    there = {name for node in pruned.graph.node for name in node.output}
    readers = Counter(name for record in network.records for name in record.node.input)
    read = dict.fromkeys(
        record.node.input[0]
        for record in network.records
        if record.node.op_type in _LINEAR and record.node.input[0] in there
    )
    known = [name for name in read if network.axes.get(name) is not None]
    branching = [name for name in known if readers[name] > 1]
    chosen = branching if len(branching) > 1 else known
    if known and known[-1] not in chosen:
        chosen.append(known[-1])
    if len(chosen) > MOST:
        chosen = [chosen[round(i * (len(chosen) - 1) / (MOST - 1))] for i in range(MOST)]
    return [
        Feature(name, [changed_positions(axis, choice) for axis in network.axes[name] or ()])
        for name in chosen
    ]


def common_features(original: ModelProto, pruned: ModelProto) -> list[Feature]:
    """The same where no plan is at hand: only tensors that no channel was removed from."""
    networks = [infer(load(model), built_in()) for model in (original, pruned)]
    first, second = networks

    def sizes(network: Network, name: str) -> list[int | None] | None:
        axes = network.axes.get(name)
        return None if axes is None else [axis.size for axis in axes]

    return [
        feature
        for feature in features(first, {}, pruned)
        if sizes(first, feature.name) == sizes(second, feature.name)
    ]
