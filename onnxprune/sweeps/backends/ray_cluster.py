"""The nodes of a ray cluster.

The files of the sweep are one object of ray's store, which each node fetches once; every process
unpacks them once. What a lost node was at is run again by another; what was in flight when the
driver was killed is not in the journal, and is run again when it resumes.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from ...errors import UsageError
from ..cargo import Cargo, pack, placed, unpack
from ..setting import Setting
from ..trial import Result, perform
from . import Task

try:
    import ray
except ImportError as error:
    raise UsageError(f"--backend ray needs ray ({error}): pip install ray") from error

#: How often a task is begun again when its node is lost.
_RETRIES = 3


class Ray:
    """A driver of the cluster at `address`; without one, of the cluster that ray finds."""

    def __init__(self, setting: Setting, address: str | None) -> None:
        self.address = address or "auto"
        self.cargo = pack(setting)
        self.lanes = self.hosts = 1

    def __enter__(self) -> Ray:
        try:
            ray.init(address=self.address, log_to_driver=False, logging_level="ERROR")
        except (ConnectionError, OSError, ValueError, RuntimeError) as error:
            reason = " ".join(str(error).split())[:200]
            raise UsageError(f"--scheduler {self.address}: no ray cluster: {reason}") from None
        self.handle = ray.put(self.cargo)
        self.lanes = max(1, int(ray.cluster_resources().get("CPU", 1)))
        self.hosts = max(1, len(self._nodes()))
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        ray.shutdown()  # also stops what is still running for this driver

    def side_by_side(self, tasks: Sequence[Task]) -> Iterator[tuple[str, Result]]:
        yield from self._run(tasks, 1)

    def alone(self, tasks: Sequence[Task]) -> Iterator[tuple[str, Result]]:
        """Each takes all processors of a node, so that nothing runs beside it."""
        cores = min((int(node["Resources"].get("CPU", 1)) for node in self._nodes()), default=1)
        yield from self._run(tasks, cores)

    def _run(self, tasks: Sequence[Task], cores: int) -> Iterator[tuple[str, Result]]:
        remote = ray.remote(_remote).options(
            num_cpus=cores, max_retries=_RETRIES, scheduling_strategy="SPREAD"
        )
        running = {remote.remote(self.handle, task): task.key for task in tasks}
        while running:
            done, _ = ray.wait(list(running), num_returns=1)
            for each in done:
                key = running.pop(each)
                try:
                    result: Result = ray.get(each)
                except ray.exceptions.RayError as error:
                    reason = " ".join(str(error).split())[:300]
                    result = {"status": "fault", "reason": reason, "seconds": 0.0, "host": ""}
                yield key, result

    @staticmethod
    def _nodes() -> list[dict[str, Any]]:
        return [node for node in ray.nodes() if node["Alive"] and node["Resources"].get("CPU")]


def _remote(cargo: Cargo, task: Task) -> Result:
    """Do a task in a process of the cluster."""
    folder = unpack(cargo, Path(tempfile.gettempdir()) / "onnxprune")
    return perform(task.kind, placed(cargo.setting, folder), task.argument)
