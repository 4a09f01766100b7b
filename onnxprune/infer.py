"""Reading the axes of a graph: one walk over the nodes, each applying its operator's rule.

The result, a `Network`, says for every tensor what its axes are made of, and remembers what the
later stages need: which operands and attributes hold sizes (`Patch`), which operands carry
importance, where a dim is only statistical, and why what is pinned is pinned.

A node that no rule covers, or whose rule is not sure, pins everything it touches. That is never
wrong; it only leaves channels in place.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, TensorShapeProto

from . import values
from .axes import Axis, Dim, Pin, cancel, concat, is_pinned, leaves, pin, product, resolve, unify
from .model import (
    SMALL,
    Array,
    Model,
    attributes,
    captured,
    copy_fields,
    graphs,
    node_name,
    subgraphs,
)
from .notation import Merge, Name, Number, Operand, Pattern, Runs, Star, Term, parse
from .tables import FUNCTIONS, Rule, operator_name

Axes = list[Axis]


class Unsure(Exception):
    """Raised by a rule that can't say how the axes of this node hang together, and why."""


@dataclass(frozen=True)
class Patch:
    """Sizes that a node holds: element `i` of `slot` is the size of `sizes[i]`.

    `slot` is an operand's number or an attribute's name; `None` as element means all of it. An
    element that counts from the end of an axis changes with all of that axis: `of[i]`.
    """

    node: NodeProto
    slot: int | str
    sizes: Mapping[int | None, Axis]
    of: Mapping[int | None, Axis]


@dataclass(frozen=True)
class Frozen:
    """An attribute that is left out, and whose default comes from the size of `axis`.

    Where that axis changes, `value`, the default from before, is written.
    """

    node: NodeProto
    attribute: str
    value: float
    axis: Axis


@dataclass(frozen=True)
class Quantised:
    """The names of the scale and the zero point of codes (or ""), and the axis they are along."""

    scale: str
    point: str
    axis: int

    def spread(self, values: Array, shape: Sequence[int]) -> Array:
        """Scales or zero points as an array that is broadcast to codes of `shape`."""
        axis = self.axis % len(shape) if shape else 0
        if values.size == 1:
            return values.reshape(())
        if values.ndim == 1:
            return values.reshape([-1 if i == axis else 1 for i in range(len(shape))])
        block = -(-shape[axis] // values.shape[axis])  # one for each block
        spread: Array = np.repeat(values, block, axis)
        return spread[(slice(None),) * axis + (slice(shape[axis]),)]


@dataclass
class Record:
    """What one node did with axes: kept for proving which dims are exact."""

    node: NodeProto
    rule: Rule
    contracted: Axes
    #: False where this node makes something of zero, whatever its rule's `zero` says.
    keeps_zero: bool = True


@dataclass
class Network:
    """The axes of every tensor of a model, and what its operators say of them."""

    model: Model
    rules: Mapping[str, Rule]
    axes: dict[str, Axes | None] = field(default_factory=dict)
    values: dict[str, Array] = field(default_factory=dict)
    patches: list[Patch] = field(default_factory=list)
    frozen: list[Frozen] = field(default_factory=list)
    records: list[Record] = field(default_factory=list)
    statistical: list[tuple[Axis, str]] = field(default_factory=list)
    roles: list[tuple[Axis, str]] = field(default_factory=list)
    scored: set[str] = field(default_factory=set)
    #: Nodes that pinned all they touch: (node, reason).
    refused: list[tuple[NodeProto, str]] = field(default_factory=list)
    #: Shape nodes and the axes whose sizes they read.
    shape_nodes: list[tuple[NodeProto, Axes]] = field(default_factory=list)
    #: What the model and the bodies in it give back.
    results: frozenset[str] = frozenset()
    symbols: dict[str, Dim] = field(default_factory=dict)
    #: The dims of the model's inputs.
    given: set[Axis] = field(default_factory=set)
    shapes: dict[str, list[int | str | None]] = field(default_factory=dict)

    def axes_of(self, name: str) -> Axes | None:
        """The axes of a tensor, or None where not even its rank is known."""
        axes = self.axes.get(name)
        if axes is None and name in self.model.constants and name not in self.axes:
            self.axes[name] = axes = [Dim(dim) for dim in self.model.constants[name].dims]
        return axes

    def value_of(self, name: str) -> Array | None:
        """The value of a small constant or of a computed shape (see `values` for its elements)."""
        if name in self.values:
            return self.values[name]
        tensor = self.model.constants.get(name)
        if tensor is None or tensor.data_type == TensorProto.STRING:
            return None
        if math.prod(tensor.dims) > SMALL:
            return None
        value = self.model.read(name)
        self.values[name] = value
        return value

    def quantised(self) -> dict[str, Quantised]:
        """The tensors that hold codes, by name."""
        found: dict[str, Quantised] = {}
        for record in self.records:
            names = record.node.input
            for codes, scale, point, *axis in record.rule.codes:
                if codes < len(names):
                    at = axis[0] if axis else attributes(record.node).get("axis", 1)
                    operands = [names[i] if 0 <= i < len(names) else "" for i in (scale, point)]
                    same = [at for name in operands for at in self._along(names[codes], name)]
                    at = same[0] if len(set(same)) == 1 else at
                    found.setdefault(names[codes], Quantised(operands[0], operands[1], at))
        return found

    def _along(self, name: str, vector: str) -> list[int]:
        """The axes of a tensor that are the one of `vector`."""
        (wanted, *more) = self.axes.get(vector) or [Dim(1)]
        if more or wanted.size == 1:
            return []
        dims = list(leaves(wanted))
        return [i for i, axis in enumerate(self.axes.get(name) or ()) if list(leaves(axis)) == dims]

    def symbol(self, size: int | str | None) -> Dim:
        """A dim for one entry of a declared shape; the same name gives the same dim."""
        if isinstance(size, int):
            return Dim(size)
        if size is None:
            return Dim(None, (_DYNAMIC,))
        if size not in self.symbols:
            self.symbols[size] = Dim(None, (_DYNAMIC,))
        return self.symbols[size]

    def declared(self, name: str) -> Axes | None:
        """Fresh axes from the shape that the file or ONNX's shape inference gives a tensor."""
        shape = self.shapes.get(name)
        return None if shape is None else [self.symbol(size) for size in shape]


_DYNAMIC = Pin("its size is only known at run time")


def infer(model: Model, rules: Mapping[str, Rule], *, pin_interface: bool = True) -> Network:
    """Read the axes of every tensor of `model`. Takes time linear in the number of nodes.

    `pin_interface=False` leaves the axes of inputs and outputs free, to study operators alone.
    """
    network = Network(model, rules)
    graph = model.proto.graph
    network.shapes = declared_shapes(model)
    network.results = frozenset(v.name for each in graphs(graph) for v in each.output)
    for value in model.inputs:
        network.axes[value.name] = axes = network.declared(value.name)
        network.given.update(axes or ())
        for axis in (axes or ()) if pin_interface else ():
            pin(axis, Pin("an axis of the model's input", value.name))
    walk(network, graph)
    for value in graph.output if pin_interface else ():
        for axis in network.axes_of(value.name) or ():
            pin(axis, Pin("an axis of the model's output", value.name))
    _trace_scores(network)
    return network


def walk(network: Network, graph: GraphProto) -> None:
    """Apply the rules of all nodes of `graph`, in order."""
    for node in graph.node:
        if node.op_type == "Constant" and node.output[0] in network.model.constants:
            continue
        apply(network, node)


def apply(network: Network, node: NodeProto) -> None:
    """Apply one node's rule; pin what it touches where there is none, or where it is unsure."""
    rule = network.rules.get(operator_name(node.domain, node.op_type))
    op = Op(network, node, rule)
    try:
        if rule is None:
            raise Unsure(f"no rule for operator {operator_name(node.domain, node.op_type)}")
        if rule.pinned:
            raise Unsure(rule.pinned)
        if rule.function is None and rule.pattern is not None:
            op.match(rule.pattern)
        else:
            FUNCTIONS[rule.function or ""](op)
        op.finish()
    except Unsure as unsure:
        op.refuse(str(unsure))
        if rule is None or not rule.pinned:
            network.refused.append((node, str(unsure)))
    except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
        # A node that is not as its operator's specification has it, or a rule that forgot a case.
        kind = type(error).__name__
        reason = f"its rule could not read its operands and attributes ({kind}: {error})"
        op.refuse(reason)
        network.refused.append((node, reason))
    if node.op_type in values.OPERATORS and node.domain in ("", "ai.onnx"):
        values.compute(network, op)


class Op:
    """One node as its rule sees it: operands, attributes, values, and ways to equate their axes."""

    __slots__ = (
        "_contracted",
        "_followed",
        "_keeps_zero",
        "_patches_before",
        "_where",
        "env",
        "inputs",
        "network",
        "node",
        "outputs",
        "rule",
    )

    def __init__(self, network: Network, node: NodeProto, rule: Rule | None) -> None:
        self.network = network
        self.node = node
        self.rule = rule
        #: The names of its operands and outputs: read once, since each access to a proto costs.
        self.inputs: tuple[str, ...] = tuple(node.input)
        self.outputs: tuple[str, ...] = tuple(node.output)
        self.env: dict[str, Any] = {}
        self._contracted: Axes = []
        self._keeps_zero = True
        self._where = ""
        #: Operands whose axes the rule has asked for; all others are pinned in the end.
        self._followed: set[int] = set()
        self._patches_before = len(network.patches)

    # -- reading ---------------------------------------------------------------------------------

    @property
    def where(self) -> str:
        self._where = self._where or f"{self.node.op_type} {node_name(self.node)}"
        return self._where

    def attr(self, name: str, default: Any = None) -> Any:
        """An attribute's value; bytes are decoded."""
        for attribute in self.node.attribute:
            if attribute.name == name:
                value = onnx.helper.get_attribute_value(attribute)
                return value.decode("utf-8", "replace") if isinstance(value, bytes) else value
        return default

    def has(self, i: int) -> bool:
        """True where operand `i` is given."""
        return i < len(self.inputs) and bool(self.inputs[i])

    def axes(self, i: int) -> Axes:
        """The axes of operand `i`. Raises Unsure where they are unknown."""
        if not self.has(i):
            raise Unsure(f"operand {i} is missing")
        name = self.inputs[i]
        axes = self.network.axes.get(name) or self.network.axes_of(name)
        if axes is None:
            raise Unsure(f"the rank of {self.inputs[i]!r} is unknown")
        self._followed.add(i)
        return axes

    def value(self, i: int) -> Array | None:
        """The value of operand `i` where it is known, at least in part.

        Its axes are pinned: what is read by position (a shape, a list of axes) stays as it is.
        """
        if not self.has(i):
            return None
        for axis in self.network.axes_of(self.inputs[i]) or ():
            self.pin(axis, "its values say what the operator does")
        return self.network.value_of(self.inputs[i])

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
        """Output `i` has these axes."""
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
        why = Pin(reason, self.where)
        for axis in axes:
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

    def freeze(self, attribute: str, value: float, axis: Axis) -> None:
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
        for at in range(rank):
            here = [axes[at - rank + len(axes)] for axes in operands if at >= rank - len(axes)]
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
        if isinstance(pattern, str):
            pattern = parse(pattern)
        elif pattern is None:
            assert self.rule is not None and self.rule.pattern is not None
            pattern = self.rule.pattern
        env, rule = self.env, self.rule
        if rule is not None:
            for name, attribute in rule.bind.items():
                size = self.attr(attribute)
                if size is None:
                    size = schema_default(self.node.domain, self.node.op_type, attribute)
                if size is not None and int(size) > 0:
                    env[name] = Dim(int(size))
                    self.patch(attribute, {None: env[name]})
        operands = pattern.inputs
        if operands and operands[-1].repeated:
            extra = max(0, len(self.inputs) - len(operands))
            operands = (*operands, *[operands[-1]] * extra)
        for i, operand in enumerate(operands):
            if i >= len(self.inputs) or not self.inputs[i]:
                if not (operand.optional or operand.repeated):
                    raise Unsure(f"operand {i} is missing")
            elif operand.ignored:
                self.pin_all(
                    self.network.axes_of(self.inputs[i]) or (), "its positions are not followed"
                )
            else:
                self._read(operand, self.axes(i), i)
        if len(self.inputs) > len(operands):
            raise Unsure(f"{len(self.inputs)} operands do not fit the pattern {pattern.text!r}")
        for i, operand in enumerate(pattern.outputs):
            if i < len(self.outputs) and self.outputs[i] and not operand.ignored:
                self.out(self._write(operand, i), i)
        for name in sorted(pattern.contracted):
            if name in env and not isinstance(env[name], list):
                self.contract(env[name])

    def _read(self, operand: Operand, axes: Axes, i: int) -> None:
        terms, star = operand.axes, operand.star
        if star is None:
            if len(axes) != len(terms):
                raise Unsure(f"rank {len(axes)} of {self.inputs[i]!r} does not fit the rule")
            for term, axis in zip(terms, axes, strict=True):
                self._equate(term, axis)
            return
        before, after = star, len(terms) - star - 1
        if len(axes) < before + after:
            raise Unsure(f"rank {len(axes)} of {self.inputs[i]!r} does not fit the rule")
        for term, axis in zip(terms[:before], axes[:before], strict=True):
            self._equate(term, axis)
        middle = axes[before : len(axes) - after]
        term = terms[star]
        assert isinstance(term, Star)
        if term.statistical:
            for axis in middle:
                self.statistical(axis)
        if term.name in self.env:
            self.env[term.name] = self.broadcast([self.env[term.name], middle])
        else:
            self.env[term.name] = middle
        for term, axis in zip(terms[star + 1 :], axes[len(axes) - after :], strict=True):
            self._equate(term, axis)

    def _equate(self, term: Term, axis: Axis) -> None:
        term = self._trimmed(term)
        if isinstance(term, Name):
            if term.statistical:
                self.statistical(axis)
            if term.name in self.env:
                self.unify(self.env[term.name], axis)
            else:
                self.env[term.name] = axis
        else:
            self.unify(self._build(term, axis.size), axis)

    def _build(self, term: Term, size: int | None) -> Axis:
        """The axis that `term` describes; at most one name in it may be new, sized by the rest."""
        term = self._trimmed(term)
        if isinstance(term, Name):
            if term.name not in self.env:
                self.env[term.name] = self.network.symbol(size)
            axis: Axis = self.env[term.name]
            if term.statistical:
                self.statistical(axis)
            return axis
        if isinstance(term, Number):
            return self.fixed(term.value, "fixed by the operator")
        if isinstance(term, Star):
            raise Unsure("a `*` can't be part of a merged axis")
        parts = _parts(term)
        rest = None if size is None else self._rest(term, size)
        built = [self._build(part, rest) for part in parts]  # those of known size ignore `rest`
        return product(built) if isinstance(term, Merge) else concat(built)

    def _trimmed(self, term: Term) -> Term:
        """`(g i)` is `i` where g is 1, as in most convolutions."""
        if not isinstance(term, Merge):
            return term
        factors = [each for each in term.factors if self._size(each) != 1]
        return factors[0] if len(factors) == 1 else term

    def _rest(self, term: Merge | Runs, size: int) -> int:
        """What an axis of `size` leaves for the one part of `term` whose size is not known yet."""
        parts = _parts(term)
        known = [each for part in parts if (each := self._size(part)) is not None]
        if len(known) < len(parts) - 1:
            raise Unsure("the sizes of two factors of one axis are unknown")
        if isinstance(term, Runs):
            return size - sum(known)
        whole = math.prod(known)
        if len(known) < len(parts) and (whole == 0 or size % whole):
            raise Unsure(f"an axis of {size} is not a multiple of {whole}")
        return size // (whole or 1)

    def _size(self, term: Term) -> int | None:
        if isinstance(term, Name):
            axis = self.env.get(term.name)
            return axis.size if axis is not None else None
        if isinstance(term, Number):
            return term.value
        if isinstance(term, Star):
            return None
        sizes = [self._size(part) for part in _parts(term)]
        known = [each for each in sizes if each is not None]
        if len(known) < len(sizes):
            return None
        return math.prod(known) if isinstance(term, Merge) else sum(known)

    def _write(self, operand: Operand, i: int) -> Axes:
        hint = self.network.shapes.get(self.outputs[i])
        fixed = len(operand.axes) - (operand.star is not None)
        axes: Axes = []
        for at, term in enumerate(operand.axes):
            if isinstance(term, Star):
                if term.name not in self.env:
                    if hint is not None and len(hint) >= fixed:
                        width = len(hint) - fixed
                        sizes = hint[at : at + width]
                    else:
                        known = [each for each in self.env.values() if isinstance(each, list)]
                        if not known:
                            raise Unsure(f"the rank of {self.outputs[i]!r} is unknown")
                        sizes = [None] * len(known[0])
                    self.env[term.name] = [self.network.symbol(size) for size in sizes]
                axes.extend(self.env[term.name])
                continue
            if isinstance(term, Name) and term.name in self.env:
                axes.append(self.env[term.name])
                continue
            size = None
            if hint is not None:
                from_end = len(operand.axes) - at
                after_star = operand.star is not None and at > operand.star
                place = len(hint) - from_end if after_star else at
                if 0 <= place < len(hint):
                    size = hint[place]
            if isinstance(term, Name):
                self.env[term.name] = self.network.symbol(size)
                axes.append(self.env[term.name])
            else:
                axes.append(self._build(term, size if isinstance(size, int) else None))
        return axes

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
            if name and name not in network.axes:
                raise Unsure(f"its rule says nothing of output {i}, {name!r}")
            shape = network.shapes.get(name)
            axes = network.axes.get(name)
            if shape is None:
                continue
            if axes is None:
                network.axes[name] = network.declared(name)
            elif not _fits(axes, shape):
                raise Unsure(
                    f"its rule gives {name!r} the shape {[a.size for a in axes]},"
                    f" shape inference {shape}"
                )
        network.records.append(Record(self.node, rule, self._contracted, self._keeps_zero))

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
        network.frozen = [frozen for frozen in network.frozen if frozen.node is not self.node]

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
        size = axis.size
        if size != wanted and size is not None and isinstance(wanted, int):
            return False
    return True


def _parts(term: Merge | Runs) -> tuple[Term, ...]:
    return term.factors if isinstance(term, Merge) else term.runs


_DEFAULTS: dict[tuple[str, str, str], Any] = {}


def schema_default(domain: str, op_type: str, attribute: str) -> Any:
    """The default that the operator's schema gives an attribute, or None."""
    key = (domain, op_type, attribute)
    if key not in _DEFAULTS:
        _DEFAULTS[key] = None
        with contextlib.suppress(onnx.defs.SchemaError):
            found = onnx.defs.get_schema(op_type, domain).attributes.get(attribute)
            if found is not None and found.default_value.type:
                _DEFAULTS[key] = onnx.helper.get_attribute_value(found.default_value)
    if _DEFAULTS[key] is None and attribute == "group":
        return 1
    return _DEFAULTS[key]


def _trace_scores(network: Network) -> None:
    """Carry the mark of importance back from operands to the constants they are made from.

    A weight may be rearranged (a rule that `passes`), or computed from a parameter and nothing else
    (weight standardisation): then the parameter is what is scored.
    """
    model = network.model
    computed: set[str] = set()
    for record in network.records:
        names = record.node.input
        if record.node.op_type in ("Shape", "Size"):
            continue  # sizes are no weights
        if any(names) and all(
            name in model.constants or name in computed or not name for name in names
        ):
            computed.update(record.node.output)
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


# -- declared shapes -----------------------------------------------------------------------------


def declared_shapes(model: Model) -> dict[str, list[int | str | None]]:
    """The shape of every tensor that the file declares or ONNX's shape inference finds.

    Inference runs on a copy without weights: it serialises the model.
    """
    skeleton = without_weights(model)
    # Half-known shapes are better than none: what stays unknown is pinned.
    with contextlib.suppress(Exception):
        skeleton = onnx.shape_inference.infer_shapes(skeleton, data_prop=True)
    found: dict[str, list[int | str | None]] = {}
    for graph in graphs(skeleton.graph):
        for value in (*graph.value_info, *graph.output, *graph.input):
            tensor = value.type.tensor_type
            if tensor.HasField("shape"):
                found[value.name] = [_size(d) for d in tensor.shape.dim]
    return found


def _size(dim: TensorShapeProto.Dimension) -> int | str | None:
    size: int = dim.dim_value
    if size > 0 or (size == 0 and dim.HasField("dim_value")):
        return size
    return dim.dim_param or None


def without_weights(model: Model) -> ModelProto:
    """A copy of the model whose larger tensors have their shape and type, but no bytes."""
    copy = ModelProto()
    copy_fields(model.proto, copy, without="graph")
    _copy_graph(model.proto.graph, copy.graph)
    return copy


def _copy_graph(source: GraphProto, target: GraphProto) -> None:
    target.name = source.name
    for name in ("input", "output", "value_info"):
        getattr(target, name).extend(getattr(source, name))
    for tensor in source.initializer:
        _copy_tensor(tensor, target.initializer.add())
    for node in source.node:
        large = node.op_type == "Constant" and (
            a.t for a in node.attribute if a.name == "value" and not _small(a.t)
        )
        tensor = next(large, None) if large else None
        if tensor is None:
            target.node.append(node)
            continue
        copy = target.node.add()
        copy.op_type, copy.name, copy.domain = node.op_type, node.name, node.domain
        copy.input.extend(node.input)
        copy.output.extend(node.output)
        attribute = copy.attribute.add()
        attribute.name, attribute.type = "value", onnx.AttributeProto.TENSOR
        _copy_tensor(tensor, attribute.t)


def _copy_tensor(source: TensorProto, target: TensorProto) -> None:
    if _small(source):
        target.CopyFrom(source)
    else:
        target.name, target.data_type = source.name, source.data_type
        target.dims.extend(source.dims)


def _small(tensor: TensorProto) -> bool:
    if tensor.data_location == TensorProto.EXTERNAL:
        return False
    return bool(math.prod(tensor.dims) <= 64)
