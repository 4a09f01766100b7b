"""Options that several verbs have, and how their values are read."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import click

from ..configuration import configure
from ..criteria import criterion_of, described, spellings
from ..errors import UsageError
from ..importance import NORMALIZERS, REDUCTIONS
from ..metrics import METRICS
from ..ranking import SCOPES
from ..tables import ROLES
from ..training.settings import settings_of
from .exits import more_verbose
from .limits import LIMITS
from .numbers import Number, Whole

F = TypeVar("F", bound=Callable[..., Any])


def _be_quiet(ctx: click.Context, _: click.Parameter, quiet: bool) -> None:
    ctx.find_root().meta["onnxprune.quiet"] = quiet


VERBOSE = click.option(
    "-v",
    "--verbose",
    count=True,
    expose_value=False,
    is_eager=True,
    callback=more_verbose,
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


def together(*options: Callable[[F], F]) -> Callable[[F], F]:
    def decorate(function: F) -> F:
        for option in reversed(options):
            function = option(function)
        return function

    return decorate


def _ratio(_: click.Context, __: click.Parameter, value: float | None) -> float | None:
    if value is not None and (not (0 < value < 1) or math.isnan(value)):
        raise click.BadParameter(f"{value} is outside of (0, 1); 0.5 removes half of each group")
    return value


def _length(_: click.Context, __: click.Parameter, value: str | None) -> str | None:
    try:
        settings_of(value)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None
    return value


def _page(_: click.Context, __: click.Parameter, file: Path | None) -> Path | None:
    if file is not None and file.suffix.lower() not in (".html", ".htm"):
        raise click.BadParameter(
            f"{str(file)!r}; the report is HTML: write a name that ends in .html"
        )
    return file


def completing(
    names: Iterable[str],
) -> Callable[[click.Context, click.Parameter, str], list[str]]:
    """What the shell offers for an option: these names, behind the last comma."""

    def offered(_: click.Context, __: click.Parameter, typed: str) -> list[str]:
        before, comma, last = typed.rpartition(",")
        return [before + comma + name for name in names if name.startswith(last)]

    return offered


def _criterion(_: click.Context, __: click.Parameter, value: str) -> str:
    try:
        criterion_of(value)
    except UsageError as error:
        raise click.BadParameter(str(error)) from None
    return value


#: Criteria as far as they are names: an argument comes behind a colon.
CRITERIA_STARTS = tuple(text.partition(":")[0] + ":" * (":" in text) for text in spellings())

MODEL = click.argument("model", type=click.Path(path_type=Path))
RULES = click.option(
    "--rules",
    multiple=True,
    type=click.Path(),
    metavar="FILE",
    help="TOML tables of operators.",
)
SHAPES = click.option(
    "--input-shapes",
    multiple=True,
    callback=_shapes,
    metavar="NAME:1,3,224,224",
    help="Sizes of dynamic dimensions, in checks and measurements.",
)
THREADS = click.option(
    "--threads", default=1, show_default=True, type=Whole(min=1), help="For measuring."
)
SETTINGS = together(
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
    *LIMITS,
    VERBOSE,
)
COMMON = together(
    click.option("--json", "as_json", is_flag=True, help="One JSON document on stdout."), SETTINGS
)
CALIBRATION = together(
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
        type=Whole(min=1),
        help="The most of them to use, evenly spread.",
    ),
)
RECONSTRUCT = click.option(
    "--reconstruct",
    is_flag=True,
    help="Refit what reads removed channels, by least squares on --calibration; choose by that.",
)
RESUME = click.option(
    "--resume",
    is_flag=True,
    help="Go on where a run like this was stopped in --reconstruct.",
)
REFINE = together(
    click.option(
        "--finetune",
        callback=_length,
        metavar="N|MINUTES",
        help="Then train what is left to do what the model did, on all of --calibration: epochs"
        " (30), or how long (20min). Needs torch.",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on where a run like this was stopped in --reconstruct or --finetune.",
    ),
    click.option(
        "--rewind",
        type=click.Path(path_type=Path),
        metavar="INIT",
        help="Take the weights that are left from an earlier checkpoint of MODEL.",
    ),
)
SCORES = together(
    click.option(
        "--criterion",
        default="group-l2",
        show_default=True,
        metavar="NAME",
        callback=_criterion,
        shell_complete=completing(CRITERIA_STARTS),
        help=f"How channels are scored: {'; '.join(f'{k}: {v}' for k, v in described().items())}.",
    ),
    CALIBRATION,
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
)
FILTERS = together(
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
    RULES,
)
CHOICE = together(
    click.option(
        "--ratio",
        type=Number(),
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
    SCORES,
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
        type=Whole(min=1),
        help="Prune in so many stages, with scores computed anew in between.",
    ),
    click.option(
        "--max-ratio",
        default=1.0,
        show_default=True,
        type=Number(0, 1, min_open=True),
        help="The largest share that one group may lose.",
    ),
    FILTERS,
)
FORCE = click.option("--force", is_flag=True, help="Replace an output that exists.")
REPORT = click.option(
    "--report",
    type=click.Path(path_type=Path),
    callback=_page,
    metavar="FILE.html",
    help="Write what there is to see as one HTML file, too.",
)
OUTPUT = click.option(
    "-o", "--output", required=True, type=click.Path(path_type=Path), help="Where to."
)
OUTPUT_OR_CHECK = together(
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
NO_PROVENANCE = click.option(
    "--no-provenance",
    is_flag=True,
    help="Leave the hashes of model and plan out of the output's metadata.",
)
EVAL = together(
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
CHECKS = together(
    FORCE,
    NO_PROVENANCE,
    REPORT,
    SHAPES,
    THREADS,
    click.option("--no-verify", is_flag=True, help="Skip the checks and certificates."),
    click.option("--no-benchmark", is_flag=True, help="Skip measuring latency."),
    EVAL,
    click.option(
        "--max-drop",
        type=Number(min=0),
        metavar="POINTS",
        help="Fail, and write nothing, where --eval loses more than this.",
    ),
    COMMON,
)
JOURNAL = together(
    click.option(
        "--journal",
        type=click.Path(path_type=Path),
        metavar="FILE",
        help="Where finished trials are noted [default: a file in the cache].",
    ),
    click.option(
        "--resume",
        is_flag=True,
        help="Go on where the journal ends: no finished trial is repeated.",
    ),
)
PLOT = click.option(
    "--plot",
    type=click.Path(path_type=Path),
    metavar="FILE.png|svg|pdf",
    help="Write the plot, too.",
)
JSON_FILE = click.option(
    "--json",
    "as_json",
    is_flag=False,
    flag_value="-",
    metavar="[FILE]",
    help="All results as JSON: in a file, or on stdout (-) instead of the table.",
)


def shares(_: click.Context, __: click.Parameter, given: Sequence[str]) -> list[float]:
    """Numbers in (0, 1), one by one or with commas between them."""
    found = []
    for each in listed(given):
        try:
            found.append(float(each))
        except ValueError:
            raise click.BadParameter(f"{each!r} is no number; write 0.1,0.25,0.5") from None
        if not 0 < found[-1] < 1:
            raise click.BadParameter(f"{each} is outside of (0, 1); 0.5 is half of the channels")
    return found


def listed(given: Sequence[str]) -> list[str]:
    """What stands between commas, in one option or in several."""
    return [part.strip() for each in given for part in str(each).split(",") if part.strip()]
