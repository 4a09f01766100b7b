"""Made-up pictures, as uneven as real ones: coloured noise, and leaves that hide each other.

White noise shows a convolution almost no edges or areas, so its statistics are far from those of
pictures. Some of these are noise whose amplitude falls with the frequency, as that of natural
images does (Field, 1987). The others are *dead leaves*: shapes of all sizes fall on each other, as
things do that hide what is behind them (Lee, Mumford and Huang, 2001); what networks learn of such
pictures is much nearer to what they learn of real ones (Baradad et al., 2021).
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

Picture = NDArray[np.float64]

#: The share of pictures that are noise.
_NOISE = 0.25
#: Leaves in a picture; their radii, as shares of its larger side, fall as the inverse cube.
_LEAVES = (40, 120)
_SMALLEST, _LARGEST = 1.5 / 32, 0.6


def picture(shape: tuple[int, int, int], rng: np.random.Generator) -> Picture:
    """A picture `[c, h, w]` of deviation 1 and a mean near 0."""
    return noise(shape, rng) if rng.random() < _NOISE else leaves(shape, rng)


def noise(shape: tuple[int, int, int], rng: np.random.Generator) -> Picture:
    """Noise whose amplitude falls with the frequency, by an exponent that is drawn."""
    _, height, width = shape
    # Channels of a picture are much alike: some of the noise is common to all of them.
    white = rng.standard_normal(shape) + 1.5 * rng.standard_normal((1, height, width))
    fy, fx = np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width)[None, :]
    frequency = np.sqrt(fy**2 + fx**2) + 1 / max(height, width)
    spectrum = np.fft.rfft2(white) / frequency ** rng.uniform(0.9, 2.0)
    x = np.fft.irfft2(spectrum, s=(height, width))
    x = x - x.mean() + rng.normal(0, 0.3) * x.std()  # some are brighter than others
    return _scaled(x)


def leaves(shape: tuple[int, int, int], rng: np.random.Generator) -> Picture:
    """Ellipses and rectangles, shaded and textured, each hiding what it falls on."""
    channels, height, width = shape
    found = np.zeros(shape)
    side, count = max(height, width), int(rng.integers(*_LEAVES))
    near, far = (_SMALLEST * side) ** -2, (_LARGEST * side) ** -2
    for radius in (near - rng.random(count) * (near - far)) ** -0.5:
        centre = rng.uniform(-0.1, 1.1, 2) * (height, width)
        colour = rng.standard_normal() + 0.45 * rng.standard_normal(channels)
        angle, narrow = rng.uniform(0, np.pi), rng.uniform(0.35, 1)
        is_square, shade = rng.random() < 0.4, 0.5 * rng.standard_normal()
        box = tuple(
            slice(max(0, int(at - 1.5 * radius)), max(0, int(at + 1.5 * radius) + 1))
            for at in centre
        )
        part = found[:, box[0], box[1]]
        y, x = (
            np.arange(each.start, each.start + size) - at
            for each, size, at in zip(box, part.shape[1:], centre, strict=True)
        )
        along = (x * np.cos(angle) + y[:, None] * np.sin(angle)) / radius
        across = (y[:, None] * np.cos(angle) - x * np.sin(angle)) / (radius * narrow)
        inside = np.maximum(abs(along), abs(across)) < 1 if is_square else along**2 + across**2 < 1
        part[:, inside] = colour[:, None] + shade * along[inside]
    found += rng.uniform(0.1, 0.5) * noise(shape, rng)
    return _scaled(found - 0.7 * found.mean())


def _scaled(x: Picture) -> Picture:
    return np.asarray(x / (x.std() or 1.0))
