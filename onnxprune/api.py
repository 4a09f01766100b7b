"""The public functions: each does one whole job, as the command of its name does."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from inspect import signature
from pathlib import Path
from typing import Any

from onnx import ModelProto

from . import saving
from .attribution import group_times
from .bisection import Trial, eased, smallest
from .budgets import Budget, read_numbers
from .calibration import CalibrationData
from .certify import permutation
from .comparison import Comparison
from .comparison import compare as compare_models
from .coverage import coverage as coverage
from .criteria import CriterionLike
from .errors import CheckFailed, NotPrunable, UsageError
from .evaluation import check_gate
from .filters import Filter
from .groups import free_dims
from .importance import Importance
from .inspection import Inspection, look_into, timed, weigh
from .iterating import iterated
from .latency import Benchmark
from .latency import benchmark as benchmark_models
from .loading import ModelLike, load
from .masking import Masked, masked
from .model import graphs
from .plans import Plan
from .preprocess import Preprocess, preprocess_of
from .rebuilding import Rebuilder
from .reconstruction import Kept, keeping
from .report import target_result
from .rewrite import rewrite
from .sensitivities import SHARES, Sensitivity, Told, measure_groups
from .sparsity import pattern_of
from .sweeps.backends import backend_of
from .sweeps.driver import run as run_sweep
from .sweeps.grid import DEFAULT, read_grid, trials_of
from .sweeps.results import COSTS, SweepReport, choose, collect
from .sweeps.setting import Setting
from .tables import Rule, operator_name
from .teaching import Teaching, TrainResult
from .teaching import finetune as finetune_model
from .teaching import train as train_model
from .training.settings import Settings, settings_of
from .trials.identity import identity_of
from .trials.journal import journal_of
from .trust import trust
from .words import counted
from .work import Progress, Rebuilt, Result, Shapes, Work, at_best, paced, several


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
    rewind: ModelLike | None = None,
    finetune: int | str | Settings | None = None,
    journal: bool | Kept = False,
    resume: bool = False,
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
    provenance: bool = True,
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
            criterion only sets what the model costs). Without calibration data, the mean of what
            is removed goes into biases, where batch normalisation tells it.
        rewind: an earlier checkpoint of the same structure: channels are chosen on the model, and
            their weights taken from there (Frankle et al., "Linear Mode Connectivity and the
            Lottery Ticket Hypothesis", 2020).
        finetune: train what is left to do what the model did: epochs (30), minutes ("20min"), or
            `training.settings.Settings`. On the calibration data, all of it; needs torch.
        journal: note each step of `reconstruct` in the user's cache until the result is saved, for
            `resume` to go on from.
        resume: where a run like this was stopped while it refitted or trained, go on from there, to
            the same result.
        lossless: channels that carry nothing (dead, constant, duplicates) go first, and what they
            did is folded into the operators behind them. True: nothing else is removed, unless a
            ratio or a target is given. False: not looked for.
        round_to: widths are left in multiples of this, and never below it; None is 16 for
            convolutions and 8 for matrix products (a group of fewer than four such steps takes a
            smaller power of two), `auto` widths that are fast as measured in onnxruntime.
        steps: prune in so many stages, with scores computed anew in between; with `finetune`, each
            stage is refitted and trained as well.
        max_ratio: the largest share that one group may lose.
        exact_only: leave alone the groups in which removing is not the same as masking.
        only: roles to prune: heads, head-dim, ffn, hidden, channels.
        include: globs over names of nodes and initializers: these layers only.
        exclude: globs of layers to leave alone; an excluded layer keeps its inputs and its outputs.
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
        provenance: write hashes of the original and the plan into the result's `metadata_props`.
        seed: of the random inputs and permutations in the checks.
        progress: called with a word on each stage.

    Raises:
        UsageError, NotPrunable, UnsupportedModel, BrokenModel, CheckFailed: see `errors`.
    """
    settings = settings_of(finetune)
    check_gate(eval, max_drop)
    if rewind is not None and reconstruct:
        raise UsageError("--rewind takes weights from another file: --reconstruct can't refit them")
    if settings is not None and calibration is None:
        raise UsageError("--finetune learns from data: give --calibration, too")
    if settings is not None and steps > 1:
        given = dict(locals())
        options = {name: given[name] for name in _PRUNE if name not in _STEPWISE}
        with keeping(journal, resume) as kept:
            options["journal"] = kept or False
            result = iterated(prune, model_or_path, ratio, target, steps, settings, options)
            return result.keep(kept)
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
    chooser = Filter(several(only), exact_only, several(include), several(exclude), common_choice)
    data = _calibration(calibration, preprocess, calibration_samples, input_shapes, seed)
    if data is not None and settings is not None:
        # What judges the training must be new to the model that it begins with.
        data = replace(data, every=settings.every)
    importance = Importance(criterion, reduction, normalizer, data)
    work = Work(model_or_path, rules, progress)
    work.provenance = provenance
    work.empty(chooser, data if reconstruct or lossless else None, lossless)
    planner = work.planner(budget, chooser, importance, input_shapes, threads, seed)
    evaluation: dict[str, Any] = {"evaluated": eval, "metric": metric, "max_drop": max_drop}
    # What is trained afterwards is judged afterwards.
    judged = evaluation if settings is None else dict.fromkeys(evaluation)

    def carried_out(made: Plan, rebuilt: Rebuilt | None = None) -> Result:
        return work.carry_out(
            made,
            rebuilt=rebuilt,
            input_shapes=input_shapes,
            threads=threads,
            verified=verify,
            timed=benchmark,
            **judged,
            seed=seed,
        )

    with keeping(reconstruct and data is not None and journal, resume and reconstruct) as kept:
        if lossless and ratio is None and target is None and ratios is None:
            result = carried_out(work.emptied_plan(planner))
            speedup = at_best(result)
            if speedup is not None and speedup < 1:
                result.report.notes.append(
                    "widths that are no multiples of 16 or 8 are slow; --round-to 16 keeps as many"
                    " empty channels as fill them up"
                )
        elif reconstruct and data is not None:
            rebuilder = Rebuilder(data, seed, progress, kept)
            made, outcome = work.rebuilt(planner, rebuilder)
            result = carried_out(made, lambda _: outcome)
            result.report.notes += planner.notes
            result.report.target = target_result(budget.goal, result.report)
        elif rewind is not None:
            earlier = Work(rewind, rules, progress)
            result = paced(work, planner, lambda made: carried_out(made, earlier.rewound(made)))
        elif reconstruct:
            result = paced(work, planner, lambda made: carried_out(made, work.compensated))
        else:
            result = paced(work, planner, carried_out)
        if settings is not None and data is not None:
            whole = replace(data, samples=None, every=0)
            teaching = Teaching(whole, settings, resume=resume, progress=work.progress)
            result = work.retrained(
                result,
                lambda choice, pruned: teaching.refine(work, choice, pruned),
                input_shapes=input_shapes,
                threads=threads,
                **evaluation,
                seed=seed,
            )
        return result.keep(kept)


#: The arguments of `prune`, and those of them that are not the same in each of several stages.
_PRUNE = tuple(signature(prune).parameters)
_STEPWISE = ("model_or_path", "ratio", "target", "steps", "finetune")


def search(
    model_or_path: ModelLike,
    *,
    eval: str | None,
    max_drop: float | None,
    ratio: float | None = None,
    target: str | None = None,
    verify: bool = True,
    benchmark: bool = True,
    journal: bool | Kept = False,
    resume: bool = False,
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

    with keeping(journal, resume) as kept:

        def attempt(pressure: float) -> Trial[dict[str, Any]] | None:
            budget: dict[str, Any] = dict(eased(ratio, target, pressure))
            words = ", ".join(f"{key} {value}" for key, value in budget.items())
            tell(f"search: {words}")
            try:
                found = prune(
                    model_or_path,
                    eval=eval,
                    **budget,
                    verify=False,
                    benchmark=False,
                    journal=kept or False,
                    resume=resume,
                    **options,
                )
            except (CheckFailed, NotPrunable):
                return None  # there is no model of this budget
            assert found.report.evaluation is not None
            return Trial(pressure, found.report.evaluation.drop, budget)

        best, trials = smallest(attempt, max_drop)
        if best is None:
            least = min((trial.drop for trial in trials), default=math.nan)
            raise CheckFailed(
                f"nothing was found that loses no more than {counted(max_drop, 'point')}; the"
                f" least that was lost is {least:.2f}; nothing was written"
            )
        result = prune(
            model_or_path,
            eval=eval,
            max_drop=max_drop,
            **best.result,
            verify=verify,
            benchmark=benchmark,
            journal=kept or False,
            resume=resume,
            progress=progress,
            **options,
        )
        result.report.trials = [{**trial.result, "drop": trial.drop} for trial in trials]
        return result.keep(kept)


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
    chooser = Filter(several(only), exact_only, several(include), several(exclude), common_choice)
    data = _calibration(calibration, preprocess, calibration_samples, input_shapes)
    importance = Importance(criterion, reduction, normalizer, data)
    work = Work(model_or_path, rules, progress)
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
    journal: bool = False,
    resume: bool = False,
    rules: Sequence[str | Path] = (),
    threads: int = 1,
    verify: bool = True,
    benchmark: bool = False,
    eval: str | None = None,
    metric: str | None = None,
    max_drop: float | None = None,
    provenance: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
) -> Result:
    """Carry out a plan, on the model that it was made for or another of the same structure.

    Raises PlanMismatch where it does not fit; else as `prune`.
    """
    made = plan if isinstance(plan, Plan) else Plan.load(plan)
    work = Work(model_or_path, rules, progress)
    work.provenance = provenance
    work.empty_again(made)
    rebuilt: Rebuilt | None = None
    with keeping(reconstruct and journal, reconstruct and resume) as kept:
        if reconstruct:
            data = _calibration(calibration, preprocess, calibration_samples, input_shapes, seed)
            rebuilder = None if data is None else Rebuilder(data, seed, progress, kept)
            rebuilt = work.refitting(rebuilder)
        result = work.carry_out(
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
        return result.keep(kept)


def mask(
    model_or_path: ModelLike,
    *,
    structure: str = "channels",
    ratio: float | None = None,
    scope: str = "local",
    criterion: CriterionLike = "group-l2",
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    input_shapes: Shapes | None = None,
    rules: Sequence[str | Path] = (),
    threads: int = 1,
    verify: bool = True,
    eval: str | None = None,
    metric: str | None = None,
    provenance: bool = True,
    seed: int = 0,
    progress: Progress | None = None,
    **choice: Any,
) -> Masked:
    """Zero what would be removed, and leave all sizes as they are. No speed comes of it.

    Args:
        structure: `channels` zeroes what `plan` would remove, and takes all of its arguments (but
            no `lossless`); `unstructured` the smallest weights, `2:4` (or any N:M) all but the N
            largest of M neighbours along the axis that is summed over, `block:4x1` the tiles (of
            outputs x inputs) of the least norm, in matrix products and convolutions.
        ratio: the share that goes (0.5); not with N:M, which says it.
        scope: `local` in each weight, `global` in all together.
        criterion: with single weights `group-l1`, `group-l2` or `group-lp:P`: magnitude, and how it
            is summed in blocks.
        include: globs over names of nodes and weights: these only.
        exclude: globs of those to leave alone.

    Raises as `prune`; NotPrunable where no weight fits the structure.
    """
    pattern = pattern_of(structure)
    made: Plan | None = None
    if pattern.kind == "channels":
        if choice.pop("lossless", None) is True:
            raise UsageError("a mask removes nothing: --lossless is for prune and plan")
        made = plan(
            model_or_path,
            ratio=ratio,
            scope=scope,
            criterion=criterion,
            lossless=False,
            include=include,
            exclude=exclude,
            input_shapes=input_shapes,
            rules=rules,
            threads=threads,
            progress=progress,
            **choice,
        )
    elif given := [name for name, value in choice.items() if value not in _UNSET.get(name, ())]:
        word = "--" + given[0].replace("_", "-")
        raise UsageError(f"{word} is about channels; structure {structure} has no use for it")
    elif pattern.kind == "n:m" and ratio is not None:
        raise UsageError(f"--ratio: {structure} says by itself how much goes")
    elif scope == "isomorphic":
        raise UsageError("--scope isomorphic is about groups; single weights are local or global")
    if ratio is not None and not 0 < ratio < 1:
        raise UsageError(f"ratio {ratio} is outside of (0, 1)")
    work = Work(model_or_path, rules, progress)
    work.provenance = provenance
    return masked(
        work,
        pattern,
        plan=made,
        ratio=0.5 if ratio is None else ratio,
        scope=scope,
        criterion=criterion,
        include=several(include),
        exclude=several(exclude),
        input_shapes=input_shapes,
        threads=threads,
        verified=verify,
        evaluated=eval,
        metric=metric,
        seed=seed,
    )


#: Arguments of `plan` that mean nothing for single weights, with the values that say nothing.
_UNSET: dict[str, tuple[Any, ...]] = {
    **dict.fromkeys(["target", "ratios", "sensitivity", "calibration", "preprocess"], (None,)),
    **{"calibration_samples": (None, 1024), "reduction": ("mean",), "normalizer": ("auto",)},
    **{"lossless": (None, False), "round_to": (None,), "steps": (1,), "max_ratio": (1.0,)},
    **{"exact_only": (False,), "only": ((), []), "common_choice": (False,)},
}


def sensitivity(
    model_or_path: ModelLike,
    *,
    at: Sequence[float] = SHARES,
    criterion: CriterionLike = "group-l2",
    reduction: str = "mean",
    normalizer: str = "auto",
    calibration: Any = None,
    preprocess: str | Path | Preprocess | Mapping[str, Any] | None = None,
    calibration_samples: int | None = 1024,
    reconstruct: bool = False,
    eval: str | None = None,
    metric: str | None = None,
    exact_only: bool = False,
    only: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    common_choice: bool = False,
    input_shapes: Shapes | None = None,
    rules: Sequence[str | Path] = (),
    threads: int = 1,
    seed: int = 0,
    journal: str | Path | bool = False,
    resume: bool = False,
    progress: Progress | None = None,
    told: Told | None = None,
) -> Sensitivity:
    """What the outputs lose when a share of one group's channels goes: of each group, by itself.

    Args:
        at: the shares of a group's channels that go, in (0, 1).
        calibration: inputs to measure on without `eval`, and to refit on; made-up ones if there
            are none.
        reconstruct: measure each cut as it is and refitted as well. Without `eval`, a quarter of
            the calibration data is for measuring and the rest for refitting.
        eval: labelled samples or a function, as for `prune`; else the outputs' relative error is
            measured.
        journal: where finished trials are noted: a file, or True for one in the user's cache.
        resume: go on where the journal ends.
        told: called after each trial: how many are done, of how many, the time left in words.

    The other arguments are those of `prune`.

    Raises Interrupted on Ctrl-C where there is a journal; else as `prune`.
    """
    chooser = Filter(several(only), exact_only, several(include), several(exclude), common_choice)
    data = _calibration(calibration, preprocess, calibration_samples, input_shapes, seed)
    importance = Importance(criterion, reduction, normalizer, data)
    work = Work(model_or_path, rules, progress)
    options = {
        **importance.options(),
        "reconstruct": reconstruct,
        "eval": eval,
        "metric": metric,
        "common_choice": common_choice,
        "input_shapes": dict(input_shapes or {}),
        "seed": seed,
    }
    identity = identity_of(work.original, options, [*several(rules), eval, calibration])
    with journal_of("sensitivity", identity, work.name, options, journal, resume) as kept:
        planner = work.planner(
            Budget(0.5, round_to=1), chooser, importance, input_shapes, threads, seed
        )
        work.options = options
        tell = told or (lambda done, total, left: None)
        return measure_groups(
            work,
            planner,
            at,
            evaluated=eval,
            metric=metric,
            data=data,
            refit=reconstruct,
            threads=threads,
            seed=seed,
            journal=kept,
            tell=tell,
        )


def sweep(
    model: str | Path,
    grid: Mapping[str, Any] | str | Path | None = None,
    *,
    cost: str = "macs",
    calibration: str | Path | None = None,
    preprocess: str | Path | Preprocess | Mapping[str, Any] | None = None,
    calibration_samples: int | None = 1024,
    eval: str | None = None,
    metric: str | None = None,
    max_drop: float | None = None,
    max_cost: float | None = None,
    max_latency: float | None = None,
    input_shapes: Shapes | None = None,
    rules: Sequence[str | Path] = (),
    threads: int = 1,
    seed: int = 0,
    backend: str = "local",
    jobs: int | None = None,
    scheduler: str | None = None,
    journal: str | Path | bool = False,
    resume: bool = False,
    told: Told | None = None,
) -> SweepReport:
    """Prune a model in many ways, and find which of them lose least for what they cost.

    Args:
        model: a path: trials run in other processes, or on other machines.
        grid: options of `prune` with the values to try, each with each; a TOML or YAML file of
            them (see `sweeps.grid`); ratios of 0.1 to 0.7, local and global, if there is none.
        cost: what is weighed against accuracy: macs, latency, params or bytes.
        calibration: inputs for criteria and refitting; without `eval`, outputs are compared on
            them, or on made-up ones if there are none.
        eval: labelled samples or a function, as for `prune`; else agreement with the original.
        max_drop: choose the cheapest model that loses no more points.
        max_cost: choose the best that costs no more than this share of the original.
        max_latency: choose the best that takes no longer (ms). Without any of the three, the knee
            of the front is chosen.
        backend: local (the cores of this machine), dask or ray.
        jobs: how many trials run at a time on this machine; None for one on each core.
        scheduler: the address of a cluster.
        journal: where finished trials are noted: a file, or True for one in the user's cache.
        resume: go on where the journal ends.
        told: called after each trial: how many are done, of how many, the time left in words.

    `report.of(report.chosen).options` are what `prune` makes the chosen model with; where no model
    is within the bounds, none is chosen, and `report.unmet` says why.

    Raises CheckFailed where no trial came to a model at all; else as `sensitivity`.
    """
    if cost not in COSTS:
        raise UsageError(f"unknown cost {cost!r}; known are {', '.join(COSTS)}")
    if max_latency is not None and cost != "latency":
        raise UsageError("--max-latency is of what is measured: give --cost latency, too")
    data = _calibration(calibration, preprocess, calibration_samples, input_shapes, seed)
    setting = Setting(
        str(model),
        eval,
        metric,
        None if calibration is None else str(calibration),
        None if data is None else data.preprocess,
        calibration_samples,
        tuple(str(rule) for rule in several(rules)),
        tuple((name, tuple(sizes)) for name, sizes in (input_shapes or {}).items()),
        threads,
        seed,
    )
    table = read_grid(Path(grid)) if isinstance(grid, (str, Path)) else grid
    trials = trials_of(DEFAULT if table is None else table, data)
    judge = setting.judge()  # what does not fit is said now, and not by every trial
    source = judge.data if isinstance(judge.data, str) else judge.data.source
    identity = identity_of(load(model), setting.options(), [*setting.rules, eval, calibration])
    runner = backend_of(backend, setting, identity, jobs=jobs, address=scheduler)
    tell = told or (lambda done, total, left: None)
    with (
        journal_of("sweep", identity, str(model), setting.options(), journal, resume) as kept,
        runner as running,
    ):
        pruned, timed = run_sweep(trials, running, kept, cost == "latency", tell)
    report = collect(str(model), trials, pruned, timed, cost, source)
    choose(report, max_drop, max_cost, max_latency)
    return report


def finetune(
    model_or_path: ModelLike,
    teacher: ModelLike,
    data: Any,
    *,
    plan: Plan | str | Path | None = None,
    labels: str = "",
    preprocess: str | Path | Preprocess | Mapping[str, Any] | None = None,
    samples: int | None = None,
    settings: Settings | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    eval: str | None = None,
    metric: str | None = None,
    max_drop: float | None = None,
    rules: Sequence[str | Path] = (),
    threads: int = 1,
    provenance: bool = True,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a pruned model to give the outputs of the one that it came from. Needs torch.

    The result is never worse than the model was, on the samples held out.

    Args:
        model_or_path: the pruned model.
        teacher: the original.
        data: inputs, as calibration data (see `calibration`); no labels are needed.
        plan: what was pruned: then tensors inside both models are compared as well.
        labels: the name of labels in `data`, which are then used, too; "" for one of the usual
            names (`labels`, `y`), if there is one.
        samples: the most to use of the data; None for all.
        settings: how it is trained; see `training.settings.Settings`.
        checkpoint: where a run that is stopped goes on from with `resume`: a file, or one in the
            user's cache.
        eval: labelled samples or a function, as for `prune`: measured before and after.
        max_drop: the most points that may be missing to the original, in the end.

    Raises:
        UsageError: torch is missing; models or data don't fit each other.
        UnsupportedModel: an operator has no gradient.
        CheckFailed: the loss is no number, or `max_drop` is missed.
        Interrupted: on Ctrl-C, where a checkpoint was written.
    """
    made = plan if plan is None or isinstance(plan, Plan) else Plan.load(plan)
    return finetune_model(
        model_or_path,
        teacher,
        _teaching(data, preprocess, samples, settings, labels, checkpoint, resume, progress),
        plan=made,
        rules=rules,
        evaluated=eval,
        metric=metric,
        max_drop=max_drop,
        threads=threads,
        provenance=provenance,
    )


def train(
    model_or_path: ModelLike,
    data: Any,
    *,
    sparse: str = "group",
    strength: float = 1.0,
    ratio: float = 0.5,
    labels: str = "",
    preprocess: str | Path | Preprocess | Mapping[str, Any] | None = None,
    samples: int | None = None,
    settings: Settings | None = None,
    checkpoint: str | Path | None = None,
    resume: bool = False,
    only: Sequence[str] = (),
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    eval: str | None = None,
    metric: str | None = None,
    max_drop: float | None = None,
    rules: Sequence[str | Path] = (),
    threads: int = 1,
    provenance: bool = True,
    progress: Progress | None = None,
) -> TrainResult:
    """Train a model so that whole channels become unimportant, before it is pruned. Needs torch.

    Its own outputs are what it is to give in the end as well, and those of labels where there are
    any, while a penalty shrinks the coupled weights of channels.

    Args:
        sparse: `group` (DepGraph's: all coupled weights of the channels that matter least),
            `growing` (a decay that grows, on the share `ratio` of each group's channels),
            `bn-scale` (network slimming), or `none`: to train on labels and no more.
        strength: the weight decay of a channel that is to go, in proportion to the learning rate as
            AdamW's is.
        ratio: the share of channels that `growing` chooses, in (0, 1).

    The other arguments are those of `finetune`, and of `prune`. Raises as `finetune`; NotPrunable
    where there is nothing that the penalty could act on.
    """
    return train_model(
        model_or_path,
        _teaching(data, preprocess, samples, settings, labels, checkpoint, resume, progress),
        Filter(several(only), False, several(include), several(exclude), False),
        sparse=sparse,
        strength=strength,
        ratio=ratio,
        rules=rules,
        evaluated=eval,
        metric=metric,
        max_drop=max_drop,
        threads=threads,
        provenance=provenance,
    )


def _teaching(
    data: Any,
    preprocess: str | Path | Preprocess | Mapping[str, Any] | None,
    samples: int | None,
    settings: Settings | None,
    labels: str,
    checkpoint: str | Path | None,
    resume: bool,
    progress: Progress | None,
) -> Teaching:
    found = _calibration(data, preprocess, samples, None, settings.seed if settings else 0)
    if found is None:
        raise UsageError("training needs data: a .npz, a .npy, a folder, arrays, an iterable")
    return Teaching(
        found,
        settings or Settings(),
        labels,
        None if checkpoint is None else Path(checkpoint),
        resume,
        progress or (lambda _: None),
    )


def permute(
    model_or_path: ModelLike, *, seed: int = 0, rules: Sequence[str | Path] = ()
) -> ModelProto:
    """A twin of the model: every dim that is not pinned permuted at random, the same function."""
    work = Work(model_or_path, rules, None)
    outer = {group.dim: group.outer for group in work.groups if group.outer is not None}
    twin = rewrite(work.network, permutation(free_dims(work.network), seed, outer))
    saving.inline_all(twin, work.network.model.base_dir)
    return twin


def inspect(
    model_or_path: ModelLike,
    *,
    rules: Sequence[str | Path] = (),
    time: bool = False,
    input_shapes: Shapes | None = None,
    threads: int = 1,
    progress: Progress | None = None,
) -> Inspection:
    """What of a model could be removed, and what can't be, and why.

    With `time`, the model is run on random inputs of `input_shapes`, and groups say how long the
    kernels take that work on their channels.
    """
    work = Work(model_or_path, rules, progress)
    found = weigh(look_into(work.network, work.groups), work.network, work.groups)
    if not time:
        return found
    with work._stage("profile"):
        times = group_times(work.network, work.groups, threads=threads, input_shapes=input_shapes)
    return timed(found, times)


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
        loaded = load(model)  # for its messages, too: broken and foreign files are named as such
        if trust().outside_data and loaded.files:  # onnxruntime would refuse such data
            saving.inline_all(loaded.proto, loaded.base_dir)
            return loaded.proto
        return Path(model)
    return model if isinstance(model, ModelProto) else load(model).proto
