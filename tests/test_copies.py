"""Copies of a few images: which, how many, and that nothing held out is learned from."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import onnxprune
from onnxprune.inputs import InputSpec
from onnxprune.reconstruction.copies import with_copies

from .graphs import make, node, weight

SIDE = 16


def spec(*dims: Any) -> InputSpec:
    return InputSpec("x", np.dtype(np.float32), dims)


def images(count: int, size: int) -> list[dict[str, np.ndarray]]:
    """Batches in which every pixel says which image it is of; the right half is brighter."""
    x = np.zeros((count, 3, SIDE, SIDE), np.float32)
    x += np.arange(count).reshape(-1, 1, 1, 1)
    x[..., SIDE // 2 :] += 0.5
    return [{"x": x[i : i + size], "more": x[i : i + size, 0, 0]} for i in range(0, count, size)]


def by_number(feeds: Any) -> dict[str, np.ndarray]:
    """Scores of a class for each image, whatever is done to it."""
    level = np.floor(feeds["x"].mean(axis=(1, 2, 3)) + 1e-4).astype(int)
    return {"scores": np.eye(1000, dtype=np.float32)[level % 1000] * 5}


def by_side(feeds: Any) -> dict[str, np.ndarray]:
    """The class is the side that is brighter: not the same in a mirror."""
    x = feeds["x"]
    right = x[..., SIDE // 2 :].mean(axis=(1, 2, 3)) > x[..., : SIDE // 2].mean(axis=(1, 2, 3))
    return {"scores": np.eye(3, dtype=np.float32)[right.astype(int)] * 5}


DIMS = ("n", 3, SIDE, SIDE)


@pytest.mark.parametrize(("count", "size"), [(64, 8), (40, 8), (24, 8), (128, 16), (16, 1)])
def test_every_image_has_its_copies(count: int, size: int) -> None:
    batches = images(count, size)
    found, added = with_copies(batches, [spec(*DIMS)], 1e6, by_number, 0)
    assert added == sum(len(feeds["x"]) for feeds in found) - count == 7 * count
    numbers = np.concatenate([np.floor(feeds["x"].min(axis=(1, 2, 3))) for feeds in found])
    assert np.unique(numbers, return_counts=True)[1].tolist() == [8] * count
    for feeds in batches:  # they themselves are among them
        assert any(np.array_equal(feeds["x"], each["x"]) for each in found)
    again, _ = with_copies(batches, [spec(*DIMS)], 1e6, by_number, 0)
    other, _ = with_copies(batches, [spec(*DIMS)], 1e6, by_number, 1)
    assert all(np.array_equal(a["x"], b["x"]) for a, b in zip(found, again, strict=True))
    assert not all(np.array_equal(a["x"], b["x"]) for a, b in zip(found, other, strict=True))


def test_copies_are_mirrored_and_moved_and_the_rest_stays() -> None:
    batches = images(64, 8)
    found, _ = with_copies(batches, [spec(*DIMS)], 1e6, by_number, 0)
    assert len(found) == 64
    brighter = []
    for feeds in found:
        assert any(np.array_equal(feeds["more"], each["more"]) for each in batches)
        assert feeds["x"].shape == (8, 3, SIDE, SIDE)
        right = feeds["x"][:, 0, 0, -1] > feeds["x"][:, 0, 0, 0]
        brighter.extend(right)
        edges = np.argmax(np.abs(np.diff(feeds["x"][:, 0, 0])), axis=1)
        assert (np.abs(edges - (SIDE // 2 - 1)) <= SIDE // 8).all()
    assert 0.4 < np.mean(brighter) < 0.6


def test_only_what_the_original_takes_for_the_same_is_done() -> None:
    found, added = with_copies(images(64, 8), [spec(*DIMS)], 1e6, by_side, 0)
    assert added
    assert all((feeds["x"][:, 0, 0, -1] > feeds["x"][:, 0, 0, 0]).all() for feeds in found)


def test_channels_may_be_last() -> None:
    first = images(64, 8)
    last = [{**feeds, "x": np.moveaxis(feeds["x"], 1, 3)} for feeds in first]
    one, _ = with_copies(first, [spec(*DIMS)], 1e6, by_number, 0)
    two, _ = with_copies(last, [spec("n", SIDE, SIDE, 3)], 1e6, by_number, 0)
    for a, b in zip(one, two, strict=True):
        np.testing.assert_array_equal(a["x"], np.moveaxis(b["x"], 3, 1))


@pytest.mark.parametrize(
    ("count", "dims", "macs", "original"),
    [
        (1000, DIMS, 1e6, by_number),  # enough
        (8, DIMS, 1e6, by_number),  # a single batch
        (64, DIMS, 1e10, by_number),  # too much work
        (64, ("n", 3), 1e6, by_number),  # no images
        (64, DIMS, 1e6, lambda feeds: {"y": feeds["x"]}),  # no classes
    ],
)
def test_nothing_is_copied(count: int, dims: Any, macs: float, original: Any) -> None:
    batches = images(count, 8)
    if len(dims) == 2:
        batches = [{"x": feeds["x"][:, :, 0, 0]} for feeds in batches]
    found, added = with_copies(batches, [spec(*dims)], macs, original, 0)
    assert added == 0 and found == batches


@pytest.mark.parametrize(("source", "copies"), [("images", 7 * 64), ("synthetic", 0)])
def test_reconstruction_says_how_many_there_were(source: str, copies: int) -> None:
    model = make(
        [
            node("Conv", ["x", "w0"], ["a"], pads=[1, 1, 1, 1]),
            node("Relu", ["a"], ["b"]),
            node("Conv", ["b", "w1"], ["c"], pads=[1, 1, 1, 1]),
            node("GlobalAveragePool", ["c"], ["d"]),
            node("Flatten", ["d"], ["y"]),
        ],
        {"x": DIMS},
        {"y": ["n", 4]},
        {"w0": weight("w0", 8, 3, 3, 3), "w1": weight("w1", 4, 8, 3, 3)},
    )
    rng = np.random.default_rng(0)
    level = rng.standard_normal((64, 3, 1, 1))
    x = (level + 0.2 * rng.standard_normal((64, 3, SIDE, SIDE))).astype(np.float32)
    result = onnxprune.prune(
        model,
        ratio=0.5,
        round_to=1,
        calibration=x if source == "images" else "synthetic",
        calibration_samples=64,
        reconstruct=True,
        lossless=False,
        benchmark=False,
    )
    found = result.report.reconstruction
    assert found is not None
    assert (found["samples"], found["copies"]) == (64, copies)
    said = " ".join(result.report.notes)
    assert (f"{copies:,} copies of them, mirrored or moved" in said) == bool(copies)
