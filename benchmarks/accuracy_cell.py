"""One cell of `benchmarks.accuracy`: one model, pruned in one way, in a process of its own.

    python -m benchmarks.accuracy_cell '{"model": ..., "method": ..., "speed": ..., "seed": ...}'

Prints one line of JSON. The test images are for evaluation and nothing else.
"""

from __future__ import annotations

import gzip
import json
import re
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onnxprune.axes import Choice
from onnxprune.calibration import open_calibration
from onnxprune.groups import Group, find_groups
from onnxprune.importance import Importance
from onnxprune.infer import infer
from onnxprune.loading import load
from onnxprune.measure import count
from onnxprune.model import Array
from onnxprune.model_costs import macs_cost
from onnxprune.network import Network
from onnxprune.reconstruction import Rounds, choose_and_reconstruct, reconstruct
from onnxprune.rewrite import rewrite
from onnxprune.runtime import input_specs, run, session
from onnxprune.tables import with_user_rules

MEAN = np.array([0.485, 0.456, 0.406], np.float32)
STD = np.array([0.229, 0.224, 0.225], np.float32)


@dataclass
class Data:
    """Calibration inputs, and test inputs with labels."""

    calibration: np.ndarray
    test: np.ndarray
    labels: np.ndarray


def data_of(model: str, corpus: Path) -> Data:
    """What belongs to a model. MNIST and digits have test samples only: a quarter calibrates."""
    if "mnist" in model:
        folder = corpus / "data" / "mnist"
        images = gzip.decompress((folder / "t10k-images-idx3-ubyte.gz").read_bytes())[16:]
        labels = gzip.decompress((folder / "t10k-labels-idx1-ubyte.gz").read_bytes())[8:]
        x = np.frombuffer(images, np.uint8).astype(np.float32).reshape(-1, 28 * 28)
        x = x.reshape(-1, 1, 28, 28) if "cntk" in model else x / 255
        return _split(x, np.frombuffer(labels, np.uint8))
    if "digits" in model:
        found = np.load(corpus / "data" / "digits_test_split.npz")
        return _split(found["x"], found["y"])
    train, test = (
        np.load(corpus / "data" / f"cifar10_{name}_nhwc_u8.npz")
        for name in ("train_4660", "test_846")
    )
    ready = _normalised if "cifar10" in model else (lambda x: x.astype(np.float32))
    return Data(ready(train["x"]), ready(test["x"]), test["y"])


def _normalised(x: np.ndarray) -> np.ndarray:
    return np.ascontiguousarray(((x.astype(np.float32) / 255 - MEAN) / STD).transpose(0, 3, 1, 2))


def _split(x: np.ndarray, y: np.ndarray) -> Data:
    order = np.random.default_rng(1234).permutation(len(x))
    few, rest = order[: len(x) // 4], order[len(x) // 4 :]
    return Data(x[few], x[rest], y[rest])


def classes(model: Any, x: np.ndarray) -> np.ndarray:
    """The class of each sample."""
    specs = input_specs(model)
    fixed = isinstance(specs[0].dims[0], int)
    live = session(model, optimize=True, threads=2)
    found = []
    for i in range(0, len(x), 1 if fixed else 64):
        outputs = run(live, {specs[0].name: x[i : i + (1 if fixed else 64)]})
        scores = next((v for v in outputs.values() if v.ndim > 1), next(iter(outputs.values())))
        found.append(scores.reshape(len(scores), -1).argmax(1))
    return np.concatenate(found)


def uniform(network: Network, groups: list[Group], cost: Any, amount: float) -> Choice:
    """Every group cut by one ratio, group-L2, so that the cost is `amount` at most."""
    scores = Importance().scores(network, groups)
    low, high = 0.0, 1.0
    choice: dict[Any, Any] = {}
    for _ in range(24):
        ratio = (low + high) / 2
        widths = [max(1, round(g.size * (1 - ratio))) for g in groups]
        tried = {g.dim: w for g, w in zip(groups, widths, strict=True)}
        if cost.total(tried) > amount:
            low = ratio
            continue
        high = ratio
        choice = {
            g.dim: np.sort(np.argsort(-s, kind="stable")[:w]).astype(np.int64)
            for g, s, w in zip(groups, scores, widths, strict=True)
            if w < g.size
        }
    return choice


def measure(cell: dict[str, Any], corpus: Path) -> dict[str, Any]:
    """Prune as the cell says, and evaluate."""
    path = corpus / "models" / f"{cell['model']}.onnx"
    found = load(path)
    network = infer(found, with_user_rules(()))
    groups = find_groups(network)
    data = data_of(cell["model"], corpus)
    name = found.inputs[0].name
    rng = np.random.default_rng(cell["seed"])
    samples = data.calibration[rng.permutation(len(data.calibration))[: cell["samples"]]]
    source: Any = "synthetic" if cell["data"] == "synthetic" else {name: samples}
    calibration = open_calibration(source, found.proto, limit=cell["samples"])
    cost = macs_cost(network)
    amount = cost.total() / cell["speed"]
    start, cpu = time.perf_counter(), time.process_time()
    results: dict[str, Any] = {}
    if cell["method"] == "uniform":
        choice = uniform(network, groups, cost, amount)
        models = {"uniform": rewrite(network, choice)}
        models["uniform, refitted"] = reconstruct(
            network, choice, calibration, seed=cell["seed"], threads=2
        ).model
    else:
        outcome = choose_and_reconstruct(
            network,
            groups,
            cost,
            amount,
            calibration,
            rounds=Rounds(),
            threads=2,
            seed=cell["seed"],
        )
        models = {
            "reconstructed": outcome.model,
            "same plan, not refitted": rewrite(network, outcome.choice),
        }
        results["widths"] = {g.name: len(outcome.choice.get(g.dim, range(g.size))) for g in groups}
    results["seconds"] = time.perf_counter() - start
    results["cpu_seconds"] = time.process_time() - cpu
    results["megabytes"] = _peak()
    dense = classes(found.proto, data.test)
    results["dense"] = 100 * float((dense == data.labels).mean())
    whole = count(found.proto, None).macs or 1
    for label, model in models.items():
        speed = whole / (count(model, None).macs or 1)
        results[label] = _figures(classes(model, data.test), dense, data.labels, speed)
    return results


def _figures(given: Array, dense: Array, labels: Array, speed: float) -> dict[str, float]:
    return {
        "top1": 100 * float((given == labels).mean()),
        "agreement": 100 * float((given == dense).mean()),
        "speed": speed,
    }


def one_shot(cell: dict[str, Any], corpus: Path) -> dict[str, Any]:
    """Torch-Pruning's results at the cell's MACs, from the same weights."""
    import torch

    from benchmarks import one_shot

    found = load(corpus / "models" / f"{cell['model']}.onnx")
    data = data_of(cell["model"], corpus)
    start, cpu = time.perf_counter(), time.process_time()
    made = one_shot.one_shot(found, torch.from_numpy(data.test[:1]), 1 / cell["speed"])
    results: dict[str, Any] = {
        "seconds": time.perf_counter() - start,
        "cpu_seconds": time.process_time() - cpu,
        "megabytes": _peak(),
    }
    dense = classes(found.proto, data.test)
    results["dense"] = 100 * float((dense == data.labels).mean())
    with torch.no_grad():
        for label, (network, left) in made.items():
            given = network(torch.from_numpy(data.test)).argmax(1).numpy()
            label = f"Torch-Pruning {label}"
            results[label] = _figures(given, dense, data.labels, 1 / left)
    return results


def _peak() -> float | None:
    """The most memory that this process has had, in MB."""
    peak = re.search(r"VmHWM:\s+(\d+) kB", Path("/proc/self/status").read_text())
    return int(peak[1]) / 1e3 if peak else None


if __name__ == "__main__":
    asked = json.loads(sys.argv[1])
    do = one_shot if asked["method"] == "torch-pruning" else measure
    print(json.dumps(do(asked, Path(asked["corpus"]))))
