"""Zeros in single weights: which elements of a weight matrix a pattern leaves.

A weight is looked at as a matrix `[out, in]` of magnitudes, where a row is summed over:

- `unstructured`: the largest elements stay, wherever they are;
- `n:m`: of every m neighbours along `in`, the n largest stay (2:4 is what NVIDIA's sparse tensor
  cores read; https://arxiv.org/abs/2104.08378);
- `block:RxC`: tiles of R rows and C columns stay or go as a whole, by their norm.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError

Bools = NDArray[np.bool_]
Floats = NDArray[Any]


@dataclass(frozen=True)
class Pattern:
    """Which zeros are allowed: `channels` (whole structures), or a pattern of single weights."""

    #: channels, unstructured, n:m or block
    kind: str
    #: n and m; rows and columns of a block.
    first: int = 1
    second: int = 1

    @property
    def text(self) -> str:
        """As the command line has it."""
        if self.kind == "n:m":
            return f"{self.first}:{self.second}"
        return f"block:{self.first}x{self.second}" if self.kind == "block" else self.kind


def pattern_of(text: str) -> Pattern:
    """Read a pattern. Raises UsageError."""
    if text in ("channels", "unstructured"):
        return Pattern(text)
    found = re.fullmatch(r"(\d+):(\d+)", text)
    if found and 0 < int(found[1]) < int(found[2]):
        return Pattern("n:m", int(found[1]), int(found[2]))
    found = re.fullmatch(r"block:(\d+)x(\d+)", text)
    if found and int(found[1]) * int(found[2]) > 0:
        return Pattern("block", int(found[1]), int(found[2]))
    raise UsageError(
        f"structure {text!r}: write channels, unstructured, N:M (as in 2:4: 2 of 4 stay) or"
        " block:RxC (as in block:4x1)"
    )


def units(magnitudes: Floats, pattern: Pattern, power: float) -> Floats:
    """What goes or stays as one, scored: `[out, in]` or `[out / rows, in / columns]`.

    Tiles at the edges may be smaller: they are scored by the mean over what they have.
    """
    if pattern.kind != "block":
        return magnitudes
    r, c = pattern.first, pattern.second
    out, inner = magnitudes.shape
    raised = magnitudes.astype(np.float64) ** power
    rows = np.add.reduceat(raised, np.arange(0, out, r), axis=0)
    tiles = np.add.reduceat(rows, np.arange(0, inner, c), axis=1)
    heights = np.minimum(r, out - np.arange(0, out, r))
    widths = np.minimum(c, inner - np.arange(0, inner, c))
    found: Floats = tiles / (heights[:, None] * widths)
    return found


def smallest(scores: Floats, count: int) -> Bools:
    """True at the `count` smallest; of equal ones, at the first."""
    chosen = np.zeros(scores.size, dtype=bool)
    chosen[np.argsort(scores, axis=None, kind="stable")[:count]] = True
    return chosen.reshape(scores.shape)


def spread(gone: Bools, pattern: Pattern, shape: tuple[int, int]) -> Bools:
    """Units that go, as elements that go, `[out, in]`."""
    if pattern.kind != "block":
        return gone
    wide = gone.repeat(pattern.first, axis=0).repeat(pattern.second, axis=1)
    return wide[: shape[0], : shape[1]]


def n_of_m(magnitudes: Floats, n: int, m: int) -> Bools:
    """True at all but the n largest of each m neighbours in a row, `[out, in]`, `in` = k·m."""
    groups = magnitudes.reshape(-1, m)
    order = np.argsort(-groups, axis=1, kind="stable")
    gone = np.ones(groups.shape, dtype=bool)
    np.put_along_axis(gone, order[:, :n], False, axis=1)
    return gone.reshape(magnitudes.shape)
