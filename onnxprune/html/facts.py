"""What a page says, as plain data: the template and the plots only show it."""

from __future__ import annotations

import hashlib
import math
import platform
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np
import onnx

from .. import ort
from ..certify import Certificate
from ..display import milliseconds, number, percent
from ..evaluation import Evaluation
from ..inspection import PinnedInfo, look_into, weight_names
from ..latency import Benchmark
from ..model import node_name
from ..network import Network
from ..plans import Plan, PlannedGroup
from ..report import Report
from ..tables import operator_name
from ..version import __version__
from ..words import counted

#: More tensors than this are not named in a sentence.
_NAMED = 6


@dataclass(frozen=True)
class Figure:
    """A number as people say it, and as it is in the JSON document."""

    text: str
    value: float
    #: Where it stands in the JSON document: `before.parameters`.
    key: str


@dataclass(frozen=True)
class Card:
    """One thing that was measured, before and after."""

    title: str
    before: Figure | None
    after: Figure | None
    change: str = ""
    #: after / before where less is better: how long the bar is
    share: float | None = None
    small: str = ""


@dataclass
class GroupRow:
    """What became of one group."""

    name: str
    role: str
    kind: str
    size: int
    kept: int
    choices: int
    #: Of the channels that were kept and removed: where the plan says.
    kept_scores: list[float] = field(default_factory=list)
    removed_scores: list[float] = field(default_factory=list)
    #: SVG
    histogram: str = ""
    #: What the axis of the histogram is.
    histogram_words: str = ""

    @property
    def taken(self) -> float:
        return 1 - self.kept / self.size if self.size else 0.0


@dataclass(frozen=True)
class Layer:
    """One operator with weights, in the order of the graph."""

    name: str
    operator: str
    before: int
    after: int

    @property
    def taken(self) -> float:
        return 1 - self.after / self.before


# -- cards ---------------------------------------------------------------------------------------


def cards(report: Report) -> list[Card]:
    """Sizes, latency, accuracy: what was measured of it."""
    made = [*_sizes(report)]
    if report.latency:
        made += latency_cards(report.latency, "latency.")
    if report.evaluation:
        made += _accuracy(report.evaluation)
    return made


def _sizes(report: Report) -> Iterator[Card]:
    if not report.before or not report.after:
        return
    for title, name in (("Parameters", "parameters"), ("MACs", "macs"), ("Bytes", "bytes")):
        a, b = getattr(report.before, name), getattr(report.after, name)
        if a and b is not None:
            yield Card(
                title,
                Figure(number(a), a, f"before.{name}"),
                Figure(number(b), b, f"after.{name}"),
                f"{percent(b / a)} left",
                b / a,
            )


def latency_cards(found: Benchmark, where: str = "") -> Iterator[Card]:
    """The median, paired; the p90."""
    interval = ""
    if found.interval:
        interval = f"95 % interval [{found.interval[0]:.2f}, {found.interval[1]:.2f}] ×; "
    threads = counted(found.threads, "thread")
    for title, name in (("Latency, median", "median"), ("Latency, p90", "p90")):
        a = getattr(found.a, name)
        b = getattr(found.b, name) if found.b else None
        first = name == "median"
        change = ""
        if first and found.speedup is not None:
            faster = found.speedup >= 1
            times = found.speedup if faster else 1 / found.speedup
            change = f"{times:.2f} × {'faster' if faster else 'slower'}"
        yield Card(
            title,
            Figure(milliseconds(a), a, f"{where}a.{name}"),
            None if b is None else Figure(milliseconds(b), b, f"{where}b.{name}"),
            change,
            b / a if b is not None and a else None,
            f"{interval}{threads}, {counted(found.rounds, 'round')}" if first else "",
        )


def _accuracy(found: Evaluation) -> Iterator[Card]:
    of = f"of {counted(found.samples, 'sample')}" if found.samples else ""
    metrics = {name: (*pair, f"evaluation.others.{name}") for name, pair in found.others.items()}
    if found.metric and found.before is not None and found.after is not None:
        metrics = {found.metric: (found.before, found.after, ""), **metrics}
    for name, (before, after, key) in metrics.items():
        shares = max(abs(before), abs(after)) <= 1
        a, b = (percent(x) if shares else f"{x:.4g}" for x in (before, after))
        change = f"{100 * (after - before):+.1f} points" if shares else f"{after - before:+.4g}"
        keys = (f"{key}.0", f"{key}.1") if key else ("evaluation.before", "evaluation.after")
        yield Card(name, Figure(a, before, keys[0]), Figure(b, after, keys[1]), change, small=of)
    if found.agreement is not None:
        agreement = Figure(percent(found.agreement), found.agreement, "evaluation.agreement")
        yield Card("Agreement", None, agreement, "of answers are as before", small=of)
    elif found.relative_error is not None:
        error = Figure(
            f"{found.relative_error:.2g}", found.relative_error, "evaluation.relative_error"
        )
        yield Card("Outputs' relative error", None, error, small=of)


def _power(value: float, digits: int = 1) -> str:
    """A small number as people write it: 5.7 × 10⁻⁷, without places to break the line."""
    if not value or not math.isfinite(value):
        return f"{value:g}"
    mantissa, _, exponent = f"{value:.{digits}e}".partition("e")
    if -3 < int(exponent) < 5:
        return f"{value:.{digits + 1}g}" if value < 10 else f"{value:,.0f}"
    raised = str(int(exponent)).translate(str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹"))
    return f"{mantissa}\N{NO-BREAK SPACE}×\N{NO-BREAK SPACE}10{raised}"


# -- the certificate -----------------------------------------------------------------------------


def certificate_words(found: Certificate) -> tuple[str, list[tuple[str, str]]]:
    """What was proved: one sentence, and a term with its explanation for each measurement."""
    if not found.ok:
        verdict = "The check failed: the outputs differ by more than is allowed."
    elif not found.proves:
        verdict = (
            "The outputs agree, but this proves little: on random inputs they hardly depend on the"
            " weights."
        )
    else:
        verdict = "The cut is exact: every coupled weight lost the same channels."
    told: list[tuple[str, str]] = []
    if found.permutation is not None:
        told.append(
            (
                "Permutation",
                "All channels that may be removed were put into another order, in every weight that"
                f" they occur in. The outputs moved by {_power(found.permutation)} of their largest"
                " value.",
            )
        )
    if found.masking is not None:
        told.append(
            (
                "Masking",
                "The pruned model was compared with the original whose removed channels are set to"
                f" zero: they differ by {_power(found.masking)}. This can be done where removing"
                f" equals zeroing, which is {found.exact} of {counted(found.groups, 'group')}.",
            )
        )
    if found.cut is not None:
        told.append(
            (
                "Cut",
                "The same cut with the kept channels in another order gives outputs that differ by"
                f" {_power(found.cut)}.",
            )
        )
    if found.control is not None:
        told.append(
            (
                "Could it have failed?",
                f"A coupling that is wrong on purpose moves the outputs by {_power(found.control)};"
                f" {_power(found.tolerance, 0)} is allowed, for rounding.",
            )
        )
    rest = len(found.compared) - _NAMED
    where = ", ".join(found.compared[:_NAMED]) + (f" and {rest} more" if rest > 0 else "")
    if where or found.inputs:
        told.append(("Compared", f"{where}; inputs: {found.inputs}" if found.inputs else where))
    told += [("Note", note) for note in found.notes]
    return verdict, told


# -- groups and layers ---------------------------------------------------------------------------


def groups(report: Report, plan: Plan) -> list[GroupRow]:
    """Every group of the model, in the order of the graph, with scores where it was pruned."""
    planned = {each.name: each for each in plan.groups}
    rows = []
    for each in report.groups:
        row = GroupRow(each.name, each.role, each.kind, each.size, each.kept, each.choices)
        if each.name in planned and planned[each.name].size == each.size:
            row.kept_scores, row.removed_scores = _scores(planned[each.name])
        rows.append(row)
    return rows


def _scores(group: PlannedGroup) -> tuple[list[float], list[float]]:
    """The scores of the channels that were kept, and of those that were removed."""
    scores = np.asarray(group.scores, dtype=np.float64)
    if scores.size % group.size:
        return [], []
    cells = scores.reshape(-1, group.size)
    kept = np.zeros(cells.shape, dtype=bool)
    for i, row in enumerate(kept):
        row[np.asarray(group.kept[i] if group.outer else group.kept, dtype=np.int64)] = True
    return cells[kept].tolist(), cells[~kept].tolist()


def layers(network: Network, plan: Plan) -> list[Layer]:
    """The operators that hold weights, in the order of the graph, with elements before and after.

    A weight that several share is the first one's.
    """
    cut, counted = plan.kept, set(weight_names(network))
    found = []
    for record in network.records:
        before = after = 0
        for name in record.inputs:
            if name not in counted:
                continue
            counted.remove(name)
            dims = list(network.model.constants[name].dims)
            left = [len(cut.get(name, {}).get(i, range(n))) for i, n in enumerate(dims)]
            before += math.prod(dims)
            after += math.prod(left)
        if before:
            operator = operator_name(record.node.domain, record.node.op_type)
            found.append(Layer(node_name(record.node), operator, before, after))
    return found


def pinned(network: Network) -> list[PinnedInfo]:
    """Why axes of weights stay whole, with the places."""
    return look_into(network, ()).pinned


# -- provenance ----------------------------------------------------------------------------------


def versions() -> dict[str, str]:
    """What made this, as far as it may matter for making it again."""
    return {
        "onnxprune": __version__,
        "onnxruntime": ort.__version__,
        "onnx": onnx.__version__,
        "numpy": np.__version__,
        "Python": platform.python_version(),
        "platform": platform.platform(),
    }


def sha256(pieces: Iterable[bytes]) -> str:
    """The hash of these bytes, end to end."""
    digest = hashlib.sha256()
    for piece in pieces:
        digest.update(piece)
    return digest.hexdigest()
