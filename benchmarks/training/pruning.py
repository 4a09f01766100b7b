"""Each family with a quarter of its MACs: cut, refitted, and fine-tuned, as a user would do it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch

import onnxprune
from onnxprune.training.settings import Settings

from . import citations, passages, shapes

FAMILIES = {"gat": citations.build, "lstm": passages.build, "dgcnn": shapes.build}
SPEED = 4.0
#: Points under the dense network that are allowed after fine-tuning.
ALLOWED = 1.0


def measure(name: str, corpus: Path) -> dict[str, Any]:
    """Test accuracy (%) of the dense network and of the pruned ones; one thread, seeded."""
    torch.set_num_threads(1)
    family = FAMILIES[name](corpus)
    row: dict[str, Any] = {"task": family.task, "tested": int((family.test_labels >= 0).sum())}
    row["dense"] = family.accuracy(family.model)
    given: dict[str, Any] = {
        "target": f"macs={1 / SPEED}",
        "round_to": 1,
        "input_shapes": family.shapes,
    }
    settings = Settings(epochs=family.epochs, lr=family.lr, batch=family.step, threads=1)
    refitted: dict[str, Any] = {"calibration": family.data, "reconstruct": True}
    labelled: dict[str, Any] = {
        "calibration": {**family.data, "labels": family.labels},
        "reconstruct": True,
    }
    for kind, how in {
        "pruned": {},
        "refitted": refitted,
        "without labels": {**refitted, "finetune": settings},
        "with labels": {**labelled, "finetune": settings},
    }.items():
        result = onnxprune.prune(family.model, **given, **how, benchmark=False)
        row[kind] = family.accuracy(result.model)
        assert result.report.target is not None
        row["macs"] = result.report.target.achieved
        print(f"{name}, {kind}: {row[kind]:.2f} % (dense {row['dense']:.2f} %)", flush=True)
    row["judged"] = "with labels" if family.labelled else "without labels"
    row["under dense"] = row["dense"] - row[row["judged"]]
    return row | {"kept": row["under dense"] <= ALLOWED}
