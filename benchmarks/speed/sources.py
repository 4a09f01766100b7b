"""Which files are measured: the exported networks, and the corpus's convolutional detectors."""

from __future__ import annotations

import fnmatch
from collections.abc import Sequence
from pathlib import Path

NETWORKS = ("mobilenet_v2", "resnet18", "resnet50", "efficientnet_b0", "densenet121", "vit_b_16")
#: The mobile ones: where unaligned widths cost most.
MOBILE = ("mobilenet_v2", "efficientnet_b0")
DETECTORS = (
    *("det_ultraface_rfb320", "det_ultraface_slim320_simplified", "det_yolox_nano"),
    *("det_lightweight_person", "ocr_ppocrv2_det"),
)


def files(exported: Path, corpus: Path, only: Sequence[str]) -> list[Path]:
    """The files that are there, networks first."""
    wanted = [exported / f"{name}.onnx" for name in NETWORKS]
    wanted += [corpus / f"{name}.onnx" for name in DETECTORS]
    return [
        path
        for path in wanted
        if path.exists() and (not only or any(fnmatch.fnmatch(path.stem, each) for each in only))
    ]


def torch_pruned(path: Path, kept: float) -> dict[str, Path]:
    """Torch-Pruning's cuts of a network, by the column they stand in."""
    found = {f"tp-{step}": path.with_name(f"{path.stem}.tp-{kept}-{step}.onnx") for step in (1, 8)}
    return {name: file for name, file in found.items() if file.exists()}


def is_mobile(name: str) -> bool:
    return any(fnmatch.fnmatch(name, each) for each in MOBILE)
