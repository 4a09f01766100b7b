"""What came of training a model."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from onnx import ModelProto

from ..words import counted
from .judging import Score


@dataclass
class Trained:
    """A trained model, and how it did on the samples held out."""

    model: ModelProto
    before: Score
    after: Score
    #: Epochs that were finished, and which of them the weights are of: 0 for those as they came.
    epochs: int
    best: int
    steps: int
    seconds: float
    samples: int
    #: How many samples judged; 0 where the only one that there is was learned from, too.
    held_out: int
    #: In words: what was learned from.
    source: str
    #: What is done to images from epoch to epoch.
    augmentations: list[str]
    #: Tensors inside the models that were compared.
    features: list[str]
    #: What this process held at most, in bytes of the device; 0 on a CPU.
    device_bytes: int = 0
    history: list[dict[str, Any]] = field(default_factory=list)

    def text(self) -> str:
        """A sentence for people."""
        judge = "the same sample, there being no other"
        if self.held_out:
            judge = counted(self.held_out, "sample") + " held out"
        if not self.best:
            return (
                f"trained for {counted(self.epochs, 'epoch')} on {self.source}: nothing got better"
                f" on {judge} ({self.before.text()}); the weights are as they were"
            )
        return (
            f"trained for {counted(self.epochs, 'epoch')} ({self.seconds:.0f} s) on"
            f" {self.source}: {self.after.text()} on {judge}, before {self.before.text()}"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        found = {name: value for name, value in vars(self).items() if name != "model"}
        return {**found, "before": self.before.to_dict(), "after": self.after.to_dict()}
