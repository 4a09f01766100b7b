"""A reconstruction that is stopped at any moment goes on from there, to the same result."""

from __future__ import annotations

import errno
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from click.testing import CliRunner
from onnx import ModelProto, helper

import onnxprune
from models import lstm, vit
from onnxprune import atomic, saving
from onnxprune.cli import main
from onnxprune.errors import Interrupted, UsageError, WriteFailed
from onnxprune.reconstruction import rounds, walk
from onnxprune.reconstruction.noted import Note
from onnxprune.work import Result
from tests.graphs import make, weight

STEPS = ("look at ", "probe ", "refit ")
QUICK: dict[str, Any] = {"round_to": 1, "verify": False, "benchmark": False, "reconstruct": True}


def convolutions() -> ModelProto:
    """A residual block, and two layers around a function, which are refitted together."""
    node = helper.make_node
    sizes = {"w1": (8, 3, 3, 3), "w2": (8, 8, 3, 3), "w3": (4, 8, 3, 3), "b1": (8,)}
    sizes |= {name: (8,) for name in ("gamma", "beta", "mean")}
    weights = {name: weight(name, *shape) / 2 for name, shape in sizes.items()}
    weights["var"] = np.full(8, 0.5, np.float32)
    nodes = [
        node("Conv", ["x", "w1", "b1"], ["h1"], pads=[1, 1, 1, 1]),
        node("Relu", ["h1"], ["r1"]),
        node("Conv", ["r1", "w2"], ["h2"], pads=[1, 1, 1, 1]),
        node("BatchNormalization", ["h2", "gamma", "beta", "mean", "var"], ["n2"]),
        node("Add", ["n2", "r1"], ["s"]),
        node("Sigmoid", ["s"], ["r2"]),
        node("Conv", ["r2", "w3"], ["y"], pads=[1, 1, 1, 1]),
    ]
    return make(nodes, {"x": ["N", 3, 8, 8]}, {"y": ["N", 4, 8, 8]}, weights)


def gated() -> ModelProto:
    """Products without a bias: what is to be added goes into an Add of its own."""
    node = helper.make_node
    sizes = {"w0": (6, 16), "w1": (6, 16), "w2": (16, 12), "w3": (12, 4)}
    nodes = [
        node("MatMul", ["x", "w1"], ["h"]),
        node("Sigmoid", ["h"], ["a"]),
        node("MatMul", ["x", "w0"], ["u"]),
        node("Mul", ["a", "u"], ["m"]),
        node("MatMul", ["m", "w2"], ["h2"]),
        node("Sigmoid", ["h2"], ["r"]),
        node("MatMul", ["r", "w3"], ["y"]),
    ]
    weights = {name: weight(name, *shape) for name, shape in sizes.items()}
    return make(nodes, {"x": ["N", 10, 6]}, {"y": ["N", 10, 4]}, weights)


KINDS: dict[str, Callable[[], ModelProto]] = {
    "convolutions": convolutions,
    "gated": gated,
    "lstm": lambda: lstm.build(features=5, hidden=6, layers=1, steps=4, classes=3),
    "vit": lambda: vit.build(image=8, patch=4, width=12, depth=1, heads=2, classes=3),
}


def job(kind: str = "convolutions", samples: int = 48, **changed: Any) -> dict[str, Any]:
    """The arguments of a quick `prune`."""
    model = KINDS[kind]()
    shape = [d.dim_value for d in model.graph.input[0].type.tensor_type.shape.dim][1:]
    data = np.random.default_rng(3).normal(size=(samples, *shape)).astype(np.float32)
    given = {"model_or_path": model, "ratio": 0.5, "calibration": data}
    return {**given, **QUICK, **changed}


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ONNXPRUNE_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "reconstruction"


@pytest.fixture
def done(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is computed: a word for each site that is looked at or solved, and each group probed."""
    found: list[str] = []
    refit, curve = walk._Walker._do, rounds.measure.__globals__["_curve"]

    def solved(self: Any, step: Any) -> Any:
        found.append("look" if self.settings.only_look else "refit")
        return refit(self, step)

    def probed(*arguments: Any, **more: Any) -> Any:
        found.append("group")
        return curve(*arguments, **more)

    monkeypatch.setattr(walk._Walker, "_do", solved)
    monkeypatch.setitem(rounds.measure.__globals__, "_curve", probed)
    return found


def same(a: Result, b: Result) -> bool:
    return (
        a.model.SerializeToString(deterministic=True)
        == b.model.SerializeToString(deterministic=True)
        and a.report.reconstruction == b.report.reconstruction
    )


def words_of(given: dict[str, Any]) -> tuple[Result, list[str]]:
    """The job done in one go, and what it says at each step."""
    words: list[str] = []
    result = onnxprune.prune(**given, progress=words.append)
    return result, [word for word in words if word.startswith(STEPS)]


def stop(word: str, given: dict[str, Any], *, resume: bool = False, how: Any = None) -> None:
    """The job, stopped when it says a word."""

    def told(said: str) -> None:
        if said == word:
            raise how or KeyboardInterrupt

    with pytest.raises(how or (KeyboardInterrupt, Interrupted)):
        onnxprune.prune(**given, journal=True, resume=resume, progress=told)


def folders(cache: Path) -> list[Path]:
    return sorted(cache.iterdir()) if cache.exists() else []


def files(cache: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for file in cache.rglob("*.npz")}


# -- wherever it is stopped ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("kind", "every"), [("convolutions", 1), ("gated", 1), ("lstm", 2), ("vit", 4)]
)
def test_stopped_again_and_again_it_comes_to_the_same_end(
    kind: str, every: int, cache: Path, tmp_path: Path, done: list[str]
) -> None:
    """Each run does a step or a few and is stopped; none is done twice."""
    given = job(kind)
    whole, words = words_of(given)
    once = done[:]
    assert {word.split()[0] for word in words} == {"look", "probe", "refit"}
    assert once == sorted(once, key=["look", "group", "refit"].index) and len(once) == len(words)
    done.clear()
    for i, word in enumerate(words[1::every]):
        stop(word, given, resume=i > 0)
    result = onnxprune.prune(**given, resume=True)
    assert same(result, whole) and done == once
    noted = files(cache)
    assert noted
    result = onnxprune.prune(**given, journal=True)
    assert files(cache) == noted
    result.save(tmp_path / "out.onnx")
    assert not folders(cache)


def test_every_kind_of_step_was_among_them(monkeypatch: pytest.MonkeyPatch) -> None:
    notes: list[Note] = []
    monkeypatch.setattr(Note, "write", lambda note, *_: notes.append(note))
    for kind in KINDS:
        onnxprune.prune(**job(kind))
    kinds = {done.kind for note in notes for done in note.written}
    kinds |= {"line" for note in notes if note.line is not None}
    kinds |= {"together" for note in notes if note.together}
    assert kinds == {"operand", "add", "absorb", "line", "together"}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_killed_and_resumed(cache: Path, tmp_path: Path) -> None:
    """kill -9, on the command line."""
    given = job("convolutions", samples=256)
    onnx.save(given["model_or_path"], tmp_path / "model.onnx")
    np.save(tmp_path / "data.npy", given["calibration"])
    options = ["--ratio", "0.5", "--round-to", "1", "--no-verify", "--no-benchmark"]
    options += ["--calibration", "data.npy", "--reconstruct"]
    command = [sys.executable, "-m", "onnxprune", "prune", "model.onnx", *options, "-o"]

    def run(*words: str) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, *words], cwd=tmp_path, stderr=subprocess.PIPE)

    assert run("whole.onnx").wait() == 0 and not folders(cache)
    process = run("out.onnx")
    end = time.monotonic() + 60
    while len(files(cache)) < 2:
        assert time.monotonic() < end and process.poll() is None, process.communicate()
        time.sleep(0.001)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert files(cache) and not (tmp_path / "out.onnx").exists()
    assert run("out.onnx", "--resume").wait() == 0
    assert (tmp_path / "out.onnx").read_bytes() == (tmp_path / "whole.onnx").read_bytes()
    assert not folders(cache)


# -- what is kept, and what is not ---------------------------------------------------------------


def test_ctrl_c_is_one_line_and_130(
    cache: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = job()
    onnx.save(given["model_or_path"], tmp_path / "model.onnx")
    np.save(tmp_path / "data.npy", given["calibration"])
    words = [tmp_path / "model.onnx", "--ratio", "0.5", "--round-to", "1", "--no-benchmark"]
    words += ["--calibration", tmp_path / "data.npy", "--reconstruct", "-o", tmp_path / "out.onnx"]

    def interrupted(*_: Any) -> Any:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(rounds, "_widths", interrupted)
        result = CliRunner().invoke(main, ["prune", *map(str, words)])
    assert result.exit_code == 130 and not result.stdout
    assert len(result.stderr.splitlines()) == 1 and "--resume" in result.stderr
    result = CliRunner().invoke(main, ["prune", *map(str, words), "--resume"])
    assert result.exit_code == 0 and not folders(cache)


def test_gram_matrices_go_when_they_are_of_no_more_use(cache: Path) -> None:
    given = job()
    stop("refit 1/2", given)
    kinds = {name.split("-")[0] for name in files(cache)}
    assert kinds == {"groups"}


def test_without_resume_it_begins_anew(cache: Path, done: list[str]) -> None:
    given = job()
    whole, words = words_of(given)
    stop(words[-1], given)
    done.clear()
    assert same(onnxprune.prune(**given, journal=True), whole) and len(done) == len(words)


def test_without_a_journal_nothing_is_kept(cache: Path) -> None:
    onnxprune.prune(**job())
    onnxprune.prune(**job(reconstruct=False), resume=True)
    assert not folders(cache)


@pytest.mark.parametrize("damage", ["torn", "empty", "no file of ours", "gone"])
def test_a_step_that_is_not_whole_is_done_again(damage: str, cache: Path, done: list[str]) -> None:
    given = job()
    whole, _ = words_of(given)
    once = done[:]
    stop("refit 2/2", given)
    (last,) = cache.rglob("refit-*.npz")
    data = last.read_bytes()
    changed = {"torn": data[:-40], "empty": b"", "no file of ours": b"PK\3\4" + bytes(90)}
    if damage == "gone":
        last.unlink()
    else:
        last.write_bytes(changed[damage])
    done.clear()
    result = onnxprune.prune(**given, resume=True)
    assert same(result, whole) and done == once[-2:]
    assert not any("--resume" in note for note in result.report.notes)


@pytest.mark.parametrize(
    "changed",
    [
        {"calibration": job()["calibration"][:40]},
        {"calibration": -job()["calibration"]},
        {"seed": 1},
        {"model_or_path": gated(), "calibration": job("gated")["calibration"]},
    ],
)
def test_another_job_finds_nothing(changed: dict[str, Any], cache: Path, done: list[str]) -> None:
    stop("refit 2/2", job())
    done.clear()
    words_of(job(**changed))
    once = done[:]
    done.clear()
    result = onnxprune.prune(**job(**changed), resume=True)
    assert done == once and len(folders(cache)) == 2
    assert any("--resume" in note for note in result.report.notes)


def test_another_budget_begins_with_the_same_look(cache: Path, done: list[str]) -> None:
    stop("refit 2/2", job())
    whole, _ = words_of(job(ratio=0.3))
    done.clear()
    assert same(onnxprune.prune(**job(ratio=0.3), resume=True), whole)
    assert set(done) == {"refit"}


def test_more_threads_go_on_as_well(cache: Path, done: list[str]) -> None:
    stop("refit 2/2", job())
    done.clear()
    onnxprune.prune(**job(threads=2), resume=True)
    assert done == ["refit"]


def test_a_journal_of_another_job_is_refused(cache: Path) -> None:
    stop("refit 2/2", job())
    (folder,) = folders(cache)
    (folder / "job.json").write_text(json.dumps({"schema": 1, "identity": "0" * 64}))
    with pytest.raises(UsageError, match=r"another job.*leave out --resume"):
        onnxprune.prune(**job(), resume=True)
    onnxprune.prune(**job(), journal=True)
    assert json.loads((folder / "job.json").read_text())["identity"] != "0" * 64


def test_a_journal_has_one_writer(cache: Path) -> None:
    stop("refit 2/2", job())
    (folder,) = folders(cache)
    before = files(cache)
    lock = atomic.hold(folder)
    assert lock is not None
    try:
        with pytest.raises(UsageError, match="another run"):
            onnxprune.prune(**job(), resume=True)
        # Without --resume nobody minds: it is done, and not noted.
        assert same(onnxprune.prune(**job(), journal=True), onnxprune.prune(**job()))
        assert files(cache) == before
    finally:
        os.close(lock)


def test_a_full_disk_is_a_note(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    given = job()
    whole, _ = words_of(given)
    real, calls = np.savez, []

    def full(*arguments: Any, **named: Any) -> None:
        calls.append(named)
        if len(calls) > 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        real(*arguments, **named)

    monkeypatch.setattr(np, "savez", full)
    result = onnxprune.prune(**given, journal=True)
    assert same(result, whole) and len(calls) == 3
    assert any("No space left" in note for note in result.report.notes)
    assert not files(cache) and not list(cache.rglob("draft"))


def test_a_cache_that_cant_be_written_is_a_note(cache: Path) -> None:
    cache.parent.mkdir()
    cache.write_text("a file is in the way")
    result = onnxprune.prune(**job(), journal=True)
    assert any("reconstruction" in note and "--resume" in note for note in result.report.notes)


def test_what_was_refitted_outlives_a_model_that_cant_be_saved(
    cache: Path, tmp_path: Path, done: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = onnxprune.prune(**job())

    def full(*_: Any) -> None:
        raise WriteFailed("the disk is full")

    result = onnxprune.prune(**job(), journal=True)
    with monkeypatch.context() as patch, pytest.raises(WriteFailed):
        patch.setattr(saving, "save", full)
        result.save(tmp_path / "out.onnx")
    done.clear()
    result = onnxprune.prune(**job(), resume=True)
    assert same(result, whole) and not done
    result.save(tmp_path / "out.onnx")
    assert not folders(cache)


def test_what_nobody_came_back_for_is_removed(cache: Path) -> None:
    stop("refit 2/2", job())
    (old,) = folders(cache)
    os.utime(old, (0, 0))
    onnxprune.prune(**job("gated"), journal=True)
    (new,) = folders(cache)
    os.utime(new, (0, 0))
    told = onnxprune.prune(**job("gated"), resume=True).report.notes
    assert new != old and folders(cache) == [new] and not any("--resume" in n for n in told)


# -- other commands ------------------------------------------------------------------------------


def test_a_plan_that_is_carried_out(cache: Path, tmp_path: Path, done: list[str]) -> None:
    given = job()
    model, plan = given["model_or_path"], onnxprune.plan(given["model_or_path"], round_to=1)
    options = {"calibration": given["calibration"], "reconstruct": True, "verify": False}
    whole = onnxprune.apply(model, plan, **options)
    once = done[:]
    done.clear()

    def told(said: str) -> None:
        if said == "refit 2/2":
            raise KeyboardInterrupt

    with pytest.raises(Interrupted, match=r"1 step.*--resume"):
        onnxprune.apply(model, plan, **options, journal=True, progress=told)
    result = onnxprune.apply(model, plan, **options, resume=True)
    assert same(result, whole) and done == once
    result.save(tmp_path / "out.onnx")
    assert not folders(cache)


def test_a_search_looks_once_and_resumes(cache: Path, tmp_path: Path, done: list[str]) -> None:
    given = job()
    model = given.pop("model_or_path")
    np.savez(tmp_path / "eval.npz", x=given["calibration"])
    options = {**given, "eval": str(tmp_path / "eval.npz"), "max_drop": 60}
    whole = onnxprune.search(model, **options)
    once = done[:]
    done.clear()
    again = onnxprune.search(model, **options, journal=True)
    assert same(again, whole) and done.count("group") < once.count("group")
    done.clear()
    result = onnxprune.search(model, **options, resume=True)
    assert same(result, whole) and not done
    result.save(tmp_path / "out.onnx")
    assert not folders(cache)


def test_training_begins_with_what_was_refitted(
    cache: Path, tmp_path: Path, done: list[str]
) -> None:
    pytest.importorskip("torch")
    given = job(finetune=2)
    whole, _ = words_of(given)
    for word in ("build the graphs", "epoch 1/2"):
        done.clear()

        def told(said: str, word: str = word) -> None:
            if said.startswith(word):
                raise KeyboardInterrupt

        with pytest.raises(Interrupted, match="--resume"):
            onnxprune.prune(**given, journal=True, resume=word != "build the graphs", progress=told)
    done.clear()
    result = onnxprune.prune(**given, resume=True)
    assert not done and same(result, whole)
    result.save(tmp_path / "out.onnx")
    assert not folders(cache)
