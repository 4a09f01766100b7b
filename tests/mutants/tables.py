"""Mutants of the rule tables: what a person could get wrong in one line of them."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from itertools import pairwise

from onnxprune.tables import built_in
from tests.mutants.mutations import Mutant, changed_lines, numbered, path_of

#: Lines without which a table can still be read.
_KEYS = ("pin", "bind", "score", "zero", "sums", "nonzero", "roles", "passes", "codes")
_LINE = re.compile(r"^(\w+) = (.*)$")
#: Tests of whole models; and those of rules that are not of one operator.
_WHOLE = re.compile(r"test_(fused|exactness|regressions|lossless|exported|fuzz)|test_rules[^[]*$")
_NAME = re.compile(r"\*?[a-z]\b")


def of_module(module: str) -> list[Mutant]:
    """All mutants of one file of tables."""
    source = path_of(module).read_text(encoding="utf-8")
    lines = source.split("\n")
    found: list[Mutant] = []
    seen: set[str] = set()
    table = ""
    for number, line in enumerate(lines):
        if line.startswith("["):
            table = line
        match = _LINE.match(line)
        if match is None:
            continue
        for changed in _changes(match[1], match[2]):
            new = [*lines[:number], *([changed] if changed else []), *lines[number + 1 :]]
            text = "\n".join(new)
            if changed != line and text not in seen:
                seen.add(text)
                gone, come = changed_lines(source, text)
                found.append(Mutant(module, table, gone, come, number + 1, number + 1, text))
    return numbered(found)


def tests(mutant: Mutant, seconds: Mapping[str, float], limit: float) -> list[str]:
    """The tests of the operators of a mutant's table, and then the rest, the quickest first."""
    title = mutant.where.partition("#")[0].strip(' []"')
    name = mutant.module.rpartition("/")[2]
    operators = [each for each, rule in built_in().items() if rule.source == f"{name}: [{title}]"]
    own = [test for test in seconds if any(test.endswith(f"[{each}]") for each in operators)]
    rest = [test for test in seconds if _WHOLE.search(test) and test not in own]
    return [
        test
        for tests in (own, rest)
        for test in sorted(tests, key=lambda each: seconds[each])
        if seconds[test] <= limit
    ]


def _changes(key: str, value: str) -> Iterator[str]:
    """Lines in place of `key = value`; an empty one for none."""
    if key == "axes":
        yield from (f"{key} = {changed}" for changed in _patterns(value))
    if key in _KEYS:
        yield ""
    if key in ("zero", "sums"):
        terms = value.strip('"').split(" + ")
        for i, term in enumerate(terms):
            rest = [*terms[:i], *terms[i + 1 :]]
            if rest:
                yield f'{key} = "{" + ".join(rest)}"'
            factors = term.split("*")
            for k in range(len(factors) if len(factors) > 1 else 0):
                left = "*".join([*factors[:k], *factors[k + 1 :]])
                yield f'{key} = "{" + ".join([*terms[:i], left, *terms[i + 1 :]])}"'
    for opening, closing in ("{}", "[]"):
        if value.startswith(opening) and value.endswith(closing) and not value.startswith("[["):
            entries = re.split(r", (?![^\"]*\"(?:[^\"]*\"[^\"]*\")*[^\"]*$)", value[1:-1].strip())
            for i in range(len(entries) if len(entries) > 1 else 0):
                kept = ", ".join([*entries[:i], *entries[i + 1 :]])
                yield f"{key} = {opening} {kept} {closing}"


def _patterns(value: str) -> Iterator[str]:
    """Patterns with two neighbours exchanged, one name another, or one mark left out."""
    names = list(_NAME.finditer(value))
    for one, other in pairwise(names):
        if one[0] != other[0]:
            between = value[one.end() : other.start()]
            yield value[: one.start()] + other[0] + between + one[0] + value[other.end() :]
    every = sorted({each[0] for each in names})
    for each in names:
        following = every[(every.index(each[0]) + 1) % len(every)]
        yield value[: each.start()] + following + value[each.end() :]
    for mark in re.finditer(r"\?|\[|\.\.\.", value):
        if mark[0] == "[":
            end = value.index("]", mark.start())
            yield value[: mark.start()] + value[mark.end() : end] + value[end + 1 :]
        else:
            yield value[: mark.start()] + value[mark.end() :]
