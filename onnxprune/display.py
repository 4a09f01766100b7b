"""What the command line prints: tables for people, made with rich."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from .certify import Certificate
from .comparison import Comparison
from .coverage import Coverage
from .evaluation import Evaluation
from .inspection import Inspection
from .latency import Benchmark, Latency
from .masking import MaskReport
from .plans import Plan
from .report import GroupResult, Report
from .sensitivities import Point, Sensitivity
from .sweeps.grid import Trial
from .sweeps.results import SweepReport
from .tables import Rule, operator_name
from .teaching import TrainReport
from .words import counted

_SHOWN = 12
#: In a narrower terminal (columns), or beside times, the table leaves out the members of groups.
_WIDE = 120


def safe(text: object) -> str:
    """Text from a model, without what a terminal would obey."""
    return escape(printable(str(text)))


def printable(text: str) -> str:
    """`text` without control characters, line ends aside."""
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def table(*columns: str, title: str | None = None) -> Table:
    """A plain table; columns that start with `>` are numbers, to the right."""
    made = Table(
        box=SIMPLE_HEAD, title=title, title_justify="left", title_style="bold", pad_edge=False
    )
    for column in columns:
        right = column.startswith(">")
        made.add_column(column.lstrip(">"), justify="right" if right else "left", overflow="fold")
    return made


def number(value: float | None) -> str:
    """A count as people say it: 11.7 M."""
    if value is None:
        return "–"
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e3, " k")):
        if abs(value) >= limit:
            return f"{value / limit:.3g}{unit}"
    return f"{value:.0f}"


def milliseconds(value: float) -> str:
    return f"{value:.3g} ms"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def show_report(console: Console, report: Report) -> None:
    """Before and after, and what was proved."""
    rows = table("", ">before", ">after", ">")
    if report.before and report.after:
        a, b = report.before, report.after
        for name, x, y in (
            ("parameters", a.parameters, b.parameters),
            ("MACs", a.macs, b.macs),
            ("bytes", a.bytes, b.bytes),
        ):
            if x and y is not None:
                rows.add_row(name, number(x), number(y), percent(y / x))
    if report.latency and report.latency.b:
        first, second = report.latency.a, report.latency.b
        rows.add_row(
            "latency, median",
            milliseconds(first.median),
            milliseconds(second.median),
            _speedup(report.latency),
        )
        rows.add_row("latency, p90", milliseconds(first.p90), milliseconds(second.p90), "")
    if report.evaluation:
        _evaluation(rows, report.evaluation)
    console.print(rows)
    pruned = [group for group in report.groups if group.kept < group.size]
    exact = sum(group.kind == "exact" for group in pruned)
    console.print(
        f"{len(pruned)} of {counted(len(report.groups), 'group')} pruned"
        f" ({exact} exact, {len(pruned) - exact} statistical){_own(pruned)}."
    )
    if report.target:
        console.print(f"Target {safe(report.target.text())}.")
    if report.certificate:
        console.print(_certificate(report.certificate))
    if report.latency:
        console.print(
            f"Timed with {counted(report.latency.threads, 'thread')},"
            f" {counted(report.latency.rounds, 'paired round')}."
        )
    for node, operator, reason in report.refused[:3]:
        console.print(f"Left alone: {safe(operator)} {safe(node)}: {safe(reason)}.")
    if len(report.refused) > 3:
        console.print(
            f"… and {counted(len(report.refused) - 3, 'more node')} (see `onnxprune inspect`)."
        )
    for note in report.notes:
        console.print(f"Note: {safe(note)}.")
    if report.output:
        console.print(f"Written to [bold]{safe(report.output)}[/].")


def _own(pruned: Sequence[GroupResult]) -> str:
    """In how many groups each head, or each group of a convolution, kept channels of its own."""
    count = sum(group.choices > 1 for group in pruned)
    return (
        f"; in {count}, each head or convolution group keeps channels of its own" if count else ""
    )


def _speedup(found: Benchmark) -> str:
    if found.speedup is None:
        return ""
    text = (
        f"{found.speedup:.2f} × faster"
        if found.speedup >= 1
        else f"{1 / found.speedup:.2f} × slower"
    )
    if found.interval:
        text += f" [{found.interval[0]:.2f}, {found.interval[1]:.2f}]"
    return text


def _evaluation(rows: Table, found: Evaluation) -> None:
    of = f" of {found.samples:,}" if found.samples else ""
    metrics = dict(found.others)
    if found.metric and found.before is not None and found.after is not None:
        metrics = {found.metric: (found.before, found.after), **metrics}
    for name, (before, after) in metrics.items():
        shares = max(abs(before), abs(after)) <= 1
        change = f"{100 * (after - before):+.1f} points" if shares else f"{after - before:+.4g}"
        shown = [percent(x) if shares else f"{x:.4g}" for x in (before, after)]
        rows.add_row(f"{name}{of}", *shown, change)
    if found.agreement is not None:
        rows.add_row("agreement", "", percent(found.agreement), "")
    if found.metric is None and found.relative_error is not None:
        rows.add_row("outputs' relative error", "", f"{found.relative_error:.2g}", "")


def _certificate(found: Certificate) -> str:
    parts = []
    if found.permutation is not None:
        parts.append(f"permutation {found.permutation:.1e}")
    if found.masking is not None:
        parts.append(f"masking {found.masking:.1e}")
    if found.cut is not None:
        parts.append(f"cut {found.cut:.1e}")
    moved = (
        "gives outputs of other sizes"
        if found.control == math.inf
        else f"moves the outputs by {found.control or 0:.1g}"
    )
    text = (
        f"Certified: {', '.join(parts)} (allowed {found.tolerance:.0e}; a wrong coupling {moved})"
    )
    if found.notes:
        text += "; " + "; ".join(found.notes)
    return text + "."


def show_mask(console: Console, report: MaskReport) -> None:
    """How many zeros there are now, weight by weight."""
    rows = table("weight", "shape", ">zeros before", ">zeros", ">sparsity")
    for each in report.tensors:
        shape = " × ".join(map(str, each.shape))
        zeros = (number(each.zeros_before), number(each.zeros), percent(each.sparsity))
        rows.add_row(safe(each.name), shape, *zeros)
    console.print(rows)
    if report.evaluation:
        rows = table("", ">before", ">after", ">")
        _evaluation(rows, report.evaluation)
        console.print(rows)
    console.print(f"{percent(report.sparsity)} of these weights are zero.")
    for name, reason in report.left.items():
        console.print(f"Left alone: {safe(name)}: {safe(reason)}.")
    for note in report.notes:
        console.print(f"Note: {safe(note)}.")
    if report.output:
        console.print(f"Written to [bold]{safe(report.output)}[/].")


def show_training(console: Console, report: TrainReport) -> None:
    """How the model did on samples held out, and on `--eval`, before and after."""
    found = report.training
    rows = table("", ">before", ">after")
    for name, key in (
        ("accuracy", "accuracy"),
        ("agreement with the original", "agreement"),
        ("distance of outputs", "distance"),
    ):
        before, after = found["before"][key], found["after"][key]
        if before is not None and after is not None:
            shown = (f"{x:.4g}" if key == "distance" else percent(x) for x in (before, after))
            held = found["held_out"]
            on = f"held out ({held:,})" if held else "on what was learned from"
            rows.add_row(f"{name}, {on}", *shown)
    console.print(rows)
    if report.given and report.evaluation:
        for title, each in (("as it came", report.given), ("trained", report.evaluation)):
            rows = table("", ">original", f">{title}", ">")
            _evaluation(rows, each)
            console.print(rows)
    if report.sparsity:
        gone = sum(each["gone"] for each in report.sparsity)
        of = sum(each["channels"] for each in report.sparsity)
        console.print(f"{gone:,} of {of:,} channels are nearly gone.")
    for note in report.notes:
        console.print(f"Note: {safe(note)}.")
    if report.output:
        console.print(f"Written to [bold]{safe(report.output)}[/].")


def show_plan(console: Console, plan: Plan) -> None:
    """What a plan keeps of each group."""
    rows = table("group", "role", ">size", ">kept", ">choices", "kind")
    for group in plan.groups:
        choices = group.outer[1] if group.outer else 1
        cells = (group.size, group.width, choices)
        rows.add_row(safe(group.name), group.role, *map(str, cells), group.kind)
    console.print(rows)


def show_inspection(console: Console, found: Inspection, everything: bool) -> None:
    """Groups, the grouping matrix where it is small, and what is pinned."""
    columns = ["group", "role", ">size", ">choices", "kind", ">parameters", ">MACs"]
    columns += [">time"][: found.ms is not None]
    columns += ["dependencies", "members"]
    if (console.width < _WIDE or found.ms is not None) and not everything:
        columns.pop()
    rows = table(*columns)
    for group in found.groups:
        members = [f"{tensor}:{axis}" for tensor, axis, _ in group.members]
        shown = members if everything else members[:3]
        rest = f" + {len(members) - len(shown)}" if len(members) > len(shown) else ""
        cells = (
            safe(group.name),
            group.role,
            str(group.size),
            str(group.choices),
            group.kind,
            _of(group.parameters, found.parameters),
            _of(group.macs, found.macs),
            *[_time(group.ms, found.ms)][: found.ms is not None],
            ", ".join(group.dependencies),
            safe(" ".join(shown) + rest),
        )
        rows.add_row(*cells[: len(columns)])
    console.print(rows)
    console.print(
        f"{number(found.parameters)} parameters; halving every group leaves"
        f" {percent(found.left_at_half)} of them, and one channel of each"
        f" {percent(found.least_left)}: no less is possible."
    )
    if found.macs and found.macs_left_at_half is not None:
        console.print(
            f"{number(found.macs)} MACs (dynamic sizes as {found.dynamic}); halving leaves"
            f" {percent(found.macs_left_at_half)}, at least"
            f" {percent(found.least_macs_left or 0)}."
        )
    if found.ms is not None:
        _times(console, found.ms, found.ms_elsewhere)
    if 0 < len(found.layers) <= 40 or everything:
        console.print("\n[bold]Grouping matrix[/] (■: coupled layers)")
        for name, row in zip(found.layers, found.matrix(), strict=True):
            console.print(
                "".join("■ " if cell else "· " for cell in row) + safe(name), soft_wrap=True
            )
    if found.pinned:
        rows = table("pinned because", ">weights locked", "where", title="Not prunable")
        locking = [each for each in found.pinned if each.locked or everything]
        for pinned in locking:
            places = pinned.where if everything else pinned.where[:3]
            rest = (
                f" + {len(pinned.where) - len(places)}" if len(pinned.where) > len(places) else ""
            )
            rows.add_row(safe(pinned.reason), number(pinned.locked), safe(", ".join(places) + rest))
        if locking:
            console.print(rows)
        others = [each.reason for each in found.pinned if each not in locking]
        if others:
            console.print(
                f"Single axes stay for other reasons: {safe(', '.join(others[:3]))}"
                + (
                    f" and {counted(len(others) - 3, 'more reason')}; see --all."
                    if len(others) > 3
                    else "."
                )
            )
        _advice(console, found)
    if found.refused:
        rows = table("operator", "node", "reason", title="Left alone")
        for node, operator, reason in found.refused if everything else found.refused[:_SHOWN]:
            rows.add_row(safe(operator), safe(node), safe(reason))
        console.print(rows)
        if not everything and len(found.refused) > _SHOWN:
            console.print(f"… and {len(found.refused) - _SHOWN} more; see --all.")


def _of(part: float | None, whole: float | None) -> str:
    """A count, and which share of all it is."""
    return f"{number(part)} ({100 * part / whole:.0f} %)" if part and whole else number(part)


def _time(part: float | None, whole: float | None) -> str:
    """ms, and which share of all it is."""
    if part is None or not whole:
        return "–"
    return f"{milliseconds(part)} ({100 * part / whole:.0f} %)"


def _times(console: Console, whole: float, elsewhere: Mapping[str, float]) -> None:
    """What the column of times is made of, and what is not in it."""
    console.print(
        f"{milliseconds(whole)} in kernels of one run, by onnxruntime's profile; each kernel counts"
        " for every group whose channels it works on, so groups make more than the whole."
    )
    lost = sum(elsewhere.values())
    if lost >= _TOLD * whole:
        names = ", ".join(list(elsewhere)[:3]) + (", …" if len(elsewhere) > 3 else "")
        console.print(
            f"{percent(lost / whole)} of it is no group's: onnxruntime fused several nodes, or put"
            f" some in between ({safe(names)})."
        )


#: A share of the time below this is not worth a word.
_TOLD = 0.005


def _advice(console: Console, found: Inspection) -> None:
    """What would free what is pinned."""
    given = [(pinned.reason, text) for pinned in found.pinned for text in pinned.advice]
    if given:
        rows = table("pinned because", "what would free it", title="What you can do")
        for reason, text in given:
            rows.add_row(safe(reason), safe(text))
        console.print(rows)


def show_groups(console: Console, found: Inspection) -> None:
    """Every member of some groups."""
    for group in found.groups:
        rows = table("member", ">axis", "shape", "scored", "read by", title=safe(group.name))
        for tensor, axis, scored in group.members:
            info = found.weights[tensor]
            cells = (tensor, axis, " × ".join(map(str, info.shape)), "yes" if scored else "no")
            rows.add_row(*map(safe, (*cells, ", ".join(info.nodes))))
        console.print(rows)
        time = f" {_time(group.ms, found.ms)} of the time;" if found.ms else ""
        choices = f" in each of {group.choices}" if group.choices > 1 else ""
        console.print(
            f"{group.role}, {counted(group.size, 'channel')}{choices}, {group.kind};"
            f" {_of(group.parameters, found.parameters)} of the parameters,"
            f" {_of(group.macs, found.macs)} of the MACs;{time}"
            f" coupled by {', '.join(group.dependencies)}.\n"
        )


def show_comparison(console: Console, found: Comparison) -> None:
    """Deviations, output by output."""
    for line in found.interface:
        console.print(f"The interfaces differ: {safe(line)}")
    if found.outputs:
        rows = table("output", ">max |a - b|", ">relative", ">allowed", "varies", "")
        for each in found.outputs:
            verdict = "random" if each.random else "same" if each.passes else "[red]differs[/]"
            rows.add_row(
                safe(each.name),
                f"{each.max_abs:.2e}",
                f"{each.max_rel:.2e}",
                f"{each.rtol:.0e}",
                "yes" if each.varies else "no",
                verdict,
            )
        console.print(rows)
        if not found.proves:
            console.print("Note: no output varies with the input, so this proves nothing.")


def show_benchmark(console: Console, found: Benchmark, names: Sequence[str]) -> None:
    """Latencies, and the paired ratio."""
    rows = table("model", ">median", ">p90", ">fastest")

    def add(name: str, latency: Latency) -> None:
        rows.add_row(
            safe(name),
            milliseconds(latency.median),
            milliseconds(latency.p90),
            milliseconds(latency.min),
        )

    add(names[0], found.a)
    if found.b is not None:
        add(names[1], found.b)
    console.print(rows)
    if found.speedup is not None:
        console.print(f"{safe(names[1])} is {_speedup(found)} (95 % interval of the paired ratio).")
    shapes = ", ".join(f"{name} {shape}" for name, shape in found.shapes.items())
    console.print(
        f"{counted(found.threads, 'thread')}, {counted(found.rounds, 'round')}; {safe(shapes)}"
    )


def show_sensitivity(console: Console, found: Sensitivity) -> None:
    """The measure of each group at each width; where cuts were refitted, behind an arrow."""
    of = f" of {counted(found.samples, 'sample')}" if found.samples else ""
    columns = [f">-{100 * share:g} %" for share in found.shares]
    rows = table("group", "role", ">channels", *columns, title=f"{found.measure}{of}")
    for curve in found.groups:
        cells = [_point(found, curve.at(share)) for share in found.shares]
        rows.add_row(safe(curve.name), curve.role, str(curve.size), *cells)
    console.print(rows)
    if found.higher_is_better:
        console.print(f"The original: {measure_words(found, found.original)}.", end=" ")
    console.print(f"Measured on {safe(found.data)}, one group cut at a time.")
    if found.reconstructed:
        console.print("Behind the arrow: with what reads the removed channels refitted.")
    ranked = [safe(curve.name) for curve in found.most_sensitive()]
    console.print(f"Most sensitive: {', '.join(ranked[:3])}.")
    for note in found.notes:
        console.print(f"Note: {safe(note)}.")


def _point(found: Sensitivity, point: Point | None) -> str:
    if point is None:
        return ""
    if point.failed is not None:
        return "failed"
    words = measure_words(found, found.value(point.cut))
    if found.reconstructed:
        words += f" → {measure_words(found, found.value(point.refitted))}"
    return words


#: Below this, a relative error of outputs is rounding.
_NOISE = 1e-6


def measure_words(found: Sensitivity, value: float | None) -> str:
    """A value of what sensitivity measures, as people read it."""
    if value is None or not math.isfinite(value):
        return "–"
    if found.measure == "relative-error":
        return f"{value:.2g}" if value > _NOISE else "0"
    return percent(value) if found.is_share else f"{value:.4g}"


def show_sweep(console: Console, found: SweepReport) -> None:
    """Every trial that came to a model, from the cheapest on; and which was chosen."""
    done = sorted((t for t in found.trials if t.status == "done"), key=lambda t: t.point)
    timed = any(trial.ms is not None for trial in done)
    columns = ["trial", ">parameters", ">MACs", *[">latency"][: 1 * timed]]
    rows = table(*columns, f">{found.measure}", ">lost", "")
    original = found.original
    for trial in done:
        cells = [safe(Trial(trial.options).text()), number(trial.parameters), number(trial.macs)]
        if timed:
            share = f" ({100 * trial.cost:.0f} %)" if trial.cost is not None else ""
            cells.append("–" if trial.ms is None else f"{milliseconds(trial.ms)}{share}")
        mark = "chosen" if trial.chosen else "on the front" if trial.on_front else ""
        points = "–" if trial.drop is None else f"{trial.drop:.2f}"
        rows.add_row(*cells, _value(trial.value), points, mark)
    last = [number(original["parameters"]), number(original["macs"])]
    if timed:
        last.append("–" if original["ms"] is None else milliseconds(original["ms"]))
    rows.add_row("the original", *last, _value(original["value"]), "", "")
    console.print(rows)
    console.print(f"{found.measure.capitalize()} on {safe(found.data)}.")
    lost: dict[str, list[str]] = {}
    for trial in found.trials:
        if trial.status != "done":
            name = Trial(trial.options).text()
            lost.setdefault(trial.reason or trial.status, []).append(name)
    for reason, names in lost.items():
        more = f" and {len(names) - 3} more" if len(names) > 3 else ""
        console.print(f"No model came of {safe('; '.join(names[:3]))}{more}: {safe(reason)}.")
    for trial in done:
        for note in trial.notes if trial.chosen or trial.point[0] == math.inf else ():
            console.print(f"{safe(Trial(trial.options).text())}: {safe(note)}.")
    if found.chosen is not None:
        words = safe(Trial(found.of(found.chosen).options).text())
        console.print(f"Chosen ({found.rule}): [bold]{words}[/].")
    if found.command:
        console.print(f"Made by: {safe(found.command)}", soft_wrap=True)
    for note in found.notes:
        console.print(f"Note: {safe(note)}.")


def _value(value: float | None) -> str:
    if value is None or not math.isfinite(value):
        return "–"
    return percent(value) if abs(value) <= 1 else f"{value:.4g}"


def show_rules(console: Console, rules: Iterable[Rule]) -> None:
    """What is known of operators."""
    rows = table("operator", "axes", "statistical, pinned")
    for rule in rules:
        what = rule.pattern.text if rule.pattern else f"by value: {rule.function}"
        if rule.pinned:
            what = "pinned"
        why = rule.pinned or "; ".join(f"{name}: {reason}" for name, reason in rule.pin.items())
        rows.add_row(safe(rule.name), safe(what), safe(why))
    console.print(rows)


def show_coverage(console: Console, found: Iterable[Coverage]) -> None:
    """How many operators of each domain have a rule, and which have none."""
    columns = ("operators", "with a pattern", "by function", "pinned", "unknown")
    rows = table("domain", *columns)
    unknown = []
    for each in found:
        lists = (each.pattern, each.function, each.pinned, each.unknown)
        rows.add_row(safe(each.domain), str(each.total), *(str(len(names)) for names in lists))
        unknown += [operator_name(each.domain, name) for name in each.unknown]
    console.print(rows)
    if unknown:
        console.print(f"unknown: {safe(', '.join(unknown))}")


def document(value: Any) -> str:
    """One JSON document, as `--json` prints it: ASCII, so that a terminal obeys nothing in it.

    JSON has no infinity and no NaN: they become null.
    """
    return json.dumps(_finite(value), indent=2, allow_nan=False, default=str)


def _finite(value: Any) -> Any:
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    if isinstance(value, Mapping):
        return {key: _finite(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(each) for each in value]
    return value
