"""Which inputs hold images, and what may be done to them.

Whether a change makes sense is for the original to say: a mirrored digit is none, and a mirrored
dog is one. What it puts into the same class as before is of its world.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from .inputs import InputSpec
from .preprocess import is_image

#: The share of images that have to stay in their class for a change to be used.
STAYS = 0.8
#: Images move by this share of their size at most.
FAR = 1 / 8
#: Both sides of an image have at least so many pixels; anything smaller is taken for no image.
LEAST = 16
_CHANNELS = (1, 3, 4)


def image_layouts(
    specs: Sequence[InputSpec], shapes: Mapping[str, Sequence[int]]
) -> dict[str, bool]:
    """The inputs that are images, by the shapes that were fed; whether channels are last (NHWC)."""
    found = {}
    for spec in specs:
        shape = shapes.get(spec.name)
        if shape is None or len(shape) != 4 or not is_image(spec):
            continue
        last = shape[3] in _CHANNELS and shape[1] not in _CHANNELS
        sides = shape[1:3] if last else shape[2:4]
        if min(sides) >= LEAST and shape[3 if last else 1] in _CHANNELS:
            found[spec.name] = last
    return found


def farthest(side: int) -> int:
    """By how many pixels an image of so many may move."""
    return max(1, int(side * FAR))
