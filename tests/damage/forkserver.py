"""Run a function in a process of its own, forked from one that has imported everything.

What the function does to its process stays there: a crash, a hang, or all of the memory.
"""

from __future__ import annotations

import faulthandler
import os
import resource
import signal
import time
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from onnxprune.errors import OnnxPruneError

#: The exit code of a process whose function raised what it should not have.
FAULT = 70


@dataclass(frozen=True)
class Outcome:
    """How a process ended."""

    #: The exit code; None where a signal ended it.
    code: int | None
    signal: int | None
    seconds: float
    #: Peak of resident memory, bytes.
    memory: int
    #: What it wrote to stderr, tracebacks included.
    text: str

    @property
    def trouble(self) -> str | None:
        """What is wrong with this end, in a word; None for a documented exit."""
        if self.signal == signal.SIGALRM:
            return "hang"
        if self.signal is not None:
            return f"crash ({signal.Signals(self.signal).name})"
        return None if self.code in (0, 1, 2, 3, 4) else "fault"


def run_forked(
    function: Callable[[], int], log: Path, *, seconds: float = 10, memory: int = 2 << 30
) -> Outcome:
    """Call `function` in a fork; what it returns is the exit code, as is an OnnxPruneError's.

    Args:
        log: where the process writes what it has to say.
        seconds: after these it is killed (SIGALRM).
        memory: bytes of address space that it may take.
    """
    start = time.monotonic()
    pid = os.fork()
    if not pid:
        _child(function, log, seconds, memory)
    _, status, usage = os.wait4(pid, 0)
    return Outcome(
        os.WEXITSTATUS(status) if os.WIFEXITED(status) else None,
        os.WTERMSIG(status) if os.WIFSIGNALED(status) else None,
        time.monotonic() - start,
        usage.ru_maxrss << 10,
        log.read_text(errors="replace") if log.exists() else "",
    )


def _child(function: Callable[[], int], log: Path, seconds: float, memory: int) -> None:
    code = FAULT
    try:
        faulthandler.disable()
        signal.signal(signal.SIGALRM, signal.SIG_DFL)
        signal.setitimer(signal.ITIMER_REAL, seconds)
        resource.setrlimit(resource.RLIMIT_AS, (memory, memory))
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        file = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(file, 1)
        os.dup2(file, 2)
        try:
            code = function()
        except OnnxPruneError as error:
            os.write(2, str(error).encode(errors="replace"))
            code = error.exit_code
        except SystemExit as left:
            code = left.code if isinstance(left.code, int) else FAULT
        except BaseException:
            os.write(2, traceback.format_exc().encode(errors="replace"))
    finally:
        os._exit(code)
