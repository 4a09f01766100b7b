"""The workers of a dask.distributed scheduler.

The files of the sweep are sent to the scheduler once, as a plugin: it hands them to every worker
that there is and to each that joins, once, and a worker that is lost takes nothing with it.

Tasks go by names that the job's identity makes, and the scheduler keeps their results (as published
datasets) until the driver has noted them. So a driver that was killed finds what went on without
it, and what a lost worker was at is run again by another.
"""

from __future__ import annotations

import itertools
import shutil
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ...errors import CheckFailed, UsageError
from ...version import __version__
from ..cargo import Cargo, pack, placed, unpack
from ..setting import Setting
from ..trial import Result, perform
from . import Task

try:
    from distributed import Client, as_completed, get_worker
    from distributed.diagnostics.plugin import WorkerPlugin
    from distributed.scheduler import KilledWorker
except ImportError as error:
    raise UsageError(
        f"--backend dask needs dask.distributed ({error}): pip install 'onnxprune[cluster]'"
    ) from error

#: Seconds to wait for a scheduler, and between looks at whether a measuring worker still lives.
_PATIENCE, _LOOK = 20, 1.0
#: How often a measurement is begun on workers that are lost.
_TRIES = 4


class Luggage(WorkerPlugin):  # type: ignore[misc]
    """Unpacks the files of a sweep beside a worker's own."""

    def __init__(self, cargo: Cargo) -> None:
        self.cargo = cargo
        self.name = cargo.name

    def setup(self, worker: Any) -> None:
        unpack(self.cargo, Path(worker.local_directory))


class Dask:
    """A client of the scheduler at `address` (tcp://host:port)."""

    def __init__(self, setting: Setting, identity: str, address: str | None) -> None:
        if address is None:
            raise UsageError("--backend dask needs --scheduler, as in tcp://10.0.0.1:8786")
        self.address = address
        self.cargo = pack(setting)
        self.prefix = f"onnxprune-{identity[:16]}"
        self.lanes = self.hosts = 1

    def __enter__(self) -> Dask:
        try:
            self.client = Client(self.address, timeout=_PATIENCE, set_as_default=False)
        except (OSError, ValueError, TimeoutError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(
                f"--scheduler {self.address}: no scheduler answers: {reason}"
            ) from None
        try:
            self._check_workers()
            # They are there already where this goes on from a driver that was killed.
            if not all(self.client.run(_has, self.cargo.name).values()):
                self.client.register_plugin(Luggage(self.cargo), name=self.cargo.name)
        except BaseException:
            self.client.close()
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take back what was asked of the cluster, unless the cluster is what failed."""
        try:
            if self.client.status == "running":
                for name in self._published():
                    self.client.get_dataset(name).cancel()
                    self.client.unpublish_dataset(name)
                self.client.unregister_worker_plugin(self.cargo.name)
                self.client.run(_clear, self.cargo.name)
        finally:
            self.client.close()

    # -- tasks -----------------------------------------------------------------------------------

    def side_by_side(self, tasks: Sequence[Task]) -> Iterator[tuple[str, Result]]:
        known = self._published()
        futures = {self._submit(task, known): task.key for task in tasks}
        for future in as_completed(list(futures), loop=self.client.loop):
            key = futures.pop(future)
            yield key, self._result(future)
            self._forget(future)

    def alone(self, tasks: Sequence[Task]) -> Iterator[tuple[str, Result]]:
        """One task on each machine, on a worker of its own choice, while no other there has any."""
        waiting = [(task, 1) for task in tasks]
        running: dict[str, tuple[Any, Task, int, str]] = {}
        while waiting or running:
            workers = self._workers()
            for host, addresses in self._by_host(workers).items():
                if waiting and host not in running and self._idle(addresses):
                    task, tries = waiting.pop(0)
                    future = self._submit(task, self._published(), addresses[0])
                    running[host] = (future, task, tries, addresses[0])
            for host, (future, task, tries, address) in list(running.items()):
                if future.done():
                    del running[host]
                    yield task.key, self._result(future)
                    self._forget(future)
                elif address not in workers:
                    del running[host]
                    future.cancel()
                    self._forget(future)
                    if tries == _TRIES:
                        yield task.key, _fault(f"{_TRIES} workers were lost in it")
                    else:
                        waiting.append((task, tries + 1))
            if running or waiting:
                self._wait([future for future, *_ in running.values()])

    def _submit(self, task: Task, known: set[str], worker: str | None = None) -> Any:
        """The future of a task: one that the scheduler has already, or a new one."""
        name = f"{self.prefix}/{task.key}"
        if name in known:
            return self.client.get_dataset(name)
        where = {} if worker is None else {"workers": [worker], "allow_other_workers": False}
        future = self.client.submit(
            _remote,
            self.cargo.name,
            self.cargo.setting,
            task,
            key=name,
            pure=False,
            **where,
        )
        self.client.publish_dataset(future, name=name)
        return future

    def _result(self, future: Any) -> Result:
        try:
            found: Result = future.result()
            return found
        except KilledWorker as error:
            return _fault(f"its workers were lost, again and again ({error.task})")
        except Exception as error:
            if self.client.status != "running" or future.status in ("cancelled", "lost"):
                raise CheckFailed(
                    f"the scheduler at {self.address} was lost; --resume goes on from what was"
                    " finished"
                ) from None
            return _fault(f"{type(error).__name__}: {' '.join(str(error).split())[:300]}")

    def _forget(self, future: Any) -> None:
        """The result is noted: the cluster need not keep it, nor make it again."""
        self.client.unpublish_dataset(future.key)
        future.release()

    def _published(self) -> set[str]:
        return {
            name
            for name in self.client.list_datasets()
            if isinstance(name, str) and name.startswith(f"{self.prefix}/")
        }

    # -- workers ---------------------------------------------------------------------------------

    def _workers(self) -> dict[str, dict[str, Any]]:
        """What the scheduler knows of its workers, by address."""
        found: dict[str, dict[str, Any]] = self.client.scheduler_info(n_workers=-1)["workers"]
        return found

    @staticmethod
    def _by_host(workers: dict[str, dict[str, Any]]) -> dict[str, list[str]]:
        order = sorted(workers, key=lambda address: workers[address]["host"])
        pairs = itertools.groupby(order, key=lambda address: workers[address]["host"])
        return {host: sorted(addresses) for host, addresses in pairs}

    def _idle(self, addresses: Sequence[str]) -> bool:
        """Whether no task, of anybody's, is with these workers."""
        return not any(self.client.processing(workers=list(addresses)).values())

    def _wait(self, futures: Sequence[Any]) -> None:
        """Until one is done, but not for long: workers may be lost, or become idle."""
        end = time.monotonic() + _LOOK
        while time.monotonic() < end and not any(future.done() for future in futures):
            time.sleep(_LOOK / 20)

    def _check_workers(self) -> None:
        """Raise UsageError unless there are workers, and all of them have this onnxprune."""
        try:
            self.client.wait_for_workers(1, timeout=_PATIENCE)
        except TimeoutError:
            raise UsageError(
                f"the scheduler at {self.address} has no workers: start some with"
                f" `dask worker {self.address}`"
            ) from None
        workers = self._workers()
        versions = self.client.run(_version, on_error="return")
        for address, version in versions.items():
            if version != __version__:
                has = version if isinstance(version, str) else "none that can be imported"
                raise UsageError(
                    f"worker {address} has another onnxprune ({has}) than this one ({__version__})"
                )
        self.lanes = sum(int(worker["nthreads"]) for worker in workers.values())
        self.hosts = len(self._by_host(workers))


def _version() -> str:
    return __version__


def _has(cargo: str, dask_worker: Any) -> bool:
    return (Path(dask_worker.local_directory) / cargo).is_dir()


def _clear(cargo: str, dask_worker: Any) -> None:
    """Remove the files of a sweep from a worker.

    No task of the plugin's end: a driver that resumes registers it again, while tasks run.
    """
    shutil.rmtree(Path(dask_worker.local_directory) / cargo, ignore_errors=True)


def _remote(cargo: str, setting: Setting, task: Task) -> Result:
    """Do a task on a worker, with the files that its plugin has unpacked."""
    worker = get_worker()
    result = perform(
        task.kind, placed(setting, Path(worker.local_directory) / cargo), task.argument
    )
    result["host"] = f"{result['host']} {worker.address}"
    return result


def _fault(reason: str) -> Result:
    return {"status": "fault", "reason": reason, "seconds": 0.0, "host": ""}
