"""The table of what was pruned, and its sums."""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Sequence
from statistics import median
from typing import Any

from .cache import Cache, Shard, chosen

Row = dict[str, Any]

_HEAD = ("model", "exporter", "status", "left", "w/o embeddings", "deviation", "axes ms")


def show(cache: Cache, only: list[str], shard: Shard, form: str) -> None:
    """Print the report as `text`, `markdown` or `json`."""
    there = {path.name for path in cache.exported()}
    rows = [row for key, row in cache.journal("prunes").rows().items() if key in there]
    names = set(chosen(sorted({row["model"] for row in rows}), only, shard))
    rows = sorted((row for row in rows if row["model"] in names), key=lambda row: str(row["key"]))
    sums = summary(rows)
    if form == "json":
        print(json.dumps({"models": rows, "sums": sums}, indent=1))
        return
    lines = [_HEAD, *(_cells(row) for row in rows)]
    widths = [max(len(line[i]) for line in lines) for i in range(len(_HEAD))]
    for i, line in enumerate(lines):
        if form == "markdown":
            print("| " + " | ".join(line) + " |")
            if i == 0:
                print("|" + " --- |" * len(_HEAD))
        else:
            print("  ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True)))
    print()
    for name, value in sums.items():
        print(f"{name}: {value}")


def _cells(row: Row) -> tuple[str, ...]:
    done = row["status"] == "ok"
    return (
        str(row["model"]),
        str(row["variant"]),
        str(row["status"]) if done else f"{row['status']}: {row.get('message', '')}"[:80],
        _percent(row.get("left")),
        _percent(row.get("left_without_embeddings")),
        f"{deviation(row):.0e}" if done else "",
        f"{1e3 * row['axes_seconds']:.0f}" if "axes_seconds" in row else "",
    )


def _percent(share: float | None) -> str:
    return "" if share is None else f"{100 * share:.1f} %"


def deviation(row: Row) -> float:
    """The largest deviation that the row's certificate measured."""
    found = row.get("certificate") or {}
    return max((found.get(name) or 0.0 for name in ("permutation", "masking", "cut")), default=0.0)


def summary(rows: Sequence[Row]) -> dict[str, Any]:
    """The sums: what passed, medians of what is left, exporters side by side, what is slow."""
    done = [row for row in rows if row["status"] == "ok"]
    left = {
        kind: [row["left"] for row in done if row["kind"] == kind and row.get("left") is not None]
        for kind in sorted({row["kind"] for row in done})
    }
    bare = [
        row["left_without_embeddings"]
        for row in done
        if row["kind"] == "transformer" and row.get("left_without_embeddings") is not None
    ]
    reasons: dict[str, float] = defaultdict(float)
    for row in done:
        for reason, share in row.get("locked_reasons", {}).items():
            reasons[reason] += share / len(done)
    apart = _exporters_apart(done)
    slow = sorted(done, key=lambda row: -row.get("axes_seconds", 0))[:5]
    return {
        "pruned and certified": f"{len(done)} of {len(rows)}",
        "failed": [row["key"] for row in rows if row["status"] != "ok"],
        "weak certificates": [row["key"] for row in done if not row.get("proves")],
        "parameters left, median": {
            kind: _percent(median(shares)) for kind, shares in left.items() if shares
        },
        "transformers without embedding tables, median": _percent(median(bare)) if bare else "",
        "exporters more than 3 points apart": apart,
        "locked other than by the interface, mean": _percent(
            sum(row.get("locked", {}).get("other", 0.0) for row in done) / max(1, len(done))
        ),
        "locked by reason, mean": {
            reason: _percent(share)
            for reason, share in sorted(reasons.items(), key=lambda each: -each[1])[:8]
        },
        "slowest axes": {row["key"]: f"{1e3 * row['axes_seconds']:.0f} ms" for row in slow},
    }


def _exporters_apart(rows: Sequence[Row]) -> dict[str, list[str]]:
    """Models of whose weights the share that is left depends on how they were exported."""
    by_model: dict[str, dict[str, float]] = defaultdict(dict)
    for row in rows:
        if row.get("left_of_weights") is not None:
            by_model[row["model"]][row["variant"]] = row["left_of_weights"]
    return {
        model: [f"{variant} {_percent(share)}" for variant, share in shares.items()]
        for model, shares in by_model.items()
        if max(shares.values()) - min(shares.values()) > 0.03
    }
