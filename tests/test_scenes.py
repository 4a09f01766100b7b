"""Made-up pictures have what real ones have: large areas, sharp edges, channels that are alike."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from onnxprune.scenes import leaves, noise, picture

Maker = Callable[[tuple[int, int, int], np.random.Generator], NDArray[np.float64]]


def many(make: Maker, shape: tuple[int, int, int], count: int = 40) -> NDArray[np.float64]:
    return np.stack([make(shape, np.random.default_rng(i)) for i in range(count)])


def peakedness(x: NDArray[np.float64]) -> float:
    """The kurtosis of the differences of neighbours: 3 for a normal distribution."""
    steps = np.diff(x, axis=-1)
    return float((steps**4).mean() / (steps**2).mean() ** 2)


@pytest.mark.parametrize("make", [leaves, noise])
@pytest.mark.parametrize("shape", [(3, 32, 32), (1, 28, 28), (3, 24, 60), (4, 2, 2)])
def test_pictures_of_any_shape_are_scaled_and_differ(
    make: Maker, shape: tuple[int, int, int]
) -> None:
    x = many(make, shape)
    assert x.shape == (40, *shape) and np.isfinite(x).all()
    np.testing.assert_allclose(x.std(axis=(1, 2, 3)), 1.0)
    assert abs(x.mean()) < 0.5
    assert len(np.unique(x[:, 0, 0, 0])) == 40
    np.testing.assert_array_equal(x[3], make(shape, np.random.default_rng(3)))


def test_leaves_have_edges_and_areas_where_noise_has_neither() -> None:
    assert peakedness(many(noise, (3, 32, 32))) < 5
    assert peakedness(many(leaves, (3, 32, 32))) > 8


@pytest.mark.parametrize("make", [leaves, noise])
def test_neighbours_and_channels_are_alike(make: Maker) -> None:
    x = many(make, (3, 32, 32))
    assert np.corrcoef(x[..., 1:].ravel(), x[..., :-1].ravel())[0, 1] > 0.6
    assert np.corrcoef(x[:, 0].ravel(), x[:, 1].ravel())[0, 1] > 0.5


def test_about_three_quarters_of_the_pictures_are_leaves() -> None:
    edges = [peakedness(picture((3, 32, 32), np.random.default_rng(i))) > 6 for i in range(200)]
    assert 110 < sum(edges) < 180
