"""What pruning reaches: the tensors that differ from the original's at the channels that are left.

A cut changes nothing by itself: a layer with fewer outputs gives the outputs that it keeps as
before. Values first differ where an operator sums over a dim that was cut, or takes statistics of
it, and from there on.
"""

from __future__ import annotations

from ..axes import Choice, leaves
from ..model import node_name, reads
from ..network import Network


def reached(network: Network, choice: Choice) -> set[str]:
    """The tensors of the main graph whose values a choice changes, at the channels it leaves."""
    summing: set[str] = set()
    for record in network.records:
        if any(dim in choice for axis in record.contracted for dim in leaves(axis)):
            summing.update(record.node.output)
    statistical = {
        where for axis, where in network.statistical if any(dim in choice for dim in leaves(axis))
    }
    found: set[str] = set()
    for node in network.model.proto.graph.node:
        if (
            summing.intersection(node.output)
            or f"{node.op_type} {node_name(node)}" in statistical
            or found.intersection(reads(node))
        ):
            found.update(name for name in node.output if name)
    return found
