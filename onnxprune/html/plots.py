"""Plots as SVG that stands in the page: matplotlib's, in colours that the page's scheme sets.

They are drawn in placeholder colours, which become CSS variables, so that one drawing is readable
on light and on dark ground. Widths are those of a phone, where they are shown as large as they are.
"""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from typing import Any

import numpy as np

from ..display import printable
from ..profiling import OperatorTime

#: Placeholder -> CSS variable.
_COLOURS = {
    "#010203": "var(--before)",
    "#010204": "var(--after)",
    "#010205": "var(--removed)",
    "#010206": "var(--kept)",
    "#010207": "var(--ink)",
    "#010208": "var(--line)",
}
BEFORE, AFTER, REMOVED, KEPT, INK, LINE = _COLOURS
_BINS = 24
#: On a logarithmic axis, scores below this share of the largest are as good as nothing.
_LEAST = 1e-6
#: More operators than this are shown as one.
_SHOWN = 8


def histogram(kept: Sequence[float], removed: Sequence[float]) -> tuple[str, str]:
    """The scores of a group's channels, kept upon removed; and in words what the axis is."""
    scores = np.array([*kept, *removed], dtype=np.float64)
    if not len(scores) or not np.isfinite(scores).all():
        return "", ""
    low, high = float(scores.min()), float(scores.max())
    # Scores of trained sparsity span decades: on a linear axis all but a few would be one bar.
    wide = low >= 0 and high > 0 and high > 100 * float(np.median(scores))
    wide = wide or (low > 0 and high / low > 1e3)
    if wide:
        scores = np.log10(np.maximum(scores, high * _LEAST))
    first, last = float(scores.min()), float(scores.max())
    edges = np.linspace(first, last if last > first else first + 1, _BINS + 1)
    counts = [np.histogram(x, edges)[0] for x in (scores[len(kept) :], scores[: len(kept)])]
    figure, axes = _figure(2.6, 0.62)
    axes.set_axis_off()
    figure.subplots_adjust(0, 0, 1, 1)
    axes.stairs(counts[0], edges, fill=True, color=REMOVED)
    axes.stairs(counts[0] + counts[1], edges, baseline=counts[0], fill=True, color=KEPT)
    axes.axhline(0, color=LINE, linewidth=1)
    axes.set_xlim(edges[0], edges[-1])
    words = f"{low:.2g} to {high:.2g}{', logarithmic' if wide else ''}"
    if wide and low < high * _LEAST:
        words += f" from {high * _LEAST:.2g}"
    svg = svg_of(figure, f"Scores from {words}")
    return svg.replace("<svg ", '<svg preserveAspectRatio="none" ', 1), words


def operators(times: Sequence[OperatorTime]) -> str:
    """ms of each operator, before and after."""
    rows = [(each.operator, each.before, each.after) for each in times]
    if len(rows) > _SHOWN:
        rest = rows[_SHOWN - 1 :]
        after = None if rest[0][2] is None else sum(each[2] or 0.0 for each in rest)
        others = (f"{len(rest)} others", sum(each[1] for each in rest), after)
        rows = [*rows[: _SHOWN - 1], others]
    if not rows:
        return ""
    pair = rows[0][2] is not None
    figure, axes = _figure(3.6, 0.5 + len(rows) * (0.36 if pair else 0.26))
    places = np.arange(len(rows))[::-1]
    height = 0.36 if pair else 0.6
    axes.barh(places + (height / 2 if pair else 0), [r[1] for r in rows], height, color=BEFORE)
    if pair:
        axes.barh(places - height / 2, [r[2] or 0.0 for r in rows], height, color=AFTER)
    axes.set_yticks(places, [_short(name) for name, _, _ in rows])
    axes.set_xlabel("ms of one run", color=INK, fontsize=9)
    axes.tick_params(colors=INK, labelsize=9, length=0)
    for label in axes.get_yticklabels():
        label.set_parse_math(False)
    axes.grid(axis="x", color=LINE, linewidth=0.6)
    axes.set_axisbelow(True)
    for side in axes.spines.values():
        side.set_visible(False)
    axes.locator_params(axis="x", nbins=4)
    figure.tight_layout(pad=0.3)
    return svg_of(figure, "Kernel time of each operator in ms, before and after")


def _short(name: str) -> str:
    name = printable(name)
    return name if len(name) <= 22 else f"{name[:10]}…{name[-10:]}"


def _figure(width: float, height: float) -> tuple[Any, Any]:
    # No pyplot: it keeps figures, and chooses a backend by the screen.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), dpi=100)
    figure.patch.set_visible(False)
    axes = figure.add_subplot()
    axes.patch.set_visible(False)
    return figure, axes


def svg_of(figure: Any, label: str) -> str:
    """The figure as an <svg> element, without what only a file of its own needs."""
    import matplotlib

    out = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    # Text as text, in the page's font; ids (of clip paths) the same in every run.
    with matplotlib.rc_context({"svg.fonttype": "none", "svg.hashsalt": label}):
        figure.savefig(out, format="svg", metadata=nothing)
    text = out.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r' xmlns(:\w+)?="[^"]*"', "", text)
    text = re.sub(r' id="(?:figure|axes|patch|line2d|text|xtick|ytick|matplotlib)[^"]*"', "", text)
    text = re.sub(r"<defs>\s*<style[^>]*>[^<]*</style>\s*</defs>", "", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*", r"font-size: \1", text)
    text = re.sub(r"font-family: [^;\"]*; ", "", text)
    for placeholder, variable in _COLOURS.items():
        text = text.replace(placeholder, variable)
    text = re.sub(r"\n\s*", "\n", text)
    return text.replace("<svg ", f'<svg role="img" aria-label="{label}" ', 1)
