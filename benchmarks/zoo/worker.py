"""Prune one file and print what happened as one JSON object.

    python -m benchmarks.zoo.worker FILE RATIO GIGABYTES SHAPES

This is the process of its own that `benchmarks/zoo.py prune` starts for every file: what kills it
becomes a row of the journal. SHAPES is what inputs the file was exported with, as JSON, or `null`:
they are given where no others are found that it runs with.
"""

from __future__ import annotations

import json
import math
import resource
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Collection, Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

from onnx import ModelProto, NodeProto, TensorProto
from onnx.numpy_helper import to_array

import onnxprune
from onnxprune.axes import Axis, Dim, leaves
from onnxprune.errors import NotPrunable, OnnxPruneError, UnsupportedModel
from onnxprune.groups import find_groups
from onnxprune.infer import infer
from onnxprune.inspection import elements, weight_names
from onnxprune.loading import load
from onnxprune.model import graphs, node_name
from onnxprune.network import Network
from onnxprune.tables import built_in

Row = dict[str, Any]

#: How the pins of inputs and outputs begin.
INTERFACE = "an axis of the model's"
#: What an operator's definition fixes: no tool and no rule could take anything from such an axis.
FIXED = {"kernel", "spatial", "sequence", "directions", "batch", "vocabulary"}
INTEGERS = {TensorProto.INT32, TensorProto.INT64, TensorProto.UINT8, TensorProto.INT8}


def measure(path: Path, ratio: float, shapes: dict[str, list[int]] | None) -> Row:
    """Everything that the journal says of one file."""
    seconds, network = read_axes(path)
    proto = network.model.proto
    row: Row = {
        "nodes": sum(len(graph.node) for graph in graphs(proto.graph)),
        "kind": kind(proto),
        "axes_seconds": seconds,
    }
    tables = embeddings(proto)
    row.update(locked(network, ratio))
    start = time.perf_counter()
    try:
        try:
            result = onnxprune.prune(path, ratio=ratio, round_to=1, benchmark=False)
        except UnsupportedModel:
            if shapes is None:
                raise
            row["given_shapes"] = True
            result = onnxprune.prune(
                path, ratio=ratio, round_to=1, benchmark=False, input_shapes=shapes
            )
    except OnnxPruneError as error:
        row |= {"status": type(error).__name__, "message": str(error)}
        row["prunable"] = not isinstance(error, NotPrunable)
        return row
    finally:
        row["seconds"] = round(time.perf_counter() - start, 3)
    report = result.report
    certificate = report.certificate
    assert certificate and report.before and report.after
    before = tensor_elements(proto, tables)
    after = tensor_elements(result.model, tables)
    rest = report.before.parameters - before
    weights = distinct(proto, network.scored)
    whole = tensor_elements(proto, weights)
    return row | {
        "status": "ok",
        "prunable": True,
        "certificate": {
            name: getattr(certificate, name)
            for name in ("permutation", "masking", "cut", "control", "rounding", "tolerance")
        },
        "proves": certificate.proves,
        "compared": certificate.compared[:4],
        "parameters": report.before.parameters,
        "left": report.parameters_left,
        "embedding_share": before / max(1, report.before.parameters),
        "left_without_embeddings": (report.after.parameters - after) / rest if rest else None,
        "left_of_weights": tensor_elements(result.model, weights) / whole if whole else None,
        "free_widths_allow": report.free_widths_allow,
        "groups": len(report.groups),
        "refused": report.refused[:20],
        "notes": report.notes + certificate.notes,
        "timings": report.timings,
    }


def read_axes(path: Path) -> tuple[float, Network]:
    """The least of three times (s) that reading the axes takes, and what was read."""
    best, rules = math.inf, built_in()
    for _ in range(3):
        model = load(path)
        start = time.perf_counter()
        network = infer(model, rules)
        best = min(best, time.perf_counter() - start)
    return round(best, 5), network


# -- what stayed whole, and why ------------------------------------------------------------------


def locked(network: Network, ratio: float) -> Row:
    """The parameters that lose nothing, by reason, and what each reason costs.

    `locked` has the share of parameter elements in tensors whose every axis is pinned: by the
    interface and by what operators fix, and otherwise. `costs` are, for each reason other than
    those, the share of all parameters that would go as well, were its axes free: each such axis
    would take `ratio` of what is left of its tensor.
    """
    groups = find_groups(network)
    grouped = {group.dim for group in groups}
    fractions = {group.dim: 1 - ratio for group in groups if group.role != "second-factor"}
    names = weight_names(network)
    total = sum(elements(network, name) for name in names) or 1
    tables = _tables(network)
    shares: dict[str, float] = defaultdict(float)
    reasons: dict[str, float] = defaultdict(float)
    costs: dict[tuple[str, str], float] = defaultdict(float)
    tensors: list[tuple[float, str, list[str]]] = []
    for name in names:
        axes = [axis for axis in network.axes.get(name) or () if (axis.size or 0) > 1]
        count = elements(network, name)
        if not axes:
            continue
        held = [axis for axis in axes if not any(free(dim) for dim in leaves(axis))]
        why = [first_reason(axis, tables.get(name, ())) for axis in held]
        others = [each for each in why if each]
        left = count * math.prod(left_of(axis, fractions) for axis in axes)
        for reason, where in others:
            costs[reason, where] += ratio * left / total
        if any(free(dim) and dim not in grouped for axis in axes for dim in leaves(axis)):
            costs["nothing that carries importance has this axis", name] += ratio * left / total
        if len(held) < len(axes) or name not in network.scored:
            continue
        shares["other" if others else "interface"] += count / total
        if others:
            reasons[others[0][0]] += count / total
            described = [
                f"{axis.size}: {each[0] if each else 'interface'}"
                for axis, each in zip(held, why, strict=True)
            ]
            tensors.append((count / total, name, described))
    tensors.sort(reverse=True)
    top = sorted(costs.items(), key=lambda each: -each[1])
    by_reason: dict[str, float] = defaultdict(float)
    for (reason, _), cost in costs.items():
        by_reason[reason] += cost
    return {
        "elements": total,
        "locked": {"interface": shares["interface"], "other": shares["other"]},
        "locked_reasons": dict(sorted(reasons.items(), key=lambda each: -each[1])),
        "locked_tensors": [(round(share, 5), *rest) for share, *rest in tensors[:8]],
        "costs": {k: round(v, 5) for k, v in sorted(by_reason.items(), key=lambda e: -e[1])},
        "costs_where": [(round(cost, 5), *reason) for reason, cost in top[:8] if cost > 1e-4],
    }


def free(dim: Dim) -> bool:
    return not dim.pinned and (dim.size or 0) > 1


def _tables(network: Network) -> dict[str, set[str]]:
    """Constants that a node looks entries up in: the nodes, as pins name them."""
    found: dict[str, set[str]] = defaultdict(set)
    for record in network.records:
        node = record.node
        if node.op_type.startswith("Gather") and node.input[0] in network.model.constants:
            found[node.input[0]].add(f"{node.op_type} {node_name(node)}")
    return found


def first_reason(axis: Axis, lookups: Collection[str]) -> tuple[str, str] | None:
    """Why an axis is pinned, or None where it is the model's interface or the operator's nature.

    The entries of a table are of its nature; `lookups` are the nodes that pick them.
    """
    dims = [dim for dim in leaves(axis) if (dim.size or 0) > 1]
    pins = [pin for dim in dims for pin in dim.pins]
    if not pins or any(
        pin.reason.startswith(INTERFACE) or pin.reason in FIXED or pin.where in lookups
        for pin in pins
    ):
        return None
    widest = max(dims, key=lambda dim: dim.size or 0)
    first = (widest.pins or pins)[0]
    return first.reason, first.where


def left_of(axis: Axis, fractions: dict[Dim, float]) -> float:
    """The share of an axis that is left, roughly: runs count by their size."""
    found: dict[Dim, float] = {dim: fractions.get(dim, 1.0) for dim in leaves(axis)}
    sizes = sum(dim.size or 0 for dim in found) or 1
    if math.prod(dim.size or 1 for dim in found) == axis.size:
        return math.prod(found.values())
    return sum(share * (dim.size or 0) for dim, share in found.items()) / sizes


# -- what kind of model it is --------------------------------------------------------------------


def kind(proto: ModelProto) -> str:
    """`transformer`, `recurrent`, `cnn` or `mlp`, from the operators that are in a graph."""
    nodes = [node for graph in graphs(proto.graph) for node in graph.node]
    count = Counter(node.op_type for node in nodes)
    producers = {name: node for node in nodes for name in node.output}
    if any("Attention" in name for name in count) or attends(nodes, producers):
        return "hybrid" if count["Conv"] > 8 else "transformer"
    if any(count[name] for name in ("LSTM", "GRU", "RNN", "Scan", "Loop")):
        return "recurrent"
    return "cnn" if count["Conv"] else "mlp"


def attends(nodes: list[NodeProto], producers: dict[str, NodeProto]) -> bool:
    """A softmax whose result is multiplied with what was computed, not with a weight."""
    through = {"Cast", "Dropout", "Where", "Mul", "Identity", "Reshape", "Transpose", "Add", "Div"}
    through |= {"Slice"}  # of the sinks that some decoders add
    for node in nodes:
        if node.op_type not in ("MatMul", "Einsum") or len(node.input) < 2:
            continue
        if not all(name in producers for name in node.input[:2]):
            continue
        reached = list(node.input[:2])
        for _ in range(5):
            sources = [producers[name] for name in reached if name in producers]
            if any(source.op_type == "Softmax" for source in sources):
                return True
            passed = (source for source in sources if source.op_type in through)
            reached = [name for source in passed for name in source.input]
    return False


def embeddings(proto: ModelProto) -> set[str]:
    """Constants that a Gather indexes with what comes from an integer input of the model."""
    inputs = {
        value.name for value in proto.graph.input if value.type.tensor_type.elem_type in INTEGERS
    }
    constants = {tensor.name for tensor in proto.graph.initializer}
    from_input = inputs - constants
    found: set[str] = set()
    for node in proto.graph.node:
        if node.op_type in ("Shape", "Size"):
            continue
        if node.op_type == "Gather" and node.input[0] in constants:
            if node.input[1] in from_input:
                found.add(node.input[0])
        elif any(name in from_input for name in node.input):
            from_input.update(node.output)
    return found


def tensor_elements(proto: ModelProto, names: Collection[str]) -> int:
    return sum(math.prod(tensor.dims) for tensor in proto.graph.initializer if tensor.name in names)


def distinct(proto: ModelProto, names: Collection[str]) -> set[str]:
    """Of the tensors `names` one for each content: what else a file holds depends on its maker.

    One exporter writes a tied weight twice, once transposed, and the other once; the one folds
    masks and tables of positions to constants that the other computes.
    """
    found: dict[bytes, str] = {}
    for tensor in proto.graph.initializer:
        if tensor.name in names:
            array = to_array(tensor)
            key = min(sha256(each.tobytes()).digest() for each in (array, array.T))
            found.setdefault(key, tensor.name)
    return set(found.values())


def lines(text: str) -> Iterator[str]:
    return (line for line in text.splitlines() if line.strip())


def main() -> None:
    path, ratio, gigabytes, shapes = sys.argv[1:]
    limit = int(float(gigabytes) * 2**30)
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    row: Row
    try:
        row = measure(Path(path), float(ratio), json.loads(shapes))
    except Exception as error:  # a crash is a row, and not an end
        import traceback

        last = traceback.extract_tb(error.__traceback__)[-1]
        message = next(lines(str(error)), "")
        where = f"{Path(last.filename).name}:{last.lineno}"
        row = {"status": "crash", "message": f"{type(error).__name__}: {message} ({where})"}
    row["megabytes"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1000
    print("\n" + json.dumps(row))


if __name__ == "__main__":
    main()
