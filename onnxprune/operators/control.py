"""If, Loop and Scan: their bodies are part of the one graph, and axes flow in and out of them."""

from __future__ import annotations

from onnx import GraphProto

from ..axes import Axis, Dim
from ..infer import walk
from ..model import Node
from ..network import Axes, Unsure
from ..op import Op
from ..sizes import is_number
from ..tables import function


def _body(op: Op, name: str) -> GraphProto:
    for attribute in op.node.attribute:
        if attribute.name == name:
            body: GraphProto = attribute.g
            return body
    raise Unsure(f"it has no {name}")


def _equate(op: Op, a: Axes | None, b: Axes | None, why: str) -> None:
    """Two tensors that stand for one another."""
    if a is None or b is None or len(a) != len(b):
        op.pin_all([*(a or ()), *(b or ())], why)
        return
    for x, y in zip(a, b, strict=True):
        op.unify(x, y)


@function("if")
def branches(op: Op) -> None:
    """Both branches give the same tensors."""
    network = op.network
    for axis in op.axes(0):
        op.pin(axis, "decides between branches")
    bodies = [_body(op, "then_branch"), _body(op, "else_branch")]
    condition = op.value(0)
    known = condition is not None and is_number(condition.ravel().tolist()[0])
    if known and condition is not None:
        # A rank or a size was asked for, and it is known: the other branch is never taken.
        taken = bool(condition.ravel().tolist()[0])
        bodies = bodies[:1] if taken else bodies[1:]
        network.never.append((op.node, "else_branch" if taken else "then_branch"))
    for body in bodies:
        walk(network, map(Node.of, body.node))
    for i, name in enumerate(op.outputs):
        if not name:
            continue
        found = [network.axes_of(body.output[i].name) for body in bodies]
        if any(not _alike(found[0], axes) for axes in found[1:]):
            for axes in found:
                op.pin_all(axes or (), "branches of unlike shapes")
            network.axes[name] = declared = network.declared(name)
            op.pin_all(declared or (), "branches of unlike shapes")
            continue
        for axes in found[1:]:
            _equate(op, found[0], axes, "branches of unlike shapes")
        network.axes[name] = found[0]
        if known:
            # Shape inference has joined both branches: what it says of ranks may be wrong.
            network.shapes.pop(name, None)


def _alike(a: Axes | None, b: Axes | None) -> bool:
    return (
        a is not None
        and b is not None
        and len(a) == len(b)
        and all(x.size == y.size for x, y in zip(a, b, strict=True))
    )


@function("scan")
def scan(op: Op) -> None:
    """State tensors keep their axes from step to step; scanned ones lose and gain one."""
    body = _body(op, "body")
    scanned = int(op.attr("num_scan_inputs"))
    states = len(op.inputs) - scanned
    if op.network.model.opset < 9:
        raise Unsure("Scan of opset 8 has a batch axis of its own")
    network = op.network
    in_axes = op.attr("scan_input_axes") or [0] * scanned
    outs = len(op.outputs) - states
    out_axes = op.attr("scan_output_axes") or [0] * outs
    steps: list[Axis] = []
    for i in range(len(op.inputs)):
        axes = list(op.axes(i))
        if i >= states:
            at = in_axes[i - states] % len(axes)
            steps.append(axes.pop(at))
            op.pin(steps[-1], "steps of the scan")
        network.axes[body.input[i].name] = axes
    walk(network, map(Node.of, body.node))
    for i in range(states):
        inner = network.axes_of(body.output[i].name)
        _equate(op, op.axes(i), inner, "a state that changes its shape")
        op.out(op.axes(i), i)
    for i in range(outs):
        inner = network.axes_of(body.output[states + i].name)
        if inner is None:
            raise Unsure("the rank of what it collects is unknown")
        axes = list(inner)
        at = out_axes[i] % (len(axes) + 1)
        axes.insert(at, steps[0] if steps else op.network.symbol(None))
        op.out(axes, states + i)


@function("loop")
def loop(op: Op) -> None:
    """Carried tensors keep their axes from step to step; what is collected gains a first axis."""
    body = _body(op, "body")
    network = op.network
    carried = len(op.inputs) - 2
    for value in body.input[:2]:  # scalars, or of one element if the body says so
        declared = network.declared(value.name)
        network.axes[value.name] = [Dim(1)] if declared and len(declared) == 1 else []
    for i in range(carried):
        if op.inputs[2 + i] in network.empty:
            network.empty.add(body.input[2 + i].name)
        else:
            network.axes[body.input[2 + i].name] = _carried(op, i)
    walk(network, map(Node.of, body.node))
    for i in range(carried):
        inner = network.axes_of(body.output[1 + i].name)
        if op.inputs[2 + i] in network.empty:
            if inner is None:
                raise Unsure("the rank of what it collects is unknown")
            op.out(inner, i)
            continue
        own = network.axes_of(body.input[2 + i].name)
        _equate(op, own, inner, "a state that changes its shape")
        if own is not None:
            op.out(own, i)
    for i in range(carried, len(op.outputs)):
        inner = network.axes_of(body.output[1 + i].name)
        if inner is None:
            raise Unsure("the rank of what it collects is unknown")
        op.out([op.fixed(None, "steps of the loop"), *inner], i)


def _carried(op: Op, i: int) -> Axes:
    """A carried tensor inside the body: its sizes may change from step to step.

    Where ONNX knows that a size changes, the axis is one of the run time's; the rest are the same.
    """
    axes = op.axes(2 + i)
    shape = op.out_shape(i)
    if shape is None:
        return axes
    if len(shape) != len(axes):
        raise Unsure("a carried tensor changes its rank")
    found: Axes = []
    for axis, size in zip(axes, shape, strict=True):
        if axis.size is not None and not isinstance(size, int):
            op.pin(axis, "its size may change from step to step")
            found.append(Dim(None, tuple(pin for pin in op.fixed(None, "changes").pins)))
        else:
            found.append(axis)
    return found
