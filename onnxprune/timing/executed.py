"""What onnxruntime really runs: the nodes left after its fusions, with the time that each takes.

A session is asked to save its optimised graph and to profile itself. Every node is named before, so
that each event of the profile is found in the saved graph by its name, and each node of that graph
that is still one of the model's own can be told from one that a fusion made.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
import time
from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto, NodeProto, TensorProto

from onnxprune import ort
from onnxprune.errors import UnsupportedModel
from onnxprune.inputs import Feeds
from onnxprune.model import graphs
from onnxprune.runtime import runner

#: Runs that are profiled: as many as fit into this time (s), within these bounds.
_SECONDS, _FEWEST, _MOST = 1.2, 8, 60

#: Initializers of at most so many elements may be values: axes, lengths, scales.
_SMALL = 256

#: ms below which a microsecond more or less matters.
_SHORT = 0.04

#: How the profile calls element types.
_TYPES = {
    **{"float": TensorProto.FLOAT, "double": TensorProto.DOUBLE, "float16": TensorProto.FLOAT16},
    **{"int8": TensorProto.INT8, "uint8": TensorProto.UINT8, "int32": TensorProto.INT32},
    **{"int64": TensorProto.INT64, "bool": TensorProto.BOOL, "bfloat16": TensorProto.BFLOAT16},
}


@dataclass(frozen=True)
class Operand:
    """A tensor that a node reads or writes, as the run had it. `dtype` is 0 where unknown."""

    name: str
    shape: tuple[int, ...]
    dtype: int
    #: An initializer: the kernel may have packed it when the session was made.
    constant: bool = False


@dataclass(frozen=True)
class Executed:
    """One node that was run. `inputs` leaves out the optional ones that are not there."""

    node: NodeProto
    #: ms of its kernel
    ms: float
    inputs: tuple[Operand, ...]
    outputs: tuple[Operand, ...]


@dataclass(frozen=True)
class Execution:
    """A model's run, node by node. Where a node was the model's own, `originals` has it by name."""

    nodes: list[Executed]
    originals: dict[str, NodeProto]
    #: ms of one run without profiling, that is with what comes between the kernels
    wall_ms: float
    #: The small initializers of the optimised graph, for operands that are values (axes, lengths).
    constants: dict[str, TensorProto]


def execute(
    model: ModelProto,
    feeds: Feeds,
    *,
    threads: int = 1,
    base_dir: str | os.PathLike[str] | None = None,
) -> Execution:
    """Run a model under onnxruntime's profiler.

    Raises:
        UnsupportedModel: it does not run.
    """
    named = ModelProto()
    named.CopyFrom(model)
    originals = {}
    for g, graph in enumerate(graphs(named.graph)):
        for i, node in enumerate(graph.node):
            node.name = f"n{i}" if g == 0 else f"g{g}n{i}"
            if g == 0:
                originals[node.name] = node
    with tempfile.TemporaryDirectory(prefix="onnxprune-") as folder:
        graph, events, wall = _profile(named, feeds, threads, base_dir, Path(folder))
    # An initializer that is an input too may change: no kernel packs it, nothing is fused to it.
    given = {value.name for value in graph.input}
    held = {
        t.name: Operand(t.name, tuple(t.dims), t.data_type, t.name not in given)
        for t in graph.initializer
    }
    times: dict[str, list[float]] = defaultdict(list)
    last: dict[str, Mapping[str, Any]] = {}
    for name, event in events:
        times[name].append(event["dur"] / 1e3)
        last[name] = event["args"]
    nodes = []
    for node in graph.node:
        if node.name in last:
            args = last[node.name]
            nodes.append(
                Executed(
                    node,
                    typical(times[node.name]),
                    _operands(node.input, args["input_type_shape"], held),
                    _operands(node.output, args["output_type_shape"], held),
                )
            )
    small = {t.name: t for t in graph.initializer if math.prod(t.dims) <= _SMALL}
    return Execution(nodes, originals, wall, small)


def typical(times: Sequence[float]) -> float:
    """The fastest, ms: what preempts a run only ever adds to its time.

    Of short times the mean of the fastest quarter, for the profile counts whole microseconds.
    """
    ordered = sorted(times)
    if ordered[0] > _SHORT:
        return ordered[0]
    fastest = ordered[: (len(times) + 3) // 4]
    return sum(fastest) / len(fastest)


def kernel_events(path: str | Path) -> Iterable[tuple[str, Mapping[str, Any]]]:
    """The kernels of a profile with the names of their nodes, in the order in which they ran."""
    suffix = "_kernel_time"
    for event in json.loads(Path(path).read_text(encoding="utf-8")):
        if event.get("cat") == "Node" and event["name"].endswith(suffix):
            yield event["name"].removesuffix(suffix), event


def profiling_options(threads: int, prefix: str) -> Any:
    """Options of a session as `runtime.session` makes them, and profiled."""
    options = ort.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.log_severity_level = 4
    options.enable_profiling = True
    options.profile_file_prefix = prefix
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    return options


def _profile(
    model: ModelProto,
    feeds: Feeds,
    threads: int,
    base_dir: str | os.PathLike[str] | None,
    folder: Path,
) -> tuple[onnx.GraphProto, list[tuple[str, Mapping[str, Any]]], float]:
    options = profiling_options(threads, str(folder / "profile"))
    options.optimized_model_filepath = str(folder / "optimised.onnx")
    # Large weights go to a file that is never read: names and shapes are all that is wanted.
    for key, value in {
        "session.optimized_model_external_initializers_file_name": "weights.bin",
        "session.optimized_model_external_initializers_min_size_in_bytes": "4096",
        **(
            {"session.model_external_initializers_file_folder_path": os.fspath(base_dir)}
            if base_dir is not None
            else {}
        ),
    }.items():
        options.add_session_config_entry(key, value)
    try:
        live = ort.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # onnxruntime's exceptions share no base class
        text = " ".join(str(error).split())[:400]
        raise UnsupportedModel(f"onnxruntime can't profile the model: {text}") from error
    run = runner(live, feeds)
    _rounds(run)
    events = list(kernel_events(live.end_profiling()))
    # Profiling is over: the same session now runs as it would without.
    wall = typical(_rounds(run))
    graph = onnx.load(folder / "optimised.onnx", load_external_data=False).graph
    return graph, events, wall


def _rounds(run: Any) -> list[float]:
    """Times of runs in ms."""
    times: list[float] = []
    started = time.perf_counter()
    while len(times) < _FEWEST or (len(times) < _MOST and time.perf_counter() - started < _SECONDS):
        before = time.perf_counter()
        run()
        times.append((time.perf_counter() - before) * 1e3)
    return times


def _operands(
    names: Iterable[str], given: Sequence[Mapping[str, Sequence[int]]], held: Mapping[str, Operand]
) -> tuple[Operand, ...]:
    """A node's operands; none where the profile does not list them all (sequences, maps)."""
    entries = [next(iter(entry.items()), ("", ())) for entry in given]
    found = []
    for name in filter(None, names):
        constant = held.get(name)
        if constant is not None:
            # The profile does not list weights that the kernel has packed for itself.
            if entries and tuple(entries[0][1]) == constant.shape:
                entries.pop(0)
            found.append(constant)
        elif entries:
            kind, shape = entries.pop(0)
            found.append(Operand(name, tuple(shape), _TYPES.get(kind, 0)))
        else:
            return ()
    return () if entries else tuple(found)
