"""Samples to learn from in random order, and those held out, which nothing is learned from."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..ahead import ahead
from ..calibration import Calibration
from ..errors import UsageError
from ..model import Array
from ..samples import LABELLED, spared, spread

Feeds = dict[str, Array]
Index = NDArray[np.int64]

#: The most that are judged on: more say little more, and take time after every epoch.
_MOST_HELD = 2048


@dataclass(frozen=True)
class Batch:
    """Samples that go through the model at once: `[n, ...]` each, labels `[n, ...]` or None."""

    feeds: Feeds
    labels: Array | None
    #: How many of the samples are real; the rest fill up a batch of fixed size.
    real: int
    filled: bool = False


class Batches:
    """The samples of a source, split once.

    A model whose inputs have no batch axis may have one sample in all, as a network on the nodes of
    one graph does: it is learned from, and judges as well.

    Args:
        data: where they are from, opened with `labels`.
        every: each so many-th of them is held out, and judges.
        batch: samples in a step, over all workers; `micro` of them (None: all of a worker's) go
            through the model at once.
        rank: which of `workers` processes this is: it gets every `workers`-th sample of a batch.

    Raises UsageError where there are too few samples.
    """

    def __init__(
        self,
        data: Calibration,
        every: int,
        batch: int,
        micro: int | None,
        seed: int,
        *,
        rank: int = 0,
        workers: int = 1,
    ) -> None:
        count, self._rows = data.rows()
        self._only = count == 1 and not data.batched
        if count < 2 and not self._only:
            raise UsageError(f"training takes two samples or more: {data.source} is {count}")
        self._batch, self._seed = min(batch, count), seed
        #: A model that takes one size of batches, and no other.
        self._fixed = data.fixed
        self._micro = data.fixed or micro
        self._rank, self._workers = rank, workers
        held = spared(count, min(every, count))
        self._held, self._learned = np.flatnonzero(held), np.flatnonzero(~held | self._only)
        self._held = self._held[spread(len(self._held), _MOST_HELD)]

    @property
    def learned(self) -> int:
        """How many samples are learned from."""
        return len(self._learned)

    @property
    def held_out(self) -> int:
        """How many samples judge, and nothing else: 0 where the only one is learned from."""
        return 0 if self._only else len(self._held)

    @property
    def steps(self) -> int:
        """Steps in one epoch."""
        return max(1, len(self._learned) // self._batch)

    def epoch(self, number: int) -> Iterator[list[Batch]]:
        """The steps of one epoch; each a list of what goes through the model at once.

        The order depends on the seed and the epoch's number alone.
        """
        order = np.random.default_rng([self._seed, number]).permutation(self._learned)

        def step(i: int) -> list[Batch]:
            whole = order[i * self._batch : (i + 1) * self._batch]
            mine = whole[self._rank :: self._workers]
            return list(self._pieces(mine if len(mine) else whole[:1]))

        yield from ahead(map(step, range(self.steps)))

    def judging(self, size: int = 64) -> Iterator[Batch]:
        """The samples held out, always in the same order."""
        yield from self._pieces(self._held, size)

    def _pieces(self, index: Index, size: int | None = None) -> Iterator[Batch]:
        size = self._fixed or size or self._micro or max(1, len(index))
        for at in range(0, len(index), size):
            mine = index[at : at + size]
            real = len(mine)
            if self._fixed:
                mine = mine[np.arange(self._fixed) % real]
            # What is mapped from a file can't be written to, and torch shares its memory.
            feeds = {name: np.require(x, requirements="W") for name, x in self._rows(mine).items()}
            labels = feeds.pop(LABELLED, None)
            yield Batch(feeds, labels, real, real < len(mine))
