"""The public functions: each does one whole job, as the command of its name does."""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from onnx import ModelProto

from . import saving
from .axes import Choice, Rows, kept_size
from .bisection import Trial, eased, smallest
from .budgets import Budget, read_numbers
from .calibration import Calibration, CalibrationData
from .certify import certify, permutation
from .comparison import Comparison
from .comparison import compare as compare_models
from .coverage import coverage as coverage
from .criteria import CriterionLike
from .emptied import Emptied, empty
from .errors import CheckFailed, NotPrunable, UsageError
from .evaluation import check_drop
from .evaluation import evaluate as evaluate_models
from .exactness import exact_dims
from .filters import Filter
from .groups import Group, find_groups, free_dims
from .importance import Importance, Scores
from .infer import infer
from .inspection import Inspection, look_into, share_left
from .latency import Benchmark
from .latency import benchmark as benchmark_models
from .loading import ModelLike, load, readable
from .measure import count
from .model import graphs, node_name
from .network import Network
from .pace import not_slower
from .planning import Planner
from .plans import Plan, choice_of, make_plan
from .preprocess import Preprocess, preprocess_of
from .rebuilding import Rebuilder
from .reconstruction import Outcome
from .report import GroupResult, Report, target_result
from .rewrite import rewrite
from .runtime import FoundInputs, find_inputs
from .tables import Rule, operator_name, with_user_rules
from .verify import check_file, checks_out, same_function, verify
from .version import __version__

Shapes = Mapping[str, Sequence[int]]
Progress = Callable[[str], None]
#: Refits the model that a choice leaves.
Rebuilt = Callable[[Choice], Outcome]


@dataclass
class Result:
    """A pruned model, and how it came about."""

    plan: Plan
    report: Report
    _network: Network = field(repr=False)
    _pruned: ModelProto = field(repr=False)
    _verified: bool = field(repr=False, default=True)

    @cached_property
    def model(self) -> ModelProto:
        """The pruned model. Weights that were in other files are in it."""
        model = ModelProto()
        model.CopyFrom(self._pruned)
        saving.inline_all(model, self._network.model.base_dir)
        return model

    @property
    def reference(self) -> ModelProto:
        """The input after loading's function-preserving steps: what the plan's names refer to."""
        reference = ModelProto()
        reference.CopyFrom(self._network.model.proto)
        saving.inline_all(reference, self._network.model.base_dir)
        return reference

    def save(self, path: str | Path, *, force: bool = False) -> None:
        """Write the pruned model, all of it or nothing; external data beside it, where it was so.

        Raises UsageError where the path can't be meant, CheckFailed where ONNX's checker refuses
        the file (it is asked unless checks were declined), WriteFailed where it can't be written.
        """
        output, model = Path(path), self._network.model
        sources = saving.sources(model)
        saving.check_target(output, sources, force)
        if model.external:
            saving.check_target(saving.data_file(output), sources, force)
        checked = self._verified and checks_out(model.path, model.proto)
        check = check_file if checked else None
        saving.save(self._pruned, output, model.base_dir, model.external, check)
        self.report.output = str(output)


def prune(
    model_or_path: ModelLike,
    *,
    ratio: float | None = None,
    target: str | None = None,
    scope: str = "local",
    ratios: Mapping[str, float] | str | Path | None = None,
    sensitivity: Mapping[str, float] | str | Path | None = None,
    criterion: CriterionLike = "group-l2",
    reduction: str = "mean",
    normalizer: str = "auto",
    calibration: Any = None,
    preprocess: str | Path | Preprocess | Mapping[str, Any] | None = None,
    calibration_samples: int | None = 1024,
    reconstruct: bool = False,
    lossless: bool | None = None,
    round_to: int | str | None = None,
    steps: int = 1,
    max_ratio: float = 1.0,
    exact_only: bool = False,
    only: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    common_choice: bool = False,
    input_shapes: Shapes | None = None,
    rules: Sequence[str | Path] = (),
    threads: int = 1,
    verify: bool = True,
    benchmark: bool = True,
    eval: str | None = None,
    metric: str | None = None,
    max_drop: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Result:
    """Prune a model: choose channels, remove them, prove that the cut is exact, measure.

    Args:
        model_or_path: a ModelProto (left as it is), a graphsurgeon Graph, or a path.
        ratio: the share of channels to remove, in (0, 1): 0.5 (the default) keeps half of each
            group.
        target: what the model may cost, instead of a ratio: `macs=0.5` (the share kept),
            `params=0.4`, `bytes=20MB`, `latency=0.5`, `latency=8ms`, `speedup=2`. Met within 2 %
            (time: 5 %), else CheckFailed.
        scope: `local` takes the ratio from each group, `global` from all channels together,
            `isomorphic` from all of those groups together that have the same structure.
        ratios: `{glob: ratio}` of single groups, or a TOML or JSON file of them.
        sensitivity: `{glob: factor}` of single groups' scores, or a file of them.
        criterion: how channels are scored: a name (see `criteria`), or any callable
            `(group, weights) -> scores`, `[group.cells]` (see `weights.Weights`).
        reduction: how a group's members become one score: mean, sum, max, prod, first.
        normalizer: none, mean, max, sum, standardize, gaussian; auto is the criterion's own.
        calibration: inputs for the criteria that look at activations: a path, arrays, an iterable,
            or `synthetic` (see `calibration`).
        preprocess: what is done to images among them (see `preprocess`).
        calibration_samples: the most to use of them; None for all.
        reconstruct: refit what reads the removed channels, by least squares on the calibration
            data, so that outputs stay; widths are chosen by what refitting can't mend (the
            criterion only sets what the model costs).
        lossless: channels that carry nothing (dead, constant, duplicates) go first, and what they
            did is folded into the operators behind them. True: nothing else is removed, unless a
            ratio or a target is given. False: not looked for.
        round_to: widths are left in multiples of this, and never below it; None is 16 for
            convolutions and 8 for matrix products (a group of fewer than four such steps takes a
            smaller power of two), `auto` widths that are fast as measured in onnxruntime.
        steps: prune in so many stages, with scores computed anew in between.
        max_ratio: the largest share that one group may lose.
        exact_only: leave alone the groups in which removing is not the same as masking.
        only: roles to prune: heads, head-dim, ffn, hidden, channels.
        include, exclude: globs over names of nodes and initializers. An excluded layer keeps its
            inputs and its outputs.
        common_choice: remove the same channels from all heads of an attention and all groups of a
            convolution, where each could keep others.
        input_shapes: `{input: [d, ...]}` for dynamic dims, in checks and measurements.
        rules: TOML files with rules for more operators.
        threads: for checks and measurements.
        verify: check the result and make both certificates.
        benchmark: measure latency before and after.
        eval: `FILE.npz[:labels]` or `module:function`, to report accuracy before and after; see
            `evaluation.evaluate`.
        metric: which metric of `eval` counts; the labels decide without it.
        max_drop: the most that may be lost, in points of the metric (of agreement, where there are
            no labels): where more is, CheckFailed is raised.
        seed: of the random inputs and permutations in the checks.
        progress: called with a word on each stage.

    Raises:
        UsageError, NotPrunable, UnsupportedModel, BrokenModel, CheckFailed: see `errors`.
    """
    budget = Budget(
        ratio,
        scope,
        round_to,
        max_ratio,
        target,
        read_numbers(ratios, "ratios"),
        read_numbers(sensitivity, "sensitivity"),
        steps,
    )
    chooser = Filter(
        _several(only), exact_only, _several(include), _several(exclude), common_choice
    )
    data = _calibration(calibration, preprocess, calibration_samples, input_shapes, seed)
    importance = Importance(criterion, reduction, normalizer, data)
    work = _Work(model_or_path, rules, progress)
    work.empty(chooser, data if reconstruct or lossless else None, lossless)
    planner = work.planner(budget, chooser, importance, input_shapes, threads, seed)

    def carried_out(made: Plan, rebuilt: Rebuilt | None = None) -> Result:
        return work.carry_out(
            made,
            rebuilt=rebuilt,
            input_shapes=input_shapes,
            threads=threads,
            verified=verify,
            timed=benchmark,
            evaluated=eval,
            metric=metric,
            max_drop=max_drop,
            seed=seed,
        )

    if lossless and ratio is None and target is None and ratios is None:
        result = carried_out(work.emptied_plan(planner))
        speedup = _at_best(result)
        if speedup is not None and speedup < 1:
            result.report.notes.append(
                "widths that are no multiples of 16 or 8 are slow; --round-to 16 keeps as many"
                " empty channels as fill them up"
            )
        return result
    if reconstruct:
        rebuilder = Rebuilder.of(data, threads, seed, progress)
        made, outcome = work.rebuilt(planner, rebuilder)
        result = carried_out(made, lambda _: outcome)
        result.report.notes += planner.notes
        result.report.target = target_result(budget.goal, result.report)
        return result
    return _paced(work, planner, carried_out)


def search(
    model_or_path: ModelLike,
    *,
    eval: str | None,
    max_drop: float | None,
    ratio: float | None = None,
    target: str | None = None,
    verify: bool = True,
    benchmark: bool = True,
    progress: Progress | None = None,
    **options: Any,
) -> Result:
    """Find the smallest model that loses no more than `max_drop` points, by bisection.

    The budget goes from nothing to `ratio` (0.9 if none is given) or to `target` (a share). The
    other arguments are those of `prune`. What the trials lost is in `report.trials`.

    Raises CheckFailed where even the least that was tried loses more, UsageError where there is no
    `eval` or `max_drop`.
    """
    if eval is None or max_drop is None:
        raise UsageError("--search needs --eval and --max-drop: what has to be held, and on what")
    tell = progress or (lambda _: None)

    def attempt(pressure: float) -> Trial[dict[str, Any]] | None:
        budget: dict[str, Any] = dict(eased(ratio, target, pressure))
        words = ", ".join(f"{key} {value}" for key, value in budget.items())
        tell(f"search: {words}")
        try:
            found = prune(
                model_or_path, eval=eval, **budget, verify=False, benchmark=False, **options
            )
        except (CheckFailed, NotPrunable):
            return None  # there is no model of this budget
        assert found.report.evaluation is not None
        return Trial(pressure, found.report.evaluation.drop, budget)

    best, trials = smallest(attempt, max_drop)
    if best is None:
        least = min((trial.drop for trial in trials), default=math.nan)
        raise CheckFailed(
            f"nothing was found that loses no more than {max_drop:g} points; the least that was"
            f" lost is {least:.2f}; nothing was written"
        )
    result = prune(
        model_or_path,
        eval=eval,
        max_drop=max_drop,
        **best.result,
        verify=verify,
        benchmark=benchmark,
        progress=progress,
        **options,
    )
    result.report.trials = [{**trial.result, "drop": trial.drop} for trial in trials]
    return result


def plan(
    model_or_path: ModelLike,
    *,
    ratio: float | None = None,
    target: str | None = None,
    scope: str = "local",
    ratios: Mapping[str, float] | str | Path | None = None,
    sensitivity: Mapping[str, float] | str | Path | None = None,
    criterion: CriterionLike = "group-l2",
    reduction: str = "mean",
    normalizer: str = "auto",
    calibration: Any = None,
    preprocess: str | Path | Preprocess | Mapping[str, Any] | None = None,
    calibration_samples: int | None = 1024,
    lossless: bool | None = None,
    round_to: int | str | None = None,
    steps: int = 1,
    max_ratio: float = 1.0,
    exact_only: bool = False,
    only: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    common_choice: bool = False,
    input_shapes: Shapes | None = None,
    rules: Sequence[str | Path] = (),
    threads: int = 1,
    progress: Progress | None = None,
) -> Plan:
    """Choose channels, and stop there. The arguments are those of `prune`."""
    budget = Budget(
        ratio,
        scope,
        round_to,
        max_ratio,
        target,
        read_numbers(ratios, "ratios"),
        read_numbers(sensitivity, "sensitivity"),
        steps,
    )
    chooser = Filter(
        _several(only), exact_only, _several(include), _several(exclude), common_choice
    )
    data = _calibration(calibration, preprocess, calibration_samples, input_shapes)
    importance = Importance(criterion, reduction, normalizer, data)
    work = _Work(model_or_path, rules, progress)
    work.empty(chooser, data if lossless else None, lossless)
    planner = work.planner(budget, chooser, importance, input_shapes, threads)
    if lossless and ratio is None and target is None and ratios is None:
        return work.emptied_plan(planner)
    return work.plan(planner)


def apply(
    model_or_path: ModelLike,
    plan: Plan | str | Path,
    *,
    input_shapes: Shapes | None = None,
    calibration: Any = None,
    preprocess: str | Path | Preprocess | Mapping[str, Any] | None = None,
    calibration_samples: int | None = 1024,
    reconstruct: bool = False,
    rules: Sequence[str | Path] = (),
    threads: int = 1,
    verify: bool = True,
    benchmark: bool = False,
    eval: str | None = None,
    metric: str | None = None,
    max_drop: float | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> Result:
    """Carry out a plan, on the model that it was made for or another of the same structure.

    Raises PlanMismatch where it does not fit; else as `prune`.
    """
    made = plan if isinstance(plan, Plan) else Plan.load(plan)
    work = _Work(model_or_path, rules, progress)
    work.empty_again(made)
    rebuilt = None
    if reconstruct:
        data = _calibration(calibration, preprocess, calibration_samples, input_shapes, seed)
        rebuilder = Rebuilder.of(data, threads, seed, progress)

        def rebuilt(choice: Choice) -> Outcome:
            return rebuilder.refit(work.network, choice)

    return work.carry_out(
        made,
        rebuilt=rebuilt,
        input_shapes=input_shapes,
        threads=threads,
        verified=verify,
        timed=benchmark,
        evaluated=eval,
        metric=metric,
        max_drop=max_drop,
        seed=seed,
    )


def permute(
    model_or_path: ModelLike, *, seed: int = 0, rules: Sequence[str | Path] = ()
) -> ModelProto:
    """A twin of the model: every dim that is not pinned permuted at random, the same function."""
    work = _Work(model_or_path, rules, None)
    outer = {group.dim: group.outer for group in work.groups if group.outer is not None}
    twin = rewrite(work.network, permutation(free_dims(work.network), seed, outer))
    saving.inline_all(twin, work.network.model.base_dir)
    return twin


def inspect(model_or_path: ModelLike, *, rules: Sequence[str | Path] = ()) -> Inspection:
    """What of a model could be removed, and what can't be, and why."""
    work = _Work(model_or_path, rules, None)
    return look_into(work.network, work.groups)


def compare(
    a: ModelLike,
    b: ModelLike,
    *,
    rtol: float | None = None,
    atol: float = 0.0,
    input_shapes: Shapes | None = None,
    seed: int = 0,
) -> Comparison:
    """The outputs of two models side by side, on random inputs."""
    return compare_models(
        _runnable(a), _runnable(b), rtol=rtol, atol=atol, input_shapes=input_shapes, seed=seed
    )


def benchmark(
    a: ModelLike,
    b: ModelLike | None = None,
    *,
    threads: int = 1,
    input_shapes: Shapes | None = None,
    seconds: float = 2.0,
) -> Benchmark:
    """The latency of a model, or of two models paired (ms; the speedup is a / b)."""
    return benchmark_models(
        _runnable(a),
        None if b is None else _runnable(b),
        threads=threads,
        input_shapes=input_shapes,
        seconds=seconds,
    )


def operators_without_rule(model_or_path: ModelLike, rules: Mapping[str, Rule]) -> dict[str, int]:
    """The operators of a model that no rule covers, with the number of nodes of each."""
    names = Counter(
        operator_name(node.domain, node.op_type)
        for graph in graphs(load(model_or_path).proto.graph)
        for node in graph.node
    )
    return {
        name: n for name, n in sorted(names.items()) if name not in rules and name != "Constant"
    }


def files_of(model: str | Path) -> list[Path]:
    """The files that a model is made of: its own, and those that hold its weights."""
    return saving.sources(load(model))


def _several(given: Sequence[Any] | str | Path) -> tuple[Any, ...]:
    """A role, glob or path that is given alone is one, not a sequence of letters."""
    return (given,) if isinstance(given, (str, Path)) else tuple(given)


def _calibration(
    source: Any,
    preprocess: str | Path | Preprocess | Mapping[str, Any] | None,
    samples: int | None,
    shapes: Shapes | None = None,
    seed: int = 0,
) -> CalibrationData | None:
    """What a user says of calibration data, or None where that is nothing."""
    if source is None:
        if preprocess is not None:
            raise UsageError("a preprocessing specification is for images: give --calibration, too")
        return None
    return CalibrationData(source, preprocess_of(preprocess), samples, shapes, seed)


def _runnable(model: ModelLike) -> ModelProto | Path:
    """What the runtime takes: a path is left to it, anything else becomes a ModelProto."""
    if isinstance(model, (str, Path)):
        load(model)  # for its messages: broken and foreign files are named as such
        return Path(model)
    return model if isinstance(model, ModelProto) else load(model).proto


def _paced(work: _Work, planner: Planner, carried_out: Callable[[Plan], Result]) -> Result:
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
    result, number, speedup = not_slower(first, _at_best, wider, 0 if fixed else _WIDENINGS)
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


def _at_best(result: Result) -> float | None:
    """The speedup that the measurement does not rule out, None without a measurement."""
    latency = result.report.latency
    return latency.interval[1] if latency is not None and latency.interval is not None else None


#: How often a target of time is corrected after the final measurement.
_CONFIRMATIONS = 3
#: How often the steps of rounding are doubled where a model turns out slower.
_WIDENINGS = 3
#: A model slower than this (of the original's speed, at best) is not given to anybody.
_MUCH_SLOWER = 0.97


class _Work:
    """One model on its way through the stages."""

    def __init__(
        self, source: ModelLike, rules: Sequence[str | Path], progress: Progress | None
    ) -> None:
        self.progress = progress or (lambda _: None)
        self.timings: dict[str, float] = {}
        self.notes: list[str] = []
        self.rules = rules
        self.options: dict[str, Any] = {}
        self.name = str(source) if isinstance(source, (str, Path)) else "the model"
        with self._stage("load"):
            self.model = self.original = load(source)
        self.emptied = Emptied()
        self.lossless = "off"
        self._read()

    def _read(self) -> None:
        """Read the axes of the model, and find its groups."""
        with self._stage("read axes"):
            self.network = infer(self.model, with_user_rules(_several(self.rules)))
        with self._stage("group"):
            self.groups: list[Group] = find_groups(self.network)
            exact = exact_dims(self.network)
            for group in self.groups:
                group.exact = group.dim in exact

    @contextmanager
    def _stage(self, name: str) -> Iterator[None]:
        self.progress(name)
        start = time.perf_counter()
        with readable(self.name):
            yield
        self.timings[name] = round(time.perf_counter() - start, 4)

    def empty(self, chooser: Filter, data: CalibrationData | None, lossless: bool | None) -> None:
        """Fold away the channels that carry nothing, unless that is switched off."""
        if lossless is False:
            return
        self.lossless = "only" if lossless else "first"
        opened = None if data is None else data.open(self.model.proto, self.model.base_dir)
        self._empty(chooser.apply(self.network, self.groups), opened)

    def empty_again(self, made: Plan) -> None:
        """Fold away what carries nothing in the groups of a plan that was made so."""
        if made.options.get("lossless", "off") != "off":
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
        return make_plan(
            self.network, planner.groups, kept, planner.scores, self.options, __version__
        )

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
            raise UsageError(f"{threads} threads")
        groups = chooser.apply(self.network, self.groups)
        if not groups:
            raise NotPrunable(self._why_not(bool(self.groups)))
        with self._stage("score"):
            scores = self.emptied.last(groups, importance.scores(self.network, groups))
            self.notes = list(importance.notes)

        def rescore(pruned: ModelProto) -> dict[str, Scores]:
            with self._stage("score again"):
                later = _Work(pruned, self.rules, None)
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
        made = make_plan(
            self.network, planner.groups, kept, planner.scores, self.options, __version__
        )
        if not made.groups:
            raise NotPrunable(
                "no group loses a channel at this ratio, rounding and bound; use a larger --ratio"
                " or a smaller --round-to"
            )
        return made

    def rebuilt(self, planner: Planner, rebuilder: Rebuilder) -> tuple[Plan, Outcome]:
        """Choose what is kept by what reconstruction can't mend; the plan, and what came out."""
        with self._stage("reconstruct"):
            kept, outcome = rebuilder.choose(planner)
        made = make_plan(
            self.network, planner.groups, kept, planner.scores, self.options, __version__
        )
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
            raise UsageError(f"{threads} threads")
        if max_drop is not None and not evaluated:
            raise UsageError("--max-drop needs --eval: data to measure the drop on")
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
            file = first.path or first.proto
            report.before = count(file, shapes, loaded=first.proto, without=first.copies)
            report.after = count(pruned, shapes)
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
