"""More images out of those that there are: mirrored, moved by a few pixels, mixed two by two.

What is done to which images, `pictures` says.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch
from torch import Tensor

from ..inputs import InputSpec
from ..pictures import STAYS, farthest, image_layouts
from .settings import AUGMENTATIONS

#: From images `[n, c, h, w]`, others, and numbers between 0 and 1 `[3, n]`: images.
Mix = Callable[[Tensor, Tensor, Tensor], Tensor]


def images_among(specs: Sequence[InputSpec], feeds: Mapping[str, Tensor]) -> dict[str, bool]:
    """The inputs that are images, and whether their channels stand last (NHWC)."""
    shapes = {name: x.shape for name, x in feeds.items() if x.is_floating_point()}
    return image_layouts(specs, shapes)


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
        for way, change in (("flip", _flipped), ("shift", _shifted)):
            if way in self.ways:
                found = self._each(found, lambda x, c=change: c(x, rng))  # type: ignore[misc]
        mixes = [
            mix for way, mix in (("mixup", _blended), ("cutmix", _patched)) if way in self.ways
        ]
        if not mixes:
            return found, False
        # As many batches are left as they are as go through each: they are what the model will see.
        turn = int(torch.randint(len(mixes) + 1, (), generator=rng))
        return (self._mixed(found, mixes[turn - 1], rng), True) if turn else (found, False)

    def _each(
        self, feeds: Mapping[str, Tensor], change: Callable[[Tensor], Tensor]
    ) -> dict[str, Tensor]:
        found = dict(feeds)
        for name, last in self.images.items():
            x = feeds[name]
            found[name] = change(x.movedim(3, 1)).movedim(1, 3) if last else change(x)
        return found

    def _mixed(
        self, feeds: Mapping[str, Tensor], mix: Mix, rng: torch.Generator
    ) -> dict[str, Tensor]:
        """Each image with another of the batch, by a share of its own; all inputs alike."""
        size = len(feeds[next(iter(self.images))])
        other, numbers = torch.randperm(size, generator=rng), torch.rand(3, size, generator=rng)
        return self._each(feeds, lambda x: mix(x, x[other.to(x.device)], numbers.to(x.device)))


def _blended(x: Tensor, other: Tensor, numbers: Tensor) -> Tensor:
    """Zhang et al., "mixup: Beyond Empirical Risk Minimization" (2018), with Beta(1, 1)."""
    part = numbers[0].to(x).reshape(-1, 1, 1, 1)
    return part * x + (1 - part) * other


def _patched(x: Tensor, other: Tensor, numbers: Tensor) -> Tensor:
    """A rectangle of the other image: Yun et al., "CutMix" (2019), with Beta(1, 1)."""
    half = torch.sqrt(1 - numbers[0]) / 2
    inside = torch.ones((), dtype=torch.bool, device=x.device)
    for axis, middle in ((2, numbers[1]), (3, numbers[2])):
        size = x.shape[axis]
        at = (torch.arange(size, device=x.device) + 0.5) / size
        near = (at - middle[:, None]).abs() < half[:, None]
        inside = inside & near.reshape(-1, 1, *((size, 1) if axis == 2 else (1, size)))
    return torch.where(inside, other, x)


def _flipped(x: Tensor, rng: torch.Generator) -> Tensor:
    """Every second image `[n, c, h, w]`, mirrored."""
    chosen = torch.rand(len(x), generator=rng) < 0.5
    return torch.where(chosen.to(x.device).reshape(-1, 1, 1, 1), x.flip(3), x)


def _shifted(x: Tensor, rng: torch.Generator) -> Tensor:
    """Images `[n, c, h, w]`, each moved by its own offset; what comes in is mirrored."""
    n, _, h, w = x.shape
    far = (farthest(h), farthest(w))
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
    return [*found, "mixup", "cutmix"] if found else []
