"""Files that are there whole or not at all, whenever the process or the machine stops.

What is written goes to a scratch folder beside its target first, so that moving it there is one
step of the file system; files are synced before they are moved, and folders after. The scratch
folder is called after its target and holds a lock, which ends with the process that has it: where
there is a folder that nobody holds, a run was killed, and what it left is removed.
"""

from __future__ import annotations

import contextlib
import errno
import hashlib
import os
import re
import stat
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from .errors import WriteFailed

_NAME = re.compile(r"\.onnxprune-[0-9a-f]{16}")
_LOCK = "lock"
#: Times that a folder may vanish between being made and being locked: each time a run has ended.
_TRIES = 100


@contextlib.contextmanager
def writing(path: Path) -> Iterator[None]:
    """Make a WriteFailed of what the system says against writing `path`."""
    try:
        yield
    except OSError as error:
        raise WriteFailed(f"{path}: can't be written: {error.strerror or error}") from error


@contextlib.contextmanager
def scratch(target: Path) -> Iterator[Path]:
    """A folder beside `target` for what is to be moved there; removed in any case.

    Raises WriteFailed where another process is writing `target`.
    """
    _remove_left_over(target.parent)
    digest = hashlib.sha256(os.fsencode(target.name)).hexdigest()
    folder = target.parent / f".onnxprune-{digest[:16]}"
    lock = hold(folder)
    if lock is None:
        raise WriteFailed(f"{target}: another run is writing this file; wait for it to end")
    try:
        clear(folder)
        yield folder
    finally:
        remove(folder, lock)


def sync(file: BinaryIO) -> None:
    """Have the disk hold what was written."""
    file.flush()
    os.fsync(file.fileno())


def move(draft: Path, target: Path) -> None:
    """Put a synced file in its place, and have the disk hold that, too."""
    os.replace(draft, target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Have the disk hold the names in a folder, where the system can."""
    if not hasattr(os, "O_DIRECTORY"):
        return
    found = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(found)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EROFS, errno.ENOTSUP):
            raise
    finally:
        os.close(found)


# -- scratch folders -----------------------------------------------------------------------------


def _remove_left_over(parent: Path) -> None:
    """Remove the scratch folders of runs that were killed."""
    with contextlib.suppress(OSError):
        names = [entry.name for entry in os.scandir(parent) if _NAME.fullmatch(entry.name)]
        for name in names:
            with contextlib.suppress(OSError):
                folder = parent / name
                lock = hold(folder)
                if lock is not None:
                    remove(folder, lock)


def hold(folder: Path) -> int | None:
    """Make a folder, and a lock in it, and hold that; None where another process does.

    What is given is the lock, to be closed or given to `remove`.
    """
    flags = os.O_RDWR | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0)
    for _ in range(_TRIES):
        with contextlib.suppress(FileNotFoundError):  # it may go again after every line
            with contextlib.suppress(FileExistsError):
                os.mkdir(folder, 0o700)
            if not stat.S_ISDIR(os.lstat(folder).st_mode):
                raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), str(folder))
            lock = os.open(folder / _LOCK, flags, 0o600)
            if not _locked(lock):
                os.close(lock)
                return None
            # Whoever had it may have removed it since, and another made a new one.
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(lock), os.stat(folder / _LOCK)):
                    return lock
            os.close(lock)
    code = errno.EBUSY if folder.parent.is_dir() else errno.ENOENT
    raise OSError(code, os.strerror(code), str(folder))


def _locked(lock: int) -> bool:
    """Whether the lock was free. It goes with the process, however that ends."""
    try:
        import fcntl
    except ImportError:  # pragma: no cover  (Windows)
        import msvcrt

        try:
            msvcrt.locking(lock, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        except OSError:
            return False
        return True
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return True  # a file system without locks: drafts may be lost, a target is never half
    return True


def clear(folder: Path) -> None:
    """Remove the files in a folder that is held."""
    for entry in os.scandir(folder):
        if entry.name != _LOCK:
            os.unlink(entry.path)


def remove(folder: Path, lock: int) -> None:
    """Remove a folder that is held. What another process has put there since, stays."""
    with contextlib.suppress(OSError):
        clear(folder)
        os.unlink(folder / _LOCK)
        os.rmdir(folder)
    os.close(lock)
