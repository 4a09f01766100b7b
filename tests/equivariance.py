"""Proving rules: what a rule says of one operator, tried out in onnxruntime.

A rule claims `op(x[idx]) == op(x)[idx]` for every dim that it leaves free. `prove` infers the axes
of a small model with its interface left open, takes random indices of every free dim, cuts (or
permutes) inputs and weights accordingly, and compares what the rewritten model gives with what the
axes of the outputs say it should give. Four runs:

1. *Permuted.* Every free dim is permuted: outputs are permuted, and nothing else.
2. *Cut.* A subset of every free dim that is not statistical. Where the operator sums over a dim,
   the original is run with zeros in one factor of each term of the rule's `zero`.
3. *Fits.* A subset of every free dim: the model still runs, and its outputs have the right shapes.
4. *Zero.* With those operands set to zero that the rule's `zero` names, the output is zero there.

Cases come from the node tests of the onnx package, in every version of the operator from opset 7
on, with none, the shape-like ones, or all but the first of their operands as constants, and with
some of their sizes left to the run time.
"""

from __future__ import annotations

import itertools
import math
import re
import warnings
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import AttributeProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxprune.axes import Axis, Dim, Index, leaves, select, unify
from onnxprune.errors import OnnxPruneError
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.model import subgraphs
from onnxprune.network import Network
from onnxprune.rewrite import rewrite
from onnxprune.runtime import run, session
from onnxprune.tables import REST, Rule, built_in, operator_name
from tests.operator_schemas import OPSETS, schemas_of
from tests.references import computed

Array = NDArray[Any]
Choice = dict[Dim, Index]

#: So many operands are zero together; and all of them, or all but one.
_TOGETHER = 3

_IR = 10

#: What schemas call the zero point of an output.
_POINT = re.compile(r"(y|Y|C|z|reduced)_zero_point")


@dataclass(frozen=True)
class Case:
    """A model of one operator, or few, and inputs for it."""

    name: str
    model: ModelProto
    feeds: Mapping[str, Array]

    def __str__(self) -> str:
        return self.name


@dataclass(frozen=True)
class Proof:
    """What was tried: how many dims moved, or why the case says nothing."""

    moved: int = 0
    skipped: str = ""


# -- cases ---------------------------------------------------------------------------------------


def one(
    op_type: str,
    *operands: Array | None,
    opset: int = 17,
    outputs: int = 1,
    domain: str = "",
    **attrs: Any,
) -> Case:
    """A case of one node. Operands are float32 unless they are integers; None is left out."""
    feeds = {f"x{i}": _array(value) for i, value in enumerate(operands) if value is not None}
    names = [f"x{i}" if value is not None else "" for i, value in enumerate(operands)]
    made = [f"y{i}" for i in range(outputs)]
    node = helper.make_node(op_type, names, made, domain=domain, **attrs)
    shown = ", ".join(f"{key}={value}" for key, value in attrs.items())
    name = f"{op_type}-{opset}({', '.join(str(list(x.shape)) for x in feeds.values())}; {shown})"
    return graph_case(name, [node], feeds, made, opset)


def graph_case(
    name: str,
    nodes: Sequence[NodeProto],
    feeds: Mapping[str, Array],
    outputs: Sequence[str],
    opset: int = 17,
) -> Case:
    """A case of several nodes; the types of the outputs are left to inference."""
    inputs = [
        helper.make_tensor_value_info(
            key, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape
        )
        for key, value in feeds.items()
    ]
    graph = helper.make_graph(
        list(nodes), "g", inputs, [onnx.ValueInfoProto(name=each) for each in outputs]
    )
    domains = sorted({node.domain for node in nodes} - {""})
    imports = [helper.make_opsetid("", opset), *(helper.make_opsetid(d, 1) for d in domains)]
    return Case(name, helper.make_model(graph, opset_imports=imports, ir_version=_IR), feeds)


def _array(value: Array) -> Array:
    array = np.asarray(value)
    return array.astype(np.float32) if array.dtype == np.float64 else array


def variants(case: Case) -> Iterator[Case]:
    """The case with none, with its shape-like, and with all but its first operands constant."""
    feeds = case.feeds
    shapelike = {
        key
        for key, value in feeds.items()
        if value.dtype in (np.int64, np.int32) and value.ndim <= 1
    }
    first = next(iter(feeds), "")
    if shapelike != set(feeds):
        shapelike -= {first}
    yielded: list[set[str]] = []
    for constant in (shapelike, set(feeds) - {first}, set()):
        if constant not in yielded:
            yielded.append(constant)
            yield with_constants(case, constant)


def dynamic(case: Case) -> Iterator[Case]:
    """The case with sizes that only the run time knows: the first, the last, or all of them."""
    for which, axes in (("first", slice(0, 1)), ("last", slice(-1, None)), ("all", slice(None))):
        model = ModelProto()
        model.CopyFrom(case.model)
        for value in model.graph.input:
            dims = value.type.tensor_type.shape.dim
            for i in range(len(dims))[axes] if len(dims) > 1 else ():
                # Equal sizes have one name, but where nothing at all is known.
                size = dims[i].dim_value
                dims[i].dim_param = f"{value.name}_{i}" if which == "all" else f"n{i}_{size}"
        for value in model.graph.output:
            if value.type.HasField("tensor_type"):
                value.type.tensor_type.ClearField("shape")
        yield Case(f"{case.name} [{which} dynamic]", model, case.feeds)


def with_constants(case: Case, names: set[str]) -> Case:
    """Turn some of the inputs into initializers."""
    if not names:
        return case
    model = ModelProto()
    model.CopyFrom(case.model)
    for name in sorted(names):
        model.graph.initializer.append(numpy_helper.from_array(case.feeds[name], name))
    kept = [value for value in model.graph.input if value.name not in names]
    del model.graph.input[:]
    model.graph.input.extend(kept)
    feeds = {key: value for key, value in case.feeds.items() if key not in names}
    return Case(f"{case.name} [{', '.join(sorted(names))} constant]", model, feeds)


@cache
def onnx_cases() -> Mapping[str, Sequence[Case]]:
    """The onnx package's node test cases, by operator; operators expanded to others included."""
    from onnx.backend.test.case.node import collect_testcases

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        collected = collect_testcases(None)
    operators: dict[str, str] = {}
    for each in collected:
        node = each.model.graph.node[0]
        if len(each.model.graph.node) == 1:
            operators[each.name] = operator_name(node.domain, node.op_type)
    found: dict[str, list[Case]] = defaultdict(list)
    for each in collected:
        name = operators.get(each.name.partition("_expanded")[0])
        inputs = [
            numpy_helper.to_array(value) if isinstance(value, TensorProto) else value
            for value in each.data_sets[0][0]
        ]
        if name is None or not _only_tensors(each.model, inputs):
            continue
        model = ModelProto()
        model.CopyFrom(each.model)
        model.ir_version = min(model.ir_version, 13)
        feeds = dict(zip([v.name for v in model.graph.input], inputs, strict=True))
        found[name].append(Case(each.name, model, feeds))
    return found


def _only_tensors(model: ModelProto, inputs: Sequence[Any]) -> bool:
    values = [*model.graph.input, *model.graph.output]
    return all(value.type.HasField("tensor_type") for value in values) and all(
        isinstance(value, (np.ndarray, np.generic)) for value in inputs
    )


def versions(case: Case) -> Iterator[Case]:
    """The case in every version of its operator that onnxruntime runs; itself among them.

    Operands that were attributes before become attributes again.
    """
    (node, *more) = case.model.graph.node
    now = _opset(case.model, node.domain)
    if more or node.domain:
        if _opset(case.model, "") <= OPSETS[-1]:
            yield case
        return
    seen = set()
    for opset in OPSETS:
        try:
            schema = onnx.defs.get_schema(node.op_type, opset, node.domain)
        except onnx.defs.SchemaError:
            continue
        if schema.since_version not in seen and not schema.deprecated:
            seen.add(schema.since_version)
            newer = onnx.defs.get_schema(node.op_type, now, node.domain)
            made = _in_version(case, node, schema, newer, opset)
            if made is not None:
                yield made


def _opset(model: ModelProto, domain: str) -> int:
    return next((o.version for o in model.opset_import if o.domain == domain), 1)


def _in_version(case: Case, node: NodeProto, schema: Any, newer: Any, opset: int) -> Case | None:
    if any(a.name not in schema.attributes for a in node.attribute):
        return None
    model = ModelProto()
    model.CopyFrom(case.model)
    for each in model.opset_import:
        if each.domain == "":
            each.version = opset
    copy = model.graph.node[0]
    feeds = dict(case.feeds)
    while len(copy.input) > schema.max_input:
        name = copy.input.pop()
        formal = newer.inputs[len(copy.input)].name
        if not name:
            continue
        if formal not in schema.attributes:
            return None
        value = feeds.pop(name)
        kept = [v for v in model.graph.input if v.name != name]
        del model.graph.input[:]
        model.graph.input.extend(kept)
        listed = schema.attributes[formal].type in (AttributeProto.INTS, AttributeProto.FLOATS)
        if not value.size:
            return None
        given = value.ravel().tolist() if listed else value.ravel().tolist()[0]
        copy.attribute.append(helper.make_attribute(formal, given))
    if len(copy.input) < schema.min_input or len(copy.output) > schema.max_output:
        return None
    return Case(f"{case.name} [opset {opset}]", model, feeds)


# -- proving -------------------------------------------------------------------------------------


def prove(case: Case, rules: Mapping[str, Rule] | None = None, seed: int = 0) -> Proof:
    """Try what the rules say of a model. Raises AssertionError where it does not hold."""
    try:
        model = load(case.model)
        base, again = results(model.proto, case.feeds), results(model.proto, case.feeds)
    except OnnxPruneError as error:
        return Proof(skipped=str(error))
    network = infer(model, rules or built_in(), pin_interface=False)
    tried = _Trial(case, network, base, seed)
    tried.steady = all(_same(base[name], again[name]) for name in base)
    return Proof(tried.run())


@dataclass(frozen=True)
class Zeros:
    """Operands of a node that may be zero at some positions of one dim, and what comes of it."""

    #: Numbers of the operands.
    operands: tuple[int, ...]
    #: How many operands the node has.
    given: int
    #: What was said and seen: of its output being zero there, or of sums over the dim being exact.
    about: str
    said: bool
    seen: bool


def zeros(case: Case) -> list[Zeros]:
    """What a rule's `zero` and `sums` say of each set of operands, and what onnxruntime does.

    Empty if the case says nothing of it.
    """
    try:
        model = load(case.model)
        base = results(model.proto, case.feeds)
    except OnnxPruneError:
        return []
    trial = _Trial(case, infer(model, built_in(), pin_interface=False), base, 0)
    return list(trial.zeros())


def results(model: ModelProto, feeds: Mapping[str, Array]) -> Mapping[str, Array]:
    """What onnxruntime gives, or where it has no kernel, a reference. Raises OnnxPruneError."""
    try:
        return run(session(model, optimize=False), feeds)
    except OnnxPruneError:
        found = computed(model, feeds)
        if found is None:
            raise
        return found


def _same(a: Array, b: Array) -> bool:
    if a.dtype.kind in "fc" or a.dtype.kind == "V":
        return np.array_equal(a.astype(np.float64), b.astype(np.float64), equal_nan=True)
    return np.array_equal(a, b)


class _Trial:
    def __init__(self, case: Case, network: Network, base: Mapping[str, Array], seed: int) -> None:
        self.case, self.network, self.base = case, network, base
        self.rng = np.random.default_rng(seed)
        self.steady = True
        model = network.model
        self.outputs = [value.name for value in model.proto.graph.output]
        names = [*case.feeds, *model.constants, *self.outputs]
        dims = dict.fromkeys(
            dim for name in names for axis in self.axes(name) for dim in leaves(axis)
        )
        self.free = [dim for dim in dims if not dim.pinned and (dim.size or 0) > 1]
        summed = {d for r in network.records for axis in r.contracted for d in leaves(axis)}
        #: Dims that a statistic is taken over; and with them, those that no zeros make exact.
        self.measured = {d for axis, _ in network.statistical for d in leaves(axis)}
        self.statistical = set(self.measured)
        nodes = [node for node in model.proto.graph.node if node.op_type != "Constant"]
        #: The one record whose operands are the model's own, or None: nothing can be set to zero.
        self.record = None
        if len(nodes) == 1 and len(network.records) == 1 and not subgraphs(nodes[0]):
            self.record = network.records[0]
        #: Dims that are summed over, with the operands that make their sums exact.
        self.zeroed: dict[Dim, list[str]] = {}
        for dim in self.free:
            if dim in summed:
                factors = self.factors(dim, whole=False)
                if factors:
                    self.zeroed[dim] = factors
                else:
                    self.statistical.add(dim)

    def axes(self, name: str) -> list[Axis]:
        return self.network.axes_of(name) or []

    def run(self) -> int:
        if not self.free:
            return 0
        permuted = {dim: self.rng.permutation(dim.size or 0).astype(np.int64) for dim in self.free}
        exact = [dim for dim in self.free if dim not in self.statistical]
        cut = {dim: self.some(dim) for dim in exact}
        every = cut | {dim: self.some(dim) for dim in self.free if dim not in cut}
        models = [rewrite(self.network, choice) for choice in (permuted, cut, every)]
        self.settle()
        self.compare("permuted", models[0], permuted, self.base)
        masked = self.masked({dim: cut[dim] for dim in exact if dim in self.zeroed})
        self.compare("cut", models[1], cut, masked)
        if len(every) > len(cut):
            self.compare("fits", models[2], every, self.base, values=False)
        self.check_zeros()
        return len(self.free)

    def settle(self) -> None:
        """Give the sizes that only the run time knew the values that they had; others are right."""
        known = self.settled()
        for name, value in (*self.case.feeds.items(), *self.base.items()):
            for axis, size in zip(self.axes(name), np.shape(value), strict=False):
                if axis.size is None:
                    unify(axis, Dim(size))
                assert not known or axis.size == size, f"{self.case}: {name!r} is {value.shape}"

    def some(self, dim: Dim) -> Index:
        """A random subset of a dim that leaves something out."""
        size = dim.size or 0
        count = int(self.rng.integers(1, size))
        return np.sort(self.rng.permutation(size)[:count]).astype(np.int64)

    def taken(self, name: str, value: Array, choice: Choice) -> Array:
        for i, axis in enumerate(self.axes(name)):
            if any(dim in choice for dim in leaves(axis)):
                # Copies as many as the run makes: the outermost factor, all of which stay.
                unknown = [dim for dim in leaves(axis) if dim.size is None]
                known = math.prod(dim.size for dim in leaves(axis) if dim.size is not None)
                everything = np.arange(value.shape[i] // known, dtype=np.int64)
                chosen = {**choice, **dict.fromkeys(unknown, everything)}
                value = np.take(value, select(axis, chosen), axis=i)
        return np.ascontiguousarray(value).reshape(value.shape)

    def compare(
        self,
        what: str,
        model: ModelProto,
        choice: Choice,
        reference: Mapping[str, Array],
        values: bool = True,
    ) -> None:
        """The rewritten model on the chosen indices of its inputs, against those of `reference`."""
        if not choice:
            return
        story = f"{self.case}: {what}: {self.told(choice)}"
        feeds = {name: self.taken(name, value, choice) for name, value in self.case.feeds.items()}
        try:
            found = results(model, feeds)
        except OnnxPruneError as error:
            raise AssertionError(f"{story}\nit does not run: {error}") from error
        for name in self.outputs:
            if name not in self.base:
                continue
            assert self.network.axes_of(name) is not None, f"{story}\nno axes for {name!r}"
            wanted = self.taken(name, reference[name], choice)
            assert found[name].shape == wanted.shape, (
                f"{story}\n{name!r} has the shape {found[name].shape}, not {wanted.shape}"
            )
            if values and self.steady:
                assert_close(found[name], wanted, f"{story}\n{name!r} differs")

    def told(self, choice: Choice) -> str:
        parts = []
        for name in (*self.case.feeds, *self.network.model.constants, *self.outputs):
            parts.append(f"{name}: {self.axes(name)}")
        return "; ".join(parts) + f"; {[(d, choice[d].tolist()) for d in choice]}"

    # -- zeros -----------------------------------------------------------------------------------

    def terms(self, sums: bool) -> list[list[str]]:
        """The operands of the rule's `zero` (or `sums`), by name; without terms that miss one."""
        if self.record is None:
            return []
        inputs = self.record.node.input
        terms: list[list[str]] = []
        for term in (self.record.rule.sums if sums else self.record.rule.zero) or ():
            if REST in term:
                terms.extend([name] for name in inputs[len(terms) :] if name)
            elif all(i < len(inputs) and inputs[i] for i in term):
                terms.append([inputs[i] for i in term])
        return terms

    def factors(self, dim: Dim, whole: bool) -> list[str]:
        """Of each term one operand that `dim` occurs in; none if a term of `whole` lacks it."""
        found = []
        for names in self.terms(sums=not whole):
            mine = [n for n in names if any(dim in leaves(axis) for axis in self.axes(n))]
            if mine:
                found.append(mine[int(self.rng.integers(len(mine)))])
            elif whole:
                return []
        return found

    def masked(self, kept: Choice) -> Mapping[str, Array]:
        """What the original gives with zeros where a summed dim is not kept."""
        zeros: dict[str, Choice] = defaultdict(dict)
        for dim, index in kept.items():
            for name in self.zeroed[dim]:
                zeros[name][dim] = index
        return self.with_zeros(zeros) if zeros else self.base

    def with_zeros(self, zeros: Mapping[str, Choice]) -> Mapping[str, Array]:
        model = self.network.model
        proto = ModelProto()
        proto.CopyFrom(model.proto)
        feeds = dict(self.case.feeds)
        for name, kept in zeros.items():
            value = self.read(name)
            for dim, index in kept.items():
                value = self.zero_outside(name, value, {dim: index})
            if name in feeds:
                feeds[name] = value
                continue
            for tensor in proto.graph.initializer:
                if tensor.name == name:
                    tensor.CopyFrom(numpy_helper.from_array(value, name))
        return results(proto, feeds)

    def zero_outside(self, name: str, value: Array, kept: Choice) -> Array:
        value = value.copy()
        zero = np.broadcast_to(self.zero_of(name, value), value.shape)
        for i, axis in enumerate(self.axes(name)):
            gone = np.setdiff1d(np.arange(axis.size or 0), select(axis, kept))
            at = (slice(None),) * i + (gone,)
            value[at] = zero[at]
        return value

    def zero_of(self, name: str, value: Array) -> Array:
        """What stands for zero: the zero point of codes."""
        codes = self.network.quantised().get(name)
        if codes is None or not codes.point:
            return np.zeros((), value.dtype)
        return codes.spread(self.read(codes.point), value.shape)

    def zero_of_output(self, name: str, found: Mapping[str, Array]) -> Array:
        """The zero point of an output of codes, which is an operand, or another output."""
        assert self.record is not None
        node, value = self.record.node, found[name]
        if node.op_type == "DynamicQuantizeLinear":
            return found[node.output[2]]
        schema = schemas_of(operator_name(node.domain, node.op_type))[-1]
        for operand, given in [*zip(schema.inputs, node.input, strict=False)][::-1]:
            if given and _POINT.fullmatch(operand.name):
                point = self.read(given)
                axis = next((a.i for a in node.attribute if a.name == "axis"), 1)
                shape = [-1 if i == axis % value.ndim else 1 for i in range(value.ndim)]
                return point if point.size == 1 else point.reshape(shape)
        return np.zeros((), value.dtype)

    def check_zeros(self) -> None:
        """Where the operands that `zero` names are zero, so are the outputs."""
        if self.record is None or not self.record.keeps_zero or not self.steady:
            return
        if any("e8m0" in value.dtype.name for value in self.case.feeds.values()):
            return  # a type without a zero
        if self.base[self.outputs[0]].dtype.kind != "f":
            return  # of integers, the zero point is what stands for zero
        for dim in self.free:
            names = self.factors(dim, whole=True)
            output = self.outputs[0]
            if not names or not any(dim in leaves(axis) for axis in self.axes(output)):
                continue
            assert self.makes_zero(names, dim), (
                f"{self.case}: zeros in {names} along {dim} do not make {output!r} zero"
            )

    def zeros(self) -> Iterator[Zeros]:
        """Sets of up to `_TOGETHER` operands that have a dim, and what their zeros along it do."""
        record = self.record
        if record is None:
            return
        if any(self.base[name].dtype.kind not in "fiu" for name in self.outputs):
            return
        inputs, rule = list(record.node.input), record.rule
        summed = {dim for axis in record.contracted for dim in leaves(axis)} - self.measured
        settled = self.settled()
        formal = schemas_of(operator_name(record.node.domain, record.node.op_type))[-1].inputs
        named = {i for term in (*(rule.zero or ()), *(rule.sums or ())) for i in term}
        may = [
            i
            for i, name in enumerate(inputs)
            # Not masks, indices and zero points; and not where zero has no finite result.
            if name and i not in rule.nonzero and (i in named or self.varies(name))
            if not formal[min(i, len(formal) - 1)].name.endswith("zero_point")
        ]
        operands = sum(map(bool, inputs))
        for i, name in enumerate(inputs):
            if name and self.read(name).dtype.kind == "f":
                dims = [dim for dim in self.free if self.has(name, dim)]
                seen = any(not self.finite(name, dim) for dim in dims)
                yield Zeros((i,), operands, "pole", i in rule.nonzero, seen)
        for dim in self.free:
            having = [i for i in may if self.has(inputs[i], dim)]
            sizes = {*range(1, _TOGETHER + 1), len(having) - 1, len(having)}
            sets = [
                chosen
                for count in sorted(size for size in sizes if size > 0)
                for chosen in itertools.combinations(having, count)
            ]
            terms = [[*map(inputs.index, names)] for names in self.terms(sums=False)]
            if record.keeps_zero and any(self.has(name, dim) for name in self.outputs):
                for chosen in sets:
                    seen = self.makes_zero([inputs[i] for i in chosen], dim)
                    yield Zeros(chosen, operands, "zero", _hits(chosen, terms), seen)
            # What does not have the dim is not summed over it.
            terms = [[*map(inputs.index, names)] for names in self.terms(sums=True)]
            terms = [term for term in terms if not set(term).isdisjoint(having)]
            if dim in summed and settled:
                for chosen in sets:
                    seen = self.exact([inputs[i] for i in chosen], dim)
                    yield Zeros(chosen, operands, "sums", _hits(chosen, terms), seen)

    def settled(self) -> bool:
        """Whether all sizes are known, so that a cut model can be fed."""
        names = [*self.case.feeds, *self.outputs]
        return all(axis.size is not None for name in names for axis in self.axes(name))

    def read(self, name: str) -> Array:
        """An operand's value."""
        feeds = self.case.feeds
        return feeds[name] if name in feeds else self.network.model.read(name)

    def varies(self, name: str) -> bool:
        """Whether an operand is no constant, and of floats or codes: indices have more bits."""
        dtype = self.read(name).dtype
        if name in self.network.model.constants:
            return False
        return dtype.kind == "f" or (dtype.kind in "iu" and dtype.itemsize < 4)

    def has(self, name: str, dim: Dim) -> bool:
        """Whether a dim is on an axis of a tensor."""
        return any(dim in leaves(axis) for axis in self.axes(name))

    def finite(self, name: str, dim: Dim) -> bool:
        """Whether the outputs are finite where an operand is zero all over, if they were before."""
        found = self.with_zeros({name: {dim: np.arange(0, dtype=np.int64)}})
        return all(
            bool(np.isfinite(found[key]).all()) or not np.isfinite(x).all()
            for key, x in self.base.items()
            if x.dtype.kind == "f"
        )

    def exact(self, names: Sequence[str], dim: Dim) -> bool:
        """Whether zeros at some positions of `dim` do what removing these positions does."""
        kept = {dim: self.some(dim)}
        masked = self.with_zeros({name: kept for name in names})
        try:
            self.compare("summed", rewrite(self.network, kept), kept, masked)
        except AssertionError:
            return False
        return True

    def makes_zero(self, names: Sequence[str], dim: Dim) -> bool:
        """Whether operands that are zero at some positions of `dim` make the outputs zero there."""
        kept = {dim: self.some(dim)}
        found = self.with_zeros({name: kept for name in names})
        for output in self.outputs:
            for i, axis in enumerate(self.axes(output)):
                gone = np.setdiff1d(np.arange(axis.size or 0), select(axis, kept))
                zero = self.zero_of_output(output, found)
                if np.any(np.take(found[output] != zero, gone, axis=i)):
                    return False
        return True


def _hits(chosen: Sequence[int], terms: Sequence[Sequence[int]]) -> bool:
    """Whether every term of a sum has one of the chosen operands."""
    return bool(terms) and all(set(term) & set(chosen) for term in terms)


#: Of the largest value of the output.
_TOLERANCE = {"float16": 1e-2, "bfloat16": 5e-2, "float64": 1e-6}


def assert_close(found: Array, wanted: Array, story: str) -> None:
    """Equal: exactly for integers, else up to rounding, relative to the largest value."""
    kind = wanted.dtype.name
    if wanted.dtype.kind not in "fcV" and not kind.startswith(("bfloat", "float")):
        assert np.array_equal(found, wanted), f"{story}: {found} is not {wanted}"
        return
    a, b = (
        value.astype(np.complex128 if value.dtype.kind == "c" else np.float64)
        for value in (found, wanted)
    )
    finite = np.abs(b[np.isfinite(b)])
    largest = float(finite.max()) if finite.size else 0.0
    tolerance = _TOLERANCE.get(kind, 0.13 if kind.startswith("float8") else 1e-4) * largest
    assert np.allclose(a, b, rtol=0, atol=tolerance, equal_nan=True), (
        f"{story} by {np.abs(a - b).max():.3g} of {largest:.3g}"
    )


def candidates(name: str) -> list[Case]:
    """Every onnx case of an operator, in all versions and variants."""
    return [
        variant
        for case in onnx_cases().get(name, ())
        for version in versions(case)
        for variant in variants(version)
    ]
