"""What is done to images: every way on its own, in both layouts, and which of them fit."""

from __future__ import annotations

import pytest

torch = pytest.importorskip("torch")

from onnxprune.training.augment import Augmentation, fitting  # noqa: E402
from onnxprune.training.settings import AUGMENTATIONS  # noqa: E402

pytestmark = pytest.mark.torch

N, SIDE = 64, 16


def images(seed: int = 0) -> torch.Tensor:
    return torch.randn(N, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(seed))


def changed(x: torch.Tensor, ways: list[str], step: int = 0) -> tuple[torch.Tensor, bool]:
    found, mixed = Augmentation({"x": False}, ways, 0)({"x": x, "more": x[:, 0, 0]}, (step,))
    assert torch.equal(found["more"], x[:, 0, 0])
    return found["x"], mixed


@pytest.mark.parametrize("way", AUGMENTATIONS)
def test_channels_last_or_not_makes_no_difference(way: str) -> None:
    x = images()
    for step in range(6):
        first, mixed = Augmentation({"x": False}, [way], 0)({"x": x}, (step,))
        last, again = Augmentation({"x": True}, [way], 0)({"x": x.movedim(1, 3)}, (step,))
        assert mixed == again
        torch.testing.assert_close(first["x"], last["x"].movedim(3, 1), rtol=0, atol=0)


def test_the_same_step_gives_the_same_change_and_another_one_another() -> None:
    x = images()
    one, again, other = (changed(x, ["flip", "shift"], step)[0] for step in (3, 3, 4))
    assert torch.equal(one, again)
    assert not torch.equal(one, other)


def test_about_half_of_the_images_are_mirrored() -> None:
    x = images()
    y, mixed = changed(x, ["flip"])
    mirrored = [bool(torch.equal(b, a.flip(2))) for a, b in zip(x, y, strict=True)]
    same = [bool(torch.equal(b, a)) for a, b in zip(x, y, strict=True)]
    assert not mixed
    assert all(m != s for m, s in zip(mirrored, same, strict=True))
    assert 16 < sum(mirrored) < 48


def test_images_move_by_an_eighth_at_most() -> None:
    x = torch.zeros(N, 1, SIDE, SIDE)
    x[:, 0, 8, 8] = 1
    y, _ = changed(x, ["shift"])
    places = torch.nonzero(y)[:, 2:]
    assert len(places) == N
    assert (places - 8).abs().max() == SIDE // 8
    assert len(torch.unique(places, dim=0)) > 10


@pytest.mark.parametrize("way", ["mixup", "cutmix"])
def test_what_is_mixed_is_said_and_half_of_the_batches_is_not(way: str) -> None:
    x = images()
    said = []
    for step in range(200):
        y, mixed = changed(x, [way], step)
        assert mixed != torch.equal(x, y)
        said.append(mixed)
    assert 70 < sum(said) < 130


def test_both_mixes_take_a_third_each() -> None:
    x = images()
    kinds = {"none": 0, "mixup": 0, "cutmix": 0}
    for step in range(300):
        y, mixed = changed(x, ["mixup", "cutmix"], step)
        from_x = torch.isin(y, x).float().mean()
        kinds["none" if not mixed else "cutmix" if from_x == 1 else "mixup"] += 1
    assert all(60 < count < 140 for count in kinds.values())


def test_a_patch_is_one_rectangle_of_one_other_image() -> None:
    x = torch.arange(N, dtype=torch.float32).reshape(N, 1, 1, 1).expand(N, 1, SIDE, SIDE)
    step = next(step for step in range(20) if changed(x, ["cutmix"], step)[1])
    y, _ = changed(x, ["cutmix"], step)
    shares = []
    for i, image in enumerate(y[:, 0]):
        foreign = image != i
        shares.append(float(foreign.float().mean()))
        assert len(torch.unique(image[foreign])) <= 1
        rows, columns = foreign.any(1), foreign.any(0)
        assert torch.equal(foreign, rows[:, None] & columns[None, :])
        for line in (rows, columns):
            at = torch.nonzero(line).flatten()
            assert not len(at) or len(at) == at[-1] - at[0] + 1
    assert min(shares) < 0.1 and max(shares) > 0.5


def test_a_blend_is_between_two_images() -> None:
    x = torch.arange(N, dtype=torch.float32).reshape(N, 1, 1, 1).expand(N, 1, SIDE, SIDE)
    step = next(step for step in range(20) if changed(x, ["mixup"], step)[1])
    y, _ = changed(x, ["mixup"], step)
    assert torch.equal(y, y[:, :1, :1, :1].expand_as(y))
    assert ((y >= 0) & (y <= N - 1)).all()
    assert (y != x).any(dim=(1, 2, 3)).float().mean() > 0.9


def test_only_what_keeps_its_class_is_done() -> None:
    """The class of an image is the side that is brighter: mirrored, it is another."""
    x = images()
    x[:, :, :, SIDE // 2 :] += 4

    def by_side(feeds: dict[str, torch.Tensor]) -> torch.Tensor:
        half = feeds["x"].mean(dim=(1, 2))
        return (half[:, : SIDE // 2].mean(1) > half[:, SIDE // 2 :].mean(1)).long()

    def by_size(feeds: dict[str, torch.Tensor]) -> torch.Tensor:
        return (feeds["x"].mean(dim=(1, 2, 3)) > 0).long()

    assert fitting({"x": False}, {"x": x}, by_side) == ["shift", "mixup", "cutmix"]
    assert fitting({"x": False}, {"x": x}, by_size) == ["flip", "shift", "mixup", "cutmix"]
    assert fitting({"x": False}, {"x": x}, lambda feeds: None) == []
