"""One node as its rule sees it: what it reads, and ways to say how its axes hang together."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from onnx import AttributeProto, GraphProto

from .axes import Axis, Dim, Pin, cancel, is_pinned, pin, resolve, unify
from .matching import match
from .model import LONGEST, Array, Node, attribute_value, captured, graphs, node_name, subgraphs
from .network import Axes, Frozen, Network, Patch, Record, Unsure
from .notation import Pattern
from .tables import Rule


class Op:
    """One node as its rule sees it: operands, attributes, values, and ways to equate their axes."""

    __slots__ = (
        "_attributes",
        "_contracted",
        "_followed",
        "_frozen_before",
        "_keeps_zero",
        "_patches_before",
        "_where",
        "env",
        "inputs",
        "kind",
        "network",
        "node",
        "outputs",
        "rule",
    )

    def __init__(self, network: Network, node: Node, rule: Rule | None = None) -> None:
        self.network = network
        self.node, self.kind, self.inputs, self.outputs = node
        self.rule = rule or network.rules.get(self.kind)
        self.env: dict[str, Any] = {}
        self._contracted: Axes = []
        self._keeps_zero = True
        self._where = ""
        self._attributes: dict[str, AttributeProto] | None = None
        #: Operands whose axes the rule has asked for; all others are pinned in the end.
        self._followed: set[int] = set()
        self._patches_before = len(network.patches)
        self._frozen_before = len(network.frozen)

    # -- reading ---------------------------------------------------------------------------------

    @property
    def where(self) -> str:
        self._where = self._where or f"{self.node.op_type} {node_name(self.node)}"
        return self._where

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value; bytes are decoded."""
        if self._attributes is None:
            self._attributes = {each.name: each for each in self.node.attribute[:]}
        attribute = self._attributes.get(name)
        if attribute is None:
            return default
        value = attribute_value(attribute)
        return value.decode("utf-8", "replace") if isinstance(value, bytes) else value

    def attributes_key(self) -> bytes:
        """Bytes that are equal for two nodes of one operator if their attributes are."""
        attributes = self.node.attribute
        return b"".join(each.SerializeToString() for each in attributes) if attributes else b""

    def has(self, i: int) -> bool:
        """True where operand `i` is given."""
        return i < len(self.inputs) and bool(self.inputs[i])

    def axes(self, i: int) -> Axes:
        """The axes of operand `i`. Raises Unsure where they are unknown."""
        name = self.inputs[i] if i < len(self.inputs) else ""
        if not name:
            raise Unsure(f"operand {i} is missing")
        axes = self.network.axes.get(name) or self.network.axes_of(name)
        if axes is None:
            raise Unsure(f"the rank of {name!r} is unknown")
        self._followed.add(i)
        return axes

    def value(self, i: int) -> Array | None:
        """The value of operand `i` where it is known, at least in part.

        Its axes are pinned: what is read by position (a shape, a list of axes) stays as it is.
        """
        if not self.has(i):
            return None
        name = self.inputs[i]
        value = self.network.value_of(name)
        self._followed.add(i)
        if value is None or value.size != 1:
            axes = self.network.axes_of(name) or ()
            self.pin_all(axes, "its values say what the operator does")
        return value

    def ints(self, i: int, attribute: str | None = None) -> list[int] | None:
        """Integers from operand `i`, or from the attribute that older opsets have in its place."""
        if self.has(i):
            value = self.value(i)
            if value is None:
                raise Unsure(f"operand {self.inputs[i]!r} is computed at run time")
            found = value.ravel().tolist()
            if not all(isinstance(each, (int, float)) for each in found):
                raise Unsure(f"operand {self.inputs[i]!r} is computed at run time")
            return [int(each) for each in found]
        given = self.attr(attribute) if attribute else None
        if given is None:
            return None
        return [int(each) for each in (given if isinstance(given, (list, tuple)) else [given])]

    def axis(self, default: int, rank: int) -> int:
        """The `axis` attribute, counted from the front."""
        axis = int(self.attr("axis", default))
        if not -rank <= axis < max(rank, 1):
            raise Unsure(f"axis {axis} is outside of rank {rank}")
        return axis % rank if rank else 0

    def out_shape(self, i: int = 0) -> list[int | str | None] | None:
        """The shape that ONNX's own inference gives output `i`."""
        return self.network.shapes.get(self.outputs[i])

    def out_fresh(self, i: int = 0) -> Axes:
        """New, unrelated axes for output `i`, as many as its declared shape has."""
        axes = self.network.declared(self.outputs[i])
        if axes is None:
            raise Unsure(f"the shape of {self.outputs[i]!r} is unknown")
        return axes

    # -- saying ----------------------------------------------------------------------------------

    def out(self, axes: Sequence[Axis], i: int = 0) -> None:
        """Output `i` has these axes. Raises Unsure where one is longer than any that there is."""
        for axis in axes:
            if (axis.size or 0) > LONGEST:
                raise Unsure(f"it would make an axis of {axis.size} elements")
        if i < len(self.outputs) and self.outputs[i]:
            self.network.axes[self.outputs[i]] = list(axes)

    def unify(self, a: Axis, b: Axis) -> None:
        """`a` and `b` are one axis."""
        if a is not b:
            unify(a, b, self.where)

    def pin(self, axis: Axis, reason: str) -> None:
        """Every index of `axis` stays."""
        pin(axis, Pin(reason, self.where))

    def pin_all(self, axes: Iterable[Axis], reason: str) -> None:
        """Every index of each of `axes` stays."""
        why = None
        for axis in axes:
            why = why or Pin(reason, self.where)
            pin(axis, why)

    def fixed(self, size: int | None, reason: str) -> Dim:
        """A new axis that can't be pruned."""
        return Dim(size, (Pin(reason, self.where),))

    def statistical(self, axis: Axis) -> None:
        """A subset of `axis` is meaningful but changes the result."""
        self.network.statistical.append((axis, self.where))

    def contract(self, *axes: Axis) -> None:
        """The operator sums over `axes`: exact where an operand is zero there."""
        self._contracted.extend(axes)

    def loses_zero(self) -> None:
        """This node makes something of zero, though operators of its kind need not."""
        self._keeps_zero = False

    def role(self, axis: Axis, role: str) -> None:
        """What users call `axis`."""
        self.network.roles.append((axis, role))

    def patch(
        self,
        slot: int | str,
        sizes: Mapping[int | None, Axis],
        of: Mapping[int | None, Axis] | None = None,
    ) -> None:
        """Operand or attribute `slot` holds the sizes of these axes (see `Patch`)."""
        if sizes:
            self.network.patches.append(Patch(self.node, slot, dict(sizes), dict(of or {})))

    def freeze(self, attribute: str, value: float | list[int], axis: Axis) -> None:
        """Write `attribute`, which is left out, when `axis`, which its default is of, changes."""
        self.network.frozen.append(Frozen(self.node, attribute, value, axis))

    def broadcast(self, operands: Sequence[Sequence[Axis]], out: int = 0) -> Axes:
        """The axes of operands that are broadcast against each other, as numpy does."""
        first = operands[0]
        if all(axes is first for axes in operands):
            return list(first)
        rank = max(map(len, operands))
        hint = self.network.shapes.get(self.outputs[out]) if self.outputs else None
        result: Axes = []
        for at in range(-rank, 0):
            here = [axes[at] for axes in operands if len(axes) >= -at]
            if here.count(here[0]) == len(here):  # they compare by identity
                result.append(here[0])
            else:
                named = hint[at] if hint is not None and len(hint) == rank else None
                result.append(self._broadcast_axis(here, named))
        return result

    def _broadcast_axis(self, here: Axes, hint: int | str | None) -> Axis:
        wide = [axis for axis in here if axis.size != 1]
        if not wide:
            return here[0]
        known = [axis for axis in wide if axis.size is not None]
        if known:
            for axis in known[1:]:
                self.unify(known[0], axis)
            if len(known) < len(wide):
                self.pin_all(wide, "broadcast against a size that is only known at run time")
            return known[0]
        rests = [cancel(wide[0], axis) for axis in wide[1:]]
        if None not in rests:
            for rest in rests:
                if rest is not None:
                    self.unify(*rest)
            return wide[0]
        for axis in wide:
            if not is_pinned(axis):
                self.pin(axis, "broadcast against a size that is only known at run time")
        if isinstance(hint, str) and hint in self.network.symbols:
            return self.network.symbols[hint]
        # One of them is 1, or they are equal: a mask against a batch. Called by the one that the
        # model's inputs have, a later Reshape to that size can be followed.
        ends = [resolve(axis) for axis in wide]
        named = (axis for axis in ends if axis in self.network.given)
        return next(named, ends[0])

    # -- patterns --------------------------------------------------------------------------------

    def match(self, pattern: Pattern | str | None = None) -> None:
        """Apply a pattern (the rule's own, by default).

        The axes that it gives one name are equated, and the outputs get their axes.
        """
        match(self, pattern)

    # -- ending ----------------------------------------------------------------------------------

    def finish(self) -> None:
        """What the rule's table says besides its axes; and a check against ONNX's own shapes."""
        network, rule = self.network, self.rule
        assert rule is not None
        for name, reason in rule.pin.items():
            found = self.env.get(name, ())
            self.pin_all(found if isinstance(found, list) else (found,) if found else (), reason)
        for name, role in rule.roles.items():
            if role == "conv-groups" and self.env["i"].size == 1:
                # Depthwise: the groups are the channels, and `o` only multiplies them.
                self.role(self.env[name], "channels")
                if self.env[name].size != 1:
                    self.role(self.env["o"], role)
            elif name in self.env:
                self.role(self.env[name], role)
        for i in rule.score:
            if self.has(i):
                network.scored.add(self.inputs[i])
        if len(self._followed) < len(self.inputs):
            for i, name in enumerate(self.inputs):
                if name and i not in self._followed:
                    self.pin_all(network.axes_of(name) or (), "its positions are not followed")
        for i, name in enumerate(self.outputs):
            axes = network.axes.get(name)
            if axes is None and name and name not in network.axes:
                raise Unsure(f"its rule says nothing of output {i}, {name!r}")
            shape = network.shapes.get(name)
            if shape is None:
                continue
            if axes is None:
                network.axes[name] = declared = network.declared(name)
                self.pin_all(declared or (), "its rule says nothing of it")
            elif not _fits(axes, shape):
                raise Unsure(
                    f"its rule gives {name!r} the shape {[a.size for a in axes]},"
                    f" shape inference {shape}"
                )
        network.records.append(
            Record(self.node, rule, self.inputs, self.outputs, self._contracted, self._keeps_zero)
        )

    def refuse(self, reason: str) -> None:
        """Pin everything that the node reads, its bodies' captures included, and all it makes."""
        network = self.network
        names = [name for name in self.inputs if name]
        for body in subgraphs(self.node):
            names += sorted(captured(body))
        for name in names:
            for axis in network.axes_of(name) or ():
                self.pin(axis, reason)
        for name in self.outputs:
            if name:
                network.axes[name] = axes = network.declared(name)
                for axis in axes or ():
                    self.pin(axis, reason)
        for body in subgraphs(self.node):
            self._pin_body(body, reason)
        network.patches[self._patches_before :] = [
            p for p in network.patches[self._patches_before :] if p.node is not self.node
        ]
        network.frozen[self._frozen_before :] = [
            f for f in network.frozen[self._frozen_before :] if f.node is not self.node
        ]

    def _pin_body(self, body: GraphProto, reason: str) -> None:
        """Nothing inside a body that no rule reads may change."""
        for graph in graphs(body):
            for tensor in graph.initializer:
                for axis in self.network.axes_of(tensor.name) or ():
                    self.pin(axis, reason)
            for node in graph.node:
                for name in node.output:
                    if name in self.network.model.constants:
                        for axis in self.network.axes_of(name) or ():
                            self.pin(axis, reason)


def _fits(axes: Axes, shape: Sequence[int | str | None]) -> bool:
    """Whether axes can have a declared shape: no two sizes that are known differ."""
    if len(axes) != len(shape):
        return False
    for axis, wanted in zip(axes, shape, strict=True):
        if isinstance(wanted, int):
            size = axis.size
            if size != wanted and size is not None:
                return False
    return True
