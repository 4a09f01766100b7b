"""The errors a user can meet, and the exit code each one becomes.

    OnnxPruneError
    ├── CheckFailed        1  a check of the result failed; nothing was written
    ├── WriteFailed        1  the output could not be written; nothing was left half written
    ├── UsageError         2  an option, a name or a path that can't be right
    │   ├── PlanMismatch   2  a plan that does not fit the model
    │   └── RuleError      2  a rule table that is wrong
    ├── NotPrunable        3  the model is fine, but nothing in it can be pruned
    ├── UnsupportedModel   3  the model is fine, but not something this program can handle
    ├── BrokenModel        4  the file is broken or can't be read
    └── Interrupted      130  stopped by the user; what was finished is kept

A message is one line, names the node, operator and tensor it is about, and says what to do.
Whatever is not in this tree is a fault of the program.
"""

from __future__ import annotations

from typing import ClassVar

__all__ = [
    "BrokenModel",
    "CheckFailed",
    "Interrupted",
    "NotPrunable",
    "OnnxPruneError",
    "PlanMismatch",
    "RuleError",
    "UnsupportedModel",
    "UsageError",
    "WriteFailed",
]


class OnnxPruneError(Exception):
    """Root of the tree: catch this to catch everything onnxprune raises on purpose."""

    #: what the command line exits with
    exit_code: ClassVar[int] = 1


class CheckFailed(OnnxPruneError):
    """The result did not pass a check (a certificate, the checker, a run). Nothing was written."""

    exit_code = 1


class WriteFailed(OnnxPruneError):
    """The output could not be written (disk full, no permission); nothing half written is left."""

    exit_code = 1


class UsageError(OnnxPruneError):
    """An option, a name, a shape or a path that can't be right."""

    exit_code = 2


class PlanMismatch(UsageError):
    """A plan that does not fit the model it is applied to."""


class RuleError(UsageError):
    """A rule table that can't be read, or that contradicts an operator's schema."""


class NotPrunable(OnnxPruneError):
    """Nothing can be removed from this model; the message gives the foremost reason."""

    exit_code = 3


class UnsupportedModel(OnnxPruneError):
    """A well-formed model that can't be handled: an unknown domain, a type onnxruntime lacks."""

    exit_code = 3


class BrokenModel(OnnxPruneError):
    """The file is missing, truncated, not ONNX, or its external data can't be read."""

    exit_code = 4


class Interrupted(OnnxPruneError):
    """The user stopped a long job; the message says where what was finished is kept."""

    exit_code = 130
