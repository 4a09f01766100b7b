"""Gradients over the ONNX graph itself: a loaded model as a differentiable function in torch.

    from onnxprune.gradients import Differentiable

    function = Differentiable(onnxprune.loading.load("model.onnx"))
    function({"image": batch})["logits"].sum().backward()
    trained = function.write()  # a ModelProto: the same graph, other weights

Each operator is a torch call from a table (see `operators`). Nothing outside of this package
imports torch; without it, importing this package raises UsageError.
"""

from __future__ import annotations

from ..errors import UsageError

try:
    import torch as _torch  # noqa: F401
except ImportError as error:
    raise UsageError("training needs torch: pip install 'onnxprune[torch]'") from error

from .function import Differentiable

__all__ = ["Differentiable"]
