"""Mutants, one after the other: `python -m tests.mutants --module axes`.

What became of each is kept in a folder: a run that was stopped goes on from there. Mutants that
are known to mean the same as the program stand in `equivalent.toml`, each with the reason.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
from collections import Counter
from dataclasses import asdict
from itertools import accumulate
from pathlib import Path

import pytest
from hypothesis import HealthCheck, Phase, settings

from . import mutations, tables
from .mutations import OUTSIDE, ROOT, Mutant, key, path_of
from .server import Baseline, Result, Server, digest, options, read_baseline

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

MODULES = ("axes", "sizes", "rewrite", "strides", "matching", "notation", "exactness")
RULES = tuple(f"rules/{path.name}" for path in sorted((ROOT / "rules").glob("*.toml")))

#: The tests: those of one function each, then of whole models. `axes` and the like are run by most
#: tests of the suite; these are the ones that would tell.
TESTS = (
    *("notation", "axes", "sizes", "values", "matching", "rewrite", "strides", "exactness"),
    *("plan", "regressions", "lossless", "mask", "loading", "fused", "external", "finer"),
    *("exported", "rules", "schemas", "fuzz"),
)

#: Not those of the random graphs' own check: each takes as long as all of the graphs, or follows
#: one that has.
_NOT = "not (wrong_rules or prove_something or all_kinds or long_run or made_small)"


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.mutants", description=__doc__)
    parser.add_argument("--module", action="append", choices=[*MODULES, *RULES], metavar="NAME")
    parser.add_argument("--count", type=int, help="so many mutants of each module, drawn at random")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--limit", type=float, default=60, help="no test above so many seconds")
    parser.add_argument("--budget", type=float, default=600, help="nor more than these in all")
    parser.add_argument("--state", type=Path, default=Path(".tox/mutants"), help="the folder")
    parser.add_argument("--again", action="store_true", help="try those that survived again")
    parser.add_argument("--tests", help="these tests only, as -k has them")
    given = parser.parse_args()
    given.state.mkdir(parents=True, exist_ok=True)
    modules = given.module or [*MODULES, *RULES]
    chosen = {module: _draw(_mutants(module), given.count, given.seed) for module in modules}
    run = _Run(chosen, given)
    run.start()
    print(run.text())
    return 1 if run.survivors() or run.strangers else 0


def _mutants(module: str) -> list[Mutant]:
    return (tables if module.endswith(".toml") else mutations).of_module(module)


def _draw(mutants: list[Mutant], count: int | None, seed: int) -> list[Mutant]:
    if count is None or count >= len(mutants):
        return mutants
    return random.Random(seed).sample(mutants, count)


class _Run:
    """The mutants of one run, and what is known of them."""

    def __init__(self, chosen: dict[str, list[Mutant]], given: argparse.Namespace) -> None:
        self.chosen = chosen
        self.given = given
        #: One line for each mutant, as it is done with; the last one counts.
        self.journal = given.state / "results.jsonl"
        self.results: dict[str, Result] = {}
        for line in self.journal.read_text().splitlines() if self.journal.exists() else ():
            found = json.loads(line)
            key = found.pop("key")
            self.results[key] = Result(**found)
        self.equivalent = _equivalent()
        drawn = {mutant.key for mutants in chosen.values() for mutant in mutants}
        whole = given.count is None
        #: Entries of the list that no mutant fits.
        self.strangers = [
            key for key in self.equivalent if whole and _module(key) in chosen and key not in drawn
        ]

    def start(self) -> None:
        waiting = [
            mutant
            for mutants in self.chosen.values()
            for mutant in mutants
            if mutant.key not in self.equivalent and self._open(mutant.key)
        ]
        if not waiting:
            return
        waiting.sort(key=lambda mutant: mutant.where.endswith(OUTSIDE))  # those take longer
        # A failure is enough: it need not be made small.
        settings.register_profile(
            "mutants",
            phases=[Phase.explicit, Phase.generate],
            database=None,
            deadline=None,
            suppress_health_check=list(HealthCheck),
        )
        settings.load_profile("mutants")

        def work(server: Server) -> None:
            baseline = self._baseline(server)
            for number, mutant in enumerate(waiting):
                names = self._tests(baseline, mutant, server)
                result = server.test(mutant, names, baseline)
                self._note(mutant.key, result)
                print(f"{number + 1}/{len(waiting)} {result.outcome}: {mutant.key}", flush=True)

        files = [f"tests/test_{name}.py" for name in TESTS]
        chosen = ["-k", f"({self.given.tests}) and {_NOT}" if self.given.tests else _NOT]
        state = self.given.state.resolve()
        code = pytest.main([*options(), *chosen, *files], plugins=[Server(work, state)])
        if code != pytest.ExitCode.OK:
            raise SystemExit(f"pytest ended with {code}")

    def _open(self, key: str) -> bool:
        known = self.results.get(key)
        return known is None or (self.given.again and known.outcome not in ("killed", "timeout"))

    def _baseline(self, server: Server) -> Baseline:
        """From earlier runs, as far as no module and no test has changed since."""
        files = [path_of(module) for module in MODULES]
        path = self.given.state / "baseline.json"
        known = read_baseline(path) if path.exists() else None
        if known is None or known.sources != digest(files):
            return server.baseline(files, None)
        known = known.current()
        return known if all(map(known.knows, server.items)) else server.baseline(files, known)

    def _tests(self, baseline: Baseline, mutant: Mutant, server: Server) -> list[str]:
        """The tests of a mutant, within the limits that are given."""
        if mutant.module.endswith(".toml"):
            names = tables.tests(mutant, baseline.seconds, self.given.limit)
        else:
            names = baseline.of(mutant, self.given.limit)
        names = [name for name in names if name in server.items]
        sums = accumulate(baseline.seconds[name] for name in names)
        return [name for name, sum in zip(names, sums, strict=True) if sum <= self.given.budget]

    def _note(self, key: str, result: Result) -> None:
        self.results[key] = result
        with self.journal.open("a") as file:
            print(json.dumps({"key": key, **asdict(result)}), file=file)

    def survivors(self) -> list[Mutant]:
        return [
            mutant
            for mutants in self.chosen.values()
            for mutant in mutants
            if mutant.key not in self.equivalent
            and mutant.key in self.results
            and self.results[mutant.key].outcome in ("survived", "untested")
        ]

    def text(self) -> str:
        lines = [f"{'':24}mutants  killed  timed out  equivalent  survived"]
        totals: Counter[str] = Counter()
        for module, mutants in self.chosen.items():
            counts = Counter(self._outcome(mutant.key) for mutant in mutants)
            totals.update(counts)
            lines.append(_row(module, counts))
        lines.append(_row("all", totals))
        for mutant in self.survivors():
            lines.append(f"\n{mutant.module}, line {mutant.first}, {mutant.where}")
            lines.append(f"  - {mutant.line}\n  + {mutant.becomes}")
        lines += [f"equivalent.toml: there is no such mutant: {key}" for key in self.strangers]
        return "\n".join(lines)

    def _outcome(self, key: str) -> str:
        if key in self.equivalent:
            return "equivalent"
        return self.results[key].outcome if key in self.results else "not tried"


def _row(name: str, counts: Counter[str]) -> str:
    survived = counts["survived"] + counts["untested"]
    return (
        f"{name:24}{counts.total():7}{counts['killed']:8}{counts['timeout']:11}"
        f"{counts['equivalent']:12}{survived:10}"
    )


def _equivalent() -> dict[str, str]:
    """Mutants that mean the same as the program, and why."""
    path = Path(__file__).with_name("equivalent.toml")
    found: dict[str, str] = {}
    for module, entries in tomllib.loads(path.read_text(encoding="utf-8")).items():
        for each in entries:
            for becomes in each["becomes"]:
                found[key(module, each["where"], each["line"], becomes)] = each["reason"]
    return found


def _module(key: str) -> str:
    return key.partition(": ")[0]


if __name__ == "__main__":
    raise SystemExit(main())
