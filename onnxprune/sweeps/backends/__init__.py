"""Where the tasks of a sweep run. A backend takes tasks, and gives results as they are finished.

local          the cores of this machine, by joblib
dask_cluster   the workers of a dask.distributed scheduler
ray_cluster    the nodes of a ray cluster
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from types import TracebackType
from typing import Any, Protocol

from ...errors import UsageError
from ..setting import Setting
from ..trial import Result

NAMES = ("local", "dask", "ray")


@dataclass(frozen=True)
class Task:
    """One call of `trial.perform`; the key is what its result goes by."""

    key: str
    kind: str
    argument: Mapping[str, Any]


class Backend(Protocol):
    """Used as a context: leaving it gives back what it holds."""

    #: How many tasks run side by side.
    lanes: int
    #: How many machines there are: as many tasks run undisturbed.
    hosts: int

    def side_by_side(self, tasks: Sequence[Task]) -> Iterator[tuple[str, Result]]:
        """Run tasks, as many at a time as there is room for; key and result of each in turn.

        A task whose worker is lost is run again. The next result is asked for when one has been
        noted, and not before.
        """
        ...

    def alone(self, tasks: Sequence[Task]) -> Iterator[tuple[str, Result]]:
        """The same with one task at a time on each machine, and nothing beside it."""
        ...

    def __enter__(self) -> Backend: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def backend_of(
    name: str, setting: Setting, identity: str, *, jobs: int | None, address: str | None
) -> Backend:
    """The backend of a name, not yet started.

    Args:
        identity: of the job: what a cluster calls its tasks by.
        jobs: how many tasks run side by side on this machine; None for one on each core.
        address: of a cluster's scheduler.

    Raises UsageError where there is no such backend, or what it needs is not given or installed.
    """
    if name == "local":
        from .local import Local

        if address is not None:
            raise UsageError("--scheduler is for --backend dask and ray")
        return Local(setting, jobs)
    if jobs is not None:
        raise UsageError("--jobs is for this machine; a cluster has as many as it has workers")
    if name == "dask":
        from .dask_cluster import Dask

        return Dask(setting, identity, address)
    if name == "ray":
        from .ray_cluster import Ray

        return Ray(setting, address)
    raise UsageError(f"unknown backend {name!r}; known are {', '.join(NAMES)}")
