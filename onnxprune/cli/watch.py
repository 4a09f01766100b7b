"""The command in a process of its own: whatever ends that, is a message and an exit code.

A model is run in onnxruntime, and read by onnx; both are large libraries of C++, and a damaged file
or a fault in a kernel can end the process that they are in, or keep it for ever. So the command
forks before it does anything, and what is left does nothing but wait.
"""

from __future__ import annotations

import atexit
import contextlib
import ctypes
import mmap
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from typing import NoReturn

#: Bytes that both processes see: what the command is at, in words.
_PAGE = 4096
_page: mmap.mmap | None = None
#: Signals that are for the command, and not for what waits for it.
_PASSED = ("SIGTERM", "SIGHUP")
#: Seconds in which the command may end by a signal that it had itself.
_GRACE = 1.0
#: prctl(2): the signal that a process gets when its parent ends.
_PR_SET_PDEATHSIG = 1


def note(stage: str) -> None:
    """Say what the command is at, for the message in case it does not come back."""
    if _page is not None:
        data = stage.encode()[: _PAGE - 1]
        _page[: len(data) + 1] = data + b"\0"


def limit(seconds: float) -> bool:
    """End the command after so many seconds, whatever it does then; False where that can't be."""
    if _page is None:
        return False
    # The default action: a handler in Python would wait for a kernel that hangs.
    signal.signal(signal.SIGALRM, signal.SIG_DFL)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    return True


def watched(command: Callable[[], object]) -> object:
    """Call `command` in a fork, and end as that does; here where the system has no forks.

    Raises:
        SystemExit: always, with the command's exit code.
    """
    global _page
    if not hasattr(os, "fork"):
        return command()
    sys.stdout.flush()
    sys.stderr.flush()
    page, parent = mmap.mmap(-1, _PAGE), os.getpid()
    pid = os.fork()
    if not pid:
        _page = page
        _die_with(parent)
        _end(command)
    _wait(pid, page)


def _die_with(parent: int) -> None:
    """End when the parent does, where the system knows such a thing (Linux)."""
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _end(command: Callable[[], object]) -> NoReturn:
    """Call the command and end with its exit code, as the interpreter does but for one thing.

    It would take everything apart that has been imported: time that a fork spends copying memory.
    """
    code: object = 0
    try:
        command()
    except SystemExit as left:
        code = left.code or 0
    except BaseException:
        sys.excepthook(*sys.exc_info())
        code = 1
    threading._shutdown()  # type: ignore[attr-defined]  # as multiprocessing ends its forks
    atexit._run_exitfuncs()
    try:
        sys.stdout.flush()
        sys.stderr.flush()
    except OSError as error:
        os.write(2, f"onnxprune: what is printed can't be written: {error.strerror}\n".encode())
        code = 1
    os._exit(code if isinstance(code, int) else 1)


def _wait(pid: int, page: mmap.mmap) -> NoReturn:
    before = {signal.SIGINT: signal.signal(signal.SIGINT, lambda *_: _interrupt(pid))}
    for name in _PASSED:
        number = getattr(signal, name)
        before[number] = signal.signal(number, lambda number, _: os.kill(pid, number))
    _, status = os.waitpid(pid, 0)
    for number, handler in before.items():
        signal.signal(number, handler)
    if os.WIFEXITED(status):
        sys.exit(os.WEXITSTATUS(status))
    code, message = _ending(os.WTERMSIG(status), bytes(page).split(b"\0", 1)[0].decode())
    os.write(2, f"onnxprune: {message}\n".encode())
    sys.exit(code)


def _interrupt(pid: int) -> None:
    """A terminal's Ctrl-C reaches the command as well, which says something; a `kill` does not."""
    time.sleep(_GRACE)
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGINT)


#: Stages in which onnxruntime runs nothing yet.
_READING = ("", "load", "read axes", "group")


def _ending(number: int, stage: str) -> tuple[int, str]:
    """Exit code and message for a command that a signal ended."""
    where = f" (stage: {stage})" if stage else ""
    if number == signal.SIGALRM:
        return 1, f"not done within --timeout{where}; nothing was written"
    if number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
        return 128 + number, f"ended by {signal.Signals(number).name}{where}; nothing was written"
    if number == signal.SIGKILL:
        return 1, (
            f"killed{where}, by the system if memory ran out; nothing was written. A smaller"
            " --calibration-samples, or --no-verify, takes less"
        )
    advice = (
        "The file may be damaged: try onnx.checker.check_model on it"
        if stage in _READING
        else "The model makes it fail: try --no-verify --no-benchmark, which does not run it"
    )
    return 1, (
        f"onnxruntime or onnx crashed ({signal.Signals(number).name}){where}; nothing was written."
        f" {advice}"
    )
