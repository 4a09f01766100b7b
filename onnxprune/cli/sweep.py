"""`onnxprune sweep`."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import click

from .. import api, display, figures, html, saving
from ..configuration import Verb
from ..errors import CheckFailed
from ..ranking import SCOPES
from ..sweeps import grid as grids
from ..sweeps.backends import NAMES
from ..sweeps.results import COSTS, SweepReport
from ..work import Result
from .numbers import Number, Whole
from .options import (
    CALIBRATION,
    CRITERIA_STARTS,
    EVAL,
    FILTERS,
    FORCE,
    JOURNAL,
    JSON_FILE,
    MODEL,
    PLOT,
    REPORT,
    SETTINGS,
    SHAPES,
    THREADS,
    F,
    completing,
    listed,
    shares,
)
from .printing import bar, console_on
from .writing import check_targets, further_options


def _several(_: click.Context, __: click.Parameter, given: Sequence[str]) -> list[str]:
    return listed(given)


def _widths(_: click.Context, __: click.Parameter, given: Sequence[str]) -> list[int | str]:
    found: list[int | str] = []
    for each in listed(given):
        if each != "auto" and not each.isdecimal():
            raise click.BadParameter(f"{each!r}; write numbers of channels, or auto")
        found.append(each if each == "auto" else int(each))
    return found


def _of(name: str, **more: Any) -> Callable[[F], F]:
    """An option that takes several values: repeated, or with commas between them."""
    return click.option(name, multiple=True, **{"callback": _several, **more})


@click.command(cls=Verb)
@MODEL
@click.option(
    "-o", "--output", type=click.Path(path_type=Path), help="Where the chosen model goes."
)
@click.option(
    "--grid",
    type=click.Path(path_type=Path),
    metavar="FILE.toml|yaml",
    help="Options of `prune` with the values to try, each with each; flags win.",
)
@_of("--ratio", callback=shares, metavar="RATIO[,…]", help="Ratios to try.")
@_of("--target", metavar="WHAT=AMOUNT[,…]", help="Targets to try: macs=0.7,macs=0.5.")
@_of(
    "--scope",
    metavar="SCOPE[,…]",
    shell_complete=completing(SCOPES),
    help=f"Scopes to try: {', '.join(SCOPES)}.",
)
@_of(
    "--criterion",
    metavar="NAME[,…]",
    shell_complete=completing(CRITERIA_STARTS),
    help="Criteria to try, as `prune --criterion` takes them.",
)
@_of("--round-to", callback=_widths, metavar="N|auto[,…]", help="Roundings of widths to try.")
@click.option("--reconstruct", is_flag=True, help="Refit every trial on --calibration.")
@click.option(
    "--cost",
    default="macs",
    show_default=True,
    type=click.Choice(list(COSTS)),
    help="What is weighed against accuracy; latency is measured, one model at a time.",
)
@EVAL
@CALIBRATION
@click.option(
    "--max-drop",
    type=Number(),
    metavar="POINTS",
    help="Choose the cheapest that loses no more than this; else the knee of the front.",
)
@click.option(
    "--max-cost",
    type=Number(0, 1, min_open=True),
    metavar="SHARE",
    help="Choose the best that costs no more than this share of the original.",
)
@click.option(
    "--max-latency",
    type=Number(0, min_open=True),
    metavar="MS",
    help="Choose the best that takes no longer; with --cost latency.",
)
@click.option(
    "--backend",
    default="local",
    show_default=True,
    type=click.Choice(NAMES),
    help="Where trials run: all cores of this machine, or a cluster.",
)
@click.option("--scheduler", metavar="ADDRESS", help="Of the cluster: tcp://HOST:8786 for dask.")
@click.option(
    "--jobs",
    type=Whole(min=1),
    help="Trials at a time on this machine [default: one for each core].",
)
@JOURNAL
@click.option(
    "--csv", "table", type=click.Path(path_type=Path), metavar="FILE", help="Write all results."
)
@PLOT
@REPORT
@FORCE
@FILTERS
@SHAPES
@THREADS
@JSON_FILE
@SETTINGS
def sweep(
    model: Path,
    output: Path | None,
    grid: Path | None,
    journal: Path | None,
    table: Path | None,
    plot: Path | None,
    report: Path | None,
    force: bool,
    as_json: str | None,
    **options: Any,
) -> None:
    """Prune MODEL in many ways, and choose the best.

    That is what loses least for what it costs.

    Without flags or --grid: ratios from 0.1 to 0.7, local and global.

    Example: onnxprune sweep model.onnx -o chosen.onnx --eval test.npz --plot front.png
    """
    document = None if as_json in (None, "-") else Path(as_json)
    check_targets([output, plot, report, document, table], [model], force)
    if plot:
        figures.require(plot)
    if report:
        html.require()
    shared = _shared(options)
    choices = _grid(grid, options)
    with bar() as (progress, told), ExitStack() as stack:
        found = api.sweep(
            model,
            choices,
            journal=journal or True,
            told=told,
            **shared,
            **{name: options[name] for name in _OF_SWEEP},
        )
        further = {
            **{name.replace("_", "-"): shared[name] for name in _SAID},
            **further_options(
                shared["input_shapes"],
                shared["threads"],
                shared["eval"],
                shared["metric"],
                shared["rules"],
            ),
        }
        result = None
        if found.chosen is not None:
            found.command = _command(found, output, further)
        if found.chosen is not None and output is not None:
            progress(f"make {output}")
            result = _made(model, found, shared, options["max_drop"], options["max_latency"])
            found.output = str(output)
        files: dict[Path | None, Any] = {
            document: lambda: display.document(found.to_dict()) + "\n",
            table: found.to_csv,
            plot: lambda: figures.rendered(figures.of_sweep(found), plot or Path()),
            report: lambda: html.of_sweep(found),
        }
        for path, content in files.items():
            if path is not None:
                made = content()
                data = made if isinstance(made, bytes) else made.encode()
                stack.enter_context(saving.pending(path, data))
        if result is not None and output is not None:
            result.save(output, force=force)
    if as_json == "-":
        click.echo(display.document(found.to_dict()))
    else:
        display.show_sweep(console_on(stderr=False), found)
    if result is not None:
        display.show_report(console_on(stderr=True), result.report)
    for path in files:
        if path is not None:
            console_on(stderr=True).print(f"Written to [bold]{display.safe(path)}[/].")
    if found.unmet is not None:
        raise CheckFailed(found.unmet + (f"; {output} was not written" if output else ""))


#: What `api.sweep` has besides what all trials share.
_OF_SWEEP = (
    "cost",
    "max_drop",
    "max_cost",
    "max_latency",
    "backend",
    "jobs",
    "scheduler",
    "resume",
)
_SHARED = ("calibration", "preprocess", "calibration_samples", "metric", "input_shapes", "rules")
#: What else a command that makes the chosen model has to say.
_SAID = ("calibration", "preprocess")


def _shared(options: Mapping[str, Any]) -> dict[str, Any]:
    found = {name: options[name] for name in (*_SHARED, "threads")}
    return {**found, "eval": options["evaluated"]}


def _grid(file: Path | None, options: Mapping[str, Any]) -> dict[str, Any]:
    """The table of what is tried: the file's, the flags', or the default."""
    table = grids.read_grid(file) if file else {}
    given = {name: options[name] for name in ("scope", "criterion", "round_to") if options[name]}
    budgets = {name: options[name] for name in ("ratio", "target") if options[name]}
    if budgets:
        table.pop("ratio", None)
        table.pop("target", None)
    if not file and not budgets:
        given = {**grids.DEFAULT, **given}
    for name in ("reconstruct", "exact_only", "common_choice"):
        if options[name]:
            given[name] = True
    for name in ("only", "include", "exclude"):
        if options[name]:
            given[name] = list(options[name])
    # A file may spell its names as flags are spelled; what both say, the flag says.
    known = {name.replace("-", "_"): value for name, value in table.items()}
    return {**known, **given, **budgets}


def _made(
    model: Path,
    found: SweepReport,
    shared: Mapping[str, Any],
    max_drop: float | None,
    max_ms: float | None,
) -> Result:
    """The chosen model made once more, with all checks and certificates."""
    chosen = found.of(str(found.chosen))
    bound = max_drop if shared["eval"] else None  # without labels it was held in the trial
    result = api.prune(model, **chosen.options, **shared, max_drop=bound)
    latency = result.report.latency
    ms = latency.b.median if latency is not None and latency.b is not None else 0.0
    if max_ms is not None and ms > _AGAIN * max_ms:
        raise CheckFailed(
            f"the chosen model took {ms:.3g} ms when it was measured again, and {max_ms:g} are"
            " allowed; nothing was written"
        )
    return result


#: A measurement made again may differ by so much.
_AGAIN = 1.05


def _command(found: SweepReport, output: Path | None, further: Mapping[str, Any]) -> str | None:
    """The command that makes the chosen model; None where one line can't say it."""
    words = ["onnxprune", "prune", found.model, "-o", str(output or "chosen.onnx")]
    for name, value in {**found.of(str(found.chosen)).options, **further}.items():
        flag = f"--{name.replace('_', '-')}"
        if isinstance(value, Mapping):
            return None
        if value is False:
            words.append(f"--no-{name}")
        elif value is True:
            words.append(flag)
        else:
            several = value if isinstance(value, (list, tuple)) else [value]
            for each in several:
                if each is not None:
                    words += [flag, str(each)]
    return shlex.join(words)
