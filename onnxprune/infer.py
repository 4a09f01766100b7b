"""Reading the axes of a graph: one walk over the nodes, each applying its operator's rule.

The result, a `Network`, says for every tensor what its axes are made of, and remembers what the
later stages need: which operands and attributes hold sizes (`Patch`), which operands carry
importance, where a dim is only statistical, and why what is pinned is pinned.

A node that no rule covers, or whose rule is not sure, pins everything it touches. That is never
wrong; it only leaves channels in place.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from . import strides, values
from .axes import Pin, pin
from .declared import declared_shapes
from .model import Model, Node
from .network import Network, Unsure
from .op import Op
from .tables import FUNCTIONS, Rule, operator_name
from .uncollected import uncollected


@uncollected()
def infer(model: Model, rules: Mapping[str, Rule], *, pin_interface: bool = True) -> Network:
    """Read the axes of every tensor of `model`. Takes time linear in the number of nodes.

    `pin_interface=False` leaves the axes of inputs and outputs free, to study operators alone.
    """
    network = Network(model, rules)
    graph = model.proto.graph
    network.shapes = declared_shapes(model)
    network.results = frozenset(v.name for each in model.graphs for v in each.output)
    for value in model.inputs:
        network.axes[value.name] = axes = network.declared(value.name)
        network.given.update(axes or ())
        for axis in (axes or ()) if pin_interface else ():
            pin(axis, Pin("an axis of the model's input", value.name))
    walk(network, model.nodes)
    for value in graph.output if pin_interface else ():
        for axis in network.axes_of(value.name) or ():
            pin(axis, Pin("an axis of the model's output", value.name))
    _trace_scores(network)
    return network


def walk(network: Network, nodes: Iterable[Node]) -> None:
    """Apply the rules of `nodes`, in order."""
    for node in nodes:
        if node.kind != "Constant" or node.outputs[0] not in network.model.constants:
            apply(network, node)


def apply(network: Network, node: Node) -> None:
    """Apply one node's rule; pin what it touches where there is none, or where it is unsure."""
    op = Op(network, node)
    arithmetic = values.has_values(op)
    if arithmetic and values.compute(op):
        return
    try:
        follow(op)
        if op.kind in strides.OPERATORS:
            strides.follow(network, op)
    except Unsure as unsure:
        op.refuse(str(unsure))
        if op.rule is None or not op.rule.pinned:
            network.refused.append((node.proto, str(unsure)))
    if arithmetic:
        values.note_unknown(op)


def follow(op: Op) -> None:
    """Let a node's rule say how its axes hang together. Raises Unsure where it can't."""
    rule = op.rule
    if rule is None:
        raise Unsure(f"no rule for operator {op.kind}")
    if rule.pinned:
        raise Unsure(rule.pinned)
    try:
        if rule.function is None and rule.pattern is not None:
            op.match(rule.pattern)
        else:
            FUNCTIONS[rule.function or ""](op)
        op.finish()
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A node that is not as its operator's specification has it, or a rule that forgot a case.
        kind = type(error).__name__
        raise Unsure(
            f"its rule could not read its operands and attributes ({kind}: {error})"
        ) from error


def _trace_scores(network: Network) -> None:
    """Carry the mark of importance back from operands to the constants they are made from.

    A weight may be rearranged (a rule that `passes`), or computed from a parameter and nothing else
    (weight standardisation): then the parameter is what is scored.
    """
    model = network.model
    computed: set[str] = set()
    known = {*model.constants, ""}
    for record in network.records:
        if record.rule.name in ("Shape", "Size"):
            continue  # sizes are no weights
        if known.issuperset(record.inputs) and any(record.inputs):
            computed.update(record.outputs)
            known.update(record.outputs)
    todo = list(network.scored)
    while todo:
        name = todo.pop()
        node = model.producers.get(name)
        if node is None or not node.input:
            continue
        rule = network.rules.get(operator_name(node.domain, node.op_type))
        passes = rule is not None and rule.passes
        if (passes or name in computed) and node.input[0] not in network.scored:
            network.scored.add(node.input[0])
            todo.append(node.input[0])
