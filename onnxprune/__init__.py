"""Structural pruning of exported ONNX files.

    import onnxprune

    result = onnxprune.prune("model.onnx", ratio=0.5)
    result.save("smaller.onnx")

The method is DepGraph ("Towards Any Structural Pruning", CVPR 2023), on ONNX itself.
"""

from __future__ import annotations

from .api import (
    apply,
    benchmark,
    compare,
    finetune,
    inspect,
    mask,
    permute,
    plan,
    prune,
    search,
    sensitivity,
    sweep,
    train,
)
from .errors import (
    BrokenModel,
    CheckFailed,
    Interrupted,
    NotPrunable,
    OnnxPruneError,
    PlanMismatch,
    RuleError,
    UnsupportedModel,
    UsageError,
    WriteFailed,
)
from .plans import Plan
from .report import Report
from .version import __version__
from .work import Result

__all__ = [
    "BrokenModel",
    "CheckFailed",
    "Interrupted",
    "NotPrunable",
    "OnnxPruneError",
    "Plan",
    "PlanMismatch",
    "Report",
    "Result",
    "RuleError",
    "UnsupportedModel",
    "UsageError",
    "WriteFailed",
    "__version__",
    "apply",
    "benchmark",
    "compare",
    "finetune",
    "inspect",
    "mask",
    "permute",
    "plan",
    "prune",
    "search",
    "sensitivity",
    "sweep",
    "train",
]
