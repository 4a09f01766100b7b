"""The loops that measure, with measurements made up."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from onnxprune.errors import CheckFailed
from onnxprune.pace import meet, not_slower


@pytest.mark.parametrize("wanted", [0.9, 0.6, 0.3])
@pytest.mark.parametrize("wrong", [0.5, 0.8, 1.0, 1.3])
def test_a_prediction_that_is_wrong_is_corrected(wanted: float, wrong: float) -> None:
    """Stairs of 2 %, an overhead that was not predicted, and some noise."""
    rng = np.random.default_rng(0)

    def measure(choice: float) -> float:
        return (0.05 + wrong * choice) * float(rng.normal(1, 0.005))

    found = meet(wanted, wanted, lambda aim: round(aim / 0.01) * 0.01, measure, 0.05)
    assert abs(found.measured / wanted - 1) <= 0.05
    assert abs((0.05 + wrong * found.choice) / wanted - 1) <= 0.06


def test_luck_is_measured_twice() -> None:
    """A first measurement that happens to fit is not believed."""
    measured = iter([0.5, 0.8, 0.5, 0.5])
    found = meet(0.5, 0.5, lambda aim: aim, lambda _: next(measured), 0.05)
    assert found.choice < 0.5 and found.measured == 0.5


def test_beside_choices_that_predictions_do_not_tell_apart() -> None:
    """A step in what is measured, where what is predicted has none."""

    def near(choice: int, factor: float, known: Sequence[int]) -> int:
        wanted = (0.2 + choice / 100) * factor
        return min(
            (c for c in range(101) if c not in known), key=lambda c: abs(0.2 + c / 100 - wanted)
        )

    found = meet(
        0.5, 0.5, lambda aim: 10 if aim < 0.6 else 90, lambda c: 0.2 + c / 100, 0.05, near=near
    )
    assert 28 <= found.choice <= 32


def test_out_of_reach() -> None:
    with pytest.raises(CheckFailed, match=r"least that was measured is 0\.4"):
        meet(0.2, 0.2, lambda aim: aim, lambda choice: max(0.4, choice), 0.05)
    with pytest.raises(CheckFailed, match="can't be met"):
        meet(0.2, 0.2, lambda _: None, lambda _: 1.0, 0.05)


def test_wider_stairs_until_it_is_not_slower() -> None:
    speeds = {0: 0.8, 1: 0.9, 2: 1.1, 3: 2.0}
    found = not_slower(0, speeds.get, lambda n: n, 3)
    assert found == (2, 2, 1.1)


def test_the_fastest_where_all_are_slower() -> None:
    speeds = {0: 0.8, 1: 0.95, 2: 0.9, 3: 0.7}
    assert not_slower(0, speeds.get, lambda n: n, 3) == (1, 1, 0.95)
    assert not_slower(0, speeds.get, lambda _: None, 3) == (0, 0, 0.8)


def test_what_is_not_measured_or_fast_stays() -> None:
    def never(n: int) -> int:
        raise AssertionError(n)

    assert not_slower(0, lambda _: None, never, 3) == (0, 0, None)
    assert not_slower(0, lambda _: 1.0, never, 3) == (0, 0, 1.0)
