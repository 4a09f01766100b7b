"""Many random graphs, one after the other: `python -m tests.fuzz --count 20000`.

Figures are kept in a file after every hundred graphs: a run that was stopped goes on from there.
What fails is made small and written, with its inputs, to the folder of regression tests.
"""

from __future__ import annotations

import argparse
import json
import time
from collections import Counter
from pathlib import Path

import numpy as np

from . import cases
from .check import Outcome
from .grammar import generate

#: Figures that are sums over graphs.
_SUMS = ("groups", "exact", "pruned", "rows", "axes", "pinned", "interface", "rounding")


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description=__doc__)
    parser.add_argument("--count", type=int, default=20_000, help="graphs in all (%(default)s)")
    parser.add_argument("--start", type=int, default=0, help="the first seed (%(default)s)")
    parser.add_argument("--state", type=Path, help="where figures are kept, to go on from there")
    parser.add_argument("--keep", type=Path, default=cases.FOLDER, help="where failures go")
    given = parser.parse_args()
    figures = _Figures(given.start)
    if given.state is not None and given.state.exists():
        figures = _Figures.read(given.state)
    while figures.seed < given.start + given.count:
        began = time.perf_counter()
        found = _try(figures.seed, given.keep)
        figures.seconds += time.perf_counter() - began
        if isinstance(found, Outcome):
            figures.add(found)
        else:
            figures.failures.append(found)
            print(found, flush=True)
        figures.seed += 1
        if given.state is not None and figures.seed % 100 == 0:
            figures.write(given.state)
    if given.state is not None:
        figures.write(given.state)
    print(figures.text(given.start))
    return 1 if figures.failures else 0


def _try(seed: int, folder: Path) -> Outcome | str:
    """The outcome of one seed, or what failed and where it was written to."""
    case = generate(seed)
    failure = cases.failure(case.model, case.feeds, [seed])
    if isinstance(failure, Outcome):
        return failure
    path = cases.keep(folder, f"seed{seed}", case.model, case.feeds, failure, seed)
    return f"seed {seed}: {failure.kind}: {failure.text[:200]} ({path.name})"


class _Figures:
    """What has been tried so far."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.seconds = 0.0
        self.sums: Counter[str] = Counter()
        self.operators: Counter[str] = Counter()
        self.pins: Counter[str] = Counter()
        self.rejected: Counter[str] = Counter()
        self.failures: list[str] = []

    @classmethod
    def read(cls, path: Path) -> _Figures:
        figures = cls(0)
        for key, value in json.loads(path.read_text()).items():
            setattr(figures, key, Counter(value) if isinstance(value, dict) else value)
        return figures

    def write(self, path: Path) -> None:
        aside = path.with_suffix(".new")
        aside.write_text(json.dumps(vars(self), indent=1))
        aside.replace(path)

    def add(self, outcome: Outcome) -> None:
        if outcome.rejected:
            self.rejected[outcome.rejected.split(":")[0]] += 1
            return
        self.sums["graphs"] += 1
        self.sums.update({key: getattr(outcome, key) for key in _SUMS})
        self.sums["graphs pruned"] += outcome.pruned > 0
        self.sums["graphs that prove"] += outcome.proves
        self.sums["graphs of two sizes"] += outcome.resized
        self.operators.update(outcome.operators)
        self.pins.update(outcome.pins)

    def text(self, start: int) -> str:
        sums, tried = self.sums, self.seed - start
        inner = sums["axes"] - sums["interface"]
        free = sums["axes"] - sums["pinned"]
        rare = [f"{name} {n}" for name, n in self.operators.most_common()[-12:]]
        lines = [
            f"{tried} graphs in {self.seconds:.0f} s"
            f" ({1000 * self.seconds / max(tried, 1):.1f} ms each), {len(self.failures)} failures",
            f"{sum(self.rejected.values())} not tried: {dict(self.rejected)}",
            f"{sums['graphs pruned']} pruned, {sums['graphs that prove']} in which a wrong coupling"
            f" shows, {sums['graphs of two sizes']} run at two sizes",
            f"{sums['groups']} groups, {sums['exact']} exact; {sums['pruned']} dims cut,"
            f" {sums['rows']} of them by row; {sums['rounding']} differences of rounding",
            f"axes of weights that are not interface or kernel: {free} of {inner}"
            f" ({100 * free / max(inner, 1):.0f} %) can be pruned",
            f"{len(self.operators)} operators, the rarest: {', '.join(rare)}",
            "pinned by: " + "; ".join(f"{text} {n}" for text, n in self.pins.most_common(12)),
        ]
        return "\n".join(lines)


if __name__ == "__main__":
    np.seterr(all="ignore")
    raise SystemExit(main())
