"""How time and memory grow with a model, from reading it to writing the pruned file.

    python -m benchmarks.scale [--only KIND] [--largest N] [--json]

Models of ten kinds, each at several sizes, are written to a temporary folder. A process of its own
reads each, plans and applies. Times are in seconds; `memory` is what the process held at most, in
MB, less what it held before it read the model. For each kind and stage the exponent of the growth
is fitted: 1 is linear, and `--bound` (1.1) is what is allowed.

Stages: `load`, `infer` (axes), `groups`; `plan` and `apply` are the public functions, each of which
begins with those three. Nothing is run in onnxruntime.
"""

from __future__ import annotations

import argparse
import gc
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper

import onnxprune
from benchmarks import axes
from models.graph import Graph
from onnxprune.groups import find_groups
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.tables import built_in

STAGES = ("load", "infer", "groups", "plan", "apply")
_MB = 1024  # of ru_maxrss, which is in KB
#: Below this many seconds, what does not depend on the size rules: no exponent is fitted.
_SHORT = 0.05
_ROOT = Path(__file__).resolve().parent.parent


def nested(n: int) -> onnx.ModelProto:
    """`n` Ifs, each in the first branch of the one before; weights and values are from outside."""
    g = Graph("nested", 0)
    x = g.conv("stem", g.input("images", "N", 3, 4, 4), 3, 8)
    weights = [g.parameter(f"w{i}", g.rng.standard_normal((8, 8, 1, 1))) for i in range(n + 1)]
    zero = g.parameter("zero", np.zeros(1, dtype=np.float32))
    on = g.node(
        "Greater", g.node("ReduceSum", x, keepdims=0), g.node("ReduceSum", zero, keepdims=0)
    )

    def body(depth: int, x: str, side: str) -> onnx.GraphProto:
        here = f"{depth}{side}"
        nodes = [helper.make_node("Conv", [x, weights[depth]], [f"y{here}"], f"conv{here}")]
        last = f"y{here}"
        if depth + 1 < n and side == "then":
            branches = {f"{s}_branch": body(depth + 1, last, s) for s in ("then", "else")}
            last = f"z{here}"
            nodes.append(helper.make_node("If", [on], [last], f"if{here}", **branches))
        out = helper.make_tensor_value_info(last, TensorProto.FLOAT, None)
        return helper.make_graph(nodes, f"body{here}", [], [out])

    branches = {f"{side}_branch": body(0, x, side) for side in ("then", "else")}
    return axes._classifier(g, g.node("If", on, **branches), 8)


def initializers(n: int) -> onnx.ModelProto:
    """A chain of `n` nodes, each with a vector of its own."""
    g = Graph("initializers", 0)
    x = g.conv("stem", g.input("images", "N", 3, 4, 4), 3, 8)
    for i in range(n):
        x = g.node("Mul" if i % 2 else "Add", x, g.parameter(f"v{i}", np.ones((8, 1, 1))))
    return axes._classifier(g, x, 8)


def with_dead(
    build: Callable[[int], onnx.ModelProto], which: int
) -> Callable[[int], onnx.ModelProto]:
    """With a channel that BatchNormalization `which` makes zero: folded away at every size.

    Among random numbers a large model has one and a small one has none, and finding one makes
    `apply` look for it too: a step that would be taken for growth.
    """

    def built(n: int) -> onnx.ModelProto:
        model = build(n)
        constants = {tensor.name: tensor for tensor in model.graph.initializer}
        norms = [node for node in model.graph.node if node.op_type == "BatchNormalization"]
        for name in norms[which].input[1:3]:  # scale and bias
            value = onnx.numpy_helper.to_array(constants[name]).copy()
            value[0] = 0
            constants[name].CopyFrom(onnx.numpy_helper.from_array(value, name))
        return model

    return built


#: What grows, and its sizes; the last is what it has to bear.
KINDS: dict[str, tuple[Callable[[int], onnx.ModelProto], Sequence[int]]] = {
    "residual": (with_dead(axes.residual, 0), (100, 1000, 10_000, 100_000)),
    "transformer": (axes.transformer, (100, 1000, 10_000, 100_000)),
    "dense": (with_dead(axes.dense, 1), (100, 1000, 10_000, 100_000)),
    "initializers": (initializers, (1000, 10_000, 100_000)),
    "deep residual": (axes.deep_residual, (50, 100, 200, 400, 800)),
    "consumers": (axes.consumers, (375, 750, 1500, 3000)),
    "Concat": (axes.wide_concat, (250, 500, 1000, 2000)),
    "nested Ifs": (nested, (5, 10, 20, 30)),
    "Slices": (axes.slices, (250, 500, 1000, 2000)),
    "Splits": (axes.splits, (250, 500, 1000, 2000)),
}


def measure(path: Path) -> dict[str, float]:
    """The seconds of each stage, and the memory (MB) that they took at most."""
    row: dict[str, float] = {}
    before = _peak()

    def timed(stage: str, job: Callable[..., Any], *operands: Any, **options: Any) -> Any:
        gc.collect()
        start = time.process_time()
        result = job(*operands, **options)
        row[stage] = time.process_time() - start
        return result

    model = timed("load", load, path)
    row["nodes"] = sum(len(graph.node) for graph in model.graphs)
    network = timed("infer", infer, model, built_in())
    groups = timed("groups", find_groups, network)
    row["groups found"] = len(groups)
    del model, network, groups
    plan = timed("plan", onnxprune.plan, path, ratio=0.5)
    result = timed("apply", onnxprune.apply, path, plan, verify=False)
    result.save(path.with_name("pruned.onnx"), force=True)
    return row | {"memory": _peak() - before, "file": path.stat().st_size / 1e6}


def _peak() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / _MB


def exponent(rows: Sequence[dict[str, float]], stage: str) -> float:
    """The slope of log(time) over log(nodes), over what takes long enough to be told."""
    long = [row for row in rows if row[stage] > _SHORT]
    if len(long) < 2:
        return float("nan")
    nodes, times = ([np.log(row[key]) for row in long[-3:]] for key in ("nodes", stage))
    return float(np.polyfit(nodes, times, 1)[0])


def _in_a_process(*arguments: str) -> str:
    command = [sys.executable, "-m", "benchmarks.scale", *arguments]
    done = subprocess.run(command, cwd=_ROOT, stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--only", default="", help="kinds whose name has this in it")
    parser.add_argument("--largest", type=int, default=10**9, help="no model of more than this")
    parser.add_argument("--bound", type=float, default=1.1, help="exponents allowed (%(default)s)")
    parser.add_argument("--json", action="store_true", help="one JSON document, and nothing else")
    parser.add_argument(
        "--write", nargs=3, metavar=("KIND", "SIZE", "FILE"), help=argparse.SUPPRESS
    )
    parser.add_argument("--measure", type=Path, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.write:
        kind, size, file = options.write
        onnx.save(KINDS[kind][0](int(size)), file)
        return 0
    if options.measure:
        print(json.dumps(measure(options.measure)))
        return 0
    document: dict[str, Any] = {"rows": {}, "exponents": {}}
    columns = ("nodes", "file", *STAGES, "memory")
    if not options.json:
        print(f"{'seconds, MB':16}" + "".join(f"{name:>10}" for name in columns))
    for kind, (_, sizes) in KINDS.items():
        if options.only not in kind:
            continue
        rows = document["rows"][kind] = []
        for size in sizes:
            if size > options.largest:
                continue
            with tempfile.TemporaryDirectory() as folder:
                file = str(Path(folder) / "model.onnx")
                _in_a_process("--write", kind, str(size), file)
                rows.append(json.loads(_in_a_process("--measure", file)))
            if not options.json:
                cells = [f"{rows[-1]['nodes']:,}", *(f"{rows[-1][key]:.2f}" for key in columns[1:])]
                print(f"{kind:16}" + "".join(f"{cell:>10}" for cell in cells), flush=True)
        slopes = document["exponents"][kind] = {stage: exponent(rows, stage) for stage in STAGES}
        if not options.json:
            cells = ["", "", *(f"{slope:.2f}" for slope in slopes.values())]
            print(f"{'  exponent':16}" + "".join(f"{cell:>10}" for cell in cells), flush=True)
    if options.json:
        print(json.dumps(document, indent=1))
    over = [
        f"{kind}, {stage}: {slope:.2f}"
        for kind, slopes in document["exponents"].items()
        for stage, slope in slopes.items()
        if slope > options.bound
    ]
    print(
        "\n".join(["above the bound:", *over] if over else ["all within the bound"]),
        file=sys.stderr,
    )
    return 1 if over else 0


if __name__ == "__main__":
    raise SystemExit(main())
