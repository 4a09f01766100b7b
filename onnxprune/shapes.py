"""Shapes of every tensor of a model, without its weights.

ONNX's own inference does the work, on a copy of the graph whose large tensors are declared by
type and shape only: inference serialises what it is given, which for hundreds of megabytes takes
seconds. What it can't follow is helped along in two ways:

1. ORT's own operators, of which it knows nothing, are replaced by standard ones of equal shape.
2. Shape arithmetic that its data propagation stops at (ConstantOfShape, Div, strided Slice …) is
   computed in onnxruntime and put back as constants, until nothing new becomes known.
"""

from __future__ import annotations

import contextlib
import math
from collections import ChainMap
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import onnx
from onnx import (
    AttributeProto,
    GraphProto,
    ModelProto,
    NodeProto,
    TensorProto,
    helper,
    numpy_helper,
)
from onnx.external_data_helper import uses_external_data

from onnxprune.errors import OnnxPruneError
from onnxprune.inputs import Array, batch_dims, bound, free_dims, input_specs, shape_of
from onnxprune.model import subgraphs
from onnxprune.runtime import run, session
from onnxprune.shape_inference import infer_shapes, negative_size, windows_fit, without_slices

Shape = tuple[int, ...]
Shapes = Mapping[str, Shape]

#: elements: tensors up to this size keep their values on the weightless copy (shapes, bounds,
#: scales of a Resize), larger ones are declared by type and shape only
_KEPT = 1024
#: a bound on the rounds of folding: one is needed per barrier met in a row
_ROUNDS = 64
#: nodes that are looked at together where one round is not enough
_WINDOW = 32
#: nodes that are computed in one session
_EVALUATED = 1024


def infer(
    model: ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None
) -> list[tuple[GraphProto, Shapes]]:
    """Every graph of the model (subgraphs in preorder) with the shapes known in its scope.

    Args:
        model: with functions inlined; its weights are not read.
        input_shapes: `{input: [d, ...]}`; dynamic dims that it leaves open have
            :func:`dynamic_size`.

    Raises:
        UsageError: ``input_shapes`` contradicts the model.
    """
    copy = weightless(model)
    for graph in graphs(copy.graph):
        _stand_in(graph)
    _fix_inputs(copy, input_shapes, dynamic_size(copy, input_shapes))
    found: list[dict[str, Shape]] = [{} for _ in graphs(copy.graph)]
    if any(map(subgraphs, copy.graph.node)):
        _nested(copy, found)
    else:
        _flat(copy, found[0])
    originals = list(graphs(model.graph))
    return list(zip(originals, found, strict=True))


def _nested(copy: ModelProto, found: Sequence[dict[str, Shape]]) -> None:
    """Rounds over all of a model with graphs inside, until nothing new becomes known."""
    known = -1
    for _ in range(_ROUNDS):
        inferred = _inferred(copy)
        scopes = list(_scopes(inferred.graph, {}))
        for each, scope in zip(found, scopes, strict=True):
            each.update(scope)
        total = sum(map(len, found))
        if total <= known or _complete(copy, scopes):
            break
        known = total
        # Outermost last: folding a graph must not disturb the walk over those inside it.
        triples = list(zip(graphs(copy.graph), graphs(inferred.graph), found, strict=True))
        for graph, seen, scope in reversed(triples):
            _fold(copy, graph, seen, scope)


def _flat(copy: ModelProto, shapes: dict[str, Shape]) -> None:
    """Two rounds over all of a model; what they can't tell in windows, one after the other.

    A layer may have shape arithmetic that waits for the one before. A round for each, over all that
    is left, would take as many rounds as there are layers; in a window there are few.
    """
    graph = copy.graph
    for _ in range(2):
        inferred = _inferred(copy)
        scope = next(_scopes(inferred.graph, {}))
        shapes.update(scope)
        if _complete(copy, [scope]):
            return
        _fold(copy, graph, inferred.graph, shapes)
        _leave_out_known(graph, inferred.graph, shapes)
    nodes = list(graph.node)
    constants = {tensor.name: tensor for tensor in graph.initializer}
    declared = {value.name: value for value in (*graph.input, *graph.value_info)}
    for at in range(0, len(nodes), _WINDOW):
        window = ModelProto(ir_version=copy.ir_version, opset_import=copy.opset_import)
        part = window.graph
        part.name = graph.name
        part.node.extend(nodes[at : at + _WINDOW])
        read = {name for node in part.node for name in node.input}
        read -= {name for node in part.node for name in node.output}
        for name in sorted(read):  # of few: what is known of the rest may be much
            if name in constants:
                part.initializer.append(constants[name])
            elif name in declared:
                part.value_info.append(declared[name])
        while part.node:
            before, inferred = len(shapes) + len(constants), _inferred(window)
            shapes.update(next(_scopes(inferred.graph, {})))
            _fold(window, part, inferred.graph, shapes)
            declared.update((value.name, value) for value in inferred.graph.value_info)
            constants.update((tensor.name, tensor) for tensor in part.initializer)
            _leave_out_known(part, inferred.graph, shapes)
            if len(shapes) + len(constants) == before:
                break


def _inferred(model: ModelProto) -> ModelProto:
    try:
        return infer_shapes(model)
    except Exception:  # of several types; what it can't read stays unknown
        return model


def graphs(graph: GraphProto) -> Iterator[GraphProto]:
    """The graph and its subgraphs, in preorder."""
    yield graph
    for node in graph.node:
        for inner in subgraphs(node):
            yield from graphs(inner)


def weightless(model: ModelProto) -> ModelProto:
    """A copy whose large tensors are declared by type and shape only; never reads them."""
    # Before IR 4, inference believes only those initializers that are graph inputs too.
    copy = ModelProto(ir_version=max(model.ir_version, 4))
    copy.opset_import.extend(model.opset_import)
    copy.functions.extend(model.functions)
    _strip(model.graph, copy.graph)
    return copy


def _strip(source: GraphProto, target: GraphProto) -> None:
    target.name = source.name or "graph"
    held = {tensor.name for tensor in source.initializer}
    target.input.extend(value for value in source.input if value.name not in held)
    # The output's type only: its shape is to be inferred, for the sizes of the inputs.
    for value in source.output:
        target.output.add().CopyFrom(value)
        if value.type.HasField("tensor_type"):
            target.output[-1].type.tensor_type.ClearField("shape")
    for tensor in source.initializer:
        if math.prod(tensor.dims) <= _KEPT and not uses_external_data(tensor):
            target.initializer.append(tensor)
        else:
            target.value_info.append(
                helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims)
            )
    target.sparse_initializer.extend(source.sparse_initializer)
    for node in source.node:
        new = target.node.add(op_type=node.op_type, domain=node.domain, name=node.name)
        new.input.extend(node.input)
        new.output.extend(node.output)
        for attribute in node.attribute:
            if attribute.type == AttributeProto.GRAPH:
                inner = new.attribute.add(name=attribute.name, type=attribute.type)
                _strip(attribute.g, inner.g)
            elif attribute.type == AttributeProto.TENSOR and math.prod(attribute.t.dims) > _KEPT:
                bare = new.attribute.add(name=attribute.name, type=attribute.type)
                bare.t.dims.extend(attribute.t.dims)
                bare.t.data_type = attribute.t.data_type
            else:
                new.attribute.append(attribute)


#: tried for dynamic dims, until no window is larger than what it is laid over
_SIZES = (1, 64, 224, 1024, 16384)


def dynamic_size(model: ModelProto, input_shapes: Mapping[str, Sequence[int]] | None = None) -> int:
    """The size at which MACs are counted for dynamic dims that no one has given a size: mostly 1.

    A network of convolutions without padding has no output for an image of one pixel. Such a one
    has the first of 64, 224, 1024 and 16384 at which no tensor has a negative size, or else 1.

    Raises:
        UsageError: ``input_shapes`` contradicts the model.
    """
    specs = input_specs(model)
    if not set(free_dims(specs)) - batch_dims(specs) - bound(specs, input_shapes).keys():
        return 1
    for size in _SIZES:
        copy = weightless(model)
        _fix_inputs(copy, input_shapes, size)
        if windows_fit(copy):
            return size
        with contextlib.suppress(Exception):  # of several types
            copy = infer_shapes(without_slices(copy))
            if not negative_size(copy):
                return size
    return 1


def _fix_inputs(
    model: ModelProto, shapes: Mapping[str, Sequence[int]] | None, dynamic: int
) -> None:
    """Give every input a shape: dims that are first and dynamic, the batch, are 1 if not given."""
    specs = {spec.name: spec for spec in input_specs(model)}
    known = list(specs.values())
    free = dict.fromkeys(free_dims(known), dynamic) | dict.fromkeys(batch_dims(known), 1)
    sizes = free | bound(known, shapes)
    for value in model.graph.input:
        if value.name in specs:
            shape = shape_of(specs[value.name], sizes)
            code = value.type.tensor_type.elem_type
            value.CopyFrom(helper.make_tensor_value_info(value.name, code, shape))


#: operators of ORT's own domain whose first output has the shape of their first input
_LIKE_FIRST = {
    *("Gelu", "FastGelu", "QuickGelu", "BiasGelu", "SkipLayerNormalization", "BiasAdd"),
    *("SimplifiedLayerNormalization", "SkipSimplifiedLayerNormalization"),
    *("RotaryEmbedding", "GroupQueryAttention", "MultiHeadAttention", "BiasSoftmax"),
    *("QLinearAdd", "QLinearMul", "QLinearSigmoid", "QLinearLeakyRelu"),
}
_LIKE_STANDARD = {"FusedConv": ("Conv", 3), "FusedGemm": ("Gemm", 3)}


def _stand_in(graph: GraphProto) -> None:
    """Replace ORT's own operators, of which ONNX's inference knows nothing, by ones of equal shape.

    Only names matter: the nodes that are counted are the original's.
    """
    shapes = {v.name: _shape(v.type) for v in graph.value_info}
    shapes |= {t.name: tuple(t.dims) for t in graph.initializer}
    nodes = []
    for node in graph.node:
        if node.domain == "ai.onnx.ml" and node.op_type in ("Scaler", "Normalizer", "Imputer"):
            nodes.append(helper.make_node("Cast", node.input, node.output, to=TensorProto.FLOAT))
        elif node.domain == "com.microsoft":
            nodes += _replacement(node, graph, shapes)
        else:
            nodes.append(node)
    del graph.node[:]
    graph.node.extend(nodes)


def _replacement(
    node: NodeProto, graph: GraphProto, shapes: Mapping[str, Shape | None]
) -> list[NodeProto]:
    if node.op_type in _LIKE_STANDARD:
        standard, operands = _LIKE_STANDARD[node.op_type]
        same = NodeProto(op_type=standard, input=node.input[:operands], output=node.output)
        same.attribute.extend(a for a in node.attribute if not a.name.startswith("activation"))
        return [same]
    packed = "Query" in node.op_type or "MultiHead" in node.op_type
    if packed and not any(node.input[1:2]):
        return [node]  # queries, keys and values in one: the output is narrower
    if node.op_type in _LIKE_FIRST:
        return [helper.make_node("Identity", node.input[:1], node.output[:1])]
    if node.op_type == "FusedMatMul":
        return _fused_matmul(node)
    width = _output_width(node, shapes)
    if width is None:
        return [node]
    weight = f"{node.output[0]}/stand-in"
    graph.value_info.append(
        helper.make_tensor_value_info(weight, TensorProto.FLOAT, [width[0], width[1]])
    )
    return [helper.make_node("MatMul", [node.input[0], weight], node.output[:1])]


def _output_width(node: NodeProto, shapes: Mapping[str, Shape | None]) -> tuple[int, int] | None:
    """The inner sizes `[d, h]` of a com.microsoft operator that acts as a matrix product."""
    if node.op_type == "MatMulNBits":
        return int_attribute(node, "K", 0), int_attribute(node, "N", 0)
    shape = shapes.get(node.input[1]) if len(node.input) > 1 else None
    if node.op_type == "Attention" and shape:
        sizes = next((a.ints for a in node.attribute if a.name == "qkv_hidden_sizes"), None)
        return shape[0], sizes[2] if sizes else shape[1] // 3
    if node.op_type == "DynamicQuantizeMatMul" and shape:
        return shape[0], shape[1]
    return None


def _fused_matmul(node: NodeProto) -> list[NodeProto]:
    """Transpositions written out as an Einsum, where there are any."""
    left, right = int_attribute(node, "transA", 0), int_attribute(node, "transB", 0)
    if not (left or right):
        return [helper.make_node("MatMul", node.input[:2], node.output)]
    equation = f"...{'ki' if left else 'ik'},...{'jk' if right else 'kj'}->...ij"
    return [helper.make_node("Einsum", node.input[:2], node.output, equation=equation)]


def _scopes(graph: GraphProto, outer: Shapes) -> Iterator[dict[str, Shape]]:
    """Shapes by name for every graph: siblings may use one name for two tensors."""
    scope = dict(outer)
    for value in [*graph.input, *graph.output, *graph.value_info]:
        shape = _shape(value.type)
        if shape is not None:
            scope[value.name] = shape
    scope.update((tensor.name, tuple(tensor.dims)) for tensor in graph.initializer)
    yield scope
    for node in graph.node:
        for inner in subgraphs(node):
            yield from _scopes(inner, scope)


def _complete(model: ModelProto, scopes: Sequence[Shapes]) -> bool:
    return all(
        not name or name in scope
        for graph, scope in zip(graphs(model.graph), scopes, strict=True)
        for node in graph.node
        for name in node.output
    )


def _shape(kind: onnx.TypeProto) -> Shape | None:
    tensor = kind.tensor_type
    if not tensor.HasField("shape") or not all(
        d.HasField("dim_value") and d.dim_value >= 0 for d in tensor.shape.dim
    ):
        return None
    return tuple(d.dim_value for d in tensor.shape.dim)


def _fold(model: ModelProto, graph: GraphProto, seen: GraphProto, shapes: dict[str, Shape]) -> None:
    """Compute the graph's shape arithmetic and put it back as initializers.

    ``seen`` is the same graph as inference left it, with ``shapes``; those of what is computed are
    added.
    """
    values: dict[str, Array] = {}
    for tensor in graph.initializer:
        if math.prod(tensor.dims) <= _KEPT and not uses_external_data(tensor):
            values[tensor.name] = numpy_helper.to_array(tensor)
    nodes, reached = [], set(values)
    for node in graph.node:
        if node.op_type == "Shape" and node.input[0] in shapes:
            shape = shapes[node.input[0]]
            stop = int_attribute(node, "end", len(shape))
            dims = shape[int_attribute(node, "start", 0) : stop]
            values[node.output[0]] = np.asarray(dims, np.int64)
        elif _is_arithmetic(node) and all(not name or name in reached for name in node.input):
            nodes.append(node)
        else:
            continue
        reached.update(node.output)
    if nodes:
        values |= _evaluate(model, nodes, values)
    shapes.update((name, value.shape) for name, value in values.items())
    taken = [_taken(node, values, shapes) for node in seen.node]
    held = {tensor.name for tensor in graph.initializer}
    left = [node for node in graph.node if not all(o in values for o in node.output)]
    folded = [o for node in graph.node for o in node.output if o in values and o not in held]
    kept = [value for value in graph.value_info if value.name not in values]
    del graph.node[:], graph.value_info[:]
    graph.node.extend(left)
    graph.value_info.extend(kept)
    graph.value_info.extend(value for outputs in taken for value in outputs)
    made = {o for node in left for o in node.output}
    graph.initializer.extend(
        numpy_helper.from_array(values[name], name) for name in folded if name not in made
    )


def _leave_out_known(graph: GraphProto, seen: GraphProto, shapes: Shapes) -> None:
    """Declare what is known of a graph without graphs inside: the next round is about the rest.

    A tensor that is large enough is nothing that shapes are computed with.
    """
    declared = {value.name: value for value in (*seen.value_info, *seen.output)}

    def settled(name: str) -> bool:
        return not name or (name in declared and math.prod(shapes.get(name, ())) > _KEPT)

    left = [node for node in graph.node if not all(map(settled, node.output))]
    read = {name for node in left for name in node.input}
    constants = [tensor for tensor in graph.initializer if tensor.name in read]
    read -= {name for node in left for name in node.output}
    read -= {tensor.name for tensor in constants}
    values = {value.name: value for value in graph.value_info} | declared
    known = [value for name, value in values.items() if name in read]
    del graph.node[:], graph.value_info[:], graph.initializer[:]
    graph.node.extend(left)
    graph.value_info.extend(known)
    graph.initializer.extend(constants)


def _taken(
    node: NodeProto, values: Mapping[str, Array], shapes: Shapes
) -> list[onnx.ValueInfoProto]:
    """The outputs of an If whose condition is known, as its branch has them.

    Exporters write "squeeze it if it has a leading axis" this way; inference can only give up
    where the branches differ in rank.
    """
    if node.op_type != "If" or node.input[0] not in values:
        return []
    wanted = "then_branch" if bool(values[node.input[0]].all()) else "else_branch"
    branch = next(a.g for a in node.attribute if a.name == wanted)
    inner = next(_scopes(branch, shapes))
    return [
        helper.make_tensor_value_info(name, out.type.tensor_type.elem_type, inner[out.name])
        for name, out in zip(node.output, branch.output, strict=True)
        if name not in shapes and out.name in inner
    ]


def _is_arithmetic(node: NodeProto) -> bool:
    random = node.op_type.startswith(("Random", "Multinomial", "Bernoulli"))
    stripped = any(
        a.type == AttributeProto.TENSOR and math.prod(a.t.dims) > _KEPT for a in node.attribute
    )
    return node.domain in ("", "ai.onnx") and not (random or stripped or subgraphs(node))


def _evaluate(
    model: ModelProto, nodes: Sequence[NodeProto], values: dict[str, Array]
) -> dict[str, Array]:
    """The small results of nodes, in parts: a session of tens of thousands takes ever longer."""
    found: dict[str, Array] = {}
    known = ChainMap(found, values)
    for at in range(0, len(nodes), _EVALUATED):
        part = []
        reached: set[str] = set()
        for node in nodes[at : at + _EVALUATED]:
            if all(not name or name in known or name in reached for name in node.input):
                part.append(node)
                reached.update(node.output)
        found |= _results(model, part, known)
    return found


def _results(
    model: ModelProto, nodes: Sequence[NodeProto], values: Mapping[str, Array]
) -> dict[str, Array]:
    needed = dict.fromkeys(name for node in nodes for name in node.input if name in values)
    outputs = [onnx.ValueInfoProto(name=o) for node in nodes for o in node.output if o]
    graph = helper.make_graph(
        nodes, "fold", [], outputs, [numpy_helper.from_array(values[n], n) for n in needed]
    )
    opsets = [o for o in model.opset_import if o.domain in ("", "ai.onnx")]
    try:
        small = helper.make_model(graph, opset_imports=opsets, ir_version=10)
        results = run(session(small, optimize=False), {})
    except OnnxPruneError:  # shapes behind this arithmetic stay unknown, and are reported so
        return {}
    return {name: value for name, value in results.items() if value.size <= _KEPT}


def int_attribute(node: NodeProto, name: str, default: int) -> int:
    return next((a.i for a in node.attribute if a.name == name), default)
