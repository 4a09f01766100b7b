"""Samples in files: arrays, archives, images, and folders of them, read as far as they are needed.

A `Table` has a number of samples and gives any of them. Arrays that are stored as they are (.npy,
and .npz without compression) are mapped into memory and never read as a whole.
"""

from __future__ import annotations

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from .errors import UsageError
from .inputs import Array, InputSpec
from .preprocess import Preprocess, is_image, pillow

#: What labels are called: never an input.
LABELS = ("labels", "label", "y", "targets", "target")
#: The name that labels have among the arrays of a sample, where they are asked for.
LABELLED = "\0labels"
#: What is taken for an image in a folder.
IMAGES = frozenset({".png", ".jpg", ".jpeg", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm"})

Header = tuple[tuple[int, ...], "np.dtype[Any]"]


@dataclass(frozen=True)
class Table:
    """Samples that can be picked: `rows(indices)` gives `{name: [len(indices), ...]}`, as stored.

    An array whose name is "" is for the only input there is.
    """

    count: int
    rows: Callable[[NDArray[np.int64]], dict[str, Array]]
    where: str


@dataclass(frozen=True)
class Slots:
    """What a model is fed with, and whether its inputs hold samples along their first axis."""

    specs: list[InputSpec]
    preprocess: Preprocess | None = None
    #: The array of labels to read as well, as `LABELLED`: a name, or "" for one of the usual names.
    labels: str | None = None

    @property
    def batched(self) -> bool:
        """Whether every input but scalars has the samples of a batch along its first axis.

        A size that other axes have, too, as in an adjacency matrix `[n, n]`, is no batch's.
        """
        first = {spec.dims[0] if isinstance(spec.dims[0], int) else None for spec in self._arrays}
        other = {dim for spec in self._arrays for dim in spec.dims[1:] if isinstance(dim, str)}
        return len(first) == 1 and not other & {spec.dims[0] for spec in self._arrays}

    @property
    def fixed(self) -> int | None:
        """The size that every batch has to have, or None."""
        sizes = {spec.dims[0] for spec in self._arrays} if self.batched else set()
        return next((size for size in sizes if isinstance(size, int)), None)

    @property
    def _arrays(self) -> list[InputSpec]:
        return [spec for spec in self.specs if spec.dims]

    def choose(self, headers: Mapping[str, Header], where: str) -> dict[str, str]:
        """Which array is for which input: of the input's name; for a single input, the one it is.

        Raises UsageError where an input has none.
        """
        names = [spec.name for spec in self.specs]
        if self.labels:
            if self.labels not in headers:
                raise UsageError(f"{where}: has no array {self.labels!r}; it has {list(headers)}")
            label = [self.labels]
        else:
            label = [name for name in LABELS if name in headers and name not in names]
        found = {LABELLED: label[0]} if label and self.labels is not None else {}
        if len(names) == 1 and names[0] not in headers:
            others = [name for name in headers if name not in (*LABELS, *label)]
            fitting = [name for name in others if self._may_hold(headers[name][0], self.specs[0])]
            for candidates in (others, fitting):
                if len(candidates) == 1:
                    return {names[0]: candidates[0], **found}
        for name in names:
            if name not in headers:
                has = ", ".join(f"{key} {list(shape)}" for key, (shape, _) in headers.items())
                hint = "; name one: FILE.npz:NAME" if len(names) == 1 and len(headers) > 1 else ""
                raise UsageError(f"{where}: has no array for input {name!r}; it has {has}{hint}")
        return {name: name for name in names} | found

    def _may_hold(self, shape: tuple[int, ...], spec: InputSpec) -> bool:
        rank = len(spec.dims)
        return len(shape) == rank or (self.preprocess is not None and len(shape) == rank - 1)

    def fit(self, rows: Mapping[str, Array], where: str) -> dict[str, Array]:
        """Stored samples as the inputs want them: preprocessed, of their types. `[k, ...]` each.

        Raises UsageError that names the input and both shapes.
        """
        feeds = {}
        for spec in self.specs:
            found = (
                rows.get(spec.name, rows.get("")) if len(self.specs) == 1 else rows.get(spec.name)
            )
            if found is None:
                raise UsageError(f"{where}: has nothing for input {spec.name!r}")
            feeds[spec.name] = self._fit(np.asarray(found), spec, where)
        if LABELLED in rows:
            feeds[LABELLED] = np.asarray(rows[LABELLED])
        return feeds

    def _fit(self, x: Array, spec: InputSpec, where: str) -> Array:
        if not spec.dims:
            if x.size != 1:
                raise UsageError(f"{where}: input {spec.name!r} is one number, not {list(x.shape)}")
            return _cast(x.reshape(()), spec, where)
        if self.batched and self.preprocess is not None and is_image(spec):
            x = np.stack([self.preprocess(sample, spec) for sample in x])
        skip = 1 if self.batched else 0
        fits = x.ndim == len(spec.dims) and all(
            size == want or not isinstance(want, int)
            for size, want in zip(x.shape[skip:], spec.dims[skip:], strict=True)
        )
        if not fits:
            wanted = [dim if isinstance(dim, int) else dim or "?" for dim in spec.dims[skip:]]
            what = "samples" if skip else "an array"
            shape = list(x.shape[skip:])
            hint = ""
            if self.batched and is_image(spec) and self.preprocess is None:
                hint = "; images are fitted with --preprocess (size, crop, layout, mean, std)"
            raise UsageError(
                f"{where}: {what} of shape {shape} can't be fed to input {spec.name!r},"
                f" {wanted}{hint}"
            )
        return _cast(x, spec, where)

    def table(self, arrays: Mapping[str, Array], where: str) -> Table:
        """The table that arrays make, one for each input. A mapped array stays on its disk."""
        if self.batched:
            return self._of_samples(arrays, where)
        ranks = {spec.name: len(spec.dims) for spec in self.specs}
        # One feed, or a series of them: then at least one array has an axis more.
        series = {name for name, x in arrays.items() if name in ranks and x.ndim == ranks[name] + 1}
        series |= {LABELLED} & arrays.keys() if series else set()
        counts = {len(arrays[name]) for name in series}
        if len(counts) > 1:
            raise UsageError(
                f"{where}: its arrays have unlike numbers of samples: {sorted(counts)}"
            )

        def rows(index: NDArray[np.int64]) -> dict[str, Array]:
            (at,) = index
            return {name: x[at] if name in series else x for name, x in arrays.items()}

        return Table(counts.pop() if counts else 1, rows, where)

    def _of_samples(self, arrays: Mapping[str, Array], where: str) -> Table:
        ranks = {spec.name: len(spec.dims) for spec in self.specs}
        held, scalars, counts = {}, {}, {}
        for name, x in arrays.items():
            if name == LABELLED:
                held[name], counts["labels"] = x, len(x)
                continue
            rank = ranks.get(name, len(self.specs[0].dims))
            if rank == 0:
                scalars[name] = x
                continue
            if x.ndim == rank + 1 and self.fixed:  # batches, one after the other
                x = x.reshape(-1, *x.shape[2:])
            elif x.ndim == rank - 1 and not (self.preprocess is not None and rank == 4):
                x = x[None]  # one sample, as it is
            elif x.ndim == 3 and rank == 4 and x.shape[-1] in (3, 4):
                x = x[None]  # one image
            if x.ndim == 0:
                raise UsageError(f"{where}: a number is no sample of input {name!r}")
            held[name], counts[name] = x, len(x)
        if len(set(counts.values())) != 1:
            said = ", ".join(f"{name} {count}" for name, count in counts.items())
            raise UsageError(f"{where}: its arrays have unlike numbers of samples: {said}")
        count = next(iter(counts.values()))
        return Table(
            count, lambda index: {**scalars, **{name: x[index] for name, x in held.items()}}, where
        )


def _cast(x: Array, spec: InputSpec, where: str) -> Array:
    if spec.dtype.kind in "iub" and x.dtype.kind == "f" and not np.array_equal(x, np.rint(x)):
        raise UsageError(
            f"{where}: input {spec.name!r} is of {spec.dtype}, the values are no whole numbers"
        )
    return np.asarray(x).astype(spec.dtype, copy=False)


# -- files ---------------------------------------------------------------------------------------


def file_table(path: Path, slots: Slots, key: str = "") -> Table:
    """The samples of one .npz, .npy or image file.

    Raises UsageError where it can't be read or does not fit the model.
    """
    try:
        if path.suffix.lower() in IMAGES:
            return _image_table(path, slots)
        if path.suffix.lower() == ".npy":
            x = np.load(path, mmap_mode="r", allow_pickle=False)
            return slots.table({_only(slots, path): x}, str(path))
        headers = npz_headers(path)
        if key:
            if key not in headers:
                raise UsageError(f"{path}: has no array {key!r}; it has {', '.join(headers)}")
            return slots.table({_only(slots, path): npz_array(path, key)}, str(path))
        chosen = slots.choose(headers, str(path))
        arrays = {name: npz_array(path, stored) for name, stored in chosen.items()}
        return slots.table(arrays, str(path))
    except OSError as error:
        raise UsageError(f"{path}: can't be read: {error.strerror or error}") from None
    except (ValueError, zipfile.BadZipFile, EOFError) as error:
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise UsageError(f"{path}: can't be read: {reason}") from None


def _only(slots: Slots, path: Path) -> str:
    if len(slots.specs) != 1:
        names = ", ".join(spec.name for spec in slots.specs)
        raise UsageError(f"{path}: one array, but the model has the inputs {names}: give a .npz")
    return slots.specs[0].name


def _image_table(path: Path, slots: Slots) -> Table:
    name = _only(slots, path)

    def rows(index: NDArray[np.int64]) -> dict[str, Array]:
        image = pillow("reading images")
        try:
            with image.open(path) as opened:
                mode = "L" if opened.mode in ("1", "L", "I;16") else "RGB"
                pixels = np.asarray(opened.convert(mode))
        except OSError as error:
            raise UsageError(f"{path}: can't be read as an image: {error}") from None
        return {name: np.repeat(pixels[None], len(index), axis=0)}

    return Table(1, rows, str(path))


def folder_tables(folder: Path, slots: Slots) -> list[Table]:
    """One table for each array, archive or image of a folder, in the order of their names.

    Raises UsageError where there is none.
    """
    files = sorted(
        file
        for file in folder.rglob("*")
        if file.is_file() and file.suffix.lower() in IMAGES | {".npy", ".npz"}
    )
    if not files:
        raise UsageError(f"{folder}: there is no .npy, .npz or image in it")
    if any(file.suffix.lower() in IMAGES for file in files):
        pillow("reading images")  # said at once, and not at the first image
        if slots.preprocess is None:
            slots = Slots(slots.specs, Preprocess())
    return [file_table(file, slots) for file in files]


def npz_headers(path: Path) -> dict[str, Header]:
    """Shape and type of every array in an archive, without reading any."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            with archive.open(name) as member:
                found[name.removesuffix(".npy")] = _header(member)[:2]
    return found


def npz_array(path: Path, name: str) -> Array:
    """One array of an archive: mapped where it is stored as it is, read where it is compressed."""
    with zipfile.ZipFile(path) as archive:
        info = archive.getinfo(f"{name}.npy")
        if info.compress_type == zipfile.ZIP_STORED:
            with archive.open(info) as member:
                shape, dtype, fortran = _header(member)
                header = member.tell()
            if dtype.itemsize and not dtype.hasobject and 0 not in shape:
                with open(path, "rb") as file:
                    # The local header has a length of its own: name and extra field follow it.
                    file.seek(info.header_offset + 26)
                    extra = int.from_bytes(file.read(2), "little")
                    extra += int.from_bytes(file.read(2), "little")
                offset = info.header_offset + 30 + extra + header
                order: Any = "F" if fortran else "C"
                return np.memmap(path, dtype, "r", offset, shape, order)
    with np.load(path, allow_pickle=False) as loaded:
        value: Array = loaded[name]
    return value


def _header(member: Any) -> tuple[tuple[int, ...], np.dtype[Any], bool]:
    version = np.lib.format.read_magic(member)
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else (np.lib.format.read_array_header_2_0)
    )
    shape, fortran, dtype = read(member)
    return shape, dtype, fortran


def spread(count: int, limit: int | None) -> NDArray[np.int64]:
    """At most `limit` of `count` positions, evenly spread: data sets are often sorted by class."""
    if limit is None or limit >= count:
        return np.arange(count, dtype=np.int64)
    return (np.arange(limit, dtype=np.int64) * count) // limit


def spared(count: int, every: int) -> NDArray[np.bool_]:
    """Of `count` samples each `every`-th, which is left to judge what is made with the others."""
    return np.asarray(np.arange(count) % every == every - 1)


def picks(
    tables: Sequence[Table], limit: int | None, every: int = 0
) -> list[tuple[Table, NDArray[np.int64]]]:
    """Which samples to read of each table, for at most `limit` of all, evenly spread.

    Each `every`-th of all is left out, if that is given.
    """
    ends = np.cumsum([table.count for table in tables])
    allowed = np.arange(int(ends[-1]), dtype=np.int64)
    if every:
        allowed = allowed[~spared(len(allowed), every)]
    chosen = allowed[spread(len(allowed), limit)]
    owner = np.searchsorted(ends, chosen, side="right")
    found = []
    for i, table in enumerate(tables):
        mine = chosen[owner == i]
        if mine.size:
            found.append((table, mine - (ends[i] - table.count)))
    return found
