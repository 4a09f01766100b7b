"""What training an ONNX file wins back: fine-tuning, sparse training, pruning before training.

    python -m benchmarks.train run    [--only TEXT ...] [--corpus DIR] [--zoo DIR] [--cache FILE]
    python -m benchmarks.train report

    interpreter  every model of the corpus (and of a folder of exports): the graph in torch against
                 onnxruntime, and gradients for all weights that the outputs depend on
    finetune     ResNet-32 cut to 1/2.5 and 1/4 of its MACs: refitted, and trained for 20 minutes
                 without labels
    families     a GAT on Cora, an LSTM on the standard library's sources, a DGCNN on synthetic
                 shapes, trained here from scratch (one thread): cut to 1/4 of their MACs, refitted,
                 and fine-tuned, without labels and with them
    sparse       ResNet-20, three seeds: pruned after group sparse training and after as many epochs
                 without it, from the same weights, with labels
    synflow      99 % of ResNet-20's parameters gone: the least width by synflow and by magnitude

CIFAR's 4,660 training images are learned from, its 846 test images judge and nothing else. Each
result is a line of the cache, and is not made again. Needs torch, and scipy for Cora; two threads.
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch

import onnxprune
from benchmarks.accuracy_cell import classes, data_of
from benchmarks.training.pruning import FAMILIES, measure
from benchmarks.zoo.cache import Journal
from onnxprune.errors import OnnxPruneError
from onnxprune.gradients.check import compare
from onnxprune.groups import find_groups
from onnxprune.importance import Importance
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.tables import built_in
from onnxprune.training.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
RESNET = "exp_cifar10_resnet{}_torchscript"
#: (times fewer MACs, points under the dense model that are allowed)
TUNED = ((2.5, 0.7), (4.0, 2.5))
MINUTES = 20
SEEDS = 3
#: Of outputs in torch from those in onnxruntime, relative to the largest.
CLOSE = 1e-4

Row = dict[str, Any]


def interpreter(path: Path) -> Row:
    """One model in torch and in onnxruntime."""
    try:
        found = compare(path)
    except OnnxPruneError as error:
        return {"refused": str(error)[:200]}
    return {
        "off": found.worst,
        "parameters": found.parameters,
        "without gradient": [*found.missing, *found.zero],
        "kept": bool(found.worst <= CLOSE and not found.missing and not found.zero),
    }


def finetune(corpus: Path, speed: float, allowed: float) -> Row:
    """ResNet-32, refitted and trained without labels; accuracy on the test images."""
    name = RESNET.format(32)
    path = corpus / "models" / f"{name}.onnx"
    data = data_of(name, corpus)
    began = time.perf_counter()
    result = onnxprune.prune(
        path,
        target=f"macs={1 / speed}",
        round_to=1,
        calibration={load(path).inputs[0].name: data.calibration},
        calibration_samples=None,
        reconstruct=True,
        finetune=Settings.lasting(f"{MINUTES}min", threads=2, precision=_precision()),
        threads=2,
        benchmark=False,
        progress=lambda words: print(f"{time.perf_counter() - began:.0f} s {words}", flush=True),
    )
    dense, tuned = (_accuracy(model, data) for model in (onnx.load(path), result.model))
    training = result.report.training or {}
    return {
        "dense": dense,
        "tuned": tuned,
        "macs": result.report.target.achieved if result.report.target else None,
        "epochs": training.get("epochs"),
        "seconds": training.get("seconds"),
        "precision": _precision(),
        "kept": dense - tuned <= allowed,
    }


def _precision() -> str:
    """bfloat16 where the processor computes in it."""
    found = torch.cpu.get_capabilities()
    return "bfloat16" if found.get("avx512_bf16") or found.get("amx_bf16") else "float32"


def sparse(corpus: Path, seed: int) -> Row:
    """ResNet-20, trained with group sparsity and without, and then pruned alike."""
    name = RESNET.format(20)
    path = corpus / "models" / f"{name}.onnx"
    data = data_of(name, corpus)
    images = {load(path).inputs[0].name: data.calibration}
    settings = Settings(epochs=10, seed=seed, threads=2)
    row: Row = {}
    for kind in ("group", "none"):
        trained = onnxprune.train(path, images, sparse=kind, settings=settings)
        pruned = onnxprune.prune(
            trained.model,
            target="macs=0.6",
            scope="global",
            normalizer="relative",
            round_to=1,
            benchmark=False,
        )
        row[kind] = _accuracy(pruned.model, data)
        row[f"{kind}, whole"] = _accuracy(trained.model, data)
    return row | {"kept": row["group"] > row["none"]}


def synflow(corpus: Path) -> Row:
    """The narrowest group of ResNet-20 with 1 % of the parameters left."""
    path = corpus / "models" / f"{RESNET.format(20)}.onnx"
    network = infer(load(path), built_in())
    groups = find_groups(network)
    row: Row = {}
    scores = Importance("group-l2", "mean", "none").scores(network, groups)
    bar = np.quantile(np.concatenate(scores), 0.9)
    row["layers that magnitude cuts off"] = sum(not (each >= bar).any() for each in scores)
    result = onnxprune.prune(
        path,
        ratio=0.9,
        scope="global",
        criterion="synflow",
        normalizer="none",
        steps=100,
        round_to=1,
        benchmark=False,
    )
    kept = [group.kept for group in result.report.groups]
    row |= {"parameters": result.report.parameters_left, "narrowest": min(kept)}
    return row | {"kept": min(kept) > 0 and bool(row["layers that magnitude cuts off"])}


def _accuracy(model: onnx.ModelProto, data: Any) -> float:
    return 100 * float((classes(model, data.test) == data.labels).mean())


def works(corpus: Path, zoo: Path | None) -> Iterator[tuple[str, Callable[[], Row]]]:
    """Every result by its name, and what makes it."""
    models = sorted((corpus / "models").glob("*.onnx"))
    for path in [*models, *(sorted(zoo.rglob("*.onnx")) if zoo else [])]:
        yield f"interpreter/{path.stem}", lambda p=path: interpreter(p)  # type: ignore[misc]
    for speed, allowed in TUNED:
        yield f"finetune/{speed}", lambda s=speed, a=allowed: finetune(corpus, s, a)  # type: ignore[misc]
    for family in FAMILIES:
        yield f"families/{family}", lambda f=family: measure(f, corpus)  # type: ignore[misc]
    for seed in range(SEEDS):
        yield f"sparse/{seed}", lambda s=seed: sparse(corpus, s)  # type: ignore[misc]
    yield "synflow", lambda: synflow(corpus)


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("command", choices=["run", "report"])
    parser.add_argument("--corpus", type=Path, default=ROOT.parent / "shared" / "corpus")
    parser.add_argument("--zoo", type=Path, help="a folder of exports")
    parser.add_argument("--cache", type=Path, default=Path("train.jsonl"))
    parser.add_argument("--only", nargs="+", default=[""], help="results whose name begins so")
    given = parser.parse_args()
    journal = Journal(given.cache)
    if given.command == "run":
        for name, work in works(given.corpus, given.zoo):
            if name in journal.rows() or not name.startswith(tuple(given.only)):
                continue
            row = {"key": name, **work()}
            journal.append(row)
            print(json.dumps(row), flush=True)
        return 0
    rows = list(journal.rows().values())
    for row in rows:
        print(json.dumps(row))
    missed = [row["key"] for row in rows if row.get("kept") is False]
    print(f"{len(rows)} results, {len(missed)} missed: {', '.join(missed)}")
    return 1 if missed else 0


if __name__ == "__main__":
    raise SystemExit(main())
