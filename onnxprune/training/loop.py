"""One run: from the weights that a model has to the best ones that are found.

The learning rate rises for a short while and then falls as half a cosine (Loshchilov and Hutter,
"SGDR", 2017); weights are averaged over the last steps (Polyak), and after each epoch the average
is judged on samples held out. What is returned is the best that was judged, the model as it came
included: a run never makes a model worse by its own measure.

Steps are relative to the tensors: the optimizer sees each divided by its root mean square (Shazeer
and Stern, "Adafactor", 2018, section 8). Exporters fold normalisations into the weights, and then
one layer's are ten times as large as another's: a rate that moves the one undoes the other.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from torch.nn import Parameter

from ..errors import CheckFailed, Interrupted
from ..gradients import Differentiable
from .augment import Augmentation
from .batches import Batch, Batches
from .checkpoints import Checkpoint
from .judging import Jury, Score, better
from .objective import Objective
from .penalties import Penalty
from .settings import Settings
from .workers import Workers

Progress = Callable[[str], None]

#: Gradients longer than this (of all weights together) are shortened to it.
_CLIP = 5.0
#: Tensors smaller than this are taken to be of this size: biases that begin at zero have to move.
_SMALLEST = 0.01
#: The learning rate does not fall below this share of its peak.
_LOWEST = 0.01


@dataclass
class History:
    """What came of a run."""

    before: Score
    after: Score
    #: Epochs that were finished; the best of them, 0 for the model as it came.
    epochs: int = 0
    best: int = 0
    steps: int = 0
    seconds: float = 0.0
    #: For each epoch the mean loss and the score.
    history: list[dict[str, Any]] = field(default_factory=list)


class Trainer:
    """Trains the parameters of `student`, in place.

    Args:
        teacher: gives the original's outputs and features for a batch.
        penalty: adds to the gradients of each step; None for nothing.
    """

    def __init__(
        self,
        student: Differentiable,
        teacher: Callable[[Mapping[str, Any], Sequence[str]], dict[str, Tensor]],
        batches: Batches,
        objective: Objective,
        augmentation: Augmentation,
        settings: Settings,
        device: torch.device,
        *,
        penalty: Penalty | None = None,
        checkpoint: Checkpoint | None = None,
        workers: Workers | None = None,
        progress: Progress = lambda _: None,
    ) -> None:
        self.student, self.teacher = student, teacher
        self.batches, self.objective, self.augmentation = batches, objective, augmentation
        self.settings, self.device, self.penalty = settings, device, penalty
        self.checkpoint, self.progress = checkpoint, progress
        self.workers = workers or Workers()
        self.parameters: list[Parameter] = [p for p in student.parameters() if p.requires_grad]
        self.module: Any = self.workers.wrap(student, device)
        self.optimizer = self._optimizer()
        precision = _precision(settings.precision, device)
        self._cast: dict[str, Any] = {
            "device_type": device.type,
            "dtype": precision,
            "enabled": precision is not torch.float32,
        }
        # Half precision loses small gradients: they are scaled up before, and down after.
        self._scaler = torch.amp.GradScaler(device.type, enabled=precision is torch.float16)

    def _optimizer(self) -> torch.optim.Optimizer:
        settings = self.settings
        sgd = settings.optimizer == "sgd"
        groups: dict[tuple[float, bool], list[Parameter]] = {}
        for parameter in self.parameters:
            # Vectors (biases, scales) are not drawn to zero: that is for matrices.
            key = _size(parameter), parameter.ndim > 1
            groups.setdefault(key, []).append(parameter)
        # What a step of a tensor divided by its size is for the tensor itself.
        given: list[dict[str, Any]] = [
            {
                "params": group,
                "unit": (unit := size**2 if sgd else size),
                "weight_decay": settings.weight_decay / unit if matrices else 0.0,
            }
            for (size, matrices), group in groups.items()
        ]
        if sgd:
            return torch.optim.SGD(given, lr=settings.lr, momentum=0.9, nesterov=True)
        return torch.optim.AdamW(given, lr=settings.lr)

    # -- the run -----------------------------------------------------------------------------------

    def run(self) -> History:
        """Train; with a penalty, the last weights are what is asked for, and not the best.

        Raises Interrupted on Ctrl-C where there is a checkpoint, CheckFailed where the loss is no
        number.
        """
        settings, batches = self.settings, self.batches
        average = [p.detach().clone() for p in self.parameters]
        jury = Jury(batches, self.objective, lambda feeds: self.teacher(feeds, ()))
        state = self.checkpoint.load() if self.checkpoint else None
        if state is None:
            first = self._judge(jury, average)
            found = History(first, first)
            best = [p.clone() for p in average]
        else:
            found, best = self._resume(state, average)
        began, earlier = time.monotonic(), found.seconds
        self._elapsed = lambda: earlier + time.monotonic() - began
        try:
            for epoch in range(found.epochs + 1, settings.epochs + 1):
                loss = self._epoch(epoch, found, average)
                score = self._judge(jury, average)
                found.epochs = epoch
                if self._better(score, found) or self.penalty is not None:
                    found.after, found.best = score, epoch
                    best = [p.clone() for p in average]
                found.seconds = self._elapsed()
                found.history.append({"epoch": epoch, "loss": loss, **score.to_dict()})
                self._save(found, average, best)
                self._tell(found, loss, score)
                idle = epoch - found.best
                done = self._share(found.steps) >= 1
                if done or (settings.patience is not None and idle >= settings.patience):
                    break
        except KeyboardInterrupt:
            if self.checkpoint is None or not self.checkpoint.path.exists():
                raise
            raise Interrupted(
                f"stopped after {found.epochs} epochs; --resume goes on from there"
            ) from None
        _copy(best, self.parameters)
        if self.checkpoint is not None and self.workers.first:
            self.checkpoint.remove()
        return found

    def _share(self, steps: int) -> float:
        """How much of the run is over, of its steps or its time, whichever is more."""
        share = steps / max(1, self.settings.epochs * self.batches.steps)
        if self.settings.minutes is not None:
            spent = self.workers.told(self._elapsed())
            share = max(share, spent / (60 * self.settings.minutes))
        return share

    def _rate(self, share: float) -> float:
        """The learning rate, as a share of its peak, when `share` of the run is over."""
        warmup = self.settings.warmup
        if share < warmup:
            return max(share / warmup, 1e-3)
        along = min(1.0, (share - warmup) / (1 - warmup))
        return _LOWEST + (1 - _LOWEST) * (1 + math.cos(math.pi * along)) / 2

    def _epoch(self, epoch: int, found: History, average: list[Tensor]) -> float:
        """One epoch of steps; the mean loss."""
        if self.penalty is not None:
            self.penalty.look(epoch)
        total, count = 0.0, 0
        for pieces in self.batches.epoch(epoch):
            share = self._share(found.steps)
            if share >= 1 and count:
                break
            rate = self.settings.lr * self._rate(share)
            for group in self.optimizer.param_groups:
                group["lr"] = rate * group["unit"]
            total += self._step(pieces, (epoch, count, self.workers.rank))
            if self.penalty is not None:
                self.penalty.shrink(rate)
            count += 1
            found.steps += 1
            # A young average forgets faster: it has little to remember. And an average of what is
            # zero by now is not.
            forget = max(self.settings.ema, 1 / (1 + found.steps)) if not self.penalty else 1.0
            torch._foreach_lerp_(average, [p.detach() for p in self.parameters], forget)
        return total / max(1, count)

    def _step(self, pieces: Sequence[Batch], at: tuple[int, int, int]) -> float:
        self.optimizer.zero_grad(set_to_none=True)
        samples = sum(piece.real for piece in pieces)
        total = torch.zeros((), device=self.device)
        for i, piece in enumerate(pieces):
            last = i + 1 == len(pieces)
            part = piece.real / samples
            with nullcontext() if last else self.workers.apart(self.module):
                loss = self._loss(piece, (*at, i))
                self._scaler.scale(loss * part).backward()
            total += loss.detach() * part
        self._scaler.unscale_(self.optimizer)
        torch.nn.utils.clip_grad_norm_(self.parameters, _CLIP)
        self._scaler.step(self.optimizer)
        self._scaler.update()
        value = float(self.workers.mean(total))
        if not math.isfinite(value):
            raise CheckFailed(
                f"the loss is {value} in epoch {at[0]}: train with a smaller --lr, or in float32"
            )
        return value

    def _loss(self, piece: Batch, at: tuple[int, ...]) -> Tensor:
        feeds = {
            name: torch.as_tensor(x).to(self.device, non_blocking=True)
            for name, x in piece.feeds.items()
        }
        feeds, mixed = self.augmentation(feeds, at)
        names = self.objective.names
        with torch.autocast(**self._cast):
            wanted = self.teacher(feeds, names)
            given = self.module(feeds, names)
        labels = None if mixed or piece.labels is None else torch.as_tensor(piece.labels)
        return self.objective(given, wanted, labels)

    # -- in between --------------------------------------------------------------------------------

    def _judge(self, jury: Jury, average: Sequence[Tensor]) -> Score:
        """The score of the averaged weights; in every process that of the first."""
        now = [p.detach().clone() for p in self.parameters]
        _copy(average, self.parameters)
        score = jury(self.student) if self.workers.first else Score(math.inf)
        _copy(now, self.parameters)
        if self.workers.count == 1:
            return score
        told = self.workers.told
        return Score(
            told(score.distance),
            _or_none(told(_number(score.agreement))),
            _or_none(told(_number(score.accuracy))),
            int(told(score.compared)),
        )

    def _better(self, score: Score, found: History) -> bool:
        seen = [each["agreement"] or 0.0 for each in found.history]
        top = max(found.before.first, score.first, *seen)
        return better(score, found.after, top)

    def _tell(self, found: History, loss: float, score: Score) -> None:
        if self.workers.first:
            share = self._share(found.steps)
            left = found.seconds * (1 - share) / share if share else math.inf
            self.progress(
                f"epoch {found.epochs}/{self.settings.epochs}: loss {loss:.4g}, {score.text()},"
                f" {_time(left)} left"
            )

    def _save(self, found: History, average: Sequence[Tensor], best: Sequence[Tensor]) -> None:
        if self.checkpoint is None or not self.workers.first:
            return
        self.checkpoint.save(
            {
                "weights": [p.detach() for p in self.parameters],
                "average": list(average),
                "best": list(best),
                "optimizer": self.optimizer.state_dict(),
                "penalty": self.penalty.state() if self.penalty is not None else {},
                "run": {
                    **{k: v for k, v in vars(found).items() if k not in ("before", "after")},
                    "before": found.before.to_dict(),
                    "after": found.after.to_dict(),
                },
            }
        )

    def _resume(
        self, state: Mapping[str, Any], average: list[Tensor]
    ) -> tuple[History, list[Tensor]]:
        run = dict(state["run"])
        found = History(Score(**run.pop("before")), Score(**run.pop("after")), **run)
        _copy(state["weights"], self.parameters)
        _copy(state["average"], average)
        self.optimizer.load_state_dict(state["optimizer"])
        if self.penalty is not None:
            self.penalty.restore(state["penalty"])
        return found, [x.to(self.device) for x in state["best"]]


@torch.no_grad()
def _copy(values: Sequence[Tensor], into: Sequence[Tensor]) -> None:
    for value, target in zip(values, into, strict=True):
        target.copy_(value)


def _size(parameter: Parameter) -> float:
    """The root mean square of a tensor, as a power of two."""
    size = float(parameter.detach().float().square().mean().sqrt())
    return float(2.0 ** round(math.log2(max(size, _SMALLEST))))


def _number(value: float | None) -> float:
    return -1.0 if value is None else value


def _or_none(value: float) -> float | None:
    return None if value < 0 else value


def _time(seconds: float) -> str:
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def _precision(word: str, device: torch.device) -> torch.dtype:
    if word == "auto":
        return torch.bfloat16 if device.type == "cuda" else torch.float32
    return {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}[word]
