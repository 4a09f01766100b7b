"""Calibration data: batches of inputs for a model, from files, from Python, or made up.

A source is

- a path: `.npz` (arrays called like the inputs; for a single input any name; `FILE.npz:NAME` picks
  one), `.npy`, an image, or a folder of any of these, each with one sample or a batch;
- Python: an array, a mapping of arrays, or an iterable (or a function that makes an iterator) of
  arrays, feeds or (inputs, labels, ...) tuples, each one sample or a batch;
- the word `synthetic`: made-up inputs (see `synthetic`).

Nothing is read before it is needed, and nothing is held but one batch.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from onnx import ModelProto

from .errors import UsageError
from .inputs import Array, Feeds, input_specs
from .preprocess import Preprocess, preprocess_of
from .samples import LABELLED, Slots, Table, file_table, folder_tables, picks
from .synthetic import Synthetic
from .words import counted

Index = NDArray[np.int64]

#: How many synthetic samples are made where no number is asked for.
SYNTHETIC_SAMPLES = 128
#: Arrays are read this many samples at a time.
_READ = 32


@dataclass(frozen=True)
class Calibration:
    """Batches of inputs that can be gone through again and again."""

    #: How many samples there are, where that is known before they are read.
    samples: int | None
    #: In words, for a report: "1,000 of 4,660 samples of train.npz".
    source: str
    _pieces: Callable[[], Iterator[Feeds]] = field(repr=False)
    #: The size that every batch has to have.
    _fixed: int | None = field(default=None, repr=False)
    #: Whether samples stand along the first axis of the inputs; else every piece is one batch.
    _batched: bool = field(default=True, repr=False)
    #: Samples by their numbers, where the source can be read in any order.
    _rows: Callable[[Index], Feeds] | None = field(default=None, repr=False)
    #: False where it was made up.
    real: bool = True

    @property
    def batched(self) -> bool:
        """Whether samples stand along the first axis of the inputs; else a sample is a feed."""
        return self._batched

    @property
    def fixed(self) -> int | None:
        """The size that every batch has to have: None for any, 1 where there is no batch axis."""
        return self._fixed if self._batched else 1

    def rows(self) -> tuple[int, Callable[[Index], Feeds]]:
        """How many samples there are, and a function that reads any of them, `[k, ...]` each.

        What can only be gone through from front to back is read into memory.
        """
        if self._rows is not None and self.samples is not None:
            return self.samples, self._rows
        pieces = list(self._pieces())
        if not self._batched or any(_shapes(each) != _shapes(pieces[0]) for each in pieces):
            return len(pieces), lambda index: pieces[int(index[0])]
        whole = _joined(pieces)

        return _length(whole), lambda index: _picked(whole, index)

    def batches(self, size: int = 32) -> Iterator[Feeds]:
        """Every batch, `{input: array}`; of `size` samples, or of the model's own fixed size.

        Samples that do not fill a last fixed batch are left out: filled up, some would count
        twice. Only where all of them do not fill a single one are they repeated.
        """
        first = True
        for feeds, real in self.padded(size):
            if first or real == _length(feeds) or not self._batched:
                yield feeds
            first = False

    def padded(self, size: int = 32) -> Iterator[tuple[Feeds, int]]:
        """Every batch and how many samples of it are real: none is left out.

        A fixed batch that is not full is filled up with repetitions.
        """
        if not self._batched:
            yield from ((feeds, 1) for feeds in self._pieces())
            return
        size = self._fixed or max(size, 1)
        held: list[Feeds] = []
        count = 0
        for piece in self._pieces():
            if held and _shapes(held[0]) != _shapes(piece):  # images of unlike sizes
                yield from self._rest(held, count)
                held, count = [], 0
            held.append(piece)
            count += _length(piece)
            while count >= size:
                joined = _joined(held)
                yield _cut(joined, 0, size), size
                held = [_cut(joined, size, count)] if count > size else []
                count -= size
        yield from self._rest(held, count)

    def split(self, every: int) -> tuple[Calibration, Calibration]:
        """All but each `every`-th sample, and these: to fit on the first, and measure on the rest.

        Of a model without a batch, or of a fixed one, whole batches are taken; where there are no
        two of them, both parts are the whole.
        """
        step = self._fixed or 1
        if self.samples is not None and self.samples < 2 * step:
            return self, self

        def part(held_out: bool) -> Callable[[], Iterator[Feeds]]:
            def pieces() -> Iterator[Feeds]:
                at = 0
                for piece in self._pieces():
                    length = _length(piece) if self._batched else 1
                    last = (np.arange(at, at + length) // step) % every == every - 1
                    at += length
                    index = np.flatnonzero(last == held_out)
                    if len(index) == length:
                        yield piece
                    elif len(index):
                        yield _picked(piece, index)

            return pieces

        count = None
        if self.samples is not None:
            count = int(((np.arange(self.samples) // step) % every == every - 1).sum())
            if not count:  # fewer than `every`: the last is held out
                return self.split(max(2, self.samples // step))
        left = None if count is None or self.samples is None else self.samples - count
        return (
            replace(self, samples=left, _pieces=part(False), _rows=None),
            replace(self, samples=count, _pieces=part(True), _rows=None),
        )

    def _rest(self, held: list[Feeds], count: int) -> Iterator[tuple[Feeds, int]]:
        if count:
            joined = _joined(held)
            if self._fixed:
                joined = _picked(joined, np.arange(self._fixed) % count)
            yield joined, count


def open_calibration(
    source: Any,
    model: ModelProto,
    *,
    preprocess: str | Path | Preprocess | Mapping[str, Any] | None = None,
    limit: int | None = None,
    shapes: Mapping[str, Sequence[int]] | None = None,
    seed: int = 0,
    base_dir: Path | None = None,
    labels: str | None = None,
    every: int = 0,
) -> Calibration:
    """Calibration data for `model`, from any source (see the module).

    Args:
        preprocess: for images, see `preprocess`.
        limit: the most samples to use: evenly spread over files, the first of an iterable.
        shapes: sizes of dynamic dims, for synthetic inputs.
        seed: of synthetic inputs.
        base_dir: the folder of the model's external weights, for synthetic inputs.
        labels: read labels as well, as `LABELLED` among the feeds, where there are any: the name of
            the array, or "" for one of the usual names (`samples.LABELS`).
        every: leave out each so many-th sample (see `samples.spared`); 0 for none. What is not in
            files or arrays is not left out.

    Raises UsageError where the source can't be read or does not fit the model's inputs.
    """
    if limit is not None and limit < 1:
        raise UsageError(f"data: {limit} samples are none")
    slots = Slots(input_specs(model), preprocess_of(preprocess), labels)
    if not slots.specs:
        raise UsageError("data: the model has no inputs")
    if isinstance(source, str) and source == "synthetic":
        made = Synthetic(model, shapes, slots.preprocess, seed, base_dir)
        return _synthetic(made, slots, limit)
    if isinstance(source, (str, Path)):
        return _of_tables(_path_tables(str(source), slots), slots, limit, Path(source).name, every)
    if isinstance(source, np.ndarray):
        if len(slots.specs) != 1:
            raise UsageError("data: one array, but the model has several inputs")
        table = slots.table({slots.specs[0].name: source}, "data")
        return _of_tables([table], slots, limit, "an array", every)
    if isinstance(source, Mapping):
        arrays = {str(name): np.asarray(x) for name, x in source.items()}
        headers = {name: (x.shape, x.dtype) for name, x in arrays.items()}
        chosen = slots.choose(headers, "data")
        table = slots.table({name: arrays[key] for name, key in chosen.items()}, "data")
        return _of_tables([table], slots, limit, "arrays", every)
    return _of_iterable(source, slots, limit)


@dataclass(frozen=True)
class CalibrationData:
    """What a user says of calibration data, before the model is known."""

    source: Any
    preprocess: Preprocess | None = None
    samples: int | None = None
    shapes: Mapping[str, Sequence[int]] | None = None
    seed: int = 0
    #: Each so many-th sample is left to judge by; 0: none is.
    every: int = 0

    def open(
        self, model: ModelProto, base_dir: Path | None = None, labels: str | None = None
    ) -> Calibration:
        """The data for one model. Raises UsageError as `open_calibration` does."""
        return open_calibration(
            self.source,
            model,
            preprocess=self.preprocess,
            limit=self.samples,
            shapes=self.shapes,
            seed=self.seed,
            base_dir=base_dir,
            labels=labels,
            every=self.every,
        )

    def options(self) -> dict[str, Any]:
        """Plain JSON types, for a plan."""
        named = isinstance(self.source, (str, Path))
        return {
            "calibration": str(self.source) if named else f"Python {type(self.source).__name__}",
            "calibration_samples": self.samples,
            **({"preprocess": self.preprocess.options()} if self.preprocess else {}),
        }


# -- sources -------------------------------------------------------------------------------------


def _path_tables(text: str, slots: Slots) -> list[Table]:
    path = Path(text)
    if path.is_dir():
        return folder_tables(path, slots)
    file, colon, key = text.rpartition(".npz:")
    if colon and not path.exists():
        return [file_table(Path(f"{file}.npz"), slots, key)]
    if not path.exists():
        raise UsageError(f"data: there is no {text}; give a .npz, a .npy, a folder, or `synthetic`")
    if path.suffix.lower() in (".npy", ".npz"):
        return [file_table(path, slots)]
    return [file_table(path, replace(slots, preprocess=slots.preprocess or Preprocess()))]


def _of_tables(
    tables: Sequence[Table], slots: Slots, limit: int | None, name: str, every: int
) -> Calibration:
    total = sum(table.count for table in tables)
    if not total:
        raise UsageError(f"data: there is no sample in {name}")
    chosen = picks(tables, limit, every if total > every else 0)
    used = sum(len(index) for _, index in chosen)
    step = _READ if slots.batched else 1

    def pieces() -> Iterator[Feeds]:
        for table, index in chosen:
            for at in range(0, len(index), step):
                yield slots.fit(table.rows(index[at : at + step]), table.where)

    starts = np.cumsum([0, *(len(index) for _, index in chosen)])

    def rows(wanted: Index) -> Feeds:
        owner = np.searchsorted(starts, wanted, side="right") - 1
        order = np.argsort(owner, kind="stable")
        read = []
        for i in dict.fromkeys(owner[order].tolist()):
            table, index = chosen[i]
            mine = index[wanted[order[owner[order] == i]] - starts[i]]
            read.append(slots.fit(table.rows(mine), table.where))
        return _picked(_joined(read), np.argsort(order)) if slots.batched else read[0]

    next(pieces())  # what does not fit is said now
    said = f"{used:,} of {total:,}" if used < total else f"{used:,}"
    words = f"{said} sample{'s' * (total != 1)} of {name}{_repeated(used, slots.fixed)}"
    return Calibration(used, words, pieces, slots.fixed, slots.batched, rows)


def _repeated(count: int, fixed: int | None) -> str:
    return f", repeated to fill a batch of {fixed}" if fixed and count < fixed else ""


def _synthetic(made: Synthetic, slots: Slots, limit: int | None) -> Calibration:
    count = limit or SYNTHETIC_SAMPLES
    feeds = -(-count // slots.fixed) if slots.fixed else count
    samples = feeds * (slots.fixed or 1)
    words = f"synthetic inputs, {counted(samples, 'sample')}: no real data was looked at"
    return Calibration(
        samples, words, lambda: made.feeds(feeds), slots.fixed, slots.batched, real=False
    )


def _of_iterable(source: Any, slots: Slots, limit: int | None) -> Calibration:
    if not callable(source) and not isinstance(source, Iterable):
        raise UsageError(f"data: a {type(source).__name__} is no path, array, mapping or iterable")
    if isinstance(source, Iterator):
        raise UsageError(
            "data: an iterator can be gone through only once; give a list, or a function"
            " that makes one"
        )

    def pieces() -> Iterator[Feeds]:
        left = limit
        for item in source() if callable(source) else source:
            table = slots.table(_named(item, slots), "data")
            index = np.arange(table.count if left is None else min(table.count, left))
            for each in [index] if slots.batched else index[:, None]:
                yield slots.fit(table.rows(each), table.where)
            if left is not None:
                left -= len(index)
                if left < 1:
                    return

    if next(pieces(), None) is None:
        raise UsageError("data: there is no sample in the iterable")
    at_most = f", at most {counted(limit, 'sample')}" if limit else ""
    return Calibration(None, f"a Python iterable{at_most}", pieces, slots.fixed, slots.batched)


def _named(item: Any, slots: Slots) -> dict[str, Array]:
    """One item of an iterable as arrays by input; what comes after the inputs (labels) is left."""
    names = [spec.name for spec in slots.specs]
    if isinstance(item, Mapping):
        arrays = {str(name): np.asarray(x) for name, x in item.items()}
        headers = {name: (x.shape, x.dtype) for name, x in arrays.items()}
        chosen = slots.choose(headers, "data")
        return {name: arrays[key] for name, key in chosen.items()}
    if isinstance(item, (tuple, list)) and len(item) >= len(names) and not np.isscalar(item[0]):
        given = dict(zip(names, map(np.asarray, item), strict=False))
        if slots.labels is not None and len(item) > len(names):
            given[LABELLED] = np.asarray(item[len(names)])
        return given
    if len(names) != 1:
        raise UsageError(
            f"data: a {type(item).__name__} is no feed of the inputs {', '.join(names)}:"
            " give mappings"
        )
    return {names[0]: np.asarray(item)}


# -- pieces --------------------------------------------------------------------------------------


def _length(feeds: Feeds) -> int:
    return next((len(x) for x in feeds.values() if x.ndim), 1)


def _shapes(feeds: Feeds) -> list[tuple[int, ...]]:
    return [x.shape[1:] for x in feeds.values()]


def _joined(held: Sequence[Feeds]) -> Feeds:
    if len(held) == 1:
        return held[0]
    first = held[0]
    return {
        name: np.concatenate([each[name] for each in held]) if x.ndim else x
        for name, x in first.items()
    }


def _picked(feeds: Feeds, index: Index) -> Feeds:
    return {name: x[index] if x.ndim else x for name, x in feeds.items()}


def _cut(feeds: Feeds, start: int, stop: int) -> Feeds:
    return {name: x[start:stop] if x.ndim else x for name, x in feeds.items()}
