"""The tables, from the journal's rows; and what they claim, checked."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from .sources import is_mobile

Row = Mapping[str, Any]

#: Ours over the fastest uniform widths, at most; unaligned over ours on mobile networks, at least.
SLOWEST, FASTER = 1.03, 1.3
#: Uniform widths are at the MACs that were asked for within this, as any target is.
SAME_MACS = 0.02


def tables(rows: Iterable[Row]) -> str:
    """Markdown: at equal MACs, at targets of time, and what timing takes."""
    every = [row for row in rows if "error" not in row]
    failed = [f"- {row['key']}: {row['error']}" for row in rows if "error" in row]
    return "\n\n".join(
        [
            _at_macs([row for row in every if "rows" in row]),
            _in_time([row for row in every if "wanted" in row]),
            _timing([row for row in every if "measuring_s" in row]),
            *(["Failed:\n" + "\n".join(failed)] if failed else []),
        ]
    )


def verdict(row: Row) -> dict[str, float | bool]:
    """Of one race: ours against the best of the sweep, and against unaligned widths."""
    laps = {name: lap for name, lap in row["rows"].items() if "ratio" in lap}
    ours = laps.get("ours")
    if ours is None:
        return {}
    found: dict[str, float | bool] = {}
    wanted = float(row["part"].split("=")[1])
    sweep = [
        lap
        for name, lap in laps.items()
        if name.startswith("uniform") and abs(lap["macs"] / wanted - 1) <= SAME_MACS
    ]
    if sweep:
        best = min(sweep, key=lambda lap: lap["ratio"])
        found["to best"] = ours["ratio"] / best["ratio"]
        found["more kept"] = ours["importance"] - best["importance"]
        found["as fast"] = found["to best"] <= SLOWEST and found["more kept"] > 0
    if "unaligned" in laps:
        found["to unaligned"] = laps["unaligned"]["ratio"] / ours["ratio"]
        if is_mobile(row["model"]):
            found["faster"] = found["to unaligned"] >= FASTER
    return found


def _at_macs(rows: list[Row]) -> str:
    columns = ("ours", "uniform-8", "uniform-16", "uniform-32", "unaligned", "tp-8", "tp-1")
    lines = [
        "| model | threads | MACs wanted | " + " | ".join(columns) + " | ours / best uniform"
        " | importance kept: ours − best | unaligned / ours | holds |",
        "|" + " --- |" * (len(columns) + 7),
    ]
    for row in rows:
        cells = [_lap(row["rows"].get(name, {})) for name in columns]
        says = verdict(row)
        holds = [value for value in says.values() if isinstance(value, bool)]
        lines.append(
            f"| {row['model']} | {row['threads']} | {row['part'].split('=')[1]} | "
            + " | ".join(cells)
            + f" | {_number(says.get('to best'), '.3f')} | {_number(says.get('more kept'), '+.2%')}"
            f" | {_number(says.get('to unaligned'), '.2f')} | {_holds(holds)} |"
        )
    note = "Speedup over the original (MACs kept), all of a row in one run:"
    return "\n".join([note, "", *lines])


def _holds(claims: list[bool]) -> str:
    return "–" if not claims else "yes" if all(claims) else "no"


def _lap(lap: Row) -> str:
    return f"{1 / lap['ratio']:.2f} × ({lap['macs']:.0%})" if "ratio" in lap else "–"


def _in_time(rows: list[Row]) -> str:
    lines = [
        "| model | threads | latency wanted | measured apart | off | MACs kept | s |",
        "|" + " --- |" * 7,
    ]
    for row in rows:
        head = f"| {row['model']} | {row['threads']} | {row['wanted']:.0%} | "
        if "refused" in row:
            lines.append(f"{head}{row['refused'][:90]} | | | |")
            continue
        low, high = row["interval"]
        lines.append(
            f"{head}{row['ratio']:.1%} [{low:.1%}, {high:.1%}] |"
            f" {row['ratio'] / row['wanted'] - 1:+.1%} | {_number(row['macs'], '.0%')} |"
            f" {row['choosing_s']:.0f} |"
        )
    return "\n".join(["Targets of latency, by a separate paired run:", "", *lines])


def _timing(rows: list[Row]) -> str:
    lines = [
        "| model | threads | one-time timing, s | times measured | profile, s | choosing, s |",
        "|" + " --- |" * 6,
    ]
    for row in rows:
        lines.append(
            f"| {row['model']} | {row['threads']} | {row['measuring_s']:.1f} | {row['times']} |"
            f" {row['profiling_s']:.1f} | {row['choosing_s']:.2f} |"
        )
    return "\n".join(lines)


def _number(value: Any, form: str) -> str:
    return "–" if value is None else format(value, form)
