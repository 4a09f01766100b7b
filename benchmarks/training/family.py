"""What the families have in common: a network as an ONNX file, data in parts, and its accuracy."""

from __future__ import annotations

import io
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional

from onnxprune.runtime import run, session

Arrays = dict[str, NDArray[Any]]
Labels = NDArray[np.int64]

#: The label of what has none.
NONE = -1


@dataclass(frozen=True)
class Family:
    """A network trained from scratch, and data: what it learned from, and what judges."""

    model: onnx.ModelProto
    #: What it was trained, and is pruned, on, `{input: [n, ...]}`, and classes `[n]`, `NONE` where
    #: nobody may look.
    data: Arrays
    labels: Labels
    #: What nothing has looked at: not training, not pruning, not fine-tuning.
    test: Arrays
    test_labels: Labels
    #: Sizes to count MACs with.
    shapes: Mapping[str, Sequence[int]]
    #: Epochs of fine-tuning, its learning rate, and samples in a step.
    epochs: int
    lr: float
    step: int
    #: Whether it is fine-tuned on labels, as in the paper, to be judged. Where there are few of
    #: them, or the dense network knows nearly all by heart, they add nothing to its outputs.
    labelled: bool
    #: In words: what was learned.
    task: str
    #: Samples in one call; None: all of them belong together.
    batch: int | None = 100

    def accuracy(self, model: onnx.ModelProto) -> float:
        """The share of the test's labels that onnxruntime finds, in %."""
        live = session(model, optimize=True)
        size = len(self.test_labels)
        step = self.batch or size
        found = np.concatenate(
            [
                next(iter(run(live, {k: x[i : i + step] for k, x in self.test.items()}).values()))
                for i in range(0, size, step)
            ]
        )
        right = found.argmax(1) == self.test_labels
        return 100 * float(right[self.test_labels != NONE].mean())


def fit(net: nn.Module, x: Tensor, labels: Tensor, epochs: int, lr: float, seed: int) -> None:
    """Train a classifier on samples `[n, ...]` with AdamW and a one-cycle schedule."""
    order = torch.Generator().manual_seed(seed)
    optimizer = torch.optim.AdamW(net.parameters(), weight_decay=1e-2)
    steps = len(x) // 64
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, lr, epochs * steps)
    net.train()
    for _ in range(epochs):
        for index in torch.randperm(len(x), generator=order)[: steps * 64].view(steps, 64):
            optimizer.zero_grad()
            functional.cross_entropy(net(x[index]), labels[index], label_smoothing=0.1).backward()
            nn.utils.clip_grad_norm_(net.parameters(), 1.0)
            optimizer.step()
            schedule.step()


def exported(
    net: nn.Module, inputs: Mapping[str, Tensor], output: str, dynamic: Mapping[str, dict[int, str]]
) -> onnx.ModelProto:
    """The network as its users would have it, by PyTorch's TorchScript exporter."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(
            net.eval(),
            tuple(inputs.values()),
            buffer,
            dynamo=False,
            opset_version=18,
            input_names=list(inputs),
            output_names=[output],
            dynamic_axes=dynamic,
        )
    return onnx.load_from_string(buffer.getvalue())
