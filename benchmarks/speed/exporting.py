"""Export the benchmark's networks, and Torch-Pruning's cuts of them. Runs where torch is installed.

    python -m benchmarks.speed.exporting FOLDER [--torch-pruning] [--only MODEL ...]

Weights are random (seeded); inputs are `[1, 3, 224, 224]`. Torch-Pruning's files are called
`<model>.tp-<kept>-<round_to>.onnx`, where `kept` is the share of MACs that was asked for.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torchvision

MODELS: dict[str, str] = {
    "mobilenet_v2": "mobilenet_v2",
    "resnet18": "resnet18",
    "resnet50": "resnet50",
    "efficientnet_b0": "efficientnet_b0",
    "densenet121": "densenet121",
    "vit_b_16": "vit_b_16",
}
#: Shares of the MACs that Torch-Pruning is asked to keep, and its `round_to`.
KEPT = (0.7, 0.5, 0.3)
ROUND_TO = (None, 8)


def build(name: str) -> Any:
    """A network with seeded random weights, in evaluation mode."""
    torch.manual_seed(0)
    torch.backends.mha.set_fastpath_enabled(False)  # its one fused operator can't be exported
    return getattr(torchvision.models, MODELS[name])(weights=None).eval()


def export(module: Any, path: Path) -> None:
    """Write a module as ONNX, opset 17, batch 1. The file appears whole or not at all."""
    whole = path.with_suffix(".part")
    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        example = torch.randn(1, 3, 224, 224)
        torch.onnx.export(module, (example,), str(whole), opset_version=17, dynamo=False)
    whole.rename(path)


def torch_pruned(module: Any, kept: float, round_to: int | None) -> Any:
    """Torch-Pruning's cut of a copy of `module` with about `kept` of its MACs left.

    Its pruning ratio is one number for all layers here; bisection finds the one that leaves the
    MACs nearest to those wanted.
    """
    from benchmarks.one_shot import bisected

    example = torch.randn(1, 3, 224, 224)
    tries = bisected(module, example, kept, lambda m, ratio: _cut(m, example, ratio, round_to), 7)
    return min(tries, key=lambda each: abs(each[1] - kept))[0]


def _cut(module: Any, example: Any, ratio: float, round_to: int | None) -> Any:
    import torch_pruning as tp

    attention = [m for m in module.modules() if isinstance(m, torch.nn.MultiheadAttention)]
    ignored = [m for m in module.modules() if isinstance(m, torch.nn.Linear) and _is_head(m)]
    pruner = tp.pruner.MagnitudePruner(
        module,
        example,
        importance=tp.importance.GroupMagnitudeImportance(p=2),
        pruning_ratio=ratio,
        round_to=round_to,
        ignored_layers=ignored,
        num_heads={m: m.num_heads for m in attention},
    )
    pruner.step()
    return module


def _is_head(module: Any) -> bool:
    return bool(module.out_features == 1000)


def main(export_one: Callable[[Any, Path], None] = export) -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--torch-pruning", action="store_true")
    parser.add_argument("--only", nargs="*", default=list(MODELS))
    chosen = parser.parse_args()
    chosen.folder.mkdir(parents=True, exist_ok=True)
    for name in chosen.only:
        wanted = {f"{name}.onnx": (1.0, None)}
        if chosen.torch_pruning:
            wanted |= {
                f"{name}.tp-{kept}-{step or 1}.onnx": (kept, step)
                for kept in KEPT
                for step in ROUND_TO
            }
        for file, (kept, step) in wanted.items():
            path = chosen.folder / file
            if path.exists():
                continue
            try:
                made = build(name)
                export_one(made if kept == 1 else torch_pruned(made, kept, step), path)
                print(f"{file}: written", flush=True)
            except Exception as error:  # one model that can't be cut must not stop the others
                print(f"{file}: {type(error).__name__}: {error}"[:300], flush=True)


if __name__ == "__main__":
    main()
