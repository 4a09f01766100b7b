"""Fine-tuning and sparse training as a whole job: load, train, check, evaluate.

torch is needed for it, and imported when it is; see `training`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from onnx import ModelProto

from .axes import Choice
from .calibration import CalibrationData
from .evaluation import Evaluation, Judge, check_drop, check_gate
from .filters import Filter
from .loading import ModelLike, load
from .model import Model
from .network import Network
from .plans import Plan, choice_of
from .provenance import entries, stamp
from .training.settings import Settings
from .trials.identity import identity_of
from .work import Work, inlined, write

if TYPE_CHECKING:
    from .training.outcome import Trained

Progress = Callable[[str], None]


@dataclass
class TrainReport:
    """Everything that `onnxprune finetune` and `onnxprune train` print."""

    model: str
    teacher: str
    output: str | None = None
    #: See `training.outcome.Trained.to_dict`.
    training: dict[str, Any] = field(default_factory=dict)
    #: The model as it came, and as it is, each beside its teacher.
    given: Evaluation | None = None
    evaluation: Evaluation | None = None
    #: For each group that sparse training worked on: name, channels, and how many are near zero.
    sparsity: list[dict[str, Any]] = field(default_factory=list)
    options: dict[str, Any] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        found = asdict(self)
        found["given"] = self.given.to_dict() if self.given else None
        found["evaluation"] = self.evaluation.to_dict() if self.evaluation else None
        return found


@dataclass
class TrainResult:
    """A trained model, and how it came about."""

    report: TrainReport
    _model: Model = field(repr=False)
    _trained: ModelProto = field(repr=False)

    @cached_property
    def model(self) -> ModelProto:
        """The trained model."""
        return inlined(self._trained, self._model.base_dir)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the model, all of it or nothing; raises as `work.Result.save` does."""
        write(self._model, self._trained, Path(path), force, True)
        self.report.output = str(Path(path))


@dataclass
class Teaching:
    """What a user says of a training run, beside the models.

    `labels` is the name of the array of labels in the data; "" for one of the usual names, if any.
    """

    data: CalibrationData
    settings: Settings = field(default_factory=Settings)
    labels: str = ""
    checkpoint: Path | None = None
    resume: bool = False
    progress: Progress = lambda _: None

    def finetune(
        self, model: Model, teacher: Model, network: Network | None, choice: Choice | None
    ) -> Trained:
        """Train a model against the one that it was pruned from.

        With the teacher's `network` and what is kept of it, tensors inside of both are compared at
        the channels that are left; without, those from which nothing was removed.
        """
        from . import gradients  # noqa: F401 (it says so where torch is missing)
        from .training.features import common_features, features
        from .training.train import train

        compared = []
        if self.settings.features:
            if network is not None and choice is not None:
                compared = features(network, choice, model.proto)
            else:
                compared = common_features(teacher.proto, model.proto)
        return train(
            model,
            teacher,
            self.data,
            self.settings,
            labels=self.labels,
            compared=compared,
            checkpoint=self.checkpoint,
            identity=self._identity(model, teacher, "finetune"),
            resume=self.resume,
            progress=self.progress,
        )

    def refine(
        self, work: Work, choice: Choice, pruned: ModelProto
    ) -> tuple[ModelProto, dict[str, Any], str]:
        """What `Work.retrained` asks for: the trained model, and what there is to say of it."""
        found = self.finetune(load(pruned), work.model, work.network, choice)
        return found.model, found.to_dict(), found.text()

    def sparse(
        self, work: Work, chooser: Filter, sparse: str, strength: float, ratio: float
    ) -> tuple[Trained, list[dict[str, Any]]]:
        """Train a model against itself (and labels), while channels are pushed to zero.

        `sparse` is a penalty's name, or `none`.
        """
        from .gradients import Differentiable
        from .training.penalties import Penalty, penalty_of
        from .training.train import train

        groups = chooser.apply(work.network, work.groups) if sparse != "none" else []
        made: list[Penalty] = []

        def penalty(student: Differentiable) -> Penalty:
            made.append(penalty_of(sparse, work.network, groups, student, strength, ratio))
            return made[-1]

        found = train(
            work.model,
            work.model,
            self.data,
            self.settings,
            labels=self.labels,
            penalty=penalty if sparse != "none" else None,
            checkpoint=self.checkpoint,
            identity=self._identity(work.model, work.model, f"{sparse} {strength} {ratio}"),
            resume=self.resume,
            progress=self.progress,
        )
        return found, [each for one in made for each in one.sparsity()]

    def _identity(self, model: Model, teacher: Model, kind: str) -> str:
        options = {**self.settings.to_dict(), **self.data.options(), "labels": self.labels}
        return identity_of(
            model, {**options, "kind": kind, "teacher": teacher.sha256}, [self.data.source]
        )


def finetune(
    source: ModelLike,
    original: ModelLike,
    teaching: Teaching,
    *,
    plan: Plan | None,
    rules: Sequence[str | Path],
    evaluated: str | None,
    metric: str | None,
    max_drop: float | None,
    threads: int,
    provenance: bool,
) -> TrainResult:
    """See `api.finetune`."""
    model = load(source)
    network, choice = None, None
    if plan is not None:
        work = Work(original, rules, teaching.progress)
        work.empty_again(plan)
        teacher, network = work.model, work.network
        choice = choice_of(plan, network, work.groups)
    else:
        teacher = load(original)
    judge = _judge(teacher, evaluated, metric, max_drop, threads)
    found = teaching.finetune(model, teacher, network, choice)
    report = TrainReport(
        str(model.path or model.proto.graph.name), str(teacher.path or teacher.proto.graph.name)
    )
    return _finished(report, model, found, judge, max_drop, teaching, plan, provenance)


def train(
    source: ModelLike,
    teaching: Teaching,
    chooser: Filter,
    *,
    sparse: str,
    strength: float,
    ratio: float,
    rules: Sequence[str | Path],
    evaluated: str | None,
    metric: str | None,
    max_drop: float | None,
    threads: int,
    provenance: bool,
) -> TrainResult:
    """See `api.train`."""
    work = Work(source, rules, teaching.progress)
    judge = _judge(work.model, evaluated, metric, max_drop, threads)
    name = str(work.model.path or work.model.proto.graph.name)
    found, sparsity = teaching.sparse(work, chooser, sparse, strength, ratio)
    report = TrainReport(name, name, sparsity=sparsity)
    report.options = {"sparse": sparse, "strength": strength, "ratio": ratio}
    return _finished(report, work.model, found, judge, max_drop, teaching, None, provenance)


def _judge(
    teacher: Model, evaluated: str | None, metric: str | None, max_drop: float | None, threads: int
) -> Judge | None:
    check_gate(evaluated, max_drop)
    if not evaluated:
        return None
    return Judge(teacher.proto, evaluated, teacher.base_dir, threads, metric)


def _finished(
    report: TrainReport,
    model: Model,
    found: Trained,
    judge: Judge | None,
    max_drop: float | None,
    teaching: Teaching,
    plan: Plan | None,
    provenance: bool,
) -> TrainResult:
    report.training = found.to_dict()
    report.options = {**teaching.settings.to_dict(), **teaching.data.options(), **report.options}
    report.notes.append(found.text())
    if provenance:
        stamp(found.model, entries(model.sha256, plan))
    if judge is not None:
        teaching.progress("evaluate")
        report.given, report.evaluation = judge(model.proto), judge(found.model)
        check_drop(report.evaluation, max_drop)
    return TrainResult(report, model, found.model)


__all__ = ["Teaching", "TrainReport", "TrainResult", "finetune", "train"]
