"""What a reconstruction has done so far, on disk: one that was stopped goes on from there.

    <cache>/reconstruction/<identity>/
        job.json          which job this is
        look-0.npz …      the Gram matrix of each site, until all groups have been probed
        groups-…-0.npz …  the order in which a group's channels go, and what that costs
        refit-…-0.npz …   what each step of the walk has written

Each file is one step, moved to its place when it is whole. A step that is read back is not computed
again; the activations behind it are, since they are too many to be kept. Every part of a job does
the same with the same numbers each time, so what comes out in the end is the same, bit by bit.

Files are not synced: after a power cut the last ones may be torn, which shows in their checksums.
Such a step is done again.
"""

from __future__ import annotations

import hashlib
import json
import os
import stat
import time
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ..atomic import clear, hold, remove
from ..axes import Choice, Rows
from ..errors import Interrupted, UsageError
from ..model import Array, Model
from ..runtime import Feeds
from ..timing.cache import default_folder
from ..trials.identity import digest, identity_of
from ..words import counted
from .parts import Cut

SCHEMA = 1
#: Days after which what a run has left that was stopped, and never resumed, is removed.
_DAYS = 30
_HEAD = "job.json"


class Record(NamedTuple):
    """One step: plain JSON types, and arrays by name."""

    facts: dict[str, Any]
    arrays: dict[str, Array]


class Records:
    """The steps of one part of a job, by number.

    Without a folder none are kept. Where the disk takes no more, all are given up: a job that can't
    be resumed is better than one that fails for that.
    """

    def __init__(
        self, kept: Kept | None = None, folder: Path | None = None, part: str = ""
    ) -> None:
        self.kept, self.folder, self.part = kept, folder, part

    @property
    def on(self) -> bool:
        """Whether anything is kept."""
        return self.folder is not None

    def under(self, part: str) -> Records:
        """The steps of a part of this part."""
        return Records(self.kept, self.folder, f"{self.part}{part}-")

    def read(self, step: int) -> Record | None:
        """What was noted of a step; None where there is nothing, or nothing whole."""
        if self.folder is None or self.kept is None:
            return None
        try:
            with np.load(self._file(step), allow_pickle=False) as found:
                arrays = dict(found)
            record = Record(json.loads(str(arrays.pop("facts"))), arrays)
        except (OSError, EOFError, ValueError, KeyError, TypeError, zipfile.BadZipFile):
            return None
        self.kept.steps += 1
        return record

    def leading(self, most: int) -> list[Record]:
        """The first steps, up to one that was not noted."""
        found: list[Record] = []
        while len(found) < most and (record := self.read(len(found))) is not None:
            found.append(record)
        return found

    def write(self, step: int, facts: Mapping[str, Any], arrays: Mapping[str, Array]) -> None:
        """Note a step."""
        if self.folder is None or self.kept is None or self.folder in self.kept.given_up:
            return
        draft = self.folder / "draft"
        try:
            with open(draft, "wb") as file:
                named: dict[str, Any] = {"facts": np.array(json.dumps(facts)), **arrays}
                np.savez(file, **named)
            os.replace(draft, self._file(step))
        except OSError as error:
            self.kept.give_up(self.folder, error)
        else:
            self.kept.steps += 1

    def drop(self) -> None:
        """Forget all steps of this part."""
        if self.folder is not None:
            for file in self.folder.glob(f"{self.part}*.npz"):
                file.unlink(missing_ok=True)

    def _file(self, step: int) -> Path:
        assert self.folder is not None
        return self.folder / f"{self.part}{step}.npz"


#: Where nothing is noted.
NOWHERE = Records()


class Kept:
    """The records of all reconstructions of one command.

    Args:
        resume: whether what an earlier run has left counts; else it is begun anew.
    """

    def __init__(self, resume: bool) -> None:
        self.resume = resume
        self.root = default_folder() / "reconstruction"
        #: Steps that were noted, or read back.
        self.steps = 0
        #: Folders whose disk takes no more.
        self.given_up: set[Path] = set()
        self._troubles: list[str] = []
        self._opened: list[Path] = []
        self._found = False

    @contextmanager
    def open(self, identity: str) -> Iterator[Records]:
        """The records of one job, which are this process's own meanwhile.

        Raises UsageError where they are to be resumed and are of another job, or in use.
        """
        folder = self.root / identity[:16]
        try:
            self.root.mkdir(parents=True, exist_ok=True)
            self._remove_old(folder)
            lock = hold(folder)
        except OSError as error:
            self._note(folder, error)
            yield NOWHERE
            return
        if lock is None:
            if self.resume:
                raise UsageError(f"{folder}: another run is writing this journal")
            yield NOWHERE
            return
        try:
            self._begin(folder, identity)
            yield Records(self, folder)
        finally:
            os.close(lock)

    def remove(self) -> None:
        """The command is done: nothing of it is resumed."""
        for folder in self._opened:
            with suppress(OSError):
                _remove(folder)

    def notes(self) -> list[str]:
        """What a report says: why this can't be resumed, or that it did begin anew."""
        if self.resume and self._opened and not self._found:
            anew = "nothing was found to --resume (of this model, data and version): begun anew"
            return [*self._troubles, anew]
        return self._troubles

    def give_up(self, folder: Path, error: OSError) -> None:
        """Keep no records in a folder, where they can't be written."""
        self._note(folder, error)
        self.given_up.add(folder)
        with suppress(OSError):
            clear(folder)

    def _begin(self, folder: Path, identity: str) -> None:
        head = {"schema": SCHEMA, "identity": identity}
        file = folder / _HEAD
        found = None
        if self.resume or folder in self._opened:
            try:
                found = json.loads(file.read_bytes())
            except (OSError, ValueError):
                found = None  # it ended before it had begun
        if found is not None and found != head:
            raise UsageError(
                f"{folder}: this journal is of another job: the model, its data or options were"
                " others; leave out --resume to begin anew"
            )
        if found is not None:
            self._found |= folder not in self._opened
            self._opened.append(folder)
            return
        self._opened.append(folder)
        try:
            clear(folder)
            file.write_text(json.dumps(head))
        except OSError as error:
            self.give_up(folder, error)

    def _note(self, folder: Path, error: OSError) -> None:
        reason = error.strerror or error
        self._troubles.append(
            f"nothing was kept to --resume from: {folder} can't be written: {reason}"
        )

    def _remove_old(self, wanted: Path) -> None:
        oldest = time.time() - _DAYS * 86_400
        for folder in {*self.root.iterdir()} - {wanted}:
            with suppress(FileNotFoundError):  # another run may remove it
                if stat.S_ISDIR(folder.lstat().st_mode) and folder.lstat().st_mtime < oldest:
                    _remove(folder)


def _remove(folder: Path) -> None:
    """Remove a folder, unless a run is using it."""
    lock = hold(folder) if folder.is_dir() else None
    if lock is not None:
        remove(folder, lock)


@contextmanager
def keeping(journal: bool | Kept, resume: bool) -> Iterator[Kept | None]:
    """The records of a command: those of the command that this one is a part of, new ones, or none.

    Raises Interrupted instead of KeyboardInterrupt, where something is on disk.
    """
    if isinstance(journal, Kept) or not (journal or resume):
        yield journal or None
        return
    kept = Kept(resume)
    try:
        yield kept
    except KeyboardInterrupt:
        if not kept.steps:
            raise
        steps = counted(kept.steps, "step")
        raise Interrupted(
            f"interrupted; what was refitted so far ({steps}) is kept: the same command with"
            " --resume goes on from there"
        ) from None


def fingerprint(cut: Cut, choice: Choice) -> str:
    """What tells a cut from all others of one model."""
    found = hashlib.sha256(cut.model.SerializeToString(deterministic=True))
    for kept in choice.values():
        index = kept.indices if isinstance(kept, Rows) else kept
        _add(found, np.asarray(index))
    return found.hexdigest()[:16]


def identity_of_job(model: Model, batches: Sequence[Feeds], options: Mapping[str, Any]) -> str:
    """The hash of what all reconstructions of a model on some data have in common.

    It is of the data itself, as the model is fed it: whatever it was read from.
    """
    graph = hashlib.sha256(model.proto.SerializeToString(deterministic=True))
    data = hashlib.sha256()
    for feeds in batches:
        for name in sorted(feeds):
            data.update(name.encode())
            _add(data, np.asarray(feeds[name]))
    parts = {"schema": SCHEMA, "graph": graph.hexdigest(), "data": data.hexdigest()}
    return identity_of(model, {**options, **parts}, [])


def _add(found: Any, array: Array) -> None:
    found.update(f"{array.dtype}{array.shape}".encode())
    text = array.dtype.hasobject
    found.update(digest(array.tolist()).encode() if text else array.tobytes())
