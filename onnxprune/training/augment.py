"""More images out of those that there are: mirrored, moved by a few pixels, mixed two by two.

Whether that makes sense is for the original to say: a mirrored digit is none, and a mirrored dog is
one. What it puts into the same class as before is of its world.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..inputs import InputSpec
from ..preprocess import is_image
from .settings import AUGMENTATIONS

#: The share of images that have to stay in their class for an augmentation to be used.
STAYS = 0.8
#: Images move by this share of their size at most.
_FAR = 1 / 8
#: Both sides of an image have at least so many pixels; anything smaller is taken for no image.
_LEAST = 16


def images_among(specs: Sequence[InputSpec], feeds: Mapping[str, Tensor]) -> dict[str, bool]:
    """The inputs that are images, and whether their channels stand last (NHWC)."""
    found = {}
    for spec in specs:
        x = feeds.get(spec.name)
        if x is None or not is_image(spec) or not x.is_floating_point():
            continue
        last = x.shape[3] in (1, 3, 4) and x.shape[1] not in (1, 3, 4)
        sides = x.shape[1:3] if last else x.shape[2:4]
        if min(sides) >= _LEAST and x.shape[3 if last else 1] in (1, 3, 4):
            found[spec.name] = last
    return found


class Augmentation:
    """Changes the images of a batch; what else is in it stays, and so does what is no image."""

    def __init__(self, images: Mapping[str, bool], ways: Sequence[str], seed: int) -> None:
        self.images = dict(images)
        self.ways = [way for way in AUGMENTATIONS if way in ways] if images else []
        self._seed = seed

    def __call__(
        self, feeds: Mapping[str, Tensor], step: Sequence[int]
    ) -> tuple[dict[str, Tensor], bool]:
        """A batch changed at random, and whether images were mixed (their labels hold no more).

        `step` is where the run is: the same numbers give the same change.
        """
        rng = torch.Generator().manual_seed(abs(hash((self._seed, *step))) % 2**63)
        found = dict(feeds)
        mixed = False
        for way in self.ways:
            if way == "mixup":
                # One half of the batches: clean ones are what the model will see.
                mixed = bool(torch.rand((), generator=rng) < 0.5)
                if mixed:
                    found = self._mixed(found, rng)
            else:
                change = _flipped if way == "flip" else _shifted
                found = self._each(found, lambda x, c=change: c(x, rng))  # type: ignore[misc]
        return found, mixed

    def _each(
        self, feeds: Mapping[str, Tensor], change: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        found = dict(feeds)
        for name, last in self.images.items():
            x = feeds[name]
            found[name] = change(x.movedim(3, 1)).movedim(1, 3) if last else change(x)
        return found

    def _mixed(self, feeds: Mapping[str, Tensor], rng: torch.Generator) -> dict[str, Tensor]:
        """Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018), with Beta(1, 1)."""
        size = len(feeds[next(iter(self.images))])
        other = torch.randperm(size, generator=rng)
        share = torch.rand(size, generator=rng)

        def change(x: Tensor) -> Tensor:
            part = share.to(x).reshape(-1, *[1] * (x.ndim - 1))
            return part * x + (1 - part) * x[other.to(x.device)]

        return self._each(feeds, change)


def _flipped(x: Tensor, rng: torch.Generator) -> Tensor:
    """Every second image `[n, c, h, w]`, mirrored."""
    chosen = torch.rand(len(x), generator=rng) < 0.5
    return torch.where(chosen.to(x.device).reshape(-1, 1, 1, 1), x.flip(3), x)


def _shifted(x: Tensor, rng: torch.Generator) -> Tensor:
    """Images `[n, c, h, w]`, each moved by its own offset; what comes in is mirrored."""
    n, _, h, w = x.shape
    far = (max(1, int(h * _FAR)), max(1, int(w * _FAR)))
    wide = torch.nn.functional.pad(x, (far[1], far[1], far[0], far[0]), mode="reflect")
    rows, columns = (
        (torch.randint(2 * most + 1, (n, 1), generator=rng) + torch.arange(size)).to(x.device)
        for most, size in zip(far, (h, w), strict=True)
    )
    sample = torch.arange(n, device=x.device)[:, None, None]
    moved: Tensor = wide.movedim(1, 3)[sample, rows[:, :, None], columns[:, None, :]]
    return moved.movedim(3, 1)


def fitting(
    images: Mapping[str, bool],
    feeds: Mapping[str, Tensor],
    classes: Callable[[Mapping[str, Tensor]], Tensor | None],
) -> list[str]:
    """The augmentations of the original's world; none where its outputs are no classes.

    Args:
        feeds: some samples. `classes` gives the original's class of each, `[n]`, or None.
    """
    before = classes(feeds) if images else None
    if before is None:
        return []
    found = []
    for way in ("flip", "shift"):
        # All of them at once, so that what is measured does not hang on a few.
        change = (lambda x: x.flip(3)) if way == "flip" else None
        augmentation = Augmentation(images, [way], 0)
        changed = augmentation._each(feeds, change) if change else augmentation(feeds, (0,))[0]
        after = classes(changed)
        if after is not None and float((after == before).float().mean()) >= STAYS:
            found.append(way)
    return [*found, "mixup"] if found else []
