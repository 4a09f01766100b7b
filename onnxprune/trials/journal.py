"""A journal: one line of JSON for each finished trial, on disk before the next one counts.

    {"schema": 1, "kind": "sweep", "identity": "…", "about": {…}}
    {"trial": "3f2a…", "result": {…}}

Lines are only ever appended, each is synced to the disk, and a line that was cut off by a crash is
dropped when the file is read. So a job that was killed at any moment goes on where it was.
"""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, BinaryIO

from ..errors import Interrupted, UsageError, WriteFailed
from ..timing.cache import default_folder

SCHEMA = 1


class Journal:
    """The finished trials of one job; to be used as a context, which holds the file for itself.

    Args:
        path: the file; None for one in the user's cache, called by the job's identity.
        kind: what the job is: `sensitivity` or `sweep`.
        identity: hash of all that its trials have in common (see `identity`).
        about: for people who read the file.
        resume: whether what is in the file counts; else it is begun anew.

    Raises UsageError where a journal that is to be resumed belongs to another job, or is in use;
    WriteFailed where it can't be written.
    """

    def __init__(
        self,
        path: Path | None,
        kind: str,
        identity: str,
        about: Mapping[str, Any],
        *,
        resume: bool,
    ) -> None:
        self.path = path or default_folder() / "journals" / f"{kind}-{identity[:16]}.jsonl"
        self.head = {"schema": SCHEMA, "kind": kind, "identity": identity, "about": dict(about)}
        self.resume = resume
        #: Results by trial, in the order in which they were finished.
        self.finished: dict[str, Any] = {}
        self._file: BinaryIO | None = None

    def __enter__(self) -> Journal:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = open(self.path, "a+b")
            _lock(self._file, self.path)
            self._read(self._file)
            if not os.fstat(self._file.fileno()).st_size:
                self._append(self.head)
        except OSError as error:
            raise WriteFailed(
                f"{self.path}: the journal can't be written: {error.strerror or error}"
            ) from error
        except BaseException:
            self.__exit__(None, None, None)
            raise
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None

    def add(self, trial: str, result: Any) -> None:
        """Note a finished trial. It is on the disk when this returns; raises WriteFailed."""
        try:
            self._append({"trial": trial, "result": result})
        except OSError as error:
            raise WriteFailed(
                f"{self.path}: the journal can't be written: {error.strerror or error}"
            ) from error
        self.finished[trial] = result

    def _append(self, line: Mapping[str, Any]) -> None:
        assert self._file is not None, "a journal is written inside of its context"
        self._file.write(json.dumps(line).encode() + b"\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def _read(self, file: BinaryIO) -> None:
        """What is in the file; a last line without an end is cut off.

        That it is a journal is asked in any case: no other file is overwritten.
        """
        file.seek(0)
        data = file.read()
        whole = data[: data.rfind(b"\n") + 1]
        try:
            lines = [json.loads(line) for line in whole.splitlines()]
            head = lines[0] if lines else None
            if data and (not isinstance(head, dict) or head.get("schema") != SCHEMA):
                raise ValueError("its first line is none of a journal")
            found = {str(entry["trial"]): entry["result"] for entry in lines[1:]}
        except (ValueError, KeyError, TypeError) as error:
            raise UsageError(f"{self.path}: this is no journal: {error}") from None
        if not self.resume or head is None:
            file.truncate(0)
            return
        if head.get("kind") != self.head["kind"] or head.get("identity") != self.head["identity"]:
            raise UsageError(
                f"{self.path}: this journal is of another job: the model, its data or options that"
                " all trials share were others; leave out --resume to begin anew"
            )
        file.truncate(len(whole))
        self.finished = found


class Memory(Journal):
    """A journal that is in no file: for a job that is not to be resumed."""

    def __init__(self) -> None:
        super().__init__(Path(), "", "", {}, resume=False)

    def __enter__(self) -> Memory:
        return self

    def _append(self, line: Mapping[str, Any]) -> None:
        pass


def _lock(file: BinaryIO, path: Path) -> None:
    """Keep the file to one process; the lock goes with it, however it ends."""
    try:
        import fcntl
    except ImportError:  # not on Windows
        return
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        raise UsageError(f"{path}: another run is writing this journal") from None


@contextmanager
def journal_of(
    kind: str,
    identity: str,
    model: str,
    options: Mapping[str, Any],
    path: str | Path | bool,
    resume: bool,
) -> Iterator[Journal]:
    """The journal of a job: in a file, in the user's cache (True), or nowhere (False).

    Raises UsageError where it can't be resumed or its job has no identity; Interrupted instead of
    KeyboardInterrupt, where what is finished is in a file.
    """
    if path is False:
        if resume:
            raise UsageError("there is nothing to resume from without a journal")
        yield Memory()
        return
    if not identity:
        raise UsageError("a journal is for data in files: what Python holds can't be recognised")
    file = None if path is True else Path(path)
    with Journal(file, kind, identity, {"model": model, **options}, resume=resume) as kept:
        try:
            yield kept
        except KeyboardInterrupt:
            raise Interrupted(
                f"interrupted; {len(kept.finished)} finished trials are kept in {kept.path}: the"
                " same command with --resume goes on from there"
            ) from None
