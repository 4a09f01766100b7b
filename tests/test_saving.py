"""Writing: the old files or the new ones at every moment, and nothing left beside them."""

from __future__ import annotations

import errno
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import onnx
import pytest

import onnxprune
from onnxprune import atomic, saving
from onnxprune.errors import BrokenModel, UsageError, WriteFailed
from tests.damage.forkserver import run_forked
from tests.damage.kills import OUTPUT, WHOLE, left_over, prepare, state
from tests.graphs import two_convs
from tests.test_cli import contents, execute, refused

forks = pytest.mark.skipif(not hasattr(os, "fork"), reason="this system has no forks")


def pruned(folder: Path, ratio: float = 0.5) -> onnxprune.Result:
    return onnxprune.prune(folder / "model.onnx", ratio=ratio, verify=False, benchmark=False)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "work").mkdir()
    return tmp_path / "work"


# -- killed at any step --------------------------------------------------------------------------

#: What Python tells of before it is done: all that changes a file system.
_STEPS = ("open", "os.rename", "os.link", "os.remove", "os.rmdir", "os.mkdir", "os.truncate")


def killed_at(step: int, action: Callable[[], None]) -> Callable[[], int]:
    """A function that does `action`, and is killed ahead of so many steps in it."""

    def act() -> int:
        left = step

        def hook(event: str, _: Any) -> None:
            nonlocal left
            if event in _STEPS:
                left -= 1
                if left < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        sys.addaudithook(hook)
        action()
        left = 10**9  # what comes behind is not meant
        return 0

    return act


def at_every_step(log: Path, action: Callable[[], None]) -> Iterator[tuple[int, bool]]:
    """Yield after each kill, and at last after a run that was not killed."""
    for step in range(200):
        outcome = run_forked(killed_at(step, action), log)
        assert outcome.code == 0 or outcome.signal == signal.SIGKILL, outcome.text
        yield step, outcome.code == 0
        if outcome.code == 0:
            assert step > 8, "no step was seen"
            return
    raise AssertionError("it never came to an end")


@forks
@pytest.mark.parametrize("there", ["nothing", "old"])
def test_killed_at_any_step_there_is_the_old_model_or_the_new(
    folder: Path, tmp_path: Path, there: str
) -> None:
    states = prepare(folder, 64)
    result = pruned(folder)
    if there == "nothing":
        for name in WHOLE:
            (folder / name).unlink()
        states = {each: name for each, name in states.items() if name == "new"}
        states[state(folder)] = "old"
    outputs = {name: data for name, data in contents(folder).items() if name in WHOLE}
    seen = []
    for _, _ in at_every_step(tmp_path / "log", lambda: _save(result, folder)):
        assert state(folder) in states
        seen.append(states[state(folder)])
        # Whatever was left: the next run replaces it, and leaves nothing.
        _save(result, folder)
        assert states[state(folder)] == "new" and not left_over(folder)
        put_back(folder, outputs)
    assert seen[0] == "old" and seen[-1] == "new"
    assert seen == sorted(seen, reverse=True), "never back from the new to the old"


def put_back(folder: Path, outputs: dict[str, bytes]) -> None:
    """The folder as it was; the model that is read is not touched."""
    for each in folder.iterdir():
        if each.is_dir():
            shutil.rmtree(each)
        elif each.name not in ("model.onnx", "w.bin"):
            each.unlink()
    for name, data in outputs.items():
        (folder / name).write_bytes(data)


def _save(result: onnxprune.Result, folder: Path) -> None:
    result.save(folder / OUTPUT, force=True)


@forks
def test_killed_twice_at_any_step(folder: Path, tmp_path: Path) -> None:
    """The second run is killed, too, in what the first one left: also then nothing is lost."""
    states = prepare(folder, 64)
    result = pruned(folder)
    outputs = {name: data for name, data in contents(folder).items() if name in WHOLE}
    for first, whole in at_every_step(tmp_path / "log", lambda: _save(result, folder)):
        if first % 3 and not whole:
            continue
        for second in range(0, 60, 2):
            outcome = run_forked(
                killed_at(second, lambda: _save(result, folder)), tmp_path / "log2"
            )
            assert state(folder) in states, (first, second)
            if outcome.code == 0:
                break
        assert states[state(folder)] == "new" and not left_over(folder)
        put_back(folder, outputs)


@forks
@pytest.mark.slow
def test_the_command_killed_at_random(tmp_path: Path) -> None:
    """The short version of `tox -e hostile`: 20 kills of the real thing."""
    found = subprocess.run(
        [sys.executable, "-m", "tests.damage.kills", "--kills", "20", "--channels", "4096"],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert found.returncode == 0, found.stdout + found.stderr


def test_a_replaced_pair_has_its_usual_names(folder: Path) -> None:
    prepare(folder, 64)
    before = contents(folder)
    _save(pruned(folder, 0.5), folder)
    assert contents(folder).keys() == before.keys() == {"model.onnx", "w.bin", *WHOLE}
    assert contents(folder) != before
    places = {
        entry.value
        for tensor in onnx.load(folder / OUTPUT, load_external_data=False).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert places == {f"{OUTPUT}.data"}


# -- what others have there ----------------------------------------------------------------------


def test_only_folders_of_killed_runs_are_removed(folder: Path) -> None:
    """By name, and by the lock that a run holds: another's work and look-alikes stay."""
    onnx.save(two_convs(), folder / "model.onnx")
    stale = folder / f".onnxprune-{'0' * 16}"
    held = folder / f".onnxprune-{'1' * 16}"
    for each in (stale, held, folder / ".onnxprune-cache", folder / "onnxprune-0"):
        each.mkdir()
        (each / "draft").write_text("x")
    linked = folder / f".onnxprune-{'2' * 16}"
    precious = folder / "precious"
    precious.mkdir()
    (precious / "thesis").write_text("x")
    linked.symlink_to(precious)
    lock = atomic.hold(held)
    assert lock is not None
    try:
        _save(pruned(folder), folder)
        assert not stale.exists()
        for each in (held / "draft", folder / ".onnxprune-cache" / "draft", precious / "thesis"):
            assert each.read_text() == "x"
        assert linked.is_symlink()
    finally:
        os.close(lock)
    (folder / OUTPUT).unlink()
    _save(pruned(folder), folder)
    assert not held.exists()


def test_a_link_where_the_scratch_folder_would_be(folder: Path) -> None:
    onnx.save(two_convs(), folder / "model.onnx")
    with atomic.scratch(folder / OUTPUT) as scratch:
        name = scratch.name
    elsewhere = folder / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "precious").write_text("x")
    (folder / name).symlink_to(elsewhere)
    with pytest.raises(WriteFailed):
        _save(pruned(folder), folder)
    assert contents(elsewhere) == {"precious": b"x"}


def _hold(path: str, held: Any, done: Any) -> None:
    with atomic.scratch(Path(path)):
        held.set()
        done.wait(60)


def test_two_processes_write_one_output(folder: Path) -> None:
    onnx.save(two_convs(), folder / "model.onnx")
    context = multiprocessing.get_context("spawn")
    held, done = context.Event(), context.Event()
    other = context.Process(target=_hold, args=(str(folder / OUTPUT), held, done))
    other.start()
    try:
        assert held.wait(60)
        result = execute("prune", "model.onnx", "-o", OUTPUT, "--no-benchmark", cwd=folder)
        refused(result, 1, "another run is writing this file")
        assert not (folder / OUTPUT).exists()
        # Another output in the same folder is no concern of theirs.
        assert not execute("plan", "model.onnx", "-o", "plan.json", cwd=folder).returncode
        assert other.is_alive()
        other.kill()
        other.join()
        result = execute("prune", "model.onnx", "-o", OUTPUT, "--no-benchmark", cwd=folder)
        assert not result.returncode, result.stderr
        assert {each.name for each in folder.iterdir()} == {"model.onnx", "plan.json", OUTPUT}
    finally:
        other.kill()


def test_many_at_once_leave_one_whole_model(folder: Path) -> None:
    """Each ends well, or says that another was there first; what is there in the end is whole."""
    states = prepare(folder, 64)
    arguments = ["prune", "model.onnx", "-o", OUTPUT, "--force", "--no-benchmark", "--no-verify"]
    runs = [
        subprocess.Popen(
            [sys.executable, "-m", "onnxprune", *arguments],
            cwd=folder,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(4)
    ]
    for run in runs:
        _, said = run.communicate(timeout=120)
        assert run.returncode == 0 or "another run is writing" in said, said
    assert 0 in {run.returncode for run in runs}
    assert states[state(folder)] == "new" and not left_over(folder)


@pytest.mark.parametrize("call", ["mkdir", "lstat", "open"])
def test_a_scratch_folder_that_another_run_removes_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    """Another run that ends removes the folder between any two of the steps that take it."""
    real, calls = getattr(os, call), []

    def interrupted(path: Any, *rest: Any, **named: Any) -> Any:
        if ".onnxprune-" in str(path) and len(calls) < 3:
            calls.append(path)
            shutil.rmtree(tmp_path / Path(path).relative_to(tmp_path).parts[0], ignore_errors=True)
            if call == "mkdir":
                raise FileExistsError(errno.EEXIST, "there a moment ago", str(path))
        return real(path, *rest, **named)

    monkeypatch.setattr(atomic.os, call, interrupted)
    with atomic.scratch(tmp_path / "out") as folder:
        assert folder.is_dir()
        monkeypatch.undo()
    assert len(calls) == 3 and not list(tmp_path.iterdir())


# -- what changes, and what is full --------------------------------------------------------------


@pytest.mark.parametrize("how", ["written", "replaced", "removed"])
def test_external_data_that_changes_while_it_is_used(folder: Path, how: str) -> None:
    prepare(folder, 64)
    result = pruned(folder)
    before = contents(folder)
    data = (folder / "w.bin").read_bytes()
    if how == "written":
        time.sleep(0.02)  # the clock of a file system ticks
        (folder / "w.bin").write_bytes(data[:-1] + b"\0")
    elif how == "replaced":
        (folder / "w2.bin").write_bytes(data)
        os.replace(folder / "w2.bin", folder / "w.bin")
    else:
        (folder / "w.bin").unlink()
    with pytest.raises(BrokenModel, match="changed while it was read"):
        _save(result, folder)
    left = contents(folder)
    assert {name: left[name] for name in WHOLE} == {name: before[name] for name in WHOLE}


def test_a_model_that_changes_while_it_is_read(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    onnx.save(two_convs(), folder / "model.onnx")
    real = os.stat

    def later(path: Any, *rest: Any, **options: Any) -> os.stat_result:
        found = real(path, *rest, **options)
        if Path(path) == folder / "model.onnx":
            os.utime(path, ns=(0, found.st_mtime_ns + 1))
        return found

    monkeypatch.setattr(os, "stat", later)
    with pytest.raises(BrokenModel, match="changed while it was read"):
        onnxprune.inspect(folder / "model.onnx")


def test_a_disk_that_is_full_after_the_first_file(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Wherever it fails: one error, the old files as they were, and nothing besides."""
    prepare(folder, 64)
    result = pruned(folder)
    before = contents(folder)
    real = os.fsync
    for good in range(3):
        left = [good]

        def fsync(file: int, left: list[int] = left) -> None:
            left[0] -= 1
            if left[0] < 0:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            real(file)

        monkeypatch.setattr(os, "fsync", fsync)
        with pytest.raises(WriteFailed, match="No space left"):
            _save(result, folder)
        monkeypatch.setattr(os, "fsync", real)
        assert contents(folder) == before, good


def test_no_space_for_temporary_files_is_one_line(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxprune import work
    from tests.test_cli import invoke

    def full(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), "/tmp/onnxprune-x")

    onnx.save(two_convs(), folder / "model.onnx")
    monkeypatch.setattr(work, "find_inputs", full)
    result = invoke("prune", folder / "model.onnx", "-o", folder / OUTPUT)
    refused(result, 1, "/tmp/onnxprune-x: No space left on device")
    assert set(contents(folder)) == {"model.onnx"}


def test_the_same_bytes_shared_by_two_tensors_are_kept_apart(folder: Path) -> None:
    """Two tensors may be one part of a file; what is written has each for itself."""
    model = two_convs(64)
    model.graph.initializer.add().CopyFrom(model.graph.initializer[0])
    model.graph.initializer[-1].name = "unused"
    onnx.save_model(
        model,
        folder / "model.onnx",
        **{"save_as_external_data": True, "location": "w.bin", "size_threshold": 0},
    )
    model = onnx.load(folder / "model.onnx", load_external_data=False)
    tensors = {t.name: t for t in model.graph.initializer}
    del tensors["unused"].external_data[:]
    tensors["unused"].external_data.extend(tensors["w1"].external_data)
    (folder / "model.onnx").write_bytes(model.SerializeToString())
    _save(pruned(folder), folder)
    onnx.checker.check_model(folder / OUTPUT)


def test_what_can_not_be_the_output(folder: Path) -> None:
    onnx.save(two_convs(), folder / "model.onnx")
    os.mkfifo(folder / "pipe")
    with pytest.raises(UsageError, match="device or a pipe"):
        saving.check_target(folder / "pipe", [], True)
