"""Rewriting: a model, with only the chosen indices of every dim, as a new ModelProto.

All knowledge of operators is in the axes by now. Constants are indexed along their axes; sizes that
nodes hold in operands and attributes are written anew from the axis expressions.

Shape arithmetic inside the graph stays as it was: where a Shape node would see an axis that has
shrunk, its original size is written instead, so every computed number means what it meant before,
and the operands that really are sizes (the patches) are corrected where they are used. A size that
reaches data (attention's 1/sqrt(d)) thereby keeps its value too.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence, Set
from typing import Any

import numpy as np
import onnx
from onnx import AttributeProto, GraphProto, ModelProto, NodeProto, TensorProto, numpy_helper

from .axes import (
    Axis,
    Choice,
    Index,
    Product,
    Sizes,
    kept_size,
    leaves,
    product,
    resolve,
    select,
)
from .external import SMALL, cut, is_external, stored_bytes
from .model import Array, captured, copy_fields, graphs, replace_value, subgraphs
from .network import Frozen, Network, Patch
from .sizes import is_number


def tensor_positions(network: Network, choice: Choice) -> dict[str, dict[int, Index]]:
    """For every constant that changes: the kept positions of each axis that changes."""
    found: dict[str, dict[int, Index]] = {}
    for name in network.model.constants:
        axes = network.axes.get(name)
        if not axes:
            continue
        changed = {
            i: positions
            for i, axis in enumerate(axes)
            if (positions := changed_positions(axis, choice)) is not None
        }
        if changed:
            found[name] = changed
    return found


def changed_positions(axis: Axis, choice: Choice) -> Index | None:
    """The positions of `axis` that are kept, or None where all are, in order."""
    if axis.size is None or axis.size < 2 or not any(dim in choice for dim in leaves(axis)):
        return None
    positions = select(axis, choice)
    same = len(positions) == axis.size and bool((positions == np.arange(axis.size)).all())
    return None if same else positions


def take(value: Array, positions: Mapping[int, Index]) -> Array:
    """`value` indexed along each of the given axes."""
    for axis, index in sorted(positions.items()):
        value = np.take(value, index, axis=axis)
    return np.ascontiguousarray(value)


def rewrite(
    network: Network,
    choice: Choice,
    mask: Choice | None = None,
    maskable: Set[str] = frozenset(),
    values: Mapping[str, Array] | None = None,
) -> ModelProto:
    """The model with each dim reduced to (or permuted by) `choice[dim]`; the rest is as it was.

    Constants in `maskable` are first set to zero outside of the indices that `mask` keeps (and
    quantised ones to their zero point); those in `values` have these values in place of their own.
    Weights kept outside the file still refer to the original's data file: whole, or cut (see
    `external`).
    """
    return _Rewriter(network, choice, mask or {}, maskable, values or {}).run()


class _Rewriter:
    def __init__(
        self,
        network: Network,
        choice: Choice,
        mask: Choice,
        maskable: Set[str],
        values: Mapping[str, Array],
    ) -> None:
        self.values = values
        self.network = network
        self.model = network.model
        masked = tensor_positions(network, mask)
        self.masked = {name: masked[name] for name in maskable if name in masked}
        self.sizes = Sizes({dim: kept_size(chosen) for dim, chosen in choice.items()})
        self.positions = tensor_positions(network, choice)
        self.quantised = network.quantised() if self.masked else {}
        self.changing = self.positions.keys() | self.masked.keys() | values.keys()
        self.proto = ModelProto()
        #: New nodes by the name of their first output, with the graph that they stand in.
        self.nodes: dict[str, tuple[NodeProto, GraphProto]] = {}
        self.taken: set[str] = set()
        self.before: dict[str, list[NodeProto]] = defaultdict(list)
        self.after: dict[str, list[NodeProto]] = defaultdict(list)
        self.edited = False

    def run(self) -> ModelProto:
        self._copy()
        for node, axes in self.network.shape_nodes:
            self._freeze(node, axes)
        for patch in self.network.patches:
            self._apply(patch)
        for frozen in self.network.frozen:
            if self.changed(frozen.axis):
                self._write(frozen)
        for node, axes in self.network.reshapes:
            if any(self.changed(axis) or self._known_factors(axis) for axis in axes):
                self._reshape(node, axes)
        self._insert()
        for node, never in reversed(self.network.never):  # those inside a branch before it
            self._replace_branch(node, never)
        if self.edited:
            self._sweep()
        self._merge_copies()
        self._update_shapes()
        return self.proto

    def size(self, axis: Axis) -> int | None:
        return self.sizes.of(axis)

    def changed(self, axis: Axis) -> bool:
        return self.size(axis) != axis.size

    def changed_axes(self, name: str) -> bool:
        return any(self.changed(axis) for axis in self.network.axes.get(name) or ())

    # -- copying ---------------------------------------------------------------------------------

    def _copy(self) -> None:
        copy_fields(self.model.proto, self.proto, without="graph")
        self._copy_graph(self.model.proto.graph, self.proto.graph)
        for graph in graphs(self.proto.graph):
            for node in graph.node:
                name = next((name for name in node.output if name), "")
                self.nodes[name] = node, graph
                self.taken.update(node.output)
                if node.op_type == "Constant" and node.output[0] in self.changing:
                    self._cut_constant(node)
            if graph is not self.proto.graph:
                self._cut_initializers(graph)
            self.taken.update(t.name for t in graph.initializer)
            self.taken.update(v.name for v in graph.input)

    def _copy_graph(self, source: GraphProto, target: GraphProto) -> None:
        copy_fields(source, target, without="initializer")
        for tensor in source.initializer:
            changed = tensor.name in self.changing
            target.initializer.append(self._cut(tensor, lazily=True) if changed else tensor)

    def _cut(self, tensor: TensorProto, lazily: bool = False) -> TensorProto:
        name = tensor.name
        given = name in self.values or (name in self.masked and name in self.quantised)
        if lazily and not given and is_external(tensor) and stored_bytes(tensor) >= SMALL:
            return cut(tensor, self.positions.get(name, {}), self._gone(name))
        new = TensorProto(name=tensor.name, metadata_props=tensor.metadata_props)
        if tensor.HasField("doc_string"):
            new.doc_string = tensor.doc_string
        replace_value(new, self._value(tensor.name))
        return new

    def _value(self, name: str) -> Array:
        value = self.values[name] if name in self.values else self.model.read(name)
        if name in self.masked:
            value = value.copy()
            fill = np.broadcast_to(self._zero(name, value), value.shape)
            for axis, gone in self._gone(name).items():
                at = (slice(None),) * axis + (gone,)
                value[at] = fill[at]
        return take(value, self.positions.get(name, {}))

    def _gone(self, name: str) -> dict[int, Index]:
        """The positions of a constant's axes that are masked."""
        dims = self.model.constants[name].dims
        return {
            axis: np.setdiff1d(np.arange(dims[axis]), kept)
            for axis, kept in self.masked.get(name, {}).items()
        }

    def _zero(self, name: str, value: Array) -> Array:
        """What stands for zero in a constant: its zero point where it is quantised, else 0."""
        codes = self.quantised.get(name)
        if codes is None or codes.point not in self.model.constants:
            return np.zeros((), dtype=value.dtype)
        return codes.spread(self.model.read(codes.point), value.shape)

    def _cut_initializers(self, graph: GraphProto) -> None:
        for tensor in graph.initializer:
            if tensor.name in self.changing:
                tensor.CopyFrom(self._cut(tensor))

    def _cut_constant(self, node: NodeProto) -> None:
        name = node.output[0]
        tensor = TensorProto()
        if node.attribute[0].name == "value":
            tensor = node.attribute[0].t
        replace_value(tensor, self._value(name))
        attribute = AttributeProto(name="value", type=AttributeProto.TENSOR, t=tensor)
        del node.attribute[:]
        node.attribute.append(attribute)

    # -- sizes -----------------------------------------------------------------------------------

    def _apply(self, patch: Patch) -> None:
        new = {
            i: size
            for i, axis in patch.sizes.items()
            if (size := self.size(axis)) is not None
            and (size != axis.size or (i in patch.of and self.changed(patch.of[i])))
        }
        scaled = {
            i: factors
            for i, axis in patch.sizes.items()
            if axis.size is None and (factors := self._known_factors(axis)) is not None
        }
        if not new and not scaled:
            return
        self.edited = True
        name = next(name for name in patch.node.output if name)
        node, graph = self.nodes[name]
        if isinstance(patch.slot, str):
            self._set_attribute(node, patch, new)
        elif scaled:
            source = node.input[patch.slot]  # frozen, it may be, and called otherwise than before
            value = self.network.value_of(patch.node.input[patch.slot])
            width = 1 if value is None else value.size
            source, made = self._scaled(source, width, scaled)
            self.before[node.output[0]] += made
            if new:
                source = self._patched(node, source, width, new, np.int64)
            node.input[patch.slot] = source
        else:
            self._set_operand(node, graph, patch, patch.slot, new)

    def _known_factors(self, axis: Axis) -> tuple[int, int] | None:
        """Of `(n 12)`, where n is the run time's: 12 and what becomes of it, if that differs."""
        axis = resolve(axis)
        if not isinstance(axis, Product):
            return None
        known = product(part for part in axis.parts if part.size is not None)
        before, now = known.size, self.size(known)
        return (before, now) if before and now and before != now else None

    def _scaled(
        self, source: str, width: int, scaled: Mapping[int | None, tuple[int, int]]
    ) -> tuple[str, list[NodeProto]]:
        """`source`, computed at run time, with other factors in some of its elements."""
        factors = np.ones((2, width), dtype=np.int64)
        for i, (before, now) in scaled.items():
            factors[:, i or 0] = before, now
        known, name = self._name(f"{source}_known"), self._name(f"{source}_scaled")
        by = [self._constant(each, f"{source}_factors") for each in factors]
        return name, [
            _node("Div", [source, by[0]], known),
            _node("Mul", [known, by[1]], name),
        ]

    def _set_attribute(self, node: NodeProto, patch: Patch, new: Mapping[int | None, int]) -> None:
        slot = str(patch.slot)
        found = next((a for a in node.attribute if a.name == slot), None)
        if found is None:
            found = node.attribute.add()
            found.name = slot
        if None in new:
            found.type, found.i = AttributeProto.INT, new[None]
            return
        if not found.ints:
            found.type = AttributeProto.INTS
            found.ints.extend(self.size(axis) or 0 for axis in patch.sizes.values())
        for i, size in new.items():
            found.ints[i or 0] = size

    def _write(self, frozen: Frozen) -> None:
        node, _ = self.nodes[next(name for name in frozen.node.output if name)]
        if isinstance(frozen.value, list) and self.model.opset >= 13:
            if len(node.input) == 1:
                value = np.array(frozen.value, dtype=np.int64)
                node.input.append(self._constant(value, f"{node.output[0]}_{frozen.attribute}"))
            return
        for i in reversed(range(len(node.attribute))):
            if node.attribute[i].name == frozen.attribute:
                del node.attribute[i]
        node.attribute.append(onnx.helper.make_attribute(frozen.attribute, frozen.value))

    def _reshape(self, node: NodeProto, axes: Sequence[Axis]) -> None:
        """Write a node as the Reshape that it is; one size at most is the run time's."""
        new, _ = self.nodes[next(name for name in node.output if name)]
        sizes = [self.size(axis) for axis in axes]
        shape = np.array([-1 if size is None else size for size in sizes], dtype=np.int64)
        new.op_type = "Reshape"
        del new.attribute[:], new.input[1:]
        new.input.append(self._constant(shape, f"{new.output[0]}_shape"))
        self.edited = True

    def _replace_branch(self, node: NodeProto, never: str) -> None:
        """Have both branches of an If do what the one that is taken does.

        No rule has read the other. Where it reads what has changed it no longer fits, and a model
        is refused for that, though the branch is never taken.
        """
        before = {each.name: each.g for each in node.attribute}
        if any(self.changed_axes(name) for name in captured(before[never])):
            new, _ = self.nodes[next(name for name in node.output if name)]
            bodies = {each.name: each.g for each in new.attribute}
            (taken,) = bodies.keys() - {never}
            bodies[never].CopyFrom(bodies[taken])
            self.edited = True

    def _set_operand(
        self,
        node: NodeProto,
        graph: GraphProto,
        patch: Patch,
        slot: int,
        new: Mapping[int | None, int],
    ) -> None:
        while len(node.input) <= slot:
            node.input.append("")
        source = patch.node.input[slot] if slot < len(patch.node.input) else ""
        if not source:
            # An even Split, whose runs are uneven now.
            whole = np.array([self.size(axis) for axis in patch.sizes.values()], dtype=np.int64)
            node.input[slot] = self._constant(whole, f"{node.output[0]}_sizes")
            for i in reversed(range(len(node.attribute))):
                if node.attribute[i].name == "num_outputs":
                    del node.attribute[i]
            return
        value = self.network.value_of(source)
        tensor = self.model.constants.get(source)
        dtype = np.int64 if tensor is None else self.model.read(source).dtype
        elements: list[Any] = [] if value is None else value.ravel().tolist()
        if value is not None and elements and all(map(is_number, elements)):
            for at, count in new.items():
                elements[at or 0] = count
            fixed = np.array(elements, dtype=dtype).reshape(value.shape)
            node.input[slot] = self._constant(fixed, f"{source}_pruned")
            return
        width = len(elements) or 1 + max(i or 0 for i in patch.sizes)
        node.input[slot] = self._patched(node, source, width, new, dtype)

    def _patched(
        self, node: NodeProto, source: str, width: int, new: Mapping[int | None, int], dtype: Any
    ) -> str:
        """`source`, computed at run time, with some of its elements replaced."""
        mask = np.zeros(width, dtype=bool)
        fixed = np.zeros(width, dtype=dtype)
        for i, size in new.items():
            mask[i or 0], fixed[i or 0] = True, size
        name = self._name(f"{source}_pruned")
        self.before[node.output[0]].extend(self._where(mask, fixed, source, name))
        return name

    def _where(self, mask: Array, fixed: Array, source: str, name: str) -> list[NodeProto]:
        constant = self._constant(fixed, f"{name}_sizes")
        if self.model.opset >= 9:
            known = self._constant(mask, f"{name}_known")
            return [_node("Where", [known, constant, source], name)]
        kept = self._constant((~mask).astype(fixed.dtype), f"{name}_open")
        between = self._name(f"{name}_kept")
        return [_node("Mul", [source, kept], between), _node("Add", [between, constant], name)]

    def _freeze(self, node: NodeProto, axes: list[Axis]) -> None:
        """Have a Shape node give the original sizes, if anything reads one that has changed."""
        changed = [i for i, axis in enumerate(axes) if self.changed(axis)]
        scaled: dict[int | None, tuple[int, int]] = {
            i: (factors[1], factors[0])
            for i, axis in enumerate(axes)
            if axis.size is None and (factors := self._known_factors(axis)) is not None
        }
        output = node.output[0]
        moved = {*changed, *(i or 0 for i in scaled)}
        if not moved or not self._reads(output, moved):
            return
        self.edited = True
        sizes = [axis.size for axis in axes]
        fixed = np.array([size or 0 for size in sizes], dtype=np.int64)
        shape = self._name(f"{output}_now")
        for user in self._users(output):
            mine, _ = self.nodes[next(name for name in user.output if name)]
            for i, name in enumerate(mine.input):
                if name == output:
                    mine.input[i] = shape
        # An axis may have got its size from a branch that is not always taken: it is still open.
        declared = self.network.shapes.get(node.input[0]) or [None]
        if None not in sizes and all(isinstance(size, int) for size in declared):
            self.proto.graph.initializer.append(numpy_helper.from_array(fixed, shape))
            self._list_input(shape, fixed)
            return
        source = output
        made: list[NodeProto] = []
        if scaled:
            source, made = self._scaled(output, len(axes), scaled)
        mask = np.zeros(len(axes), dtype=bool)
        mask[changed] = True
        made += self._where(mask, np.where(mask, fixed, 0), source, shape)
        self.after[output].extend(made)

    def _users(self, name: str) -> list[NodeProto]:
        if not hasattr(self, "_users_of"):
            self._users_of: dict[str, list[NodeProto]] = defaultdict(list)
            for graph in graphs(self.model.proto.graph):
                for node in graph.node:
                    for each in set(node.input):
                        self._users_of[each].append(node)
        return self._users_of[name]

    def _reads(self, name: str, positions: set[int]) -> bool:
        """True unless every reader picks other elements of the shape than `positions`."""
        rank = len(self.network.axes_of(name) or ()) and (self.network.axes_of(name) or [])[0].size
        for user in self._users(name):
            if user.op_type == "Gather" and user.input[0] == name and rank:
                index = self.network.value_of(user.input[1])
                if index is not None and all(
                    is_number(i) and int(i) % rank not in positions for i in index.ravel().tolist()
                ):
                    continue
            return True
        return False

    # -- new names, nodes and constants ----------------------------------------------------------

    def _name(self, wish: str) -> str:
        name, n = wish, 1
        while name in self.taken:
            n += 1
            name = f"{wish}_{n}"
        self.taken.add(name)
        return name

    def _constant(self, value: Array, wish: str) -> str:
        name = self._name(wish)
        self.proto.graph.initializer.append(numpy_helper.from_array(value, name))
        self._list_input(name, value)
        return name

    def _list_input(self, name: str, value: Array) -> None:
        """Before IR 4 every initializer is listed as a graph input as well."""
        if self.proto.ir_version < 4:
            kind = onnx.helper.np_dtype_to_tensor_dtype(value.dtype)
            self.proto.graph.input.append(
                onnx.helper.make_tensor_value_info(name, kind, value.shape)
            )

    def _insert(self) -> None:
        """Put the new nodes before or after those that they belong to."""
        if not self.before and not self.after:
            return
        for graph in list(graphs(self.proto.graph)):
            i = 0
            while i < len(graph.node):
                name = next((name for name in graph.node[i].output if name), "")
                for new in self.before.pop(name, ()):
                    graph.node.insert(i, new)
                    i += 1
                i += 1
                for new in self.after.pop(name, ()):
                    graph.node.insert(i, new)
                    i += 1

    # -- tidying ---------------------------------------------------------------------------------

    def _sweep(self) -> None:
        """Remove nodes and constants that only served what was replaced.

        What the file had and nothing used before is left alone.
        """
        idle = _names(self.model.proto.graph) - _used(self.model.proto.graph)
        needed = _used(self.proto.graph, idle)
        for graph in graphs(self.proto.graph):
            for i in reversed(range(len(graph.node))):
                if not any(name in needed for name in graph.node[i].output if name):
                    del graph.node[i]
            gone = set()
            for i in reversed(range(len(graph.initializer))):
                name = graph.initializer[i].name
                if name not in needed:
                    gone.add(name)
                    del graph.initializer[i]
            for i in reversed(range(len(graph.input))):
                if graph.input[i].name in gone:
                    del graph.input[i]

    def _merge_copies(self) -> None:
        """Vectors that loading copied and that stayed as they were share one tensor again."""
        back = {
            copy: original
            for copy, original in self.model.copies.items()
            if copy not in self.changing and original not in self.changing
        }
        if not back:
            return
        present = {t.name for graph in graphs(self.proto.graph) for t in graph.initializer}
        present.update(name for node, _ in self.nodes.values() for name in node.output)
        back = {copy: original for copy, original in back.items() if original in present}
        for graph in graphs(self.proto.graph):
            for node in graph.node:
                for i, name in enumerate(node.input):
                    if name in back:
                        node.input[i] = back[name]
            for values in (graph.initializer, graph.input):
                for i in reversed(range(len(values))):
                    if values[i].name in back:
                        del values[i]

    def _update_shapes(self) -> None:
        """Declared shapes of tensors whose axes have changed; the model's interface has not."""
        for graph in graphs(self.proto.graph):
            for values in (graph.value_info, graph.input, graph.output):
                for i in reversed(range(len(values))):
                    value = values[i]
                    axes = self.network.axes.get(value.name)
                    if not axes or not value.type.HasField("tensor_type"):
                        continue
                    dims = value.type.tensor_type.shape.dim
                    if len(dims) != len(axes):
                        continue
                    for dim, axis in zip(dims, axes, strict=True):
                        if dim.HasField("dim_value") and self.changed(axis):
                            dim.dim_value = self.size(axis) or 0


def _names(graph: GraphProto) -> set[str]:
    """Every name that `graph` or a graph inside it defines."""
    names: set[str] = set()
    for inner in graphs(graph):
        names.update(tensor.name for tensor in inner.initializer)
        names.update(name for node in inner.node for name in node.output)
    return names


def _used(graph: GraphProto, also: Set[str] = frozenset()) -> set[str]:
    """Names that the outputs of `graph` and `also` depend on, those inside bodies included."""
    used = {value.name for value in graph.output} | also
    for node in reversed(graph.node):
        bodies = subgraphs(node)
        if any(name in used for name in node.output):
            used.update(node.input)
            for body in bodies:
                used |= _used(body, also) | captured(body)
                used.update(value.name for value in body.input)
    return used


def _node(op_type: str, inputs: list[str], output: str) -> NodeProto:
    return onnx.helper.make_node(op_type, inputs, [output], name=output)
