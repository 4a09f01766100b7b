"""Training one model: against another that it came from, against labels, or both."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from onnx import ModelProto
from torch import Tensor

from ..calibration import CalibrationData
from ..errors import CheckFailed, UsageError
from ..gradients import Differentiable
from ..inputs import input_specs
from ..model import Model
from ..runtime import run, session
from .augment import Augmentation, fitting, images_among
from .batches import Batches
from .checkpoints import Checkpoint
from .features import Feature
from .judging import Score
from .loop import Trainer
from .objective import Objective
from .outcome import Trained
from .penalties import Penalty
from .settings import Settings
from .workers import Workers, workers

Progress = Callable[[str], None]

#: What onnxruntime may give that differs from torch, relative to the outputs' size.
_CLOSE = 1e-2
#: So many samples say what outputs are, and which augmentations fit.
_LOOKED_AT = 256


def train(
    model: Model,
    teacher: Model,
    data: CalibrationData,
    settings: Settings,
    *,
    labels: str = "",
    compared: Sequence[Feature] = (),
    penalty: Callable[[Differentiable], Penalty] | None = None,
    checkpoint: Path | None = None,
    identity: str = "",
    resume: bool = False,
    progress: Progress = lambda _: None,
) -> Trained:
    """Train `model` so that its outputs are those of `teacher`, and of the labels where some are.

    Args:
        labels: the name of the array of labels in `data`; "" for one of the usual names, if any.
        compared: tensors inside of both that are compared as well.
        penalty: makes what pushes channels to zero.
        checkpoint: the file that a stopped run goes on from; with an `identity`, of what decides
            the run's result, there is one in the user's cache without it.

    Raises UsageError where models or data do not fit each other, UnsupportedModel where an operator
    has no gradient, CheckFailed where onnxruntime does not give what torch gives, or the loss is no
    number; Interrupted on Ctrl-C.
    """
    if settings.threads is not None:
        torch.set_num_threads(settings.threads)
    with workers() as crew:
        return _train(
            model, teacher, data, settings, labels, compared, penalty, checkpoint, identity,
            resume, progress, crew,
        )  # fmt: skip


def _train(
    model: Model,
    teacher: Model,
    data: CalibrationData,
    settings: Settings,
    labels: str,
    compared: Sequence[Feature],
    penalty: Callable[[Differentiable], Penalty] | None,
    checkpoint: Path | None,
    identity: str,
    resume: bool,
    progress: Progress,
    crew: Workers,
) -> Trained:
    device = _device(settings.device, crew)
    check_interface(model.proto, teacher.proto)
    opened = data.open(model.proto, model.base_dir, labels=labels)
    batches = Batches(
        opened,
        settings.every,
        settings.batch,
        settings.micro_batch,
        settings.seed,
        rank=crew.rank,
        workers=crew.count,
    )
    progress("build the graphs")
    student = Differentiable(model, device=device, checkpoint=settings.recompute)
    original = Differentiable(teacher, device=device).requires_grad_(False)
    if not any(parameter.requires_grad for parameter in student.parameters()):
        raise UsageError("the model has no weights that its outputs have a gradient of")

    @torch.no_grad()
    def asked(feeds: Mapping[str, Any], names: Sequence[str] = ()) -> dict[str, Tensor]:
        found: dict[str, Tensor] = original(feeds, names)
        return found

    looked_at = _some(batches, device)
    objective = Objective(
        asked(looked_at),
        settings.temperature,
        compared if settings.features else (),
        settings.features,
        settings.labels,
    )
    augmentation = _augmentation(model, settings, looked_at, objective, asked)
    trainer = Trainer(
        student,
        asked,
        batches,
        objective,
        augmentation,
        settings,
        device,
        penalty=penalty(student) if penalty is not None else None,
        checkpoint=Checkpoint(checkpoint, identity, resume) if identity or checkpoint else None,
        workers=crew,
        progress=progress,
    )
    found = trainer.run()
    written = student.write()
    if crew.first:
        _check(written, student, looked_at, model.base_dir)
    return Trained(
        written,
        found.before,
        found.after,
        found.epochs,
        found.best,
        found.steps,
        found.seconds,
        batches.learned,
        batches.held_out,
        opened.source,
        augmentation.ways,
        objective.names,
        torch.cuda.max_memory_allocated(device) if device.type == "cuda" else 0,
        found.history,
    )


def check_interface(model: ModelProto, teacher: ModelProto) -> None:
    """Raises UsageError where a model and its teacher have other inputs or outputs."""
    for what, mine, theirs in (
        ("inputs", *([s.name for s in input_specs(each)] for each in (model, teacher))),
        ("outputs", *([v.name for v in each.graph.output] for each in (model, teacher))),
    ):
        if mine != theirs:
            raise UsageError(
                f"the model has the {what} {', '.join(mine)}, its teacher {', '.join(theirs)}:"
                " the teacher is the model that it was pruned from"
            )


def _device(word: str, crew: Workers) -> torch.device:
    if word == "auto":
        word = f"cuda:{crew.local}" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.device(word)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = (str(error).splitlines() or [""])[0]
        raise UsageError(f"--device {word}: torch can't use it: {reason}") from None
    return device


def _some(batches: Batches, device: torch.device) -> dict[str, Tensor]:
    """The first samples held out."""
    feeds = next(iter(batches.judging(_LOOKED_AT))).feeds
    return {name: torch.as_tensor(x).to(device) for name, x in feeds.items()}


def _augmentation(
    model: Model,
    settings: Settings,
    looked_at: Mapping[str, Tensor],
    objective: Objective,
    asked: Callable[[Mapping[str, Any]], dict[str, Tensor]],
) -> Augmentation:
    images = images_among(input_specs(model.proto), looked_at)
    ways = settings.augmentations
    if ways is None:
        ways = tuple(fitting(images, looked_at, lambda feeds: objective.classes(asked(feeds))))
    elif ways and not images:
        raise UsageError(
            f"--augment {','.join(ways)}: the model has no input that holds images of 16 pixels"
            " and more"
        )
    return Augmentation(images, ways, settings.seed)


def _check(
    model: ModelProto, student: Differentiable, feeds: Mapping[str, Tensor], base_dir: Path
) -> None:
    """onnxruntime has to give what torch gave: it is what the model will run in."""
    live = session(model, optimize=True, base_dir=base_dir)
    given = run(live, {name: x.cpu().numpy() for name, x in feeds.items()})
    with torch.no_grad():
        expected = student(feeds)
    for name, value in given.items():
        if not np.issubdtype(value.dtype, np.floating) or not value.size:
            continue
        wanted = expected[name].float().cpu().numpy()
        size = max(float(np.abs(wanted).max()), 1e-6)
        off = float(np.abs(value.astype(np.float32) - wanted).max()) / size
        if not off <= _CLOSE:
            raise CheckFailed(
                f"output {name!r} of the trained model is {off:.1e} away in onnxruntime from what"
                " training saw; please report this model"
            )


__all__ = ["Score", "Trained", "check_interface", "train"]
