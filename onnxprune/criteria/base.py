"""What a criterion is: a function `(group, weights) -> scores`, and what is known of it."""

from __future__ import annotations

from collections.abc import Iterable
from typing import ClassVar

from ..errors import UsageError
from ..groups import Group
from ..reductions import Scores
from ..statistics import Request
from ..weights import Weights


class Criterion:
    """A score for each cell of a group, `[cells]`: the higher, the more it matters.

    A criterion of a user's own is any callable of these two arguments; the attributes here are
    read from it where it has them.
    """

    #: What `--criterion` calls it.
    name: ClassVar[str] = ""
    #: One line for the command line's help.
    help: ClassVar[str] = ""
    #: Whether it looks at activations on calibration data.
    calibrated: ClassVar[bool] = False
    #: How its scores are scaled where the user does not say. `none`: they can be compared as is.
    normalizer: ClassVar[str] = "mean"
    #: Whether scores of channels that go together add up, as squared norms do.
    additive: ClassVar[bool] = False
    #: What may follow the name and a colon, or "".
    argument: ClassVar[str] = ""

    @classmethod
    def parse(cls, argument: str) -> Criterion:
        """The criterion that `NAME` or `NAME:ARGUMENT` means. Raises UsageError."""
        if argument:
            raise UsageError(f"criterion {cls.name!r} takes no {argument!r}")
        return cls()

    def needs(self, group: Group, weights: Weights) -> Iterable[Request]:
        """What is to be measured on calibration data, so that it is done in one pass."""
        return ()

    def __call__(self, group: Group, weights: Weights) -> Scores:
        raise NotImplementedError
