"""The template filled in: one HTML file with its style, its plots and the JSON report in it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..comparison import Comparison
from ..display import document, number, percent, printable
from ..errors import UsageError
from ..latency import Benchmark
from ..model import Model
from ..profiling import Profile, profile
from ..wire import pieces
from ..words import counted
from ..work import Result
from . import facts, plots
from .replay import apply_command, command

#: Groups beyond these have no histogram: a page of thousands helps nobody.
_HISTOGRAMS = 200
_NBSP = "\N{NO-BREAK SPACE}"
#: What a page may show; the template leaves out what it is not given.
_PARTS = (
    *("report", "certificate", "groups", "layers", "operators", "pinned", "replay", "names"),
    *("benchmark", "comparison", "cards", "plot", "replay_notes", "trials"),
)


def require() -> None:
    """Raise UsageError where what pages are made with is not installed: before work is done."""
    try:
        import jinja2  # noqa: F401
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"--report needs jinja2 and matplotlib ({error}): pip install 'onnxprune[report]'"
        ) from error


def of_result(
    result: Result,
    output: str | Path,
    further: Mapping[str, Any] | None = None,
    applied: str | Path | None = None,
) -> bytes:
    """The page of a pruned model that is to be written to `output`.

    Operators are profiled here, where latency was measured; profile, hashes and versions go into
    `result.report`, so that the page and the report say the same.

    `further` are options of the command that the plan does not hold, `applied` is the plan's file
    where a plan was carried out.

    Raises UsageError where jinja2 or matplotlib is missing.
    """
    require()
    report, network = result.report, result._network
    model = network.model
    report.output = str(output)
    if report.latency and report.profile is None:
        report.profile = profile(
            model.proto,
            result._pruned,
            threads=report.latency.threads,
            input_shapes=report.latency.shapes,
            base_dir=model.base_dir,
        )
    report.versions = facts.versions()
    report.sha256 = _hashes(result, model)
    groups = facts.groups(report, result.plan)
    drawn = 0
    for group in groups:
        if group.removed_scores and drawn < _HISTOGRAMS:
            svg, words = plots.histogram(group.kept_scores, group.removed_scores)
            group.histogram, group.histogram_words = markup(svg), words
            drawn += bool(svg)
    refitted = {"reconstruct": report.reconstruction is not None, **(further or {})}
    line, notes = command(report.options, report.model, str(output), refitted)
    if applied is not None:
        notes.insert(0, f"The plan was made so: {line}")
        line = apply_command(report.model, str(applied), str(output), refitted)
    return page(
        kind="prune",
        heading=Path(report.model).name or "the model",
        report=report,
        cards=facts.cards(report),
        certificate=facts.certificate_words(report.certificate) if report.certificate else None,
        groups=groups,
        layers=facts.layers(network, result.plan),
        operators=report.profile,
        plot=_plot(report.profile),
        pinned=facts.pinned(network),
        replay=line,
        replay_notes=notes,
        json=report.to_dict(),
        versions=report.versions,
    )


def of_benchmark(found: Benchmark, names: Sequence[str], profiled: Profile | None = None) -> bytes:
    """The page of a measurement of one model or two. Raises UsageError as `of_result`."""
    require()
    versions = facts.versions()
    return page(
        kind="bench",
        heading=" and ".join(Path(name).name for name in names),
        names=names,
        cards=list(facts.latency_cards(found)),
        benchmark=found,
        operators=profiled,
        plot=_plot(profiled),
        json={
            **found.to_dict(),
            "profile": profiled.to_dict() if profiled else None,
            "versions": versions,
        },
        versions=versions,
    )


def of_comparison(found: Comparison, names: Sequence[str]) -> bytes:
    """The page of a comparison of two models. Raises UsageError as `of_result`."""
    require()
    versions = facts.versions()
    return page(
        kind="compare",
        heading=" and ".join(Path(name).name for name in names),
        names=names,
        comparison=found,
        json={**found.to_dict(), "versions": versions},
        versions=versions,
    )


def _plot(profiled: Profile | None) -> Any:
    return markup(plots.operators(profiled.operators)) if profiled else ""


def _hashes(result: Result, model: Model) -> dict[str, str]:
    """Of the input, the output and the plan; of weights in other files nothing is known."""
    found = {"model": model.sha256} if model.sha256 else {}
    if not model.external:
        found["output"] = facts.sha256(pieces(result._pruned))
    found["plan"] = facts.sha256([result.plan.to_json().encode()])
    return found


def markup(text: str) -> Any:
    """Text that is HTML already: of our own making, never from a model."""
    from markupsafe import Markup

    return Markup(text)


def _json(value: Any) -> Any:
    """A JSON document that may stand in a <script>: nothing in it can end that."""
    text = document(value)
    for character in "<>&":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return markup(text)


def page(**context: Any) -> bytes:
    """The template with what it is given; what it is not given, it leaves out."""
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def shown(value: Any) -> Any:
        """Without what is invisible, or turns the direction of a text."""
        if not isinstance(value, str) or isinstance(value, Markup):
            return value
        return _NBSP.join(printable(part) for part in value.split(_NBSP))

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=StrictUndefined,
        finalize=shown,
    )
    environment.filters["counted"] = counted
    environment.filters["document"] = _json
    environment.filters["number"] = number
    environment.filters["percent"] = percent
    text = environment.get_template("page.html.j2").render({**dict.fromkeys(_PARTS), **context})
    return str(text).encode("utf-8", "replace")
