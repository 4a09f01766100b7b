"""The cores of this machine, by joblib: one process for each, which keeps its data from trial to
trial."""

from __future__ import annotations

import signal
import warnings
from collections.abc import Iterator, Sequence
from types import TracebackType

import joblib
from joblib.externals.loky.process_executor import TerminatedWorkerError

from ...errors import CheckFailed
from ..setting import Setting
from ..trial import Result, perform
from . import Task

#: How often processes may be killed (for memory, most of all) before giving up.
_DEATHS = 3


class Local:
    """Processes of this machine; tasks that are to be alone run in this one."""

    hosts = 1

    def __init__(self, setting: Setting, jobs: int | None) -> None:
        self.setting = setting
        self.lanes = jobs or joblib.cpu_count()

    def side_by_side(self, tasks: Sequence[Task]) -> Iterator[tuple[str, Result]]:
        left = {task.key: task for task in tasks}
        jobs = min(self.lanes, max(1, len(tasks)))
        for _ in range(_DEATHS + 1):
            run = joblib.Parallel(n_jobs=jobs, return_as="generator_unordered", initializer=_deaf)
            calls = [joblib.delayed(_keyed)(task, self.setting) for task in left.values()]
            results = run(calls)
            try:
                for key, result in results:
                    del left[key]
                    yield key, result
                return
            except TerminatedWorkerError:
                jobs = max(1, jobs // 2)  # less memory at a time
            finally:
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore")  # that it is cancelled is what is wanted
                    results.close()
        raise CheckFailed(
            f"processes of this machine were killed {_DEATHS + 1} times, perhaps for lack of"
            " memory: try fewer --jobs, with --resume"
        )

    def alone(self, tasks: Sequence[Task]) -> Iterator[tuple[str, Result]]:
        for task in tasks:
            yield _keyed(task, self.setting)

    def __enter__(self) -> Local:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        pass


def _deaf() -> None:
    """Leave Ctrl-C to the process that the user started: it ends the others, and says so once."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _keyed(task: Task, setting: Setting) -> tuple[str, Result]:
    return task.key, perform(task.kind, setting, task.argument)
