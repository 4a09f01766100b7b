"""How long reading a graph takes, and how that grows with the graph.

    python -m benchmarks.axes [--nodes 100 1000 10000 100000] [--only KIND] [--seconds S] [--json]
    python -m benchmarks.axes --model FILE ...

Graphs of three kinds and four sizes, and six that are unkind; or files. Each stage is timed (ms,
the least of as many rounds as `--seconds` allow), and for each kind the exponent of its growth is
fitted: 1 is linear. `infer` is the reading of axes as a user waits for it; `shapes` the part of it
that ONNX's own shape inference takes, and `axes` the rest.
"""

from __future__ import annotations

import argparse
import gc
import json
import sys
import time
from collections.abc import Callable
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import onnx

from models import decoder
from models.graph import Graph
from onnxprune.declared import declared_shapes
from onnxprune.exactness import exact_dims
from onnxprune.groups import find_groups
from onnxprune.infer import infer
from onnxprune.inspection import look_into
from onnxprune.loading import ModelLike, load
from onnxprune.rewrite import rewrite
from onnxprune.tables import built_in

STAGES = ["load", "shapes", "axes", "infer", "groups", "exact", "inspect", "rewrite"]

# -- graphs that grow ----------------------------------------------------------------------------


def residual(nodes: int) -> onnx.ModelProto:
    """Residual blocks of two convolutions, seven nodes each; a new width every eight blocks."""
    g = Graph("residual", 0)
    x = g.conv("stem", g.input("images", "N", 3, 16, 16), 3, 8, 3)
    for i in range(max(1, nodes // 7)):
        with g.scope(f"layer{i}"):
            if i % 8 == 7:
                x = g.conv("project", x, 8, 8)
            y = g.node("Relu", g.batch_norm("bn1", g.conv("conv1", x, 8, 8, 3), 8))
            y = g.batch_norm("bn2", g.conv("conv2", y, 8, 8, 3), 8)
            x = g.node("Relu", g.node("Add", y, x))
    return _classifier(g, x, 8)


def transformer(nodes: int) -> onnx.ModelProto:
    """Decoder blocks of about 116 nodes; Reshape's targets come from Shape, Gather, Concat."""
    sizes = dict(width=16, heads=4, kv_heads=2, head_dim=4, inner=24, vocabulary=32, sequence=8)
    return decoder.build(depth=max(1, nodes // 116), dynamic_sequence=True, **sizes)


def dense(nodes: int) -> onnx.ModelProto:
    """Blocks of twelve layers that read the concat of all before them, 88 nodes each."""
    g = Graph("dense", 0)
    x = g.conv("stem", g.input("images", "N", 3, 16, 16), 3, 8, 3)
    for block in range(max(1, nodes // 88)):
        with g.scope(f"block{block}"):
            features = [x]
            for i in range(12):
                with g.scope(f"layer{i}"):
                    y, width = g.node("Concat", *features, axis=1), 8 + 4 * i
                    y = g.conv("conv1", g.node("Relu", g.batch_norm("bn1", y, width)), width, 8)
                    y = g.conv("conv2", g.node("Relu", g.batch_norm("bn2", y, 8)), 8, 4, 3)
                    features.append(y)
            x = g.conv("transition", g.node("Concat", *features, axis=1), 56, 8)
    return _classifier(g, x, 8)


GROWING: dict[str, Callable[[int], onnx.ModelProto]] = {
    "residual": residual,
    "transformer": transformer,
    "dense": dense,
}

# -- graphs that are unkind ----------------------------------------------------------------------


def consumers(n: int = 3000) -> onnx.ModelProto:
    """One tensor that `n` convolutions read, whose results are added up."""
    g = Graph("consumers", 0)
    x = g.conv("stem", g.input("images", "N", 3, 8, 8), 3, 8)
    return _classifier(g, g.node("Sum", *(g.conv(f"c{i}", x, 8, 8) for i in range(n))), 8)


def wide_concat(n: int = 2000) -> onnx.ModelProto:
    """A Concat of `n` convolutions' results, normalised, rectified and read by two layers."""
    g = Graph("wide_concat", 0)
    x = g.conv("stem", g.input("images", "N", 3, 8, 8), 3, 4)
    x = g.node("Concat", *(g.conv(f"c{i}", x, 4, 4) for i in range(n)), axis=1)
    x = g.node("Relu", g.batch_norm("bn", x, 4 * n))
    return _classifier(g, g.node("Add", g.conv("a", x, 4 * n, 8), g.conv("b", x, 4 * n, 8)), 8)


def deep_residual(n: int = 400) -> onnx.ModelProto:
    """One residual stream through `n` blocks."""
    g = Graph("deep_residual", 0)
    x = g.conv("stem", g.input("images", "N", 3, 8, 8), 3, 16)
    for i in range(n):
        x = g.node("Add", x, g.conv(f"b{i}", g.node("Relu", g.conv(f"a{i}", x, 16, 16)), 16, 16))
    return _classifier(g, x, 16)


def slices(n: int = 2000) -> onnx.ModelProto:
    """`n` times two channels are cut from the front of what is left, and convolved."""
    g = Graph("slices", 0)
    x = g.conv("stem", g.input("images", "N", 3, 4, 4), 3, 2 * n + 2)
    runs = []
    for i in range(n):
        runs.append(g.conv(f"c{i}", g.slice(x, 1, 0, 2), 2, 4))
        x = g.slice(x, 1, 2, 2**31 - 1)
    return _classifier(g, g.node("Sum", *runs), 4)


def splits(n: int = 2000) -> onnx.ModelProto:
    """`n` times two channels are split off the front, and laid end to end again."""
    g = Graph("splits", 0)
    x = g.conv("stem", g.input("images", "N", 3, 4, 4), 3, 2 * n + 2)
    runs = []
    for i in range(n):
        run, x = g.split(x, [2, 2 * (n - i)], axis=1)
        runs.append(g.node("Relu", run))
    return _classifier(g, g.node("Concat", *runs, axis=1), 2 * n)


def extended_concat(n: int = 300) -> onnx.ModelProto:
    """One dense block of `n` layers: `n` squared over two operands of Concat."""
    g = Graph("extended_concat", 0)
    x = g.conv("stem", g.input("images", "N", 3, 4, 4), 3, 4)
    features = [x]
    for i in range(n):
        width = 4 * (i + 1)
        y = g.node("Concat", *features, axis=1) if i else x
        features.append(g.conv(f"c{i}", g.batch_norm(f"bn{i}", y, width), width, 4))
    return _classifier(g, g.node("Concat", *features, axis=1), 4 * (n + 1))


UNKIND: dict[str, Callable[[], onnx.ModelProto]] = {
    "3,000 consumers": consumers,
    "Concat of 2,000": wide_concat,
    "400 deep residual": deep_residual,
    "2,000 x 2 Slices": slices,
    "2,000 Splits": splits,
    "dense block of 300": extended_concat,
}


def _classifier(g: Graph, x: str, width: int) -> onnx.ModelProto:
    g.output(g.pool_head("head", x, width, 4), "logits", "N", 4)
    return g.model()


# -- measuring -----------------------------------------------------------------------------------


def measure(model: ModelLike, seconds: float) -> dict[str, float]:
    """The milliseconds of each stage, the least that was seen within `seconds`."""
    best: dict[str, float] = {}
    end = time.monotonic() + seconds
    while not best or time.monotonic() < end:
        for stage, ms in _once(model).items():
            best[stage] = min(ms, best.get(stage, ms))
    best["axes"] = max(0.0, best["infer"] - best["shapes"])
    return {key: best[key] for key in ("nodes", *STAGES)}


def _once(model: ModelLike) -> dict[str, float]:
    times: dict[str, float] = {}

    @contextmanager
    def timed(stage: str) -> Any:
        gc.collect()
        start = time.perf_counter()
        yield
        times[stage] = 1e3 * (time.perf_counter() - start)

    rules = built_in()
    with timed("load"):
        loaded = load(model)
    times["nodes"] = len(loaded.proto.graph.node)
    with timed("shapes"):
        declared_shapes(loaded)
    with timed("infer"):
        network = infer(loaded, rules)
    with timed("groups"):
        groups = find_groups(network)
    with timed("exact"):
        exact_dims(network)
    with timed("inspect"):
        look_into(network, groups)
    choice = {group.dim: np.arange((group.size + 1) // 2) for group in groups}
    with timed("rewrite"):
        rewrite(network, choice)
    return times


def exponent(rows: list[dict[str, float]], stage: str) -> float:
    """The slope of log(time) over log(nodes), from 1,000 nodes on: below, constants rule."""
    large = [row for row in rows if row["nodes"] > 700 and row[stage] > 0]
    if len(large) < 2:
        return float("nan")
    nodes, times = ([np.log(row[key]) for row in large] for key in ("nodes", stage))
    return float(np.polyfit(nodes, times, 1)[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--nodes", type=int, nargs="+", default=[100, 1000, 10_000, 100_000])
    parser.add_argument("--only", help="graphs whose name has this in it")
    parser.add_argument("--model", nargs="+", default=[], help="files to measure instead")
    parser.add_argument("--seconds", type=float, default=5, help="for each graph")
    parser.add_argument("--json", action="store_true", help="one JSON document, and nothing else")
    options = parser.parse_args()

    width = max([20, *(len(Path(file).stem) for file in options.model)])

    def show(name: str, cells: list[str]) -> None:
        if not options.json:
            print(f"{name:{width}}" + "".join(f"{cell:>10}" for cell in cells), flush=True)

    def asked_for(name: str) -> bool:
        return not options.model and (not options.only or options.only in name)

    def cells(row: dict[str, float]) -> list[str]:
        return [f"{row['nodes']:,}", *(f"{row[stage]:.1f}" for stage in STAGES)]

    document: dict[str, Any] = {"unit": "ms", "growing": {}, "exponents": {}, "unkind": {}}
    document["files"] = {}
    show("ms", ["nodes", *STAGES])
    for file in options.model:
        row = document["files"][file] = measure(file, options.seconds)
        show(Path(file).stem, cells(row))
    for name, build in GROWING.items():
        if not asked_for(name):
            continue
        rows = []
        for nodes in options.nodes:
            rows.append(measure(build(nodes), options.seconds))
            show(name, cells(rows[-1]))
        document["growing"][name] = rows
        document["exponents"][name] = slopes = {s: exponent(rows, s) for s in STAGES}
        show("  exponent", ["", *(f"{slope:.2f}" for slope in slopes.values())])
    for name, unkind in UNKIND.items():
        if not asked_for(name):
            continue
        row = document["unkind"][name] = measure(unkind(), options.seconds)
        show(name, cells(row))
    if options.json:
        json.dump(document, sys.stdout, indent=1)
        print()


if __name__ == "__main__":
    main()
