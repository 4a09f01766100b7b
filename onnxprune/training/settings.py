"""What a user may choose of a training run."""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import UsageError

OPTIMIZERS = ("adamw", "sgd")
PRECISIONS = ("auto", "float32", "bfloat16", "float16")
#: Epochs, where minutes say when it ends.
_AS_MANY = 10_000
#: Ways in which images are changed from epoch to epoch.
AUGMENTATIONS = ("flip", "shift", "mixup", "cutmix")


@dataclass(frozen=True)
class Settings:
    """How a model is trained.

    Raises UsageError where a value can't be right.
    """

    #: Times that the data is gone through.
    epochs: int = 30
    #: The most minutes that it may take; the learning rate falls to zero within them.
    minutes: float | None = None
    optimizer: str = "adamw"
    #: The peak of the learning rate: risen to over the first `warmup` of the run, then a cosine.
    #: Relative to each tensor: of its root mean square. Much more undoes what was refitted.
    lr: float = 2e-3
    warmup: float = 0.05
    weight_decay: float = 1e-4
    #: Samples in one step, over all processes.
    batch: int = 64
    #: Samples that go through the model at once; gradients are added up to a batch. None: all.
    micro_batch: int | None = None
    #: The moving average of the weights that is judged, and kept, forgets this much each step.
    ema: float = 0.005
    #: Classes are softened by this (Hinton et al., "Distilling the Knowledge", 2015).
    temperature: float = 4.0
    #: The weight of features inside the model beside that of the outputs; 0 for outputs alone.
    features: float = 0.1
    #: The share of the labels in the loss, where there are labels.
    labels: float = 0.3
    #: `auto`, `none`, or some of `AUGMENTATIONS` with commas between.
    augment: str = "auto"
    #: The share of the samples that judges and is not learned from.
    held_out: float = 0.1
    #: Stop after so many epochs in which nothing got better; None: never.
    patience: int | None = None
    #: `auto`, or a device of torch.
    device: str = "auto"
    #: `auto` is float32 on a CPU and bfloat16 where autocast helps.
    precision: str = "auto"
    #: Segments of the graph between which activations are kept; 0 keeps all of them.
    recompute: int = 0
    #: Threads of torch on a CPU; None for what torch takes.
    threads: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for name, good in (
            ("epochs", self.epochs >= 0),
            ("minutes", self.minutes is None or self.minutes > 0),
            ("lr", self.lr > 0),
            ("warmup", 0 <= self.warmup < 1),
            ("weight_decay", self.weight_decay >= 0),
            ("batch", self.batch > 0),
            ("micro_batch", self.micro_batch is None or self.micro_batch > 0),
            ("ema", 0 < self.ema <= 1),
            ("temperature", self.temperature > 0),
            ("features", self.features >= 0),
            ("labels", 0 <= self.labels <= 1),
            ("held_out", 0 < self.held_out < 1),
            ("patience", self.patience is None or self.patience > 0),
            ("recompute", self.recompute >= 0),
            ("threads", self.threads is None or self.threads > 0),
        ):
            if not good:
                raise UsageError(f"{name.replace('_', '-')} can't be {getattr(self, name)}")
        for name, known in (("optimizer", OPTIMIZERS), ("precision", PRECISIONS)):
            if getattr(self, name) not in known:
                raise UsageError(
                    f"unknown {name} {getattr(self, name)!r}; known are {', '.join(known)}"
                )
        for word in self.augmentations or ():
            if word not in AUGMENTATIONS:
                raise UsageError(
                    f"unknown augmentation {word!r}; known are auto, none,"
                    f" {', '.join(AUGMENTATIONS)}"
                )

    @property
    def every(self) -> int:
        """Each so many-th sample is held out."""
        return max(2, round(1 / self.held_out))

    @classmethod
    def lasting(cls, length: int | str, **others: Any) -> Settings:
        """Settings for so many epochs (`30`), or so many minutes (`20min`). Raises UsageError."""
        found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*(min|h)?", str(length).strip())
        if found is None or (found[2] is None and "." in found[1]) or not float(found[1]):
            raise UsageError(f"{length!r} is no length of training; write epochs (30), or 20min")
        if found[2] is None:
            return cls(epochs=int(found[1]), **others)
        minutes = float(found[1]) * (60 if found[2] == "h" else 1)
        return cls(epochs=_AS_MANY, minutes=minutes, **others)

    @property
    def augmentations(self) -> tuple[str, ...] | None:
        """Those that the user has named; None where the original is to be asked."""
        if self.augment == "auto":
            return None
        return tuple(
            word for each in self.augment.split(",") if (word := each.strip()) not in ("", "none")
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return asdict(self)


def settings_of(given: int | str | Settings | None) -> Settings | None:
    """Settings, or the usual ones for so many epochs or minutes; None for no training."""
    return given if given is None or isinstance(given, Settings) else Settings.lasting(given)
