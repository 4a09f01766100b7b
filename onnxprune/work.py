"""One model on its way through the stages: load, read, group, choose, cut, check, measure."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Protocol

from onnx import ModelProto

from . import provenance, saving
from .axes import Choice, Index, Rows, kept_size
from .budgets import Budget
from .calibration import Calibration, CalibrationData
from .certify import certify
from .compensation import Compensation, compensate
from .coverage import coverage as coverage
from .emptied import Emptied, empty
from .errors import CheckFailed, NotPrunable, UsageError
from .evaluation import check_drop, check_gate
from .evaluation import evaluate as evaluate_models
from .exactness import exact_dims
from .filters import Filter
from .groups import Group, find_groups
from .importance import Importance, Scores
from .infer import infer
from .inspection import look_into, share_left
from .integrity import check_unchanged
from .latency import benchmark as benchmark_models
from .loading import ModelLike, load, readable
from .measure import count
from .model import Model, node_name
from .network import Network
from .pace import not_slower
from .planning import Planner
from .plans import Plan, choice_of, make_plan
from .rebuilding import Rebuilder
from .reconstruction import Kept, Outcome
from .report import GroupResult, Report, target_result
from .rewrite import rewrite
from .runtime import FoundInputs, find_inputs
from .tables import with_user_rules
from .trust import trust
from .verify import check_file, checks_out, same_function, verify
from .version import __version__

Shapes = Mapping[str, Sequence[int]]
Progress = Callable[[str], None]


class Reweighted(Protocol):
    """A model that was cut, with other weights than those that the cut has left."""

    @property
    def model(self) -> ModelProto: ...

    def to_dict(self) -> dict[str, Any]:
        """What a report says of them: plain JSON types."""

    def text(self) -> str:
        """A sentence for people."""


#: Gives the weights for the model that a choice leaves.
Rebuilt = Callable[[Choice], Reweighted]


@dataclass(frozen=True)
class Rewound:
    """The weights of an earlier checkpoint."""

    model: ModelProto
    name: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON types."""
        return {"rewound": self.name}

    def text(self) -> str:
        """A sentence for people."""
        return f"the weights are those of {self.name}"


@dataclass
class Result:
    """A pruned model, and how it came about."""

    plan: Plan
    report: Report
    _network: Network = field(repr=False)
    _pruned: ModelProto = field(repr=False)
    _verified: bool = field(repr=False, default=True)
    #: What the command goes on from, if it is stopped before this is saved.
    _kept: Kept | None = field(repr=False, default=None)

    @cached_property
    def model(self) -> ModelProto:
        """The pruned model. Weights that were in other files are in it."""
        return inlined(self._pruned, self._network.model.base_dir)

    @property
    def unsaved(self) -> ModelProto:
        """The pruned model as it stands: weights that were in other files still are."""
        return self._pruned

    @property
    def reference(self) -> ModelProto:
        """The input after loading's function-preserving steps: what the plan's names refer to."""
        return inlined(self._network.model.proto, self._network.model.base_dir)

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the pruned model, all of it or nothing; external data beside it, where it was so.

        Raises UsageError where the path can't be meant, CheckFailed where ONNX's checker refuses
        the file (it is asked unless checks were declined), WriteFailed where it can't be written.
        """
        write(self._network.model, self._pruned, Path(path), force, self._verified)
        self.report.output = str(Path(path))
        if self._kept is not None:
            self._kept.remove()

    def keep(self, kept: Kept | None) -> Result:
        """The same; when it is saved, the records of the command that made it are removed."""
        self._kept = kept
        notes = self.report.notes
        notes += [note for note in (kept.notes() if kept else ()) if note not in notes]
        return self


def inlined(proto: ModelProto, base_dir: Path) -> ModelProto:
    """A copy, with the weights that are in other files brought into it."""
    model = ModelProto()
    model.CopyFrom(proto)
    saving.inline_all(model, base_dir)
    return model


def write(model: Model, made: ModelProto, output: Path, force: bool, verified: bool) -> None:
    """Write what was made of a model; see `Result.save`."""
    sources = saving.sources(model)
    saving.check_target(output, sources, force)
    if model.external:
        saving.check_target(saving.data_file(output), sources, force)
    checked = verified and checks_out(model.path, model.proto)
    check_unchanged({file: stamp for file, stamp in model.files.items() if file != model.path})
    saving.save(made, output, model.base_dir, model.external, check_file if checked else None)


class Work:
    """One model on its way through the stages."""

    def __init__(
        self, source: ModelLike, rules: Sequence[str | Path], progress: Progress | None
    ) -> None:
        self.progress = progress or (lambda _: None)
        self.timings: dict[str, float] = {}
        self.notes: list[str] = []
        self.rules = rules
        self.options: dict[str, Any] = {}
        #: Whether results say in their metadata where they come from.
        self.provenance = True
        self.name = str(source) if isinstance(source, (str, Path)) else "the model"
        with self._stage("load"):
            self.model = self.original = load(source)
        self.emptied = Emptied()
        self.lossless = "off"
        self._read()

    def _read(self) -> None:
        """Read the axes of the model, and find its groups."""
        with self._stage("read axes"):
            self.network = infer(self.model, with_user_rules(several(self.rules)))
        with self._stage("group"):
            self.groups: list[Group] = find_groups(self.network)
            exact = exact_dims(self.network)
            for group in self.groups:
                group.exact = group.dim in exact

    def _read_from(self) -> tuple[ModelProto, Path | None] | None:
        """What the checker is asked about where a stage goes wrong; None before it is loaded."""
        model = getattr(self, "original", None)
        return None if model is None else (model.proto, model.path)

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.progress(name)
        start = time.perf_counter()
        with readable(self.name, self._read_from):
            yield
        self.timings[name] = round(time.perf_counter() - start, 4)

    def empty(self, chooser: Filter, data: CalibrationData | None, lossless: bool | None) -> None:
        """Fold away the channels that carry nothing, unless that is switched off."""
        if lossless is False:
            return
        self.lossless = "only" if lossless else "first"
        opened = None if data is None else data.open(self.model.proto, self.model.base_dir)
        # What made-up inputs leave at rest, real ones may well move.
        measured = opened if opened is not None and opened.real else None
        self._empty(chooser.apply(self.network, self.groups), measured)
        if not lossless and not self.emptied.count:
            self.lossless = "none"  # what the plan cuts carried something: all weights were read

    def empty_again(self, made: Plan) -> None:
        """Fold away what carries nothing in the groups of a plan that was made so."""
        if made.options.get("lossless", "off") not in ("off", "none"):
            planned = {group.name for group in made.groups}
            self._empty([group for group in self.groups if group.name in planned], None)

    def _empty(self, groups: Sequence[Group], calibration: Calibration | None) -> None:
        with self._stage("look for channels that carry nothing"):
            model, self.emptied = empty(self.network, groups, calibration)
        if model is not None:
            self.model = model
            self._read()

    def emptied_plan(self, planner: Planner) -> Plan:
        """The plan that removes what carries nothing, and nothing else."""
        if not self.emptied.count:
            raise NotPrunable(
                "no channel carries nothing: none is dead, constant or a duplicate; give --ratio or"
                " --target to remove what matters least"
            )
        step = planner.budget.round_to
        kept = self.emptied.kept(
            planner.groups, planner.scores, step if isinstance(step, int) else 1
        )
        return self._made(planner, kept)

    def planner(
        self,
        budget: Budget,
        chooser: Filter,
        importance: Importance,
        input_shapes: Shapes | None = None,
        threads: int = 1,
        seed: int = 0,
    ) -> Planner:
        """Score the groups: what is to be known for choosing."""
        if threads < 1:
            raise UsageError(f"threads={threads}; write a whole number of 1 and more")
        groups = chooser.apply(self.network, self.groups)
        if not groups:
            raise NotPrunable(self._why_not(bool(self.groups)))
        with self._stage("score"):
            #: The criterion's own scores: what a plan records.
            self.given = importance.scores(self.network, groups)
            scores = self.emptied.last(groups, self.given)
            self.notes = list(importance.notes)

        def rescore(pruned: ModelProto) -> dict[str, Scores]:
            with self._stage("score again"):
                later = Work(pruned, self.rules, None)
                left = Filter(common_choice=chooser.common_choice, only=chooser.only).apply(
                    later.network, later.groups
                )
                return dict(
                    zip(
                        [group.name for group in left],
                        importance.scores(later.network, left),
                        strict=True,
                    )
                )

        self.options = {
            key: list(value) if isinstance(value, tuple) else value
            for part in (
                asdict(budget),
                importance.options(),
                asdict(chooser),
                {"lossless": self.lossless},
            )
            for key, value in part.items()
        }
        return Planner(
            self.network,
            groups,
            scores,
            budget,
            rescore,
            input_shapes=input_shapes,
            threads=threads,
            seed=seed,
        )

    def plan(self, planner: Planner, *, coarser: int = 0, correction: float = 1.0) -> Plan:
        """Choose what is kept of each group."""
        with self._stage("select"):
            kept = planner.keep(coarser=coarser, correction=correction)
        made = self._made(planner, kept)
        if not made.groups:
            raise NotPrunable(
                "no group loses a channel at this ratio, rounding and bound; use a larger --ratio"
                " or a smaller --round-to"
            )
        return made

    def _made(self, planner: Planner, kept: Sequence[Index | Rows]) -> Plan:
        scores = planner.chooser.weighted(self.given)
        return make_plan(self.network, planner.groups, kept, scores, self.options, __version__)

    def refitting(self, rebuilder: Rebuilder | None) -> Rebuilt:
        """Refits a choice: on data, or without any by what the weights tell."""
        if rebuilder is None:
            return self.compensated
        return lambda choice: rebuilder.refit(self.network, choice)

    def compensated(self, choice: Choice) -> Compensation:
        """The model cut to a choice, with the mean of what was removed in its biases."""
        return compensate(self.network, choice, rewrite(self.network, choice))

    def rewound(self, made: Plan) -> Rebuilt:
        """This model's own weights, cut by a plan that was made for a later state of it."""

        def cut(_: Choice) -> Rewound:
            choice = choice_of(made, self.network, self.groups)
            return Rewound(rewrite(self.network, choice), self.name)

        return cut

    def rebuilt(self, planner: Planner, rebuilder: Rebuilder) -> tuple[Plan, Outcome]:
        """Choose what is kept by what reconstruction can't mend; the plan, and what came out."""
        with self._stage("reconstruct"):
            kept, outcome = rebuilder.choose(planner)
        made = self._made(planner, kept)
        return made, outcome

    def _why_not(self, filtered: bool) -> str:
        if filtered:
            return "no group is left by --only, --include, --exclude and --exact-only"
        found = look_into(self.network, self.groups).pinned
        given = {each.reason for each in found}
        for node, reason in self.network.refused:
            if reason in given or not found:
                return f"nothing can be pruned: {node.op_type} {node_name(node)!r}: {reason}"
        if not found:
            return "nothing can be pruned: no operator of this model has weights that rules know"
        # Some axes of every model are its interface. What locks weights besides says more.
        inner = [
            each
            for each in found
            if each.locked and not each.reason.startswith("an axis of the model's")
        ]
        first = (inner or found)[0]
        where = f" ({', '.join(first.where[:2])})" if first.where else ""
        return f"nothing can be pruned: every width is fixed; first of all: {first.reason}{where}"

    def carry_out(
        self,
        made: Plan,
        *,
        input_shapes: Shapes | None,
        threads: int,
        verified: bool,
        timed: bool,
        evaluated: str | None,
        metric: str | None,
        max_drop: float | None,
        seed: int,
        rebuilt: Rebuilt | None = None,
    ) -> Result:
        """Rewrite the model, check it, refit it where that is asked for, measure it."""
        model, network = self.model, self.network
        if threads < 1:
            raise UsageError(f"threads={threads}; write a whole number of 1 and more")
        check_gate(evaluated, max_drop)
        choice = choice_of(made, network, self.groups)
        with self._stage("rewrite"):
            pruned = rewrite(network, choice)
        report = self._report(made, choice)
        report.notes.extend(self.notes)
        if self.emptied.count:
            report.notes.append(self.emptied.text())
            report.lossless = self.emptied.to_dict()
        shapes = input_shapes
        if verified or timed:
            with self._stage("find inputs"):
                found = find_inputs(model.proto, input_shapes, seed=seed, base_dir=model.base_dir)
            shapes = found.shapes
            if verified:
                self._verify(report, choice, pruned, found, threads, seed)
        if rebuilt is not None:
            # The certificates are of the cut; what is refitted has other weights on purpose.
            with self._stage("refit"):
                outcome = rebuilt(choice)
            pruned, report.reconstruction = outcome.model, outcome.to_dict()
            report.notes.append(outcome.text())
            if verified:
                verify(model.proto, pruned, model.base_dir, found, threads)
        with self._stage("count"):
            # The file is not read again: the reference is it, but for the copies in it.
            first = self.original
            # What came from outside of its folder is in the model now, and not beside the file.
            file = first.proto if trust().outside_data else first.path or first.proto
            report.before = count(file, shapes, loaded=first.proto, without=first.copies)
            report.after = count(pruned, shapes)
            if left := report.after.uncounted:
                more = f" and {len(left) - 1} more" if len(left) > 1 else ""
                report.notes.append(
                    f"MACs leave out {left[0]}{more}: sizes that are known only when the model runs"
                )
        if self.provenance:  # behind the count: it is no part of what the model costs
            provenance.stamp(pruned, provenance.entries(self.original.sha256, made))
        if evaluated:
            with self._stage("evaluate"):
                report.evaluation = evaluate_models(
                    model.proto, pruned, evaluated, model.base_dir, threads, metric
                )
            check_drop(report.evaluation, max_drop)
        if timed:
            with self._stage("benchmark"):
                report.latency = benchmark_models(
                    model.proto,
                    pruned,
                    threads=threads,
                    input_shapes=shapes,
                    seed=seed,
                    base_dir=model.base_dir,
                )
        report.timings = self.timings
        return Result(made, report, network, pruned, verified)

    def retrained(
        self,
        result: Result,
        trained: Callable[[Choice, ModelProto], tuple[ModelProto, dict[str, Any], str]],
        *,
        input_shapes: Shapes | None,
        threads: int,
        evaluated: str | None,
        metric: str | None,
        max_drop: float | None,
        seed: int,
    ) -> Result:
        """The same cut with other weights, checked and evaluated anew.

        `trained` gives the model, what a report says of it, and a sentence.
        """
        model, report = self.model, result.report
        with self._stage("fine-tune"):
            choice = choice_of(result.plan, self.network, self.groups)
            pruned, report.training, words = trained(choice, result.model)
            report.notes.append(words)
        if result._verified:
            found = find_inputs(model.proto, input_shapes, seed=seed, base_dir=model.base_dir)
            verify(model.proto, pruned, model.base_dir, found, threads)
        if self.provenance:
            provenance.stamp(pruned, provenance.entries(self.original.sha256, result.plan))
        if evaluated:
            with self._stage("evaluate"):
                report.evaluation = evaluate_models(
                    model.proto, pruned, evaluated, model.base_dir, threads, metric
                )
            check_drop(report.evaluation, max_drop)
        report.timings = self.timings
        return Result(result.plan, report, self.network, pruned, result._verified)

    def _verify(
        self,
        report: Report,
        choice: Choice,
        pruned: ModelProto,
        found: FoundInputs,
        threads: int,
        seed: int,
    ) -> None:
        model = self.model
        with self._stage("verify"):
            verify(model.proto, pruned, model.base_dir, found, threads)
            if self.emptied.count and not self.emptied.measured:
                same_function(self.original.proto, model.proto, model.base_dir, found, threads)
        with self._stage("certify"):
            report.certificate = certificate = certify(
                self.network,
                self.groups,
                choice,
                pruned,
                found,
                seed=seed,
                threads=threads,
            )
        if not certificate.ok:
            raise CheckFailed(
                "the certificate failed: outputs deviate by"
                f" {certificate.permutation:.1e} (permutation) and"
                f" {certificate.masking or 0:.1e} (masking),"
                f" {certificate.cut or 0:.1e} (cut), allowed {certificate.tolerance:.0e};"
                " please report this model"
            )
        if not certificate.proves:
            report.notes.append(
                "the certificate is weak: on random inputs the outputs hardly depend on the weights"
            )

    def _report(self, made: Plan, choice: Choice) -> Report:
        sizes = {dim: kept_size(chosen) for dim, chosen in choice.items()}
        found = look_into(self.network, self.groups)
        ratio = made.options.get("ratio")
        return Report(
            str(self.model.path or self.model.proto.graph.name),
            free_widths_allow=share_left(
                self.network,
                {group.dim: 1 - ratio for group in self.groups if group.dim in choice},
            )
            if isinstance(ratio, float) and made.options.get("scope") == "local"
            else None,
            groups=[
                GroupResult(
                    group.name,
                    group.role,
                    group.size,
                    sizes.get(group.dim, group.size),
                    group.kind,
                    group.rows if isinstance(choice.get(group.dim), Rows) else 1,
                )
                for group in self.groups
            ],
            pinned={each.reason: each.locked for each in found.pinned},
            refused=found.refused,
            options=made.options,
        )


def several(given: Sequence[Any] | str | Path) -> tuple[Any, ...]:
    """A role, glob or path that is given alone is one, not a sequence of letters."""
    return (given,) if isinstance(given, (str, Path)) else tuple(given)


def paced(work: Work, planner: Planner, carried_out: Callable[[Plan], Result]) -> Result:
    """Carry out a plan, and again with other widths where what is measured says so.

    A target of time is corrected by the final measurement; anything else that turns out slower
    than the original gets wider stairs, unless the user said which.
    """
    budget = planner.budget
    goal = budget.goal
    if goal is not None and goal.measured:
        correction = 1.0
        missed = ""
        for _ in range(_CONFIRMATIONS):
            result = carried_out(work.plan(planner, correction=correction))
            result.report.notes += planner.notes
            result.report.target = found = target_result(goal, result.report)
            if found is None or found.met:
                return result
            correction, missed = 1 / found.off, found.text()
        raise CheckFailed(f"the target was missed: {missed}")

    def wider(n: int) -> Result | None:
        try:
            return carried_out(work.plan(planner, coarser=n))
        except (CheckFailed, NotPrunable):
            return None  # no such widths, or none that meet the budget

    fixed = isinstance(budget.round_to, int)
    first = carried_out(work.plan(planner))
    result, number, speedup = not_slower(first, at_best, wider, 0 if fixed else _WIDENINGS)
    report = result.report
    report.notes += planner.notes
    if number:
        report.notes.append(
            "the first choice was slower than the original, so widths go in steps"
            f" {2**number} times as wide"
        )
    if speedup is not None and speedup < 1:
        slower = f"the pruned model is slower than the original ({speedup:.2f} × its speed at best)"
        if speedup < _MUCH_SLOWER and not fixed:
            raise CheckFailed(
                f"{slower} at any width that was tried; --round-to N or --no-benchmark takes it"
                " nonetheless"
            )
        report.notes.append(slower)
    report.target = target_result(goal, report)
    if report.target is not None and not report.target.met:
        raise CheckFailed(f"the target was missed: {report.target.text()}")
    return result


def at_best(result: Result) -> float | None:
    """The speedup that the measurement does not rule out, None without a measurement."""
    latency = result.report.latency
    return latency.interval[1] if latency is not None and latency.interval is not None else None


#: How often a target of time is corrected after the final measurement.
_CONFIRMATIONS = 3
#: How often the steps of rounding are doubled where a model turns out slower.
_WIDENINGS = 3
#: A model slower than this (of the original's speed, at best) is not given to anybody.
_MUCH_SLOWER = 0.97
