"""Tests of mutants in forked processes: pytest is started, and tests are collected, once.

A first run says which test executes which lines, and how long it takes. Of a mutant, only the tests
that execute the changed statement are run, the quickest first, up to the first that fails.

A changed function gets its new code in the forked process, so everyone who has imported it calls
the new one. What is changed outside of functions is imported anew, with all that imports it, and
the tests are collected again.
"""

from __future__ import annotations

import functools
import gc
import hashlib
import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import tempfile
import time
import types
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import coverage
import pytest

from onnxprune import tables
from tests.damage.forkserver import run_forked
from tests.equivariance import onnx_cases
from tests.mutants.mutations import OUTSIDE, ROOT, Mutant, path_of

#: Exit code of a process whose tests found the mutant.
FOUND = 1
#: Address space, bytes.
_MEMORY = 6 << 30


@dataclass(frozen=True)
class Result:
    """What became of a mutant."""

    #: `killed`, `survived`, `timeout` or `untested` (no test executes it).
    outcome: str
    #: The test that found it.
    by: str = ""
    #: How many tests were to be run, and how long they take on the unchanged program, seconds.
    tests: int = 0
    seconds: float = 0.0


@dataclass
class Baseline:
    """Every test's seconds on the unchanged program, and the lines that it executes."""

    seconds: dict[str, float]
    #: Tests by file (from the root) and line.
    tests: dict[str, dict[int, list[str]]]
    #: What the lines are of, see `digest`.
    sources: str
    #: Tests that fail on the unchanged program: they are left out.
    failing: list[str]
    #: What the tests are of: a digest of each file.
    files: dict[str, str]

    def knows(self, test: str) -> bool:
        """Whether a test was run, as it is now."""
        return test in self.seconds or test in self.failing

    def current(self) -> Baseline:
        """Without the tests of files that have changed since."""

        def same(test: str) -> bool:
            return _file(test) in files

        files = {file: was for file, was in self.files.items() if was == digest([ROOT / file])}
        seconds = {test: seconds for test, seconds in self.seconds.items() if same(test)}
        tests = {
            file: {line: [*filter(same, tests)] for line, tests in lines.items()}
            for file, lines in self.tests.items()
        }
        return Baseline(seconds, tests, self.sources, [*filter(same, self.failing)], files)

    def joined(self, other: Baseline) -> Baseline:
        """With what another one says of other tests."""
        tests = {
            file: {
                line: sorted({*self.tests.get(file, {}).get(line, ()), *more})
                for line, more in {**self.tests.get(file, {}), **lines}.items()
            }
            for file, lines in other.tests.items()
        }
        seconds = {**self.seconds, **other.seconds}
        failing, files = self.failing + other.failing, {**self.files, **other.files}
        return Baseline(seconds, tests, other.sources, failing, files)

    def of(self, mutant: Mutant, limit: float) -> list[str]:
        """The tests for a mutant, the quickest first; only those that take `limit` at most."""
        lines = self.tests.get(str(path_of(mutant.module).relative_to(ROOT)), {})
        outside = mutant.where.endswith(OUTSIDE)
        chosen = {
            test
            for line, tests in lines.items()
            if outside or mutant.first <= line <= mutant.last
            for test in tests
        }
        timed = sorted((self.seconds[test], test) for test in chosen)
        return [test for seconds, test in timed if seconds <= limit]


class Server:
    """A pytest plugin whose loop of tests is a loop of mutants."""

    def __init__(self, work: Callable[[Server], None], state: Path) -> None:
        self.work = work
        self.state = state
        self.items: dict[str, pytest.Item] = {}
        #: Tests that fail on the unchanged program, while that is what runs.
        self.failing: set[str] | None = None

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        self.items = {item.nodeid: item for item in session.items}
        onnx_cases()  # most tests of rules read them, and they are the same in all mutants
        gc.collect()
        gc.freeze()
        self.work(self)
        return True

    @pytest.hookimpl(tryfirst=True)
    def pytest_runtest_makereport(self, item: pytest.Item, call: Any) -> None:
        """The first test that fails ends the process."""
        if call.excinfo is None or isinstance(call.excinfo.value, pytest.skip.Exception):
            return
        if self.failing is not None:
            self.failing.add(item.nodeid)
            return
        os.write(1, f"\nBY {item.nodeid}\n{call.excinfo.exconly()}\n".encode())
        os._exit(FOUND)

    # -- the unchanged program -------------------------------------------------------------------

    def baseline(self, files: Sequence[Path], known: Baseline | None) -> Baseline:
        """Run the tests once that `known` says nothing of, each with the lines that it executes."""
        target = self.state / "baseline.new.json"

        def execute() -> int:
            tracer = coverage.Coverage(
                data_file=None, include=[str(file) for file in files], config_file=False
            )
            tracer.start()
            _forget()
            self.failing = set()
            began: dict[str, float] = {}
            names = [name for name in self.items if known is None or not known.knows(name)]
            for name in self._run(names):
                tracer.switch_context(name)
                began[name] = time.perf_counter()
            tracer.stop()
            ends = [*began.values(), time.perf_counter()][1:]
            spans = zip(began.items(), ends, strict=True)
            seconds = {name: end - start for (name, start), end in spans}
            failing = sorted(self.failing)
            for name in failing:
                del seconds[name]
            data = tracer.get_data()
            tests = {
                str(file.relative_to(ROOT)): {
                    line: sorted({*names} & seconds.keys())
                    for line, names in data.contexts_by_lineno(str(file)).items()
                }
                for file in files
            }
            of = {file: digest([ROOT / file]) for file in sorted(set(map(_file, began)))}
            _write(Baseline(seconds, tests, digest(files), failing, of), target)
            return 0

        outcome = run_forked(execute, self.state / "log", seconds=3600, memory=_MEMORY)
        if outcome.code != 0:
            raise SystemExit(f"the tests of the unchanged program ended:\n{outcome.text[-2000:]}")
        found = read_baseline(target)
        if found.failing:
            print("fail on the unchanged program, and are left out:", *found.failing, sep="\n  ")
        found = known.joined(found) if known else found
        _write(found, target)
        target.replace(self.state / "baseline.json")
        return found

    def _run(self, names: Sequence[str]) -> Iterator[str]:
        """Run these tests; says which is next."""
        items = [self.items[name] for name in names]
        for item, following in zip(items, [*items[1:], None], strict=True):
            yield item.nodeid
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=following)

    # -- mutants ---------------------------------------------------------------------------------

    def test(self, mutant: Mutant, names: Sequence[str], baseline: Baseline) -> Result:
        """Run these tests on a mutant."""
        if not names:
            return Result("untested")
        seconds = sum(baseline.seconds[name] for name in names)

        def execute() -> int:
            if mutant.module.endswith(".toml"):
                _change_table(mutant, self.state / "rules")
            elif not _change_function(mutant):
                return _start_anew(mutant, names, baseline)
            _forget()
            self.run(names, baseline)
            return 0

        log = self.state / "log"
        # Each test has a limit of its own, of processor time; this one is for what waits for ever.
        outcome = run_forked(execute, log, seconds=900 + 30 * seconds, memory=_MEMORY)
        if outcome.code == 0:
            return Result("survived", "", len(names), seconds)
        if outcome.signal in (signal.SIGVTALRM, signal.SIGALRM):
            return Result("timeout", "", len(names), seconds)
        by = [line[3:] for line in outcome.text.splitlines() if line.startswith("BY ")]
        last = (outcome.text.strip().splitlines() or [str(outcome.trouble)])[-1]
        return Result("killed", by[0] if by else last[:200], len(names), seconds)

    def run(self, names: Sequence[str], baseline: Baseline, spare: float = 3) -> None:
        """Run these tests, each for twice as long as it takes, and `spare` seconds more."""
        for name in self._run(names):
            # Of processor time: others may want it, too.
            signal.setitimer(signal.ITIMER_VIRTUAL, spare + 2 * baseline.seconds[name])


def read_baseline(path: Path) -> Baseline:
    found = json.loads(path.read_text())
    for lines in found["tests"].values():
        for line in list(lines):
            lines[int(line)] = lines.pop(line)
    return Baseline(**found)


def _write(baseline: Baseline, path: Path) -> None:
    path.write_text(json.dumps(asdict(baseline)))


def digest(files: Sequence[Path]) -> str:
    """Another one where one of the files is another, or is gone."""
    contents = (file.read_bytes() if file.exists() else b"" for file in files)
    return hashlib.sha256(b"".join(contents)).hexdigest()


def _file(test: str) -> str:
    return test.partition("::")[0]


def _forget() -> None:
    """Empty the project's caches: what the unchanged program found does not count."""
    for name, module in list(sys.modules.items()):
        if name.startswith("onnxprune"):
            for value in list(vars(module).values()):
                if hasattr(value, "cache_clear"):
                    value.cache_clear()


def _change_function(mutant: Mutant) -> bool:
    """Give a function the code it has in the mutant; False where that is not all there is to do."""
    if mutant.where.endswith(OUTSIDE):
        return False
    name, names = f"onnxprune.{mutant.module}", mutant.where.split(".")
    original = sys.modules[name]
    module = types.ModuleType(name)
    module.__dict__.update(__package__="onnxprune", __file__=original.__file__)
    # Dataclasses look for their module by its name.
    sys.modules[name] = module
    try:
        exec(compile(mutant.source, str(path_of(mutant.module)), "exec"), module.__dict__)
    finally:
        sys.modules[name] = original
    old, new = _function(original, names), _function(module, names)
    if old.__code__.co_freevars != new.__code__.co_freevars:
        return False
    old.__code__ = new.__code__
    return True


def _function(module: types.ModuleType, names: Sequence[str]) -> Any:
    found: Any = functools.reduce(lambda inner, name: vars(inner)[name], names, module)
    while not isinstance(found, types.FunctionType) or hasattr(found, "__wrapped__"):
        for inner in ("__wrapped__", "fget", "func", "__func__"):
            if getattr(found, inner, None) is not None:
                found = getattr(found, inner)
                break
    return found


def _change_table(mutant: Mutant, folder: Path) -> None:
    """Have the built-in rules read from a folder in which one table is another."""
    folder.mkdir(exist_ok=True)
    for path in tables.tables_folder().glob("*.toml"):
        changed = path == path_of(mutant.module)
        text = mutant.source if changed else path.read_text(encoding="utf-8")
        (folder / path.name).write_text(text, encoding="utf-8")
    tables.tables_folder = lambda: folder


class _Finder(importlib.abc.MetaPathFinder, importlib.machinery.SourceFileLoader):
    """Imports one module from other source than that of its file."""

    def __init__(self, mutant: Mutant) -> None:
        super().__init__(f"onnxprune.{mutant.module}", str(path_of(mutant.module)))
        self.source = mutant.source

    def find_spec(self, fullname: str, path: Any, target: Any = None) -> Any:
        if fullname == self.name:
            return importlib.util.spec_from_file_location(self.name, self.path, loader=self)
        return None

    def get_code(self, fullname: str) -> types.CodeType:
        return compile(self.source, self.path, "exec")


def _start_anew(mutant: Mutant, names: Sequence[str], baseline: Baseline) -> int:
    """Import the mutant, and everything again, and run the tests in a session of their own."""
    for name in [each for each in sys.modules if each.split(".")[0] in ("onnxprune", "tests")]:
        del sys.modules[name]
    sys.meta_path.insert(0, _Finder(mutant))
    files = dict.fromkeys(map(_file, names))
    server = Server(lambda server: server.run(names, baseline, 30), Path())
    return int(pytest.main([*options(), *files], plugins=[server]))


def options() -> Iterator[str]:
    """No terminal, no plugins that are not needed; scratch folders that the next run reuses."""
    for plugin in ("terminal", "cacheprovider", "xdist", "faulthandler"):
        yield from ("-p", f"no:{plugin}")
    yield from ("--capture=no", "--import-mode=importlib", "-o", "addopts=")
    yield from (f"--rootdir={ROOT}", f"--basetemp={Path(tempfile.gettempdir()) / 'mutants-tests'}")
