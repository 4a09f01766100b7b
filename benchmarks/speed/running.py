"""The measurements, each a row of a journal: what is there already is not measured again."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import onnx
from onnx import ModelProto

import onnxprune
from benchmarks.zoo.cache import Journal
from onnxprune.errors import OnnxPruneError
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.measure import count
from onnxprune.runtime import find_inputs
from onnxprune.tables import with_user_rules
from onnxprune.timing import latency_cost

from .candidates import STEPS, Bench
from .racing import ORIGINAL, race
from .sources import torch_pruned

Row = dict[str, Any]

KEPT = (0.7, 0.5, 0.3)
TARGETS = (0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3, 0.2)


def run(
    paths: Sequence[Path], journal: Journal, threads: int, seconds: float, parts: Sequence[str]
) -> None:
    """All measurements of these files that are not in the journal."""
    for path in paths:
        for part, work in _works(path, threads, seconds):
            key = f"{path.stem}/{threads}/{part}"
            if part.split("=")[0] not in parts or key in journal.rows():
                continue
            started = time.perf_counter()
            row: Row = {"key": key, "model": path.stem, "threads": threads, "part": part}
            try:
                row |= work()
            except (OnnxPruneError, MemoryError) as error:
                row["error"] = f"{type(error).__name__}: {error}"
            row["seconds"] = round(time.perf_counter() - started, 1)
            journal.append(row)
            print(f"{key}: {row['seconds']} s {row.get('error', '')}", flush=True)


def _works(path: Path, threads: int, seconds: float) -> list[tuple[str, Callable[[], Row]]]:
    works: list[tuple[str, Callable[[], Row]]] = [("timing", lambda: timing(path, threads))]
    for kept in KEPT:
        works.append((f"macs={kept}", lambda k=kept: at_macs(path, k, threads, seconds)))
    for share in TARGETS:
        works.append((f"latency={share}", lambda s=share: in_time(path, s, threads, seconds)))
    return works


def timing(path: Path, threads: int) -> Row:
    """Seconds of the one-time timing with an empty cache, and of choosing after it."""
    before = os.environ.get("ONNXPRUNE_CACHE")
    with tempfile.TemporaryDirectory() as folder:
        os.environ["ONNXPRUNE_CACHE"] = folder
        try:
            network = infer(load(path), with_user_rules(()))
            started = time.perf_counter()
            found = latency_cost(network, threads=threads)
            measuring = time.perf_counter() - started
            started = time.perf_counter()
            latency_cost(network, threads=threads)
            profiling = time.perf_counter() - started
            started = time.perf_counter()
            onnxprune.plan(path, target="macs=0.5", round_to="auto", threads=threads)
            whole = time.perf_counter() - started
        finally:
            if before is None:
                del os.environ["ONNXPRUNE_CACHE"]
            else:
                os.environ["ONNXPRUNE_CACHE"] = before
    return {
        "measuring_s": measuring,
        "profiling_s": profiling,
        "choosing_s": whole - profiling,
        "times": found.fresh,
    }


def at_macs(path: Path, kept: float, threads: int, seconds: float) -> Row:
    """Ours, the uniform sweep, unaligned widths and Torch-Pruning's, in one race."""
    bench = Bench(path)
    models: dict[str, ModelProto] = {ORIGINAL: bench.model}
    facts: dict[str, Row] = {}
    ways = {"ours": lambda: bench.ours(kept, threads, "auto")}
    ways["unaligned"] = lambda: bench.ours(kept, threads, 1)
    for step in STEPS:
        ways[f"uniform-{step}"] = lambda s=step: bench.uniform(kept, s)  # type: ignore[misc]
    for name, make in ways.items():
        try:
            made = make()
        except OnnxPruneError as error:
            facts[name] = {"error": str(error)}
            continue
        models[name] = made.model
        facts[name] = {
            "macs": made.macs,
            "importance": made.importance,
            "seconds": made.seconds,
        }
    whole = count(bench.model).macs or 1
    for name, file in torch_pruned(path, kept).items():
        models[name] = onnx.load(file)
        facts[name] = {"macs": (count(models[name]).macs or 0) / whole}
    feeds = find_inputs(bench.model).feeds[0]
    laps = race(models, feeds, threads=threads, seconds=seconds)
    return {
        "rows": {
            name: facts.get(name, {}) | (laps[name].to_dict() if name in laps else {})
            for name in (ORIGINAL, *facts)
        }
    }


def in_time(path: Path, share: float, threads: int, seconds: float) -> Row:
    """A target of latency, and a separate paired run of what came of it."""
    row: Row = {"wanted": share}
    started = time.perf_counter()
    try:
        result = onnxprune.prune(path, target=f"latency={share}", threads=threads, verify=False)
    except OnnxPruneError as error:
        return row | {"refused": str(error)}
    row["choosing_s"] = time.perf_counter() - started
    apart = onnxprune.benchmark(
        load(path).proto, result.model, threads=threads, seconds=seconds / 2
    )
    report = result.report
    before, after = (size.macs if size else None for size in (report.before, report.after))
    row["macs"] = after / before if before and after else None
    if apart.speedup and apart.b:
        low, high = apart.interval or (apart.speedup, apart.speedup)
        row |= {"ms": apart.b.median, "ratio": 1 / apart.speedup, "interval": [1 / high, 1 / low]}
    return row
