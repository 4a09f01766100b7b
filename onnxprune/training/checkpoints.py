"""Where a run stands, on disk after every epoch: a run that was stopped goes on from there."""

from __future__ import annotations

import io
import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from ..errors import UsageError
from ..saving import write_atomically
from ..timing.cache import default_folder

SCHEMA = 1


class Checkpoint:
    """One file, replaced as a whole each time.

    Args:
        path: the file; None for one in the user's cache, called by the run's identity.
        identity: hash of all that decides what the run comes to.
        resume: whether what is in the file counts.
    """

    def __init__(self, path: Path | None, identity: str, resume: bool) -> None:
        self.path = path or default_folder() / "training" / f"{identity[:16]}.pt"
        self.identity, self.resume = identity, resume

    def load(self) -> dict[str, Any] | None:
        """Where the run was; None where it begins.

        Raises UsageError where the file is of another run, or none at all.
        """
        if not self.resume or not self.path.exists():
            return None
        try:
            # Plain tensors and numbers: nothing in the file is ever executed.
            found: dict[str, Any] = torch.load(self.path, map_location="cpu", weights_only=True)
            right = found["schema"] == SCHEMA and found["identity"] == self.identity
        except (OSError, RuntimeError, ValueError, KeyError, TypeError, EOFError) as error:
            raise UsageError(f"{self.path}: is no checkpoint: {_line(error)}") from None
        except pickle.UnpicklingError as error:
            raise UsageError(f"{self.path}: is no checkpoint: {_line(error)}") from None
        if not right:
            raise UsageError(
                f"{self.path}: is of another run (other models, data or options); leave out"
                " --resume to begin anew"
            )
        return found

    def save(self, state: Mapping[str, Any]) -> None:
        """Replace the file. Raises WriteFailed."""
        buffer = io.BytesIO()
        torch.save({"schema": SCHEMA, "identity": self.identity, **state}, buffer)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_atomically(self.path, buffer.getvalue())

    def remove(self) -> None:
        """The run is over."""
        self.path.unlink(missing_ok=True)


def _line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:100]
