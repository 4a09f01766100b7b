"""Accuracy after pruning without training: real models, three seeds, with what is said against it.

    python -m benchmarks.accuracy [--corpus FOLDER] [--cache FILE] [--only TEXT] [--seeds 3]

CIFAR's training images calibrate, its 846 test images evaluate (a paired difference has a standard
error of about 0.7 points; agreement with the dense model stands beside it). Every cell runs in a
process of its own and is kept in the cache: a run that was stopped goes on where it was. Torch-
Pruning's cells need torch and torch-pruning (tox's environment `torch`), and are left out without
them. Exits with 1 where a bound is missed.
"""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import statistics
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent

#: model, speed, points that may be lost
BOUNDS = [
    ("exp_cifar10_resnet32_torchscript", 2.0, 1.0),
    ("exp_cifar10_resnet32_torchscript", 2.5, 3.0),
    ("exp_cifar10_resnet32_torchscript", 4.0, 9.0),
    ("exp_cifar10_resnet20_torchscript", 2.0, 2.5),
    ("exp_cifar10_resnet20_torchscript", 2.5, 6.0),
    ("conv_mlperftiny_resnet8_fp32", 1.5, 4.0),
    ("cls_mnist8_cntk", 2.0, 0.5),
    ("exp_sklearn_digits_mlp", 2.0, 0.5),
]


@dataclass(frozen=True)
class Cell:
    """One run."""

    model: str
    speed: float
    method: str
    seed: int
    samples: int = 4660
    data: str = "images"

    @property
    def key(self) -> str:
        return json.dumps(asdict(self), sort_keys=True)


def cells(seeds: int) -> Iterator[tuple[Cell, float | None]]:
    """Every cell, and the points that it may lose."""
    for model, speed, bound in BOUNDS:
        for seed in range(seeds):
            yield Cell(model, speed, "reconstructed", seed), bound
        yield Cell(model, speed, "uniform", 0), None
        if "resnet" in model:
            yield Cell(model, speed, "torch-pruning", 0), None
    first, speed, _ = BOUNDS[0]
    for seed in range(seeds):
        yield Cell(first, speed, "reconstructed", seed, 1000), None
        yield Cell(first, speed, "reconstructed", seed, 128), None
        # As many as the program makes for a network of this size, if none are given.
        yield Cell(first, speed, "reconstructed", seed, 2000, "synthetic"), None


def run_cell(cell: Cell, corpus: Path) -> dict[str, Any]:
    """Run one cell in a fresh process."""
    asked = json.dumps({**asdict(cell), "corpus": str(corpus)})
    # One thread for each matrix product: threads that wait for a busy core cost more than they do.
    env = {**os.environ, "OPENBLAS_NUM_THREADS": os.environ.get("OPENBLAS_NUM_THREADS", "1")}
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.accuracy_cell", asked],
        cwd=ROOT,
        env=env,
        capture_output=True,
        text=True,
    )
    if done.returncode:
        return {"error": done.stderr.strip().splitlines()[-1:] or ["no message"]}
    found: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    return found


def lines(cache: dict[str, Any], seeds: int) -> Iterator[tuple[str, bool]]:
    """The table, and for each line whether it keeps its bound."""
    rows: dict[tuple[Any, ...], list[dict[str, Any]]] = {}
    bounds: dict[tuple[Any, ...], float | None] = {}
    for cell, bound in cells(seeds):
        found = cache.get(cell.key)
        if found is None or "error" in found:
            continue
        for label, value in found.items():
            if isinstance(value, dict) and "top1" in value:
                key = (cell.model, cell.speed, label, cell.samples, cell.data)
                rows.setdefault(key, []).append({**found, **value})
                bounds[key] = bound if label == "reconstructed" else None
    for key, values in rows.items():
        model, speed, label, samples, data = key
        top = [value["top1"] for value in values]
        mean, spread = statistics.mean(top), max(top) - min(top)
        lost = values[0]["dense"] - mean
        bound = bounds[key]
        kept = bound is None or lost <= bound
        agreement = statistics.mean(value["agreement"] for value in values)
        measured = statistics.mean(value["speed"] for value in values)
        seconds = statistics.median(value["seconds"] for value in values)
        cpu = statistics.median(value["cpu_seconds"] for value in values)
        peak = max(value["megabytes"] for value in values)
        said = "" if bound is None else f"  bound {bound:g}: {'kept' if kept else 'MISSED'}"
        yield (
            f"{model:34} {speed:.1f}x ({measured:.2f}) {samples:5} {data:9} {label:24}"
            f" {mean:6.2f} ± {spread / 2:4.2f}  {-lost:+6.2f}  agree {agreement:6.2f}"
            f"  {seconds:5.0f} s ({cpu:.0f} CPU)  {peak:5.0f} MB{said}",
            kept,
        )


def main() -> int:
    """Fill the cache, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--corpus", type=Path, default=ROOT.parent / "shared" / "corpus")
    parser.add_argument("--cache", type=Path, default=Path("accuracy.json"))
    parser.add_argument("--only", default="", help="cells whose key contains this")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--table", action="store_true", help="print what is in the cache")
    asked = parser.parse_args()
    cache = json.loads(asked.cache.read_text()) if asked.cache.exists() else {}
    for cell, _ in cells(asked.seeds):
        if asked.table or cell.key in cache or asked.only not in cell.key:
            continue
        if cell.method == "torch-pruning" and importlib.util.find_spec("torch_pruning") is None:
            continue
        print(cell.key, file=sys.stderr, flush=True)
        found = run_cell(cell, asked.corpus)
        # Others may have written meanwhile.
        cache = json.loads(asked.cache.read_text()) if asked.cache.exists() else {}
        cache[cell.key] = found
        asked.cache.write_text(json.dumps(cache, indent=1))
    kept = True
    for line, ok in lines(cache, asked.seeds):
        print(line)
        kept = kept and ok
    return 0 if kept else 1


if __name__ == "__main__":
    sys.exit(main())
