"""The command line: each verb parses, calls one function of the public API, and prints.

Exit codes: 0 done; 1 a check failed or the output could not be written (nothing is left half
written); 2 usage; 3 nothing can be pruned, or the model is not supported; 4 the file is broken or
can't be read; 130 interrupted.
"""

from __future__ import annotations

import math
import os
import sys
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, TypeVar

import click
from rich.console import Console

from . import api, display, html, saving
from .budgets import DEFAULT_RATIO
from .configuration import Verb, configure
from .criteria import criterion_of, described
from .dot import dot as as_dot
from .errors import OnnxPruneError, UsageError
from .importance import NORMALIZERS, REDUCTIONS
from .metrics import METRICS
from .plans import Plan
from .profiling import profile
from .ranking import SCOPES
from .tables import ROLES, operator_name, with_user_rules
from .version import __version__
from .work import Result

F = TypeVar("F", bound=Callable[..., Any])

_HELP = {"help_option_names": ["-h", "--help"], "max_content_width": 100}


class _Command(click.Group):
    """Turns errors into one line and an exit code; tracebacks are for `-vv`."""

    command_class = Verb

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except OnnxPruneError as error:
            _fail(ctx, str(error), error.exit_code)
        except (KeyboardInterrupt, click.Abort):
            _fail(ctx, "interrupted; nothing was written", 130)
        except BrokenPipeError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            ctx.exit(0)
        except MemoryError:
            _fail(ctx, "out of memory; nothing was written", 1)
        except click.exceptions.Exit:
            raise
        except click.ClickException as error:
            command = (
                error.ctx.command_path if isinstance(error, click.UsageError) and error.ctx else ""
            )
            hint = f" (see `{command} --help`)" if command else ""
            _fail(ctx, " ".join(error.format_message().split()) + hint, error.exit_code)
        except Exception as error:
            if _verbosity(ctx) < 2:
                kind = type(error).__name__
                _fail(
                    ctx,
                    f"a fault of onnxprune ({kind}: {' '.join(str(error).split())[:200]});"
                    " nothing was written. Please report it with the output of -vv",
                    1,
                )
            raise


def _fail(ctx: click.Context, message: str, code: int) -> None:
    if _verbosity(ctx) >= 2:
        traceback.print_exc()
    click.echo(f"onnxprune: {display.printable(message)}", err=True)
    ctx.exit(code)


def _verbosity(ctx: click.Context) -> int:
    """How many `-v` were given, before the verb or behind it."""
    return int(ctx.find_root().meta.get("onnxprune.verbose", 0))


def _more_verbose(ctx: click.Context, _: click.Parameter, count: int) -> None:
    ctx.find_root().meta["onnxprune.verbose"] = _verbosity(ctx) + count


def _be_quiet(ctx: click.Context, _: click.Parameter, quiet: bool) -> None:
    ctx.find_root().meta["onnxprune.quiet"] = quiet


_VERBOSE = click.option(
    "-v",
    "--verbose",
    count=True,
    expose_value=False,
    is_eager=True,
    callback=_more_verbose,
    help="-vv shows tracebacks.",
)


def _shapes(_: click.Context, __: click.Parameter, given: Sequence[str]) -> dict[str, list[int]]:
    shapes = {}
    for text in given:
        for each in text.split(";"):
            name, _sep, dims = each.rpartition(":")
            try:
                shapes[name] = [int(dim) for dim in dims.replace("x", ",").split(",")]
            except ValueError:
                name = ""
            if not name or min(shapes[name]) < 1:
                raise click.BadParameter(f"{each!r}; write NAME:1,3,224,224")
    return shapes


def _round_to(_: click.Context, __: click.Parameter, value: str | None) -> int | str | None:
    if value is None or value == "auto":
        return value
    try:
        number = int(value)
    except ValueError:
        number = 0
    if number < 1:
        raise click.BadParameter(f"{value!r}; write a number of channels of 1 and more, or auto")
    return number


def _together(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _ratio(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and (not (0 < value < 1) or math.isnan(value)):
        raise click.BadParameter(f"{value} is outside of (0, 1); 0.5 removes half of each group")
    return value


def _criterion(_: click.Context, __: click.Parameter, value: str) -> str:
    try:
        criterion_of(value)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None
    return value


_MODEL = click.argument("model", type=click.Path(path_type=Path))
_RULES = click.option(
    "--rules",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="TOML tables of operators.",
)
_SHAPES = click.option(
    "--input-shapes",
    multiple=True,
    callback=_shapes,
    metavar="NAME:1,3,224,224",
    help="Sizes of dynamic dimensions, in checks and measurements.",
)
_THREADS = click.option(
    "--threads", default=1, show_default=True, type=click.IntRange(min=1), help="For measuring."
)
_COMMON = _together(
    click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout."),
    click.option(
        "-q",
        "--quiet",
        is_flag=True,
        callback=_be_quiet,
        expose_value=False,
        help="Say nothing, unless something fails.",
    ),
    click.option(
        "--config",
        type=click.Path(path_type=Path),
        metavar="FILE.toml",
        is_eager=True,
        expose_value=False,
        callback=configure,
        help="Options by name; else [tool.onnxprune] of pyproject.toml. Flags win.",
    ),
    _VERBOSE,
)
_CALIBRATION = _together(
    click.option(
        "--calibration",
        metavar="SOURCE",
        help="Inputs for criteria that look at activations: .npz, .npy, a folder, or `synthetic`.",
    ),
    click.option(
        "--preprocess",
        metavar="SPEC",
        help="For images: imagenet, size=256,crop=224,mean=…,std=…,layout=…,range=…, or a file.",
    ),
    click.option(
        "--calibration-samples",
        default=1024,
        show_default=True,
        type=click.IntRange(min=1),
        help="The most of them to use, evenly spread.",
    ),
)
_RECONSTRUCT = click.option(
    "--reconstruct",
    is_flag=True,
    help="Refit what reads removed channels, by least squares on --calibration; choose by that.",
)
_CHOICE = _together(
    click.option(
        "--ratio",
        type=float,
        callback=_ratio,
        help="Share of channels to remove: 0.5 (the default) keeps half of each group.",
    ),
    click.option(
        "--target",
        metavar="WHAT=AMOUNT",
        help="What the model may cost, instead of a ratio: macs=0.5 (kept), params=0.4,"
        " bytes=20MB, latency=0.5, latency=8ms or speedup=2.",
    ),
    click.option(
        "--scope",
        default="local",
        show_default=True,
        type=click.Choice(SCOPES),
        help="Take the share from each group, from all channels together, or from groups of the"
        " same structure together.",
    ),
    click.option(
        "--ratios",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help='Ratios of single groups, TOML or JSON: "layer1*" = 0.3.',
    ),
    click.option(
        "--sensitivity",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help='Factors of single groups\' scores, TOML or JSON: "layer1*" = 2.5.',
    ),
    click.option(
        "--criterion",
        default="group-l2",
        show_default=True,
        metavar="NAME",
        callback=_criterion,
        help=f"How channels are scored: {'; '.join(f'{k}: {v}' for k, v in described().items())}.",
    ),
    _CALIBRATION,
    click.option(
        "--reduction",
        default="mean",
        show_default=True,
        type=click.Choice(list(REDUCTIONS)),
        help="How the members of a group make one score.",
    ),
    click.option(
        "--normalizer",
        default="auto",
        show_default=True,
        type=click.Choice(["auto", *NORMALIZERS]),
        help="How the scores of a group are scaled; auto is as the criterion wants it.",
    ),
    click.option(
        "--lossless/--no-lossless",
        default=None,
        help="Remove only channels that carry nothing (dead, constant, duplicates); or not even"
        " these first.",
    ),
    click.option(
        "--round-to",
        metavar="N|auto",
        callback=_round_to,
        help="Leave widths in multiples of N, or as is fast by measurement (auto). By default 16"
        " for convolutions and 8 for matrix products; 1 for none.",
    ),
    click.option(
        "--steps",
        default=1,
        show_default=True,
        type=click.IntRange(min=1),
        help="Prune in so many stages, with scores computed anew in between.",
    ),
    click.option(
        "--max-ratio",
        default=1.0,
        show_default=True,
        type=click.FloatRange(0, 1, min_open=True),
        help="The largest share that one group may lose.",
    ),
    click.option("--exact-only", is_flag=True, help="Only groups where removing equals masking."),
    click.option(
        "--only", multiple=True, type=click.Choice(ROLES), help="Only groups of this role."
    ),
    click.option("--include", multiple=True, metavar="GLOB", help="Only these layers."),
    click.option(
        "--exclude",
        multiple=True,
        metavar="GLOB",
        help="Layers to leave as they are.",
    ),
    click.option(
        "--common-choice",
        is_flag=True,
        help="Remove the same channels from all heads and all groups of a convolution.",
    ),
    _RULES,
)
_FORCE = click.option("--force", is_flag=True, help="Replace an output that exists.")
_REPORT = click.option(
    "--report",
    type=click.Path(path_type=Path),
    metavar="FILE.html",
    help="Write what there is to see as one HTML file, too.",
)
_OUTPUT = click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Where to."
)
_OUTPUT_OR_CHECK = _together(
    click.option(
        "-o",
        "--output",
        type=click.Path(path_type=Path),
        help="Where to; --check needs none.",
    ),
    click.option(
        "--check",
        is_flag=True,
        help="Only say by the exit code whether anything would be pruned: 0 if so, 3 if not.",
    ),
)
_NO_PROVENANCE = click.option(
    "--no-provenance",
    is_flag=True,
    help="Leave the hashes of model and plan out of the output's metadata.",
)
_EVAL = _together(
    click.option(
        "--eval",
        "evaluated",
        metavar="FILE.npz[:LABELS]|MODULE:FUNCTION",
        help="Report accuracy before and after, on samples or by a function of a session.",
    ),
    click.option(
        "--metric", type=click.Choice(list(METRICS)), help="What --eval counts [by the labels]."
    ),
)
_CHECKS = _together(
    _FORCE,
    _NO_PROVENANCE,
    _REPORT,
    _SHAPES,
    _THREADS,
    click.option("--no-verify", is_flag=True, help="Skip the checks and certificates."),
    click.option("--no-benchmark", is_flag=True, help="Skip measuring latency."),
    _EVAL,
    click.option(
        "--max-drop",
        type=click.FloatRange(min=0),
        metavar="POINTS",
        help="Fail, and write nothing, where --eval loses more than this.",
    ),
    _COMMON,
)


@click.group(cls=_Command, context_settings=_HELP, epilog=__doc__.split("\n\n", 1)[1])
@click.version_option(__version__, "-V", "--version", prog_name="onnxprune")
@_VERBOSE
def main() -> None:
    """Structural pruning of exported ONNX files, of any architecture, from any framework."""


def _console(stderr: bool) -> Console:
    # Wide where nothing shows it: a log or a pipe must not be folded at 80 columns.
    stream = sys.stderr if stderr else sys.stdout
    width = None if stream.isatty() else 160
    ctx = click.get_current_context(silent=True)
    quiet = ctx is not None and bool(ctx.find_root().meta.get("onnxprune.quiet"))
    return Console(stderr=stderr, width=width, highlight=False, quiet=quiet)


@contextmanager
def _progress(as_json: bool) -> Iterator[Callable[[str], None]]:
    """A word on each stage, on stderr, where somebody is looking."""
    console = _console(stderr=True)
    if as_json or not console.is_terminal:
        yield lambda stage: None
        return
    with console.status("") as status:
        yield lambda stage: status.update(f"{stage} …")


@main.command()
@_MODEL
@_OUTPUT_OR_CHECK
@_CHECKS
@_CHOICE
@_RECONSTRUCT
@click.option(
    "--search",
    is_flag=True,
    help="Find the smallest model that --max-drop lets pass, up to the given ratio or target.",
)
@click.option("--plan-out", type=click.Path(path_type=Path), help="Write the plan as JSON, too.")
def prune(
    model: Path,
    output: Path | None,
    check: bool,
    force: bool,
    no_provenance: bool,
    report: Path | None,
    input_shapes: dict[str, list[int]],
    threads: int,
    no_verify: bool,
    no_benchmark: bool,
    evaluated: str | None,
    metric: str | None,
    max_drop: float | None,
    as_json: bool,
    plan_out: Path | None,
    search: bool,
    **choice: Any,
) -> None:
    """Prune MODEL: choose channels, remove them, prove the cut, measure.

    Example: onnxprune prune model.onnx -o smaller.onnx --ratio 0.5
    """
    if check and evaluated is None:
        del choice["reconstruct"]
        return _only_check(model, choice, as_json, input_shapes, threads)
    output = None if check else _needed(output)
    if output is not None:
        _check_targets([output, plan_out, report], [model], force)
    if report:
        html.require()
    with _progress(as_json) as progress:
        result = (api.search if search else api.prune)(
            model,
            **choice,
            input_shapes=input_shapes,
            threads=threads,
            verify=not no_verify,
            benchmark=not no_benchmark,
            eval=evaluated,
            metric=metric,
            max_drop=max_drop,
            provenance=not no_provenance,
            progress=progress,
        )
        if output is None:
            return  # --check with --eval: it would pass
        further = _further(input_shapes, threads, evaluated, metric, choice["rules"])
        beside = {plan_out: result.plan.to_json().encode()} if plan_out else {}
        if report:
            progress("report")
            if choice["lossless"] and choice["ratio"] == DEFAULT_RATIO:
                further["ratio"] = choice["ratio"]  # said, it is more than what --lossless removes
            beside[report] = html.of_result(result, output, further)
        _save(result, output, force, beside)
    _tell(result, as_json)


def _needed(output: Path | None) -> Path:
    if output is None:
        raise click.UsageError("Missing option '-o' / '--output'.", click.get_current_context())
    return output


def _only_check(
    model: Path,
    choice: Mapping[str, Any],
    as_json: bool,
    input_shapes: dict[str, list[int]],
    threads: int,
) -> None:
    """Raises NotPrunable (exit code 3) where nothing would be removed; says and writes nothing."""
    with _progress(as_json) as progress:
        api.plan(model, **choice, input_shapes=input_shapes, threads=threads, progress=progress)


def _save(result: Result, output: Path, force: bool, beside: Mapping[Path, bytes]) -> None:
    """All files or none: what can't be written shows before anything is in its place."""
    with ExitStack() as stack:
        for path, data in beside.items():
            stack.enter_context(saving.pending(path, data))
        result.save(output, force=force)


def _further(
    input_shapes: dict[str, list[int]],
    threads: int,
    evaluated: str | None,
    metric: str | None,
    rules: Sequence[str],
) -> dict[str, Any]:
    """Options that a plan does not hold, as the report's command line has them."""
    shapes = [f"{name}:{','.join(map(str, dims))}" for name, dims in input_shapes.items()]
    return {
        "input-shapes": shapes,
        "threads": threads if threads > 1 else None,
        "eval": evaluated,
        "metric": metric,
        "rules": rules,
    }


def _check_targets(outputs: Sequence[Path | None], sources: Sequence[Path], force: bool) -> None:
    given = [output for output in outputs if output is not None]
    if force and any(output.is_file() for output in given):
        sources = [*api.files_of(sources[0]), *sources]  # an output may be there, but no weights
    for output in given:
        saving.check_target(output, sources, force)
    taken = [*given, saving.data_file(given[0])]
    if len({output.resolve() for output in taken}) < len(taken):
        raise UsageError(f"{given[0]}: the plan, the report and the model can't be one file")


def _tell(result: Result, as_json: bool) -> None:
    if as_json:
        click.echo(display.document(result.report.to_dict()))
    else:
        display.show_report(_console(stderr=True), result.report)


@main.command()
@_MODEL
@_OUTPUT_OR_CHECK
@_FORCE
@_CHOICE
@_SHAPES
@_THREADS
@_COMMON
def plan(
    model: Path, output: Path | None, check: bool, force: bool, as_json: bool, **choice: Any
) -> None:
    """Choose channels of MODEL and write the plan, without carrying it out.

    Example: onnxprune plan model.onnx -o plan.json --ratio 0.3
    """
    if check:
        return _only_check(
            model, choice, as_json, choice.pop("input_shapes"), choice.pop("threads")
        )
    output = _needed(output)
    _check_targets([output], [model], force)
    with _progress(as_json) as progress:
        made = api.plan(model, **choice, progress=progress)
    made.save(output)
    if as_json:
        click.echo(display.document(made.to_dict()))
    else:
        console = _console(stderr=True)
        display.show_plan(console, made)
        console.print(f"Written to [bold]{display.safe(output)}[/].")


@main.command()
@_MODEL
@click.argument("plan_file", metavar="PLAN", type=click.Path(path_type=Path))
@_OUTPUT
@_CHECKS
@_CALIBRATION
@_RECONSTRUCT
@_RULES
def apply(
    model: Path,
    plan_file: Path,
    output: Path,
    force: bool,
    no_provenance: bool,
    report: Path | None,
    input_shapes: dict[str, list[int]],
    threads: int,
    no_verify: bool,
    no_benchmark: bool,
    evaluated: str | None,
    metric: str | None,
    max_drop: float | None,
    as_json: bool,
    rules: Sequence[str],
    **calibration: Any,
) -> None:
    """Carry out a PLAN on MODEL, or on another model of the same structure.

    Example: onnxprune apply finetuned.onnx plan.json -o smaller.onnx
    """
    _check_targets([output, report], [model, plan_file], force)
    if report:
        html.require()
    with _progress(as_json) as progress:
        result = api.apply(
            model,
            Plan.load(plan_file),
            input_shapes=input_shapes,
            rules=rules,
            threads=threads,
            verify=not no_verify,
            benchmark=not no_benchmark,
            eval=evaluated,
            metric=metric,
            max_drop=max_drop,
            provenance=not no_provenance,
            **calibration,
            progress=progress,
        )
        beside = {}
        if report:
            progress("report")
            further = _further(input_shapes, threads, evaluated, metric, rules)
            beside[report] = html.of_result(result, output, further, plan_file)
        _save(result, output, force, beside)
    _tell(result, as_json)


@main.command()
@_MODEL
@_OUTPUT
@click.option(
    "--structure",
    default="channels",
    show_default=True,
    metavar="channels|unstructured|N:M|block:RxC",
    help="What is zeroed: whole channels, or weights one by one, N:M (2:4) or in blocks (4x1).",
)
@_FORCE
@_CHOICE
@_SHAPES
@_THREADS
@click.option("--no-verify", is_flag=True, help="Skip the checks.")
@_EVAL
@_NO_PROVENANCE
@_COMMON
def mask(
    model: Path,
    output: Path,
    force: bool,
    no_verify: bool,
    evaluated: str | None,
    no_provenance: bool,
    as_json: bool,
    **choice: Any,
) -> None:
    """Zero what MODEL would lose, instead of removing it; no speed comes of that by itself.

    Example: onnxprune mask model.onnx -o masked.onnx --structure 2:4
    """
    _check_targets([output], [model], force)
    with _progress(as_json) as progress:
        found = api.mask(
            model,
            **choice,
            verify=not no_verify,
            eval=evaluated,
            provenance=not no_provenance,
            progress=progress,
        )
        found.save(output, force=force)
    if as_json:
        click.echo(display.document(found.report.to_dict()))
    else:
        display.show_mask(_console(stderr=True), found.report)


@main.command()
@_MODEL
@_RULES
@click.option("--all", "everything", is_flag=True, help="Every member, place and node.")
@click.option(
    "--group",
    "groups",
    multiple=True,
    metavar="GLOB",
    help="Only these groups, by name or by a member, with all that is in them.",
)
@click.option(
    "--dot",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="Write the dependency graph for Graphviz, too.",
)
@click.option("--force", is_flag=True, help="Replace a --dot file that exists.")
@_COMMON
def inspect(
    model: Path,
    rules: Sequence[str],
    everything: bool,
    groups: Sequence[str],
    dot: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Show what of MODEL could be removed, and why the rest can't.

    Example: onnxprune inspect model.onnx; onnxprune inspect model.onnx --group '*fc1*'
    """
    if dot is not None:
        _check_targets([dot], [model], force)
    found = api.inspect(model, rules=rules)
    if groups:
        found = found.select(groups)
    if dot is not None:
        saving.write_atomically(dot, as_dot(found).encode())
    if as_json:
        click.echo(display.document(found.to_dict()))
    elif groups:
        display.show_groups(_console(stderr=False), found)
    else:
        display.show_inspection(_console(stderr=False), found, everything)


@main.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path))
@click.option("--rtol", type=click.FloatRange(min=0), help="Relative to the largest value.")
@click.option("--atol", default=0.0, show_default=True, type=click.FloatRange(min=0))
@_SHAPES
@_REPORT
@_FORCE
@_COMMON
@click.pass_context
def compare(
    ctx: click.Context,
    a: Path,
    b: Path,
    rtol: float | None,
    atol: float,
    input_shapes: dict[str, list[int]],
    report: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Compare the outputs of A and B on random inputs; exit code 1 where they differ.

    Example: onnxprune compare model.onnx twin.onnx --rtol 1e-4
    """
    if report:
        _check_targets([report], [a, b], force)
        html.require()
    found = api.compare(a, b, rtol=rtol, atol=atol, input_shapes=input_shapes)
    if report:
        saving.write_atomically(report, html.of_comparison(found, [str(a), str(b)]))
    if as_json:
        click.echo(display.document(found.to_dict()))
    else:
        display.show_comparison(_console(stderr=False), found)
    ctx.exit(0 if found.ok else 1)


@main.command()
@click.argument("a", type=click.Path(path_type=Path))
@click.argument("b", type=click.Path(path_type=Path), required=False)
@_SHAPES
@_THREADS
@click.option("--seconds", default=2.0, show_default=True, type=click.FloatRange(0, min_open=True))
@_REPORT
@_FORCE
@_COMMON
def bench(
    a: Path,
    b: Path | None,
    input_shapes: dict[str, list[int]],
    threads: int,
    seconds: float,
    report: Path | None,
    force: bool,
    as_json: bool,
) -> None:
    """Measure the latency of A, or of A and B in paired rounds.

    Example: onnxprune bench model.onnx smaller.onnx --threads 2
    """
    names = [str(each) for each in (a, b) if each is not None]
    if report:
        _check_targets([report], [each for each in (a, b) if each is not None], force)
        html.require()
    with _progress(as_json) as progress:
        progress("benchmark")
        found = api.benchmark(a, b, threads=threads, input_shapes=input_shapes, seconds=seconds)
        if report:
            progress("report")
            profiled = profile(a, b, threads=threads, input_shapes=found.shapes)
            saving.write_atomically(report, html.of_benchmark(found, names, profiled))
    if as_json:
        click.echo(display.document(found.to_dict()))
    else:
        display.show_benchmark(_console(stderr=False), found, names)


@main.command("rules")
@click.argument("operator", required=False)
@click.option("--missing", type=click.Path(path_type=Path), help="What MODEL has without one.")
@click.option("--coverage", is_flag=True, help="Count what is known of every operator there is.")
@_RULES
@_COMMON
def show_rules(
    operator: str | None,
    missing: Path | None,
    coverage: bool,
    rules: Sequence[str],
    as_json: bool,
) -> None:
    """Show what is known of an OPERATOR, or of all.

    Example: onnxprune rules Conv; onnxprune rules --missing model.onnx
    """
    known = with_user_rules(rules)
    if coverage:
        found = api.coverage(known)
        if as_json:
            click.echo(display.document({each.domain: each.to_dict() for each in found}))
        else:
            display.show_coverage(_console(stderr=False), found)
        return
    if missing is not None:
        names = api.operators_without_rule(missing, known)
        if as_json:
            click.echo(display.document(names))
        else:
            click.echo(
                "\n".join(f"{display.printable(name)}: {n} nodes" for name, n in names.items())
                or "every operator of this model has a rule"
            )
        return
    if operator is not None and operator not in known:
        raise UsageError(
            f"no rule for {operator!r}; contrib operators are called like"
            f" {operator_name('com.microsoft', 'FusedConv')!r}"
        )
    chosen = [known[operator]] if operator else [known[name] for name in sorted(known)]
    if as_json:
        click.echo(display.document({rule.name: rule.to_dict() for rule in chosen}))
    else:
        display.show_rules(_console(stderr=False), chosen)
