"""Plots of many trials, by matplotlib: for a file of their own (PNG, SVG, PDF) or for a page.

Colours of single series are of one middle lightness, readable on light and on dark ground; ink and
lines are the caller's.
"""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from .display import printable
from .errors import UsageError
from .sensitivities import Curve, Sensitivity
from .sweeps.grid import OPTIONS
from .sweeps.results import COSTS, SweepReport

#: Okabe and Ito's, without black and yellow: told apart by the colour-blind, too.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#56b4e9", "#e69f00", "#8c6bb1", "#7f7f7f")
_FORMATS = ("png", "svg", "pdf")


@dataclass(frozen=True)
class Ink:
    """Colours of text and of thin lines, and the width of the figure in inches."""

    text: str = "#222222"
    line: str = "#bbbbbb"
    width: float = 7.2
    background: str | None = "white"


def require(path: Path | None = None) -> None:
    """Raise UsageError where matplotlib is missing, or writes no such file: before work is done."""
    if path is not None and path.suffix[1:].lower() not in _FORMATS:
        raise UsageError(f"{path}: a plot is a file that ends in .{', .'.join(_FORMATS)}")
    try:
        import matplotlib.figure  # noqa: F401
    except ImportError as error:
        raise UsageError(
            f"a plot needs matplotlib ({error}): pip install 'onnxprune[report]'"
        ) from error


def rendered(figure: Any, path: Path) -> bytes:
    """The figure as the bytes of a file of this name's kind; the same for the same figure."""
    import matplotlib

    out = io.BytesIO()
    kind = path.suffix[1:].lower()
    metadata = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}.get(kind)
    with matplotlib.rc_context({"svg.hashsalt": "onnxprune"}):
        figure.savefig(out, format=kind, dpi=150, metadata=metadata)
    return out.getvalue()


def panels(count: int, ink: Ink, height: float) -> tuple[Any, list[Any]]:
    """A figure with axes side by side (or below each other, where it is narrow), of one style."""
    from matplotlib.figure import Figure  # no pyplot: it keeps figures, and asks for a screen

    side = count if ink.width > 5 else 1
    rows = -(-count // side)
    figure = Figure(figsize=(ink.width, height * rows), dpi=100)
    if ink.background is None:
        figure.patch.set_visible(False)
    else:
        figure.patch.set_facecolor(ink.background)
    found: list[Any] = []
    for i in range(count):
        axes = figure.add_subplot(rows, side, i + 1, sharey=found[0] if found else None)
        axes.patch.set_visible(False)
        axes.tick_params(colors=ink.text, labelsize=9, length=0)
        axes.grid(color=ink.line, linewidth=0.5)
        axes.set_axisbelow(True)
        for name, spine in axes.spines.items():
            spine.set_visible(name in ("left", "bottom"))
            spine.set_color(ink.line)
        found.append(axes)
    return figure, found


def short(name: str, most: int = 30) -> str:
    """A name that fits: its middle is left out."""
    name = printable(name)
    half = most // 2
    return name if len(name) <= most else f"{name[: half - 1]}…{name[-half:]}"


def of_sensitivity(found: Sensitivity, ink: Ink | None = None) -> Any:
    """One line for each group: the measure against the share that went; the worst in colour."""
    ink = ink or Ink()
    refits = (False, True) if found.reconstructed else (False,)
    figure, axes = panels(len(refits), ink, 3.6)
    ranked = found.most_sensitive()
    lost = [x for c in found.groups for r in refits for x in _losses(found, c, r)]
    finite = [x for x in lost if np.isfinite(x)]
    decades = not found.higher_is_better and len(finite) > 0 and min(finite) > 0
    for axis, refitted in zip(axes, refits, strict=True):
        for i, curve in enumerate(ranked):
            x, y = _line(found, curve, refitted)
            loud = i < len(SERIES)
            axis.plot(
                x,
                y,
                color=SERIES[i] if loud else ink.line,
                linewidth=1.6 if loud else 0.8,
                marker="o" if loud else None,
                markersize=3,
                label=short(curve.name) if loud else None,
                zorder=3 - i / len(ranked),
            )
        if found.higher_is_better:
            axis.axhline(found.original, color=ink.text, linewidth=0.8, linestyle=":")
        if decades and max(finite) > 30 * min(finite):
            axis.set_yscale("log")
            axis.minorticks_off()
        elif found.is_share:
            axis.yaxis.set_major_formatter(_percent)
        axis.set_xlim(left=0)
        axis.xaxis.set_major_formatter(_percent)
        axis.set_xlabel("of the group's channels removed", color=ink.text, fontsize=9)
        if len(refits) > 1:
            words = "refitted" if refitted else "as cut"
            axis.set_title(words, color=ink.text, fontsize=10, loc="left")
    for axis in axes[:1]:
        axis.set_ylabel(found.measure, color=ink.text, fontsize=9)
    many = len(ranked) > len(SERIES)
    _below(figure, axes[0], ink, f"the most sensitive of {len(ranked)} groups" if many else None)
    return figure


def of_sweep(found: SweepReport, ink: Ink | None = None) -> Any:
    """Every trial by cost and accuracy, the front as a line, the chosen one in a ring."""
    ink = ink or Ink()
    figure, (axis,) = panels(1, ink, 4.2)
    shown = [t for t in found.trials if t.cost is not None and t.value is not None]
    kinds = _kinds(found)
    for i, kind in enumerate(dict.fromkeys(kinds[t.id] for t in shown)):
        mine = [t for t in shown if kinds[t.id] == kind]
        axis.scatter(
            [t.cost for t in mine],
            [t.value for t in mine],
            s=26,
            color=SERIES[i % len(SERIES)],
            marker=_MARKERS[i // len(SERIES) % len(_MARKERS)],
            label=short(kind or "plain", 44),
            zorder=3,
        )
    front = [found.of(each) for each in found.front]
    original = (1.0, found.original["value"])
    line = [(t.cost, t.value) for t in front if t.cost is not None and t.cost < 1]
    axis.step(
        *zip(*line, original, strict=True), where="post", color=ink.text, linewidth=0.9, zorder=2
    )
    axis.scatter(*original, marker="*", s=90, color=ink.text, zorder=4, label="the original")
    if found.chosen is not None:
        chosen = found.of(found.chosen)
        axis.scatter(
            [chosen.cost],
            [chosen.value],
            s=150,
            facecolors="none",
            edgecolors=ink.text,
            linewidths=1.3,
            zorder=5,
            label=f"chosen: {found.rule}",
        )
    axis.xaxis.set_major_formatter(_percent)
    if max(abs(t.value or 0.0) for t in shown) <= 1:
        axis.yaxis.set_major_formatter(_percent)
    words = f"{COSTS[found.cost]} left, of the original's"
    axis.set_xlabel(words, color=ink.text, fontsize=9)
    axis.set_ylabel(found.measure, color=ink.text, fontsize=9)
    _below(figure, axis, ink, None)
    return figure


_MARKERS = ("o", "s", "^", "D")


def _kinds(found: SweepReport) -> dict[str, str]:
    """What trials are told apart by, besides their budgets: the options that differ."""
    rest = {
        t.id: {k: v for k, v in t.options.items() if k not in ("ratio", "target")}
        for t in found.trials
    }
    names = dict.fromkeys(name for each in rest.values() for name in each)
    varied = [
        name
        for name in names
        if len({str(each.get(name, OPTIONS[name])) for each in rest.values()}) > 1
    ]
    return {key: _kind(options, varied) for key, options in rest.items()}


def _kind(options: Mapping[str, Any], names: Sequence[str]) -> str:
    words = []
    for name in names:
        value, label = options.get(name, OPTIONS[name]), name.replace("_", "-")
        if isinstance(value, bool) or value is None:
            words.append(label if value else "")
        else:
            words.append(str(value) if name in ("criterion", "scope") else f"{label} {value}")
    return ", ".join(filter(None, words))


def _percent(value: float, _: object = None) -> str:
    return f"{100 * value:.4g} %"


def _below(figure: Any, axes: Any, ink: Ink, title: str | None) -> None:
    """A legend below the axes, for which the figure grows; names of a model are no formulas."""
    handles, labels = axes.get_legend_handles_labels()
    columns = max(1, int(ink.width // 3.4))
    head = 0.19 * (-(-len(handles) // columns) + (title is not None))
    height = figure.get_size_inches()[1] + head
    figure.set_size_inches(ink.width, height)
    made = figure.legend(
        handles,
        labels,
        loc="lower center",
        ncols=columns,
        fontsize=8,
        frameon=False,
        labelcolor=ink.text,
        title=title,
        title_fontsize=8,
    )
    made.get_title().set_color(ink.text)
    for text in made.get_texts():
        text.set_parse_math(False)
    figure.tight_layout(pad=0.6, rect=(0, (head + 0.12) / height, 1, 1))


def _line(found: Sensitivity, curve: Curve, refitted: bool) -> tuple[list[float], list[float]]:
    start = found.higher_is_better
    x, y = ([0.0], [found.original]) if start else ([], [])
    for point in curve.points:
        value = found.value(point.refitted if refitted else point.cut)
        x.append(point.ratio)
        y.append(float("nan") if value is None else value)
    return x, y


def _losses(found: Sensitivity, curve: Curve, refitted: bool) -> Sequence[float]:
    return [y for y in _line(found, curve, refitted)[1] if not np.isnan(y)]
